#![allow(unsafe_code)]
//! libibverbs and librdmacm, opened at run time: nobody needs them to build Culvert, or to run it
//! without `rdma://`.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::{Library, Symbol};

use super::ffi::{
    AsyncEvent, CmEvent, CmId, CompChannel, ConnParam, Context, Cq, DeviceAttributes, EventChannel,
    Mr, Pd, QpInit, Srq, SrqInit,
};

/// Declares the table of functions, and how it is filled from the two libraries.
macro_rules! functions {
    ($($library:ident { $(fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)+ })+) => {
        /// The functions that are used, by their names.
        pub(super) struct Functions {
            $($(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+)+
        }

        impl Functions {
            fn find($($library: &Library),+) -> Result<Self, libloading::Error> {
                Ok(Self { $($($name: {
                    type Function = unsafe extern "C" fn($($argument),*) $(-> $result)?;
                    let name = concat!(stringify!($name), "\0").as_bytes();
                    // SAFETY: the type is that of the function of this name in rdma-core's headers.
                    let symbol: Symbol<'_, Function> = unsafe { $library.get(name)? };
                    *symbol
                },)+)+ })
            }
        }
    };
}

functions! {
    verbs {
        fn ibv_get_device_name(*mut c_void) -> *const c_char;
        fn ibv_query_device(*mut Context, *mut DeviceAttributes) -> c_int;
        fn ibv_alloc_pd(*mut Context) -> *mut Pd;
        fn ibv_dealloc_pd(*mut Pd) -> c_int;
        fn ibv_reg_mr(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
        fn ibv_dereg_mr(*mut Mr) -> c_int;
        fn ibv_create_comp_channel(*mut Context) -> *mut CompChannel;
        fn ibv_destroy_comp_channel(*mut CompChannel) -> c_int;
        fn ibv_create_cq(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut Cq;
        fn ibv_destroy_cq(*mut Cq) -> c_int;
        fn ibv_get_cq_event(*mut CompChannel, *mut *mut Cq, *mut *mut c_void) -> c_int;
        fn ibv_ack_cq_events(*mut Cq, c_uint);
        fn ibv_create_srq(*mut Pd, *mut SrqInit) -> *mut Srq;
        fn ibv_destroy_srq(*mut Srq) -> c_int;
        fn ibv_get_async_event(*mut Context, *mut AsyncEvent) -> c_int;
        fn ibv_ack_async_event(*mut AsyncEvent);
    }
    manager {
        fn rdma_create_event_channel() -> *mut EventChannel;
        fn rdma_destroy_event_channel(*mut EventChannel);
        fn rdma_create_id(*mut EventChannel, *mut *mut CmId, *mut c_void, c_uint) -> c_int;
        fn rdma_destroy_id(*mut CmId) -> c_int;
        fn rdma_set_option(*mut CmId, c_int, c_int, *mut c_void, usize) -> c_int;
        fn rdma_bind_addr(*mut CmId, *mut libc::sockaddr) -> c_int;
        fn rdma_listen(*mut CmId, c_int) -> c_int;
        fn rdma_resolve_addr(*mut CmId, *mut libc::sockaddr, *mut libc::sockaddr, c_int) -> c_int;
        fn rdma_resolve_route(*mut CmId, c_int) -> c_int;
        fn rdma_create_qp(*mut CmId, *mut Pd, *mut QpInit) -> c_int;
        fn rdma_destroy_qp(*mut CmId);
        fn rdma_connect(*mut CmId, *mut ConnParam) -> c_int;
        fn rdma_accept(*mut CmId, *mut ConnParam) -> c_int;
        fn rdma_reject(*mut CmId, *const c_void, u8) -> c_int;
        fn rdma_disconnect(*mut CmId) -> c_int;
        fn rdma_get_cm_event(*mut EventChannel, *mut *mut CmEvent) -> c_int;
        fn rdma_ack_cm_event(*mut CmEvent) -> c_int;
        fn rdma_get_src_port(*mut CmId) -> u16;
    }
}

/// The libraries stay open for the life of the process, as what they hand out asks for.
fn open() -> Result<Functions, libloading::Error> {
    // SAFETY: opening it runs its initialisers, which set up its own tables and nothing else.
    let verbs = unsafe { Library::new("libibverbs.so.1") }?;
    // SAFETY: as above.
    let manager = unsafe { Library::new("librdmacm.so.1") }?;
    let functions = Functions::find(&verbs, &manager)?;
    std::mem::forget((verbs, manager));
    Ok(functions)
}

/// The functions, or what is missing in one line.
pub(super) fn functions() -> Result<&'static Functions, &'static str> {
    static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();
    FUNCTIONS
        .get_or_init(|| open().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(String::as_str)
}
