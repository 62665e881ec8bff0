#![allow(unsafe_code)]
//! Asynchronous events of a device, and whom they concern.
//!
//! librdmacm opens a device once for a process, so all transports of the process share the
//! descriptor on which it says what happens to their queue pairs. Whoever reads an event puts it into
//! the inbox of the one whose queue pair it is, and into all inboxes when it is about the device; what
//! the transport makes carries the number of its inbox for that.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{DupFlags, Errno};

use super::ffi::{AsyncEvent, Context, Cq, Qp, Srq};
use super::library::Functions;

/// What a device reports, where it matters here. Queue pairs are called by their serials: the number of
/// one that is gone may be that of the next, while what was said of it still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceEvent {
    /// A queue pair has failed.
    QueuePairFatal(u32),
    /// A peer asked for what it may not have.
    RemoteAccess(u32),
    /// A queue pair in its error state has given all its receives back.
    LastReceive(u32),
    PortDown,
    /// The device, or one of the queues that all connections share, does no more.
    Fatal,
}

struct Inner {
    number: u32,
    /// The device, by its context.
    context: usize,
    removed: AtomicBool,
    events: Mutex<VecDeque<DeviceEvent>>,
    waker: OwnedFd,
}

/// The inbox of one transport for one device.
pub(super) struct Inbox(Arc<Inner>);

static INBOXES: Mutex<Vec<Arc<Inner>>> = Mutex::new(Vec::new());

/// Nothing in here panics halfway, so what a lock guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut inboxes = lock(&INBOXES);
        inboxes.retain(|inbox| !Arc::ptr_eq(inbox, &self.0));
        let context = self.0.context;
        if self.0.removed.load(Ordering::Relaxed)
            && !inboxes.iter().any(|inbox| inbox.context == context)
        {
            let_go(std::ptr::with_exposed_provenance_mut(context));
        }
    }
}

/// Lets the kernel forget that this process uses a device that was removed. librdmacm closes its
/// context only when it happens to look for devices again, and a driver that cannot take a device
/// from under a process, such as that of soft-RoCE, waits until then: nobody could make the device
/// again. What is left of the context are descriptors of nothing, which may be closed as they are.
fn let_go(context: *mut Context) {
    // SAFETY: whoever drops the last inbox of a context still has an identifier on it, which keeps it
    // open.
    let context = unsafe { &*context };
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    for descriptor in [context.cmd_fd, context.async_fd] {
        // SAFETY: it is open, and is not closed here.
        let mut open = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(descriptor) });
        let replaced = nothing.as_ref().map_err(|error| *error);
        let replaced =
            replaced.and_then(|nothing| rustix::io::dup3(nothing, &mut open, DupFlags::CLOEXEC));
        if let Err(error) = replaced {
            tracing::warn!(%error, "an RDMA device that was removed cannot be let go");
        }
    }
}

impl Inbox {
    pub(super) fn new(context: *mut Context) -> Result<Self, Errno> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let inner = Arc::new(Inner {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            context: context.expose_provenance(),
            removed: AtomicBool::new(false),
            events: Mutex::new(VecDeque::new()),
            waker: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        lock(&INBOXES).push(Arc::clone(&inner));
        Ok(Self(inner))
    }

    /// The device goes away, for all who use it.
    pub(super) fn set_removed(&self) {
        let inboxes = lock(&INBOXES);
        for inbox in inboxes.iter().filter(|inbox| inbox.context == self.0.context) {
            inbox.removed.store(true, Ordering::Relaxed);
        }
    }

    /// What a queue pair of this serial, or a queue (0), carries as the context of its own.
    pub(super) fn tag(&self, serial: u32) -> *mut c_void {
        std::ptr::without_provenance_mut((self.0.number as usize) << 32 | serial as usize)
    }

    /// Readable when another transport has put something in.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.waker.as_fd()
    }

    /// Makes the descriptor unreadable; what is put in from here on makes it readable again. So it
    /// comes before [`Inbox::next`], which is to be called until there is nothing.
    pub(super) fn quiet(&self) {
        // Whether it was readable does not matter.
        let _ = rustix::io::read(&self.0.waker, &mut [0; 8]);
    }

    /// Takes the next event.
    pub(super) fn next(&self) -> Option<DeviceEvent> {
        lock(&self.0.events).pop_front()
    }
}

impl Inner {
    fn put(&self, event: DeviceEvent) {
        lock(&self.events).push_back(event);
        // A counter that is full wakes, too.
        let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
    }
}

/// Reads what an open device has to say, and puts it where it belongs.
pub(super) fn hand_out(functions: &Functions, context: *mut Context) {
    while let Some((owner, event)) = next(functions, context) {
        let Some(event) = event else { continue };
        let inboxes = lock(&INBOXES);
        let of_device = inboxes.iter().filter(|inbox| inbox.context == context as usize);
        for inbox in of_device.filter(|inbox| owner.is_none_or(|owner| owner == inbox.number)) {
            inbox.put(event);
        }
    }
}

/// Whose a tag is.
fn owner(tag: usize) -> u32 {
    (tag >> 32) as u32
}

/// The next event: whose it is, `None` being everybody's, and what it is if that matters.
fn next(
    functions: &Functions,
    context: *mut Context,
) -> Option<(Option<u32>, Option<DeviceEvent>)> {
    let mut event = AsyncEvent { element: std::ptr::null_mut(), event_type: 0 };
    // SAFETY: the context is open and its descriptor does not block.
    let got = unsafe { (functions.ibv_get_async_event)(context, &mut event) };
    if got != 0 {
        return None;
    }
    let sorted = match event.event_type {
        QP_FATAL | QP_REQUEST_ERROR | QP_ACCESS_ERROR | LAST_RECEIVE => {
            let qp: *mut Qp = event.element.cast();
            // SAFETY: a queue pair is not destroyed before its events are acknowledged; the field is
            // set once.
            let tag = unsafe { (*qp).qp_context as usize };
            let serial = tag as u32;
            let event = match event.event_type {
                QP_FATAL => DeviceEvent::QueuePairFatal(serial),
                LAST_RECEIVE => DeviceEvent::LastReceive(serial),
                _ => DeviceEvent::RemoteAccess(serial),
            };
            (Some(owner(tag)), Some(event))
        }
        CQ_ERROR => {
            let cq: *mut Cq = event.element.cast();
            // SAFETY: as above, for completion queues.
            let tag = unsafe { (*cq).cq_context as usize };
            (Some(owner(tag)), Some(DeviceEvent::Fatal))
        }
        SRQ_ERROR => {
            let srq: *mut Srq = event.element.cast();
            // SAFETY: as above, for shared receive queues.
            let tag = unsafe { (*srq).srq_context as usize };
            (Some(owner(tag)), Some(DeviceEvent::Fatal))
        }
        DEVICE_FATAL => (None, Some(DeviceEvent::Fatal)),
        PORT_ERROR => (None, Some(DeviceEvent::PortDown)),
        kind => {
            tracing::debug!(kind, "RDMA event");
            (None, None)
        }
    };
    // SAFETY: it was got above.
    unsafe { (functions.ibv_ack_async_event)(&mut event) };
    Some(sorted)
}

// Asynchronous events, by their numbers in verbs.h.
const CQ_ERROR: u32 = 0;
const QP_FATAL: u32 = 1;
const QP_REQUEST_ERROR: u32 = 2;
const QP_ACCESS_ERROR: u32 = 3;
const DEVICE_FATAL: u32 = 8;
const PORT_ERROR: u32 = 10;
const SRQ_ERROR: u32 = 14;
const LAST_RECEIVE: u32 = 16;
