#![allow(unsafe_code)]
//! An io_uring instance with one fixed file and an eventfd.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{IoUring, Submitter, cqueue, squeue};
use rustix::event::EventfdFlags;
use rustix::io::Errno;

use super::target::UringError;

/// A completion entry of either size.
pub(crate) trait Answer: cqueue::EntryMarker {
    /// What the request ended with.
    fn result(&self) -> i32;
}

impl Answer for cqueue::Entry {
    fn result(&self) -> i32 {
        cqueue::Entry::result(self)
    }
}

impl Answer for cqueue::Entry32 {
    fn result(&self) -> i32 {
        cqueue::Entry32::result(self)
    }
}

/// The instance, with entries of 64 and 16 bytes, or of twice that.
pub(super) struct Ring<S: squeue::EntryMarker = squeue::Entry, C: Answer = cqueue::Entry> {
    ring: IoUring<S, C>,
    event: OwnedFd,
    /// Completions come only to who asks the device for them.
    polled: bool,
    /// Requests are queued that the kernel was offered and did not take.
    left_over: bool,
    /// That it does not take them was said.
    reported: bool,
}

impl<S: squeue::EntryMarker, C: Answer> fmt::Debug for Ring<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("event", &self.event).finish_non_exhaustive()
    }
}

impl<S: squeue::EntryMarker, C: Answer> Ring<S, C> {
    /// An instance for `depth` requests in flight on `file`, `polled` where the device is to be asked
    /// for completions and not to interrupt.
    pub(super) fn new(depth: u16, file: &File, polled: bool) -> Result<Self, UringError> {
        let ring = build(u32::from(depth), polled)?;
        assert!(ring.params().cq_entries() >= u32::from(depth), "every completion has its place");
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()]).map_err(UringError::Setup)?;
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| UringError::Setup(errno.into()))?;
        submitter.register_eventfd(event.as_raw_fd()).map_err(UringError::Setup)?;
        let mut ring = Ring { ring, event, polled, left_over: false, reported: false };
        ring.ring.completion().disable_eventfd();
        Ok(ring)
    }

    /// Lets go of the file: taking down the instance, which the kernel does when it comes to it,
    /// would hold it for longer. Nothing is in flight.
    pub(super) fn release_file(&self) {
        if let Err(error) = self.ring.submitter().unregister_files() {
            tracing::warn!(%error, "io_uring does not let go of its file");
        }
    }

    /// For registrations.
    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// Queues a request.
    ///
    /// # Safety
    ///
    /// What the request points at stays valid until it has completed.
    ///
    /// # Panics
    ///
    /// When more requests are queued than the depth.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &S) {
        // SAFETY: the caller's word is the contract of this call.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("a command has one request queued, and commands are bounded by the queue");
    }

    /// Hands queued requests to the kernel; returns the number of system calls, 0 or 1.
    #[inline]
    pub(super) fn enter(&mut self) -> u64 {
        if self.ring.submission().is_empty() {
            return 0;
        }
        self.submit();
        1
    }

    /// Lets the kernel post what has completed, if it says that there is something or has to ask the
    /// device first, and hands over requests that it did not take before. Returns the number of system
    /// calls.
    #[inline]
    pub(super) fn collect(&mut self, in_flight: bool) -> u64 {
        let submission = self.ring.submission();
        let waiting = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if waiting || self.left_over {
            self.submit();
        } else if self.polled && in_flight {
            self.ask();
        } else {
            return 0;
        }
        1
    }

    /// Takes a completion: the request's user data and its result.
    #[inline]
    pub(super) fn take(&mut self) -> Option<(u64, i32)> {
        let entry = self.ring.completion().next()?;
        Some((entry.user_data(), entry.result()))
    }

    /// Whether a completion can be had now.
    pub(super) fn has_completion(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    /// Waits for a completion.
    ///
    /// # Errors
    ///
    /// What the kernel answers, but for interruptions.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Descriptor that becomes readable after [`Ring::arm`].
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes completions write to the eventfd. The caller looks for completions once more
    /// afterwards.
    pub(super) fn arm(&mut self) {
        self.ring.completion().enable_eventfd();
        // The kernel reads the flag after it has posted; see the caller's look.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// Ends that and clears the eventfd; returns the number of system calls.
    pub(super) fn disarm(&mut self) -> u64 {
        self.ring.completion().disable_eventfd();
        match rustix::io::read(&self.event, &mut [0u8; 8]) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => tracing::warn!(%error, "clearing an eventfd failed"),
        }
        1
    }

    /// Has the kernel ask the device for completions.
    fn ask(&mut self) {
        const GET_EVENTS: u32 = 1;
        // SAFETY: the call has no argument beyond the numbers.
        let asked = unsafe { self.ring.submitter().enter::<()>(0, 0, GET_EVENTS, None) };
        match asked {
            Ok(_) => self.reported = false,
            Err(error) => self.report(&error),
        }
    }

    /// One system call. What the kernel does not take stays queued and is offered again at the
    /// next poll.
    #[inline]
    fn submit(&mut self) {
        match self.ring.submit() {
            Ok(_) => self.reported = false,
            Err(error) => self.report(&error),
        }
        self.left_over = !self.ring.submission().is_empty();
    }

    #[cold]
    fn report(&mut self, error: &io::Error) {
        let code = error.raw_os_error();
        let passing = matches!(code, Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
        if !passing && !self.reported {
            tracing::error!(%error, "io_uring does not take requests; trying again at each poll");
            self.reported = true;
        }
    }
}

/// Sets up an instance with the newest features that the kernel has.
fn build<S: squeue::EntryMarker, C: Answer>(
    entries: u32,
    polled: bool,
) -> Result<IoUring<S, C>, UringError> {
    let builder = || {
        let mut builder = IoUring::builder();
        if polled {
            builder.setup_iopoll();
        }
        builder
    };
    // Linux 6.1: one thread submits, and completions run only when it asks for them.
    let deferred = builder()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    if let Ok(ring) = deferred {
        return Ok(ring);
    }
    // Linux 5.19: completions do not interrupt this thread.
    let cooperative =
        builder().setup_submit_all().setup_coop_taskrun().setup_taskrun_flag().build(entries);
    if let Ok(ring) = cooperative {
        return Ok(ring);
    }
    builder().build(entries).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => UringError::Unavailable(error),
        _ => UringError::Setup(error),
    })
}
