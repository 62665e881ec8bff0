#![allow(unsafe_code)]
//! What stands in for SPDK where it is not installed: the calls that the `spdk:` backend makes, over
//! blocks in memory. It tries what is ours, and shows nothing of SPDK.
//!
//! Commands complete in another order than they were handed over in, a few at a time, and requests are
//! scarce: a queue pair has half of those that it was asked for. Data have to lie in memory that was
//! registered.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Mutex;

use crate::rig::DEVICE_BYTES;

const BLOCK_BYTES: usize = 4096;

/// Memory that was registered, or is SPDK's own.
static KNOWN: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

fn is_known(address: usize, bytes: usize) -> bool {
    let known = KNOWN.lock().expect("nobody panics with it");
    known.iter().any(|(base, length)| *base <= address && address + bytes <= base + length)
}

pub struct Controller {
    identify: [u8; 4096],
    namespace: [u8; 4096],
    blocks: Mutex<Vec<u8>>,
}

type Completed = unsafe extern "C" fn(*mut c_void, *const [u32; 4]);

struct Request {
    command: [u32; 16],
    data: usize,
    bytes: usize,
    completed: Completed,
    argument: *mut c_void,
}

pub struct Pair {
    controller: *const Controller,
    requests: VecDeque<Request>,
    requests_max: usize,
    calls: usize,
}

#[unsafe(no_mangle)]
extern "C" fn spdk_log_open(_: *const c_void) {}

#[unsafe(no_mangle)]
extern "C" fn spdk_env_opts_init(_: *mut c_void) {}

#[unsafe(no_mangle)]
extern "C" fn spdk_env_init(_: *const c_void) -> c_int {
    0
}

#[unsafe(no_mangle)]
extern "C" fn spdk_mem_register(address: *mut c_void, bytes: usize) -> c_int {
    if is_known(address as usize, 1) {
        return -libc::EBUSY;
    }
    KNOWN.lock().expect("nobody panics with it").push((address as usize, bytes));
    0
}

#[unsafe(no_mangle)]
extern "C" fn spdk_mem_unregister(address: *mut c_void, bytes: usize) -> c_int {
    let mut known = KNOWN.lock().expect("nobody panics with it");
    let before = known.len();
    known.retain(|known| *known != (address as usize, bytes));
    if known.len() < before { 0 } else { -libc::EINVAL }
}

#[unsafe(no_mangle)]
extern "C" fn spdk_zmalloc(
    bytes: usize,
    _align: usize,
    _unused: *mut u64,
    _node: c_int,
    _flags: u32,
) -> *mut c_void {
    let memory = Box::leak(vec![0_u64; bytes / 8].into_boxed_slice()).as_mut_ptr();
    KNOWN.lock().expect("nobody panics with it").push((memory as usize, bytes));
    memory.cast()
}

#[unsafe(no_mangle)]
extern "C" fn spdk_free(memory: *mut c_void) {
    // It is leaked: a command that were still to use it would find it.
    let mut known = KNOWN.lock().expect("nobody panics with it");
    known.retain(|(base, _)| *base != memory as usize);
}

#[unsafe(no_mangle)]
extern "C" fn spdk_nvme_transport_id_parse(_: *mut c_void, _: *const c_char) -> c_int {
    0
}

#[unsafe(no_mangle)]
extern "C" fn spdk_nvme_connect(_: *const c_void, _: *const c_void, _: usize) -> *mut Controller {
    let mut identify = [0; 4096];
    identify[4..24].copy_from_slice(b"STAND-IN            ");
    identify[24..64].copy_from_slice(b"no SPDK                                 ");
    // A volatile write cache is present.
    identify[525] = 1;
    let mut namespace = [0; 4096];
    let blocks = DEVICE_BYTES / BLOCK_BYTES as u64;
    namespace[..8].copy_from_slice(&blocks.to_le_bytes());
    namespace[130] = 12;
    let blocks = Mutex::new(vec![0; DEVICE_BYTES as usize]);
    Box::into_raw(Box::new(Controller { identify, namespace, blocks }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn spdk_nvme_detach(controller: *mut Controller) -> c_int {
    // SAFETY: it was made by `spdk_nvme_connect`, and nobody uses it any more.
    drop(unsafe { Box::from_raw(controller) });
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn spdk_nvme_ctrlr_get_data(controller: *mut Controller) -> *const [u8; 4096] {
    // SAFETY: the controller is connected.
    unsafe { &raw const (*controller).identify }
}

#[unsafe(no_mangle)]
extern "C" fn spdk_nvme_ctrlr_get_first_active_ns(_: *mut Controller) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn spdk_nvme_ctrlr_is_active_ns(_: *mut Controller, id: u32) -> bool {
    id == 1
}

#[unsafe(no_mangle)]
extern "C" fn spdk_nvme_ctrlr_get_ns(controller: *mut Controller, _: u32) -> *mut Controller {
    controller
}

#[unsafe(no_mangle)]
unsafe extern "C" fn spdk_nvme_ns_get_data(namespace: *mut Controller) -> *const [u8; 4096] {
    // SAFETY: the controller is connected.
    unsafe { &raw const (*namespace).namespace }
}

#[unsafe(no_mangle)]
extern "C" fn spdk_nvme_ctrlr_get_max_xfer_size(_: *const Controller) -> u32 {
    128 << 10
}

#[unsafe(no_mangle)]
extern "C" fn spdk_nvme_ctrlr_process_admin_completions(_: *mut Controller) -> i32 {
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn spdk_nvme_ctrlr_alloc_io_qpair(
    controller: *mut Controller,
    options: *const [u32; 4],
    bytes: usize,
) -> *mut Pair {
    assert_eq!(bytes, size_of::<[u32; 4]>());
    // SAFETY: the caller says how long it is.
    let [_priority, queue, requests, delay] = unsafe { *options };
    assert!(queue >= 2 && requests >= queue && delay == 1);
    let requests_max = (requests as usize / 2).max(1);
    Box::into_raw(Box::new(Pair { controller, requests: VecDeque::new(), requests_max, calls: 0 }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn spdk_nvme_ctrlr_free_io_qpair(pair: *mut Pair) -> c_int {
    // SAFETY: it was made above, and is not used again.
    let pair = unsafe { Box::from_raw(pair) };
    for request in pair.requests {
        // Command Aborted due to SQ Deletion.
        request.complete(0x08);
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn spdk_nvme_ctrlr_cmd_io_raw(
    _: *mut Controller,
    pair: *mut Pair,
    command: *const [u32; 16],
    data: *mut c_void,
    bytes: u32,
    completed: Completed,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the queue pair is alive, and this is its thread.
    let pair = unsafe { &mut *pair };
    // SAFETY: a command of 64 bytes.
    let command = unsafe { *command };
    if pair.requests.len() == pair.requests_max {
        return -libc::ENOMEM;
    }
    let (data, bytes) = (data as usize, bytes as usize);
    pair.requests.push_back(Request { command, data, bytes, completed, argument });
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn spdk_nvme_qpair_process_completions(pair: *mut Pair, most: u32) -> i32 {
    // SAFETY: the queue pair is alive, and this is its thread.
    let pair = unsafe { &mut *pair };
    pair.calls += 1;
    let mut count = 0;
    while count < most.min(5) {
        let last = (pair.calls + count as usize).is_multiple_of(3);
        let next = if last { pair.requests.pop_back() } else { pair.requests.pop_front() };
        let Some(request) = next else { break };
        // SAFETY: the controller outlives its queue pairs.
        let status = unsafe { &*pair.controller }.execute(&request);
        request.complete(status);
        count += 1;
    }
    count as i32
}

impl Request {
    fn complete(self, status: u32) {
        let completion = [0, 0, 0, status << 17];
        // SAFETY: as it was asked to be called.
        unsafe { (self.completed)(self.argument, &completion) };
    }
}

impl Controller {
    /// The status of a command.
    fn execute(&self, request: &Request) -> u32 {
        const LBA_OUT_OF_RANGE: u32 = 0x80;
        const INVALID_OPCODE: u32 = 0x01;
        let Request { command, data, bytes, .. } = request;
        assert_eq!(command[1], 1, "the namespace");
        let mut blocks = self.blocks.lock().expect("nobody panics with it");
        let place = |first: u64, count: u64| {
            let start = usize::try_from(first).ok()?.checked_mul(BLOCK_BYTES)?;
            let end = start.checked_add(count as usize * BLOCK_BYTES)?;
            (end as u64 <= DEVICE_BYTES).then_some(start..end)
        };
        let first = u64::from(command[11]) << 32 | u64::from(command[10]);
        let count = u64::from(command[12] & 0xffff) + 1;
        let opcode = command[0] & 0xff;
        assert!(*bytes == 0 || is_known(*data, *bytes), "data in memory that is registered");
        match opcode {
            0x00 => return 0,
            0x09 => {
                for index in 0..=(command[10] & 0xff) as usize {
                    let range = (*data as *const [u32; 4]).wrapping_add(index);
                    // SAFETY: so many ranges lie there, in memory of SPDK's.
                    let range = unsafe { *range };
                    let start = u64::from(range[3]) << 32 | u64::from(range[2]);
                    let Some(place) = place(start, range[1].into()) else {
                        return LBA_OUT_OF_RANGE;
                    };
                    blocks[place].fill(0);
                }
                return 0;
            }
            _ => {}
        }
        let Some(place) = place(first, count) else { return LBA_OUT_OF_RANGE };
        match opcode {
            0x01 | 0x02 => assert_eq!(place.len(), *bytes, "data as long as the blocks"),
            0x08 => {}
            _ => return INVALID_OPCODE,
        }
        match opcode {
            // SAFETY: the data are `bytes` long, and their command's.
            0x01 => unsafe {
                std::ptr::copy_nonoverlapping(
                    *data as *const u8,
                    blocks[place].as_mut_ptr(),
                    *bytes,
                );
            },
            // SAFETY: as above.
            0x02 => unsafe {
                std::ptr::copy_nonoverlapping(blocks[place].as_ptr(), *data as *mut u8, *bytes);
            },
            _ => blocks[place].fill(0),
        }
        0
    }
}
