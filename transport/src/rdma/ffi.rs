#![allow(unsafe_code)]
//! The types of libibverbs and librdmacm that are used here, as rdma-core's headers lay them out.
//!
//! Both libraries keep these layouts for good (their symbols are versioned). Fields that nobody here
//! looks at are there for their size. A test compares sizes and offsets with the system's headers
//! where those are installed.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `struct ibv_context_ops`: most of it is of no use any more.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ContextOps {
    compat_query_device_to_dereg_mr: [*mut c_void; 7],
    /// Null where the driver has none.
    pub(super) alloc_mw: Option<unsafe extern "C" fn(*mut Pd, c_uint) -> *mut Mw>,
    bind_mw: *mut c_void,
    pub(super) dealloc_mw: unsafe extern "C" fn(*mut Mw) -> c_int,
    compat_create_cq: *mut c_void,
    pub(super) poll_cq: unsafe extern "C" fn(*mut Cq, c_int, *mut WorkCompletion) -> c_int,
    pub(super) req_notify_cq: unsafe extern "C" fn(*mut Cq, c_int) -> c_int,
    compat_cq_event_to_destroy_srq: [*mut c_void; 7],
    pub(super) post_srq_recv:
        unsafe extern "C" fn(*mut Srq, *mut RecvRequest, *mut *mut RecvRequest) -> c_int,
    compat_create_qp_to_destroy_qp: [*mut c_void; 4],
    pub(super) post_send:
        unsafe extern "C" fn(*mut Qp, *mut SendRequest, *mut *mut SendRequest) -> c_int,
    post_recv: *mut c_void,
    compat_create_ah_to_async_event: [*mut c_void; 5],
}

/// `struct ibv_context`, up to its last field of interest.
#[repr(C)]
pub(super) struct Context {
    pub(super) device: *mut c_void,
    pub(super) ops: ContextOps,
    pub(super) cmd_fd: c_int,
    pub(super) async_fd: c_int,
}

/// `struct ibv_pd`
#[repr(C)]
pub(super) struct Pd {
    context: *mut Context,
}

/// `struct ibv_mr`
#[repr(C)]
pub(super) struct Mr {
    context: *mut Context,
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    handle: u32,
    pub(super) lkey: u32,
    pub(super) rkey: u32,
}

/// `struct ibv_mw`, up to its last field of interest.
#[repr(C)]
pub(super) struct Mw {
    context: *mut Context,
    pd: *mut Pd,
    pub(super) rkey: u32,
}

/// `struct ibv_mw_bind_info`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct BindInfo {
    pub(super) mr: *mut Mr,
    pub(super) addr: u64,
    pub(super) length: u64,
    pub(super) mw_access_flags: c_uint,
}

/// The variant for memory windows of the last union of `struct ibv_send_wr`, which is its largest.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct BindWindow {
    pub(super) mw: *mut Mw,
    pub(super) rkey: u32,
    pub(super) info: BindInfo,
}

impl BindWindow {
    /// What requests carry that bind nothing.
    pub(super) const NONE: Self = Self {
        mw: std::ptr::null_mut(),
        rkey: 0,
        info: BindInfo { mr: std::ptr::null_mut(), addr: 0, length: 0, mw_access_flags: 0 },
    };
}

/// `struct ibv_comp_channel`
#[repr(C)]
pub(super) struct CompChannel {
    context: *mut Context,
    pub(super) fd: c_int,
}

/// `struct ibv_cq`, up to its last field of interest.
#[repr(C)]
pub(super) struct Cq {
    context: *mut Context,
    channel: *mut CompChannel,
    pub(super) cq_context: *mut c_void,
}

/// `struct ibv_srq`, up to its last field of interest.
#[repr(C)]
pub(super) struct Srq {
    context: *mut Context,
    pub(super) srq_context: *mut c_void,
}

/// `struct ibv_qp`, up to its last field of interest.
#[repr(C)]
pub(super) struct Qp {
    context: *mut Context,
    pub(super) qp_context: *mut c_void,
    pd: *mut Pd,
    send_cq: *mut Cq,
    recv_cq: *mut Cq,
    srq: *mut Srq,
    handle: u32,
    pub(super) qp_num: u32,
}

/// `struct ibv_device_attr`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct DeviceAttributes {
    fw_ver: [c_char; 64],
    node_guid: u64,
    sys_image_guid: u64,
    max_mr_size: u64,
    page_size_cap: u64,
    vendor_id: u32,
    vendor_part_id: u32,
    hw_ver: u32,
    max_qp: c_int,
    pub(super) max_qp_wr: c_int,
    pub(super) device_cap_flags: c_uint,
    max_sge: c_int,
    max_sge_rd: c_int,
    max_cq: c_int,
    pub(super) max_cqe: c_int,
    max_mr_to_max_map_per_fmr: [c_int; 19],
    max_srq: c_int,
    pub(super) max_srq_wr: c_int,
    max_srq_sge: c_int,
    max_pkeys: u16,
    local_ca_ack_delay: u8,
    phys_port_cnt: u8,
}

/// `struct ibv_srq_init_attr`
#[repr(C)]
pub(super) struct SrqInit {
    pub(super) srq_context: *mut c_void,
    pub(super) max_wr: u32,
    pub(super) max_sge: u32,
    pub(super) srq_limit: u32,
}

/// `struct ibv_qp_init_attr`
#[repr(C)]
pub(super) struct QpInit {
    pub(super) qp_context: *mut c_void,
    pub(super) send_cq: *mut Cq,
    pub(super) recv_cq: *mut Cq,
    pub(super) srq: *mut Srq,
    pub(super) max_send_wr: u32,
    pub(super) max_recv_wr: u32,
    pub(super) max_send_sge: u32,
    pub(super) max_recv_sge: u32,
    pub(super) max_inline_data: u32,
    pub(super) qp_type: c_uint,
    pub(super) sq_sig_all: c_int,
}

/// `struct ibv_sge`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Sge {
    pub(super) addr: u64,
    pub(super) length: u32,
    pub(super) lkey: u32,
}

/// `struct ibv_recv_wr`
#[repr(C)]
pub(super) struct RecvRequest {
    pub(super) wr_id: u64,
    pub(super) next: *mut RecvRequest,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
}

/// `struct ibv_send_wr`, with the variant for one-sided writes of its first union and that for
/// memory windows of its last.
#[repr(C)]
pub(super) struct SendRequest {
    pub(super) wr_id: u64,
    pub(super) next: *mut SendRequest,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
    pub(super) opcode: c_uint,
    pub(super) send_flags: c_uint,
    /// In network byte order.
    pub(super) imm_data: u32,
    pub(super) remote_addr: u64,
    pub(super) rkey: u32,
    pub(super) rest_of_union: [u64; 2],
    pub(super) remote_srqn: u32,
    pub(super) bind: BindWindow,
}

/// `struct ibv_wc`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct WorkCompletion {
    pub(super) wr_id: u64,
    pub(super) status: c_uint,
    pub(super) opcode: c_uint,
    pub(super) vendor_err: u32,
    pub(super) byte_len: u32,
    /// In network byte order.
    pub(super) imm_data: u32,
    pub(super) qp_num: u32,
    src_qp: u32,
    pub(super) wc_flags: c_uint,
    pkey_index: u16,
    slid: u16,
    sl: u8,
    dlid_path_bits: u8,
}

/// `struct ibv_async_event`; the element is a pointer or a port.
#[repr(C)]
pub(super) struct AsyncEvent {
    pub(super) element: *mut c_void,
    pub(super) event_type: c_uint,
}

/// `struct rdma_event_channel`
#[repr(C)]
pub(super) struct EventChannel {
    pub(super) fd: c_int,
}

/// `struct rdma_addr` without its InfiniBand part.
#[repr(C)]
pub(super) struct CmAddresses {
    pub(super) src: libc::sockaddr_storage,
    pub(super) dst: libc::sockaddr_storage,
}

/// `struct rdma_cm_id`, up to its last field of interest.
#[repr(C)]
pub(super) struct CmId {
    pub(super) verbs: *mut Context,
    channel: *mut EventChannel,
    context: *mut c_void,
    pub(super) qp: *mut Qp,
    pub(super) addresses: CmAddresses,
}

/// `struct rdma_conn_param`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ConnParam {
    pub(super) private_data: *const c_void,
    pub(super) private_data_len: u8,
    pub(super) responder_resources: u8,
    pub(super) initiator_depth: u8,
    pub(super) flow_control: u8,
    pub(super) retry_count: u8,
    pub(super) rnr_retry_count: u8,
    pub(super) srq: u8,
    pub(super) qp_num: u32,
}

/// `struct rdma_cm_event`, with the connected variant of its union. Made by the library only.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct CmEvent {
    pub(super) id: *mut CmId,
    pub(super) listen_id: *mut CmId,
    pub(super) event: c_uint,
    pub(super) status: c_int,
    pub(super) conn: ConnParam,
}

/// `RDMA_PS_TCP`
pub(super) const PORT_SPACE_TCP: c_uint = 0x0106;
/// `RDMA_OPTION_ID`
pub(super) const OPTION_ID: c_int = 0;
/// `RDMA_OPTION_ID_REUSEADDR`
pub(super) const OPTION_ID_REUSEADDR: c_int = 1;
/// `RDMA_OPTION_ID_ACK_TIMEOUT`
pub(super) const OPTION_ID_ACK_TIMEOUT: c_int = 3;

/// `IBV_QPT_RC`
pub(super) const QP_TYPE_RC: c_uint = 2;
/// `IBV_ACCESS_LOCAL_WRITE`
pub(super) const ACCESS_LOCAL_WRITE: c_int = 1;
/// `IBV_ACCESS_REMOTE_WRITE`
pub(super) const ACCESS_REMOTE_WRITE: c_int = 2;
/// `IBV_ACCESS_MW_BIND`
pub(super) const ACCESS_WINDOW_BIND: c_int = 1 << 4;
/// `IBV_DEVICE_MEM_WINDOW_TYPE_2B`
pub(super) const DEVICE_WINDOW_TYPE_2B: c_uint = 1 << 24;
/// `IBV_MW_TYPE_2`
pub(super) const WINDOW_TYPE_2: c_uint = 2;
/// `IBV_WR_RDMA_WRITE`
pub(super) const OPCODE_WRITE: c_uint = 0;
/// `IBV_WR_SEND_WITH_IMM`
pub(super) const OPCODE_SEND_WITH_IMM: c_uint = 3;
/// `IBV_WR_BIND_MW`
pub(super) const OPCODE_BIND_WINDOW: c_uint = 8;
/// `IBV_SEND_SIGNALED`
pub(super) const FLAG_SIGNALED: c_uint = 2;
/// `IBV_SEND_INLINE`
pub(super) const FLAG_INLINE: c_uint = 8;
/// `IBV_WC_RECV`: set in the opcodes of all completions of receives.
pub(super) const COMPLETION_RECV: c_uint = 1 << 7;
/// `IBV_WC_WITH_IMM`
pub(super) const COMPLETION_WITH_IMM: c_uint = 2;

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::mem::{offset_of, size_of};
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// What the system's headers say, in the order of `ours`.
    fn ask_the_compiler(source: &str) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let (c, program) = (folder.path().join("layout.c"), folder.path().join("layout"));
        std::fs::write(&c, source).expect("a file");
        let built = Command::new("cc").arg(&c).arg("-o").arg(&program).status();
        if !built.is_ok_and(|status| status.success()) {
            return None;
        }
        let said = Command::new(&program).output().expect("a program that was just built");
        Some(String::from_utf8(said.stdout).expect("numbers"))
    }

    #[test]
    fn layouts_are_those_of_the_headers() {
        if !Path::new("/usr/include/infiniband/verbs.h").exists()
            || !Path::new("/usr/include/rdma/rdma_cma.h").exists()
        {
            println!("skipped: no headers of rdma-core (libibverbs-dev, librdmacm-dev)");
            return;
        }
        let offsets = [
            ("struct ibv_context", "ops", offset_of!(Context, ops)),
            ("struct ibv_context", "cmd_fd", offset_of!(Context, cmd_fd)),
            ("struct ibv_context", "async_fd", offset_of!(Context, async_fd)),
            ("struct ibv_context_ops", "poll_cq", offset_of!(ContextOps, poll_cq)),
            ("struct ibv_context_ops", "req_notify_cq", offset_of!(ContextOps, req_notify_cq)),
            ("struct ibv_context_ops", "post_srq_recv", offset_of!(ContextOps, post_srq_recv)),
            ("struct ibv_context_ops", "post_send", offset_of!(ContextOps, post_send)),
            ("struct ibv_mr", "lkey", offset_of!(Mr, lkey)),
            ("struct ibv_mr", "rkey", offset_of!(Mr, rkey)),
            ("struct ibv_comp_channel", "fd", offset_of!(CompChannel, fd)),
            ("struct ibv_cq", "cq_context", offset_of!(Cq, cq_context)),
            ("struct ibv_srq", "srq_context", offset_of!(Srq, srq_context)),
            ("struct ibv_qp", "qp_context", offset_of!(Qp, qp_context)),
            ("struct ibv_qp", "qp_num", offset_of!(Qp, qp_num)),
            ("struct ibv_device_attr", "max_qp_wr", offset_of!(DeviceAttributes, max_qp_wr)),
            (
                "struct ibv_device_attr",
                "device_cap_flags",
                offset_of!(DeviceAttributes, device_cap_flags),
            ),
            ("struct ibv_device_attr", "max_cqe", offset_of!(DeviceAttributes, max_cqe)),
            ("struct ibv_device_attr", "max_srq_wr", offset_of!(DeviceAttributes, max_srq_wr)),
            ("struct ibv_srq_init_attr", "attr.max_wr", offset_of!(SrqInit, max_wr)),
            ("struct ibv_srq_init_attr", "attr.srq_limit", offset_of!(SrqInit, srq_limit)),
            ("struct ibv_qp_init_attr", "cap.max_send_wr", offset_of!(QpInit, max_send_wr)),
            ("struct ibv_qp_init_attr", "cap.max_inline_data", offset_of!(QpInit, max_inline_data)),
            ("struct ibv_qp_init_attr", "qp_type", offset_of!(QpInit, qp_type)),
            ("struct ibv_qp_init_attr", "sq_sig_all", offset_of!(QpInit, sq_sig_all)),
            ("struct ibv_send_wr", "imm_data", offset_of!(SendRequest, imm_data)),
            ("struct ibv_send_wr", "wr.rdma.remote_addr", offset_of!(SendRequest, remote_addr)),
            ("struct ibv_send_wr", "wr.rdma.rkey", offset_of!(SendRequest, rkey)),
            ("struct ibv_send_wr", "qp_type", offset_of!(SendRequest, remote_srqn)),
            ("struct ibv_send_wr", "bind_mw", offset_of!(SendRequest, bind)),
            ("struct ibv_send_wr", "bind_mw.rkey", offset_of!(SendRequest, bind.rkey)),
            ("struct ibv_send_wr", "bind_mw.bind_info", offset_of!(SendRequest, bind.info)),
            ("struct ibv_mw_bind_info", "length", offset_of!(BindInfo, length)),
            ("struct ibv_mw_bind_info", "mw_access_flags", offset_of!(BindInfo, mw_access_flags)),
            ("struct ibv_mw", "rkey", offset_of!(Mw, rkey)),
            ("struct ibv_context_ops", "alloc_mw", offset_of!(ContextOps, alloc_mw)),
            ("struct ibv_context_ops", "dealloc_mw", offset_of!(ContextOps, dealloc_mw)),
            ("struct ibv_recv_wr", "num_sge", offset_of!(RecvRequest, num_sge)),
            ("struct ibv_wc", "imm_data", offset_of!(WorkCompletion, imm_data)),
            ("struct ibv_wc", "qp_num", offset_of!(WorkCompletion, qp_num)),
            ("struct ibv_wc", "wc_flags", offset_of!(WorkCompletion, wc_flags)),
            ("struct ibv_async_event", "event_type", offset_of!(AsyncEvent, event_type)),
            ("struct rdma_cm_id", "qp", offset_of!(CmId, qp)),
            ("struct rdma_cm_id", "route.addr.src_storage", offset_of!(CmId, addresses.src)),
            ("struct rdma_cm_id", "route.addr.dst_storage", offset_of!(CmId, addresses.dst)),
            ("struct rdma_conn_param", "rnr_retry_count", offset_of!(ConnParam, rnr_retry_count)),
            ("struct rdma_conn_param", "qp_num", offset_of!(ConnParam, qp_num)),
            ("struct rdma_cm_event", "status", offset_of!(CmEvent, status)),
            ("struct rdma_cm_event", "param.conn", offset_of!(CmEvent, conn)),
        ];
        let sizes = [
            ("struct ibv_context_ops", size_of::<ContextOps>()),
            ("struct ibv_device_attr", size_of::<DeviceAttributes>()),
            ("struct ibv_srq_init_attr", size_of::<SrqInit>()),
            ("struct ibv_qp_init_attr", size_of::<QpInit>()),
            ("struct ibv_mw_bind_info", size_of::<BindInfo>()),
            ("struct ibv_sge", size_of::<Sge>()),
            ("struct ibv_recv_wr", size_of::<RecvRequest>()),
            ("struct ibv_send_wr", size_of::<SendRequest>()),
            ("struct ibv_wc", size_of::<WorkCompletion>()),
            ("struct ibv_async_event", size_of::<AsyncEvent>()),
            ("struct rdma_conn_param", size_of::<ConnParam>()),
        ];
        let (mut body, mut ours) = (String::new(), String::new());
        for (of, field, offset) in offsets {
            writeln!(body, "printf(\"{of} {field} %zu\\n\", offsetof({of}, {field}));")
                .expect("memory");
            writeln!(ours, "{of} {field} {offset}").expect("memory");
        }
        for (of, size) in sizes {
            writeln!(body, "printf(\"{of} %zu\\n\", sizeof({of}));").expect("memory");
            writeln!(ours, "{of} {size}").expect("memory");
        }
        let source = format!(
            "#include <infiniband/verbs.h>\n#include <rdma/rdma_cma.h>\n#include <stddef.h>\n\
             #include <stdio.h>\nint main(void) {{\n{body}return 0;\n}}\n"
        );
        match ask_the_compiler(&source) {
            None => println!("skipped: no C compiler that takes the headers of rdma-core"),
            Some(theirs) => assert_eq!(ours, theirs),
        }
    }
}
