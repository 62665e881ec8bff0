#![allow(unsafe_code)]
//! The calls of SPDK that are used, as `include/spdk/env.h` and `include/spdk/nvme.h` declare them from
//! SPDK 24.01 on.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null;

use crate::identify::{IdentifyController, IdentifyNamespace};
use crate::submission_entry::SubmissionEntry;

/// `struct spdk_nvme_ctrlr`.
#[repr(C)]
pub(super) struct Controller {
    opaque: [u8; 0],
}

/// `struct spdk_nvme_ns`.
#[repr(C)]
pub(super) struct Namespace {
    opaque: [u8; 0],
}

/// `struct spdk_nvme_qpair`.
#[repr(C)]
pub(super) struct QueuePair {
    opaque: [u8; 0],
}

/// `struct spdk_env_opts`.
#[repr(C)]
pub(super) struct EnvironmentOptions {
    pub(super) name: *const c_char,
    pub(super) core_mask: *const c_char,
    lcore_map: *const c_char,
    shm_id: c_int,
    mem_channel: c_int,
    main_core: c_int,
    mem_size: c_int,
    no_pci: bool,
    hugepage_single_segments: bool,
    unlink_hugepage: bool,
    no_huge: bool,
    reserved: u32,
    num_pci_addr: usize,
    hugedir: *const c_char,
    pci_blocked: *mut c_void,
    pci_allowed: *mut c_void,
    iova_mode: *const c_char,
    base_virtaddr: u64,
    env_context: *mut c_void,
    vf_token: *const c_char,
    pub(super) opts_size: usize,
    enforce_numa: bool,
    reserved2: [u8; 7],
}

const _: () = assert!(size_of::<EnvironmentOptions>() == 128);

impl EnvironmentOptions {
    pub(super) fn zeroed() -> EnvironmentOptions {
        EnvironmentOptions {
            name: null(),
            core_mask: null(),
            lcore_map: null(),
            shm_id: 0,
            mem_channel: 0,
            main_core: 0,
            mem_size: 0,
            no_pci: false,
            hugepage_single_segments: false,
            unlink_hugepage: false,
            no_huge: false,
            reserved: 0,
            num_pci_addr: 0,
            hugedir: null(),
            pci_blocked: std::ptr::null_mut(),
            pci_allowed: std::ptr::null_mut(),
            iova_mode: null(),
            base_virtaddr: 0,
            env_context: std::ptr::null_mut(),
            vf_token: null(),
            opts_size: size_of::<EnvironmentOptions>(),
            enforce_numa: false,
            reserved2: [0; 7],
        }
    }
}

/// `struct spdk_nvme_transport_id`, which only SPDK looks into: it has some 560 bytes.
#[repr(C, align(8))]
pub(super) struct TransportId(pub(super) [u8; 1024]);

/// How `struct spdk_nvme_io_qpair_opts` begins; the rest keeps its defaults.
#[repr(C)]
pub(super) struct QueuePairOptions {
    pub(super) priority: c_int,
    pub(super) queue_size: u32,
    pub(super) requests: u32,
    /// Commands are handed over when completions are looked for, with one doorbell.
    pub(super) delay_submission: bool,
    pub(super) padding: [u8; 3],
}

const _: () = assert!(size_of::<QueuePairOptions>() == 16);

/// `spdk_nvme_cmd_cb`, with the dwords of `struct spdk_nvme_cpl`.
pub(super) type Completed = unsafe extern "C" fn(*mut c_void, *const [u32; 4]);

/// `spdk_log_cb`: level, file, line, function, format, arguments. The last is a `va_list`, which the
/// calling conventions of x86-64 and AArch64 pass as an address.
pub(super) type Log =
    unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char, *const c_char, *mut c_void);

unsafe extern "C" {
    pub(super) fn spdk_log_open(log: Option<Log>);
    pub(super) fn spdk_env_opts_init(options: *mut EnvironmentOptions);
    pub(super) fn spdk_env_init(options: *const EnvironmentOptions) -> c_int;
    pub(super) fn spdk_mem_register(address: *mut c_void, bytes: usize) -> c_int;
    pub(super) fn spdk_mem_unregister(address: *mut c_void, bytes: usize) -> c_int;
    pub(super) fn spdk_zmalloc(
        bytes: usize,
        align: usize,
        unused: *mut u64,
        numa_id: c_int,
        flags: u32,
    ) -> *mut c_void;
    pub(super) fn spdk_free(memory: *mut c_void);

    pub(super) fn spdk_nvme_transport_id_parse(id: *mut TransportId, text: *const c_char) -> c_int;
    pub(super) fn spdk_nvme_connect(
        id: *const TransportId,
        options: *const c_void,
        options_bytes: usize,
    ) -> *mut Controller;
    pub(super) fn spdk_nvme_detach(controller: *mut Controller) -> c_int;
    pub(super) fn spdk_nvme_ctrlr_get_data(
        controller: *mut Controller,
    ) -> *const IdentifyController;
    pub(super) fn spdk_nvme_ctrlr_get_first_active_ns(controller: *mut Controller) -> u32;
    pub(super) fn spdk_nvme_ctrlr_is_active_ns(controller: *mut Controller, id: u32) -> bool;
    pub(super) fn spdk_nvme_ctrlr_get_ns(controller: *mut Controller, id: u32) -> *mut Namespace;
    pub(super) fn spdk_nvme_ns_get_data(namespace: *mut Namespace) -> *const IdentifyNamespace;
    pub(super) fn spdk_nvme_ctrlr_get_max_xfer_size(controller: *const Controller) -> u32;
    pub(super) fn spdk_nvme_ctrlr_process_admin_completions(controller: *mut Controller) -> i32;

    pub(super) fn spdk_nvme_ctrlr_alloc_io_qpair(
        controller: *mut Controller,
        options: *const QueuePairOptions,
        options_bytes: usize,
    ) -> *mut QueuePair;
    pub(super) fn spdk_nvme_ctrlr_free_io_qpair(pair: *mut QueuePair) -> c_int;
    pub(super) fn spdk_nvme_ctrlr_cmd_io_raw(
        controller: *mut Controller,
        pair: *mut QueuePair,
        command: *mut SubmissionEntry,
        data: *mut c_void,
        bytes: u32,
        completed: Completed,
        argument: *mut c_void,
    ) -> c_int;
    pub(super) fn spdk_nvme_qpair_process_completions(
        pair: *mut QueuePair,
        completions_max: u32,
    ) -> i32;
}

unsafe extern "C" {
    /// The C library's, with a `va_list` as above.
    pub(super) fn vsnprintf(
        text: *mut c_char,
        bytes: usize,
        format: *const c_char,
        arguments: *mut c_void,
    ) -> c_int;
}
