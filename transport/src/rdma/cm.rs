#![allow(unsafe_code)]
//! Connections as librdmacm makes them: identifiers, and the channel on which they report.

use std::ffi::{c_int, c_void};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use arrayvec::ArrayVec;
use rustix::io::Errno;
use socket2::{SockAddr, SockAddrStorage};

use super::device::Device;
use super::ffi::{self, CmEvent, CmId, ConnParam, EventChannel, QpInit};
use super::library::Functions;

/// The most bytes of private data that any event brings.
const PRIVATE_BYTES_MAX: usize = 255;

/// What a peer said while the connection was made.
pub(crate) type PrivateData = ArrayVec<u8, PRIVATE_BYTES_MAX>;

/// The last error of the calling thread.
pub(super) fn last_errno() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error().filter(|code| *code > 0);
    Errno::from_raw_os_error(code.unwrap_or(libc::EIO))
}

/// The answer of a function of librdmacm.
fn answer(result: c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

struct ChannelInner {
    raw: NonNull<EventChannel>,
    functions: &'static Functions,
}

impl Drop for ChannelInner {
    fn drop(&mut self) {
        // SAFETY: every identifier holds the channel, so none is left, and all events were
        // acknowledged when they were taken.
        unsafe { (self.functions.rdma_destroy_event_channel)(self.raw.as_ptr()) }
    }
}

/// Where identifiers report.
#[derive(Clone)]
pub(super) struct Channel(Rc<ChannelInner>);

/// What happened to an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    AddressResolved,
    RouteResolved,
    ConnectRequest,
    Established,
    Disconnected,
    /// Refused by the peer's process, or by its kernel because nobody listens.
    Rejected,
    /// The device goes away.
    DeviceRemoved,
    /// The connection cannot be made.
    Failed,
    /// Nothing of a connection that has ended is under way any more.
    Gone,
    /// Nothing that matters here.
    Other,
}

/// An event of the channel.
pub(crate) struct Report {
    /// Which identifier: [`Id::key`].
    pub(crate) key: usize,
    pub(crate) what: Happening,
    /// 0, a negative errno, or a number of the connection manager.
    pub(crate) status: i32,
    pub(crate) said: PrivateData,
    /// The identifier of a peer that has come in.
    pub(crate) incoming: Option<Id>,
}

impl Channel {
    pub(super) fn new(functions: &'static Functions) -> Result<Self, Errno> {
        // SAFETY: it takes nothing.
        let raw = unsafe { (functions.rdma_create_event_channel)() };
        let raw = NonNull::new(raw).ok_or_else(last_errno)?;
        let channel = Self(Rc::new(ChannelInner { raw, functions }));
        rustix::io::ioctl_fionbio(channel.fd(), true)?;
        Ok(channel)
    }

    /// Readable when there is something to be taken.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives, and its descriptor is set once.
        let fd = unsafe { (*self.0.raw.as_ptr()).fd };
        // SAFETY: the descriptor is open as long as the channel, which the borrow holds.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Takes the next event; `None` when there is none now.
    pub(super) fn next(&self) -> Option<Report> {
        let functions = self.0.functions;
        let mut event: *mut CmEvent = std::ptr::null_mut();
        // SAFETY: the channel lives; the event is written only where the call succeeds.
        let got = unsafe { (functions.rdma_get_cm_event)(self.0.raw.as_ptr(), &mut event) };
        if got != 0 {
            return None;
        }
        // SAFETY: the library made it, and it is not acknowledged yet.
        let CmEvent { id, event: kind, status, conn, .. } = unsafe { *event };
        let what = happening(kind);
        let mut said = PrivateData::new();
        let brings = matches!(
            what,
            Happening::ConnectRequest | Happening::Established | Happening::Rejected
        );
        if brings && !conn.private_data.is_null() {
            let bytes = usize::from(conn.private_data_len);
            // SAFETY: the library keeps so many bytes there until the event is acknowledged.
            let bytes = unsafe { std::slice::from_raw_parts(conn.private_data.cast(), bytes) };
            said.extend(bytes.iter().copied());
        }
        let incoming = (what == Happening::ConnectRequest).then(|| {
            let raw = NonNull::new(id).expect("a request has an identifier");
            Id { raw, channel: self.clone(), device: None }
        });
        // SAFETY: it was got above, and nothing that it names is used any more.
        let acked = unsafe { (functions.rdma_ack_cm_event)(event) };
        debug_assert_eq!(acked, 0);
        Some(Report { key: id as usize, what, status, said, incoming })
    }
}

/// The events of `rdma_cma.h` by their numbers.
fn happening(kind: u32) -> Happening {
    match kind {
        0 => Happening::AddressResolved,
        2 => Happening::RouteResolved,
        4 => Happening::ConnectRequest,
        8 => Happening::Rejected,
        9 => Happening::Established,
        10 => Happening::Disconnected,
        11 => Happening::DeviceRemoved,
        1 | 3 | 6 | 7 => Happening::Failed,
        15 => Happening::Gone,
        _ => Happening::Other,
    }
}

/// An identifier, and the queue pair on it where it has one.
pub(crate) struct Id {
    raw: NonNull<CmId>,
    channel: Channel,
    /// That of its queue pair, which must outlive it.
    device: Option<Rc<Device>>,
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Id").field("key", &self.key()).finish_non_exhaustive()
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        self.destroy_queue_pair();
        // SAFETY: the identifier is ours alone and has no queue pair any more; its events are
        // acknowledged as they are taken, so this does not wait.
        let destroyed = unsafe { (self.functions().rdma_destroy_id)(self.raw.as_ptr()) };
        debug_assert_eq!(destroyed, 0);
    }
}

impl Id {
    pub(super) fn new(channel: &Channel) -> Result<Self, Errno> {
        let functions = channel.0.functions;
        let mut raw: *mut CmId = std::ptr::null_mut();
        // SAFETY: the channel lives longer than the identifier, which holds it.
        let made = unsafe {
            (functions.rdma_create_id)(
                channel.0.raw.as_ptr(),
                &mut raw,
                std::ptr::null_mut(),
                ffi::PORT_SPACE_TCP,
            )
        };
        answer(made)?;
        let raw = NonNull::new(raw).ok_or(Errno::NOMEM)?;
        Ok(Self { raw, channel: channel.clone(), device: None })
    }

    fn functions(&self) -> &'static Functions {
        self.channel.0.functions
    }

    /// One more identifier on the same channel, bound to the same device.
    pub(super) fn another_there(&self) -> Result<Self, Errno> {
        // SAFETY: the library fills the address in when it binds the identifier to a device.
        let mut here =
            address(unsafe { &(*self.raw.as_ptr()).addresses.src }).ok_or(Errno::NODEV)?;
        here.set_port(0);
        let other = Self::new(&self.channel)?;
        other.bind(here)?;
        if other.verbs() == self.verbs() { Ok(other) } else { Err(Errno::NODEV) }
    }

    /// What events call it by.
    pub(crate) fn key(&self) -> usize {
        self.raw.as_ptr() as usize
    }

    /// The context of the device that it is bound to; null before that.
    pub(super) fn verbs(&self) -> *mut ffi::Context {
        // SAFETY: the identifier lives; the library sets the field while it is used by this thread.
        unsafe { (*self.raw.as_ptr()).verbs }
    }

    /// Its queue pair; null without one.
    pub(super) fn queue_pair(&self) -> *mut ffi::Qp {
        // SAFETY: as above.
        unsafe { (*self.raw.as_ptr()).qp }
    }

    /// Sets how long an acknowledgement may take before a packet is sent again: 4.096 us * 2^n.
    /// Devices that cannot be told so keep their own.
    pub(super) fn set_ack_timeout(&self, exponent: u8) {
        self.set_option(ffi::OPTION_ID_ACK_TIMEOUT, exponent);
    }

    fn set_option<T>(&self, option: c_int, mut value: T) {
        // SAFETY: the library reads so many bytes of the value while it is called.
        let set = unsafe {
            (self.functions().rdma_set_option)(
                self.raw.as_ptr(),
                ffi::OPTION_ID,
                option,
                (&raw mut value).cast::<c_void>(),
                size_of::<T>(),
            )
        };
        if let Err(error) = answer(set) {
            tracing::debug!(%error, option, "rdma_set_option");
        }
    }

    pub(crate) fn bind(&self, address: SocketAddr) -> Result<(), Errno> {
        self.set_option::<c_int>(ffi::OPTION_ID_REUSEADDR, 1);
        let address = SockAddr::from(address);
        // SAFETY: the library reads the address while it is called.
        let bound = unsafe {
            (self.functions().rdma_bind_addr)(self.raw.as_ptr(), address.as_ptr().cast_mut().cast())
        };
        answer(bound)
    }

    pub(crate) fn listen(&self, backlog: i32) -> Result<(), Errno> {
        // SAFETY: the identifier lives.
        answer(unsafe { (self.functions().rdma_listen)(self.raw.as_ptr(), backlog) })
    }

    /// The port that it is bound to.
    pub(crate) fn port(&self) -> u16 {
        // SAFETY: the identifier lives.
        u16::from_be(unsafe { (self.functions().rdma_get_src_port)(self.raw.as_ptr()) })
    }

    /// Where the other side is.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        // SAFETY: the library fills the address in before it tells of the identifier.
        address(unsafe { &(*self.raw.as_ptr()).addresses.dst })
    }

    /// Begins to look for the way to an address, from a certain one or from any.
    pub(super) fn resolve_address(
        &self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        timeout_ms: i32,
    ) -> Result<(), Errno> {
        let (from, to) = (from.map(SockAddr::from), SockAddr::from(to));
        let from = from.as_ref().map_or(std::ptr::null(), SockAddr::as_ptr);
        // SAFETY: the library reads both addresses while it is called; none may be null.
        let begun = unsafe {
            (self.functions().rdma_resolve_addr)(
                self.raw.as_ptr(),
                from.cast_mut().cast(),
                to.as_ptr().cast_mut().cast(),
                timeout_ms,
            )
        };
        answer(begun)
    }

    pub(crate) fn resolve_route(&self, timeout_ms: i32) -> Result<(), Errno> {
        // SAFETY: the identifier lives.
        answer(unsafe { (self.functions().rdma_resolve_route)(self.raw.as_ptr(), timeout_ms) })
    }

    /// Makes its queue pair; the bytes that one may send inline, and its serial.
    pub(super) fn create_queue_pair(
        &mut self,
        device: &Rc<Device>,
        sends_max: u32,
        inline_bytes: u32,
    ) -> Result<(u32, u32), Errno> {
        assert!(self.device.is_none(), "an identifier has one queue pair");
        let (serial, tag) = device.next_tag();
        let mut init = QpInit {
            qp_context: tag,
            send_cq: device.cq(),
            recv_cq: device.cq(),
            srq: device.srq(),
            max_send_wr: sends_max,
            max_recv_wr: 0,
            max_send_sge: 1,
            max_recv_sge: 0,
            max_inline_data: inline_bytes,
            qp_type: ffi::QP_TYPE_RC,
            sq_sig_all: 0,
        };
        // SAFETY: queues and domain are of the identifier's own device, and it holds the device
        // from now on.
        let made =
            unsafe { (self.functions().rdma_create_qp)(self.raw.as_ptr(), device.pd(), &mut init) };
        answer(made)?;
        self.device = Some(Rc::clone(device));
        Ok((init.max_inline_data, serial))
    }

    /// Destroys its queue pair, if it has one: the device works for it no longer.
    pub(super) fn destroy_queue_pair(&mut self) {
        if let Some(device) = self.device.take() {
            // SAFETY: a queue pair was made on it, and is destroyed only here.
            unsafe { (self.functions().rdma_destroy_qp)(self.raw.as_ptr()) };
            drop(device);
        }
    }

    pub(super) fn connect(&self, said: &[u8], retries: u8) -> Result<(), Errno> {
        let mut parameters = parameters(said, retries);
        // SAFETY: the library reads parameters and private data while it is called.
        answer(unsafe { (self.functions().rdma_connect)(self.raw.as_ptr(), &mut parameters) })
    }

    pub(super) fn accept(&self, said: &[u8], retries: u8) -> Result<(), Errno> {
        let mut parameters = parameters(said, retries);
        // SAFETY: as above.
        answer(unsafe { (self.functions().rdma_accept)(self.raw.as_ptr(), &mut parameters) })
    }

    pub(crate) fn reject(&self, said: &[u8]) -> Result<(), Errno> {
        let (bytes, length) = (said.as_ptr().cast(), length_of(said));
        // SAFETY: the library reads so many bytes while it is called.
        answer(unsafe { (self.functions().rdma_reject)(self.raw.as_ptr(), bytes, length) })
    }

    /// Ends the connection: the queue pair goes into its error state and gives back what it holds.
    pub(super) fn disconnect(&self) {
        // SAFETY: the identifier lives.
        let ended = unsafe { (self.functions().rdma_disconnect)(self.raw.as_ptr()) };
        if let Err(error) = answer(ended) {
            tracing::debug!(%error, "rdma_disconnect");
        }
    }
}

/// An address as the library keeps it.
fn address(kept: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let mut storage = SockAddrStorage::zeroed();
    let length = storage.size_of();
    // SAFETY: the kernel's and the library's storage for addresses are the same.
    *unsafe { storage.view_as() } = *kept;
    // SAFETY: the storage is whole, whatever family it says.
    unsafe { SockAddr::new(storage, length) }.as_socket()
}

fn length_of(said: &[u8]) -> u8 {
    u8::try_from(said.len()).expect("private data has at most 255 bytes")
}

/// No peer may read, so nothing is prepared for that. A peer whose receives are used up for a
/// moment is waited for without end: the credits see to it that there are some.
fn parameters(said: &[u8], retries: u8) -> ConnParam {
    ConnParam {
        private_data: said.as_ptr().cast(),
        private_data_len: length_of(said),
        responder_resources: 0,
        initiator_depth: 0,
        flow_control: 0,
        retry_count: retries,
        rnr_retry_count: 7,
        srq: 1,
        qp_num: 0,
    }
}
