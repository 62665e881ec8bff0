#![allow(unsafe_code)]
//! One device as one transport uses it: its protection domain, its completion queue, the receives
//! that all its connections share, and the memory that it knows.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use culvert_memory::{Backing, Buffer, PAGE_SIZE, Pages, Pool, PoolOptions, Region, RegionId};
use rustix::io::Errno;

use super::cm::{Id, last_errno};
use super::ffi::{
    self, CompChannel, Context, ContextOps, Cq, DeviceAttributes, Pd, RecvRequest, SendRequest,
    Sge, Srq, SrqInit, WorkCompletion,
};
use super::inbox::{DeviceEvent, Inbox, hand_out};
use super::library::Functions;

/// Completions taken at once.
pub(super) const COMPLETIONS_MAX: usize = 64;

/// Bytes of the memory for frames that is taken at once.
const FRAME_POOL_BYTES: usize = 2 << 20;

/// Regions beyond those of the frames that stay registered, to be sent from.
const REGIONS_MAX: usize = 64;

/// A registered range of memory.
pub(super) struct Registration {
    raw: NonNull<ffi::Mr>,
    device: Rc<Domain>,
    /// Keeps the memory mapped.
    _region: Region,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: it is ours, and whoever posted work on it holds it until that has completed.
        let freed = unsafe { (self.device.functions.ibv_dereg_mr)(self.raw.as_ptr()) };
        if freed != 0 {
            tracing::warn!(error = freed, "ibv_dereg_mr");
        }
    }
}

impl Registration {
    pub(super) fn raw(&self) -> *mut ffi::Mr {
        self.raw.as_ptr()
    }

    pub(super) fn lkey(&self) -> u32 {
        // SAFETY: the registration lives; its keys are set once.
        unsafe { (*self.raw.as_ptr()).lkey }
    }

    pub(super) fn rkey(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw.as_ptr()).rkey }
    }
}

/// The protection domain, which outlives everything registered in it.
pub(super) struct Domain {
    raw: NonNull<Pd>,
    functions: &'static Functions,
    /// What the device's driver does without the kernel.
    driver: ContextOps,
    /// Dropped before the keeper, as it asks for.
    inbox: Inbox,
    /// An identifier of our own on the device: librdmacm closes a device with its last one, and says
    /// to each that the device goes away.
    keeper: Id,
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: registrations and the device hold it, so nothing is left in it.
        let freed = unsafe { (self.functions.ibv_dealloc_pd)(self.raw.as_ptr()) };
        if freed != 0 {
            tracing::warn!(error = freed, "ibv_dealloc_pd");
        }
    }
}

impl Domain {
    pub(super) fn raw(&self) -> *mut Pd {
        self.raw.as_ptr()
    }

    pub(super) fn driver(&self) -> &ContextOps {
        &self.driver
    }
}

/// A region from which is sent.
struct Known {
    id: RegionId,
    registration: Rc<Registration>,
}

/// A receive: the page that it fills, and the registration of that, which must outlive it.
struct Receive {
    page: Buffer,
    registration: Rc<Registration>,
}

/// Set in the numbers of receives, so that they are told from those of sends.
pub(super) const RECEIVE: u64 = 1 << 63;

/// See the module's documentation.
pub(super) struct Device {
    functions: &'static Functions,
    context: NonNull<Context>,
    channel: NonNull<CompChannel>,
    cq: NonNull<Cq>,
    srq: NonNull<Srq>,
    domain: Rc<Domain>,
    pub(super) name: String,
    attributes: DeviceAttributes,
    completions_max: u32,
    /// Pages for frames, in and out.
    frames: RefCell<Vec<(Pool, Rc<Registration>)>>,
    /// Regions from which payload was sent, the one used last at the end.
    known: RefCell<Vec<Known>>,
    /// Posted receives by their numbers.
    receives: RefCell<Vec<Option<Receive>>>,
    posted: Cell<u32>,
    /// Receives that the open connections were promised.
    promised: Cell<u32>,
    unacknowledged: Cell<u32>,
    /// Of the newest queue pair.
    serial: Cell<u32>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let functions = self.functions;
        // SAFETY: queue pairs hold the device, so none uses it any more.
        let _ = unsafe { (functions.ibv_destroy_srq)(self.srq.as_ptr()) };
        self.acknowledge();
        // SAFETY: as above; all its events are acknowledged.
        let _ = unsafe { (functions.ibv_destroy_cq)(self.cq.as_ptr()) };
        // SAFETY: its only queue is gone.
        let _ = unsafe { (functions.ibv_destroy_comp_channel)(self.channel.as_ptr()) };
    }
}

/// Frees what was made when a later step fails.
struct Undo<F: FnMut()>(Option<F>);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        if let Some(mut undo) = self.0.take() {
            undo();
        }
    }
}

impl Device {
    /// Opens the device that an identifier is bound to, for at most `receives_max` receives and
    /// as many completions as it can queue up to `completions_max`.
    pub(super) fn open(
        functions: &'static Functions,
        id: &Id,
        receives_max: u32,
        completions_max: u32,
    ) -> Result<Rc<Self>, Errno> {
        let keeper = id.another_there()?;
        let context = NonNull::new(keeper.verbs()).ok_or(Errno::NODEV)?;
        let inbox = Inbox::new(context.as_ptr())?;
        // SAFETY: the context is the library's and stays open; zero is a value of every field.
        let mut attributes: DeviceAttributes = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let queried = unsafe { (functions.ibv_query_device)(context.as_ptr(), &mut attributes) };
        if queried != 0 {
            return Err(Errno::from_raw_os_error(queried));
        }
        // SAFETY: the context is open.
        let pd = unsafe { (functions.ibv_alloc_pd)(context.as_ptr()) };
        let raw = NonNull::new(pd).ok_or_else(last_errno)?;
        // SAFETY: the context is open; the library filled it in before it was told of it.
        let opened = unsafe { &*context.as_ptr() };
        let driver = opened.ops;
        let domain = Rc::new(Domain { raw, functions, driver, inbox, keeper });
        // SAFETY: the context is open.
        let channel = unsafe { (functions.ibv_create_comp_channel)(context.as_ptr()) };
        let channel = NonNull::new(channel).ok_or_else(last_errno)?;
        let mut undo_channel = Undo(Some(|| {
            // SAFETY: it was made above and no queue is on it.
            let _ = unsafe { (functions.ibv_destroy_comp_channel)(channel.as_ptr()) };
        }));
        let completions_max = completions_max.min(attributes.max_cqe as u32);
        // SAFETY: context and channel are open.
        let cq = unsafe {
            (functions.ibv_create_cq)(
                context.as_ptr(),
                completions_max as c_int,
                domain.inbox.tag(0),
                channel.as_ptr(),
                0,
            )
        };
        let cq = NonNull::new(cq).ok_or_else(last_errno)?;
        let mut undo_cq = Undo(Some(|| {
            // SAFETY: it was made above and no queue pair is on it.
            let _ = unsafe { (functions.ibv_destroy_cq)(cq.as_ptr()) };
        }));
        let max_wr = receives_max.min(attributes.max_srq_wr as u32);
        let mut init =
            SrqInit { srq_context: domain.inbox.tag(0), max_wr, max_sge: 1, srq_limit: 0 };
        // SAFETY: the domain is open.
        let srq = unsafe { (functions.ibv_create_srq)(domain.raw.as_ptr(), &mut init) };
        let srq = NonNull::new(srq).ok_or_else(last_errno)?;
        undo_cq.0 = None;
        undo_channel.0 = None;
        // SAFETY: the context names its device.
        let name = unsafe { (functions.ibv_get_device_name)(opened.device) };
        // SAFETY: the library's names end in a zero byte, and live as long as it.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let device = Rc::new(Self {
            functions,
            context,
            channel,
            cq,
            srq,
            domain,
            name,
            attributes,
            completions_max,
            frames: RefCell::new(Vec::new()),
            known: RefCell::new(Vec::new()),
            receives: RefCell::new((0..max_wr).map(|_| None).collect()),
            posted: Cell::new(0),
            promised: Cell::new(0),
            unacknowledged: Cell::new(0),
            serial: Cell::new(0),
        });
        rustix::io::ioctl_fionbio(device.completion_fd(), true)?;
        rustix::io::ioctl_fionbio(device.event_fd(), true)?;
        device.say_what_it_is();
        Ok(device)
    }

    fn say_what_it_is(&self) {
        tracing::info!(device = self.name, "RDMA device opened");
        if !self.binds_windows() {
            tracing::warn!(
                device = self.name,
                "no memory windows of type 2B: a peer that guesses keys can write the windows of others"
            );
        }
    }

    /// Whether an identifier is bound to this device.
    pub(super) fn is_of(&self, id: &Id) -> bool {
        id.verbs() == self.context.as_ptr()
    }

    /// Whether it was told of by the identifier of this key, which is the device's own.
    pub(super) fn is_kept_by(&self, key: usize) -> bool {
        self.domain.keeper.key() == key
    }

    /// The device goes away.
    pub(super) fn set_removed(&self) {
        self.domain.inbox.set_removed();
    }

    /// A serial for a new queue pair, by which its events call it, and what it carries for that as its
    /// context.
    pub(super) fn next_tag(&self) -> (u32, *mut c_void) {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        (serial, self.domain.inbox.tag(serial))
    }

    pub(super) fn pd(&self) -> *mut Pd {
        self.domain.raw.as_ptr()
    }

    pub(super) fn cq(&self) -> *mut Cq {
        self.cq.as_ptr()
    }

    /// Posts a chain of sends on a queue pair of this device.
    ///
    /// # Safety
    ///
    /// The queue pair lives, the requests are linked, and what they read stays until they have
    /// completed or the queue pair is destroyed.
    pub(super) unsafe fn post_send(
        &self,
        qp: *mut ffi::Qp,
        requests: *mut SendRequest,
    ) -> Result<(), Errno> {
        let mut bad: *mut SendRequest = std::ptr::null_mut();
        // SAFETY: as this function asks for.
        let posted = unsafe { (self.domain.driver.post_send)(qp, requests, &mut bad) };
        if posted == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(posted.abs())) }
    }

    pub(super) fn srq(&self) -> *mut Srq {
        self.srq.as_ptr()
    }

    /// The work requests that a queue pair here may have.
    pub(super) fn work_requests_max(&self) -> u32 {
        self.attributes.max_qp_wr as u32
    }

    /// The completions that fit its queue.
    pub(super) fn completions_max(&self) -> u32 {
        self.completions_max
    }

    /// Readable when a completion has come since [`Device::ask_to_be_woken`].
    pub(super) fn completion_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel lives, and its descriptor is set once.
        let fd = unsafe { (*self.channel.as_ptr()).fd };
        // SAFETY: the descriptor is open as long as the channel, which the borrow holds.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Readable when another transport has found an event of ours.
    pub(super) fn inbox_fd(&self) -> BorrowedFd<'_> {
        self.domain.inbox.fd()
    }

    /// Readable when there is an asynchronous event, ours or that of another transport.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the library keeps the context open, and its descriptor is set once.
        let fd = unsafe { (*self.context.as_ptr()).async_fd };
        // SAFETY: as above.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Asks for one event at the next completion.
    pub(super) fn ask_to_be_woken(&self) -> Result<(), Errno> {
        // SAFETY: the queue lives.
        let asked = unsafe { (self.domain.driver.req_notify_cq)(self.cq.as_ptr(), 0) };
        if asked == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(asked.abs())) }
    }

    /// Takes the events of the completion channel.
    pub(super) fn take_wake_ups(&self) {
        let mut cq: *mut Cq = std::ptr::null_mut();
        let mut context: *mut c_void = std::ptr::null_mut();
        // SAFETY: the channel lives and does not block.
        while unsafe {
            (self.functions.ibv_get_cq_event)(self.channel.as_ptr(), &mut cq, &mut context)
        } == 0
        {
            self.unacknowledged.set(self.unacknowledged.get() + 1);
        }
        if self.unacknowledged.get() >= 1024 {
            self.acknowledge();
        }
    }

    fn acknowledge(&self) {
        let events = self.unacknowledged.replace(0);
        if events > 0 {
            // SAFETY: so many events of the queue were got and not acknowledged.
            unsafe { (self.functions.ibv_ack_cq_events)(self.cq.as_ptr(), events) };
        }
    }

    /// Takes completions; how many.
    pub(super) fn poll(
        &self,
        completions: &mut [WorkCompletion; COMPLETIONS_MAX],
    ) -> Result<usize, Errno> {
        // SAFETY: the queue lives; the driver writes at most so many entries.
        let count = unsafe {
            (self.domain.driver.poll_cq)(
                self.cq.as_ptr(),
                COMPLETIONS_MAX as c_int,
                completions.as_mut_ptr(),
            )
        };
        usize::try_from(count).map_err(|_| Errno::IO)
    }

    /// Looks for asynchronous events; those of others go to them.
    pub(super) fn look_for_events(&self) {
        self.domain.inbox.quiet();
        hand_out(self.functions, self.context.as_ptr());
    }

    /// Takes the next of our asynchronous events.
    pub(super) fn next_event(&self) -> Option<DeviceEvent> {
        self.domain.inbox.next()
    }

    /// Whether it has memory windows of type 2B.
    pub(super) fn binds_windows(&self) -> bool {
        self.attributes.device_cap_flags & ffi::DEVICE_WINDOW_TYPE_2B != 0
            && self.domain.driver.alloc_mw.is_some()
    }

    pub(super) fn domain(&self) -> &Rc<Domain> {
        &self.domain
    }

    /// Registers a range of a region, with rights beyond those of its owner.
    pub(super) fn register(
        &self,
        region: &Region,
        start: NonNull<u8>,
        bytes: usize,
        access: c_int,
    ) -> Result<Registration, Errno> {
        let access = access | ffi::ACCESS_LOCAL_WRITE;
        // SAFETY: the range lies in the region, which the registration keeps mapped.
        let raw =
            unsafe { (self.functions.ibv_reg_mr)(self.pd(), start.as_ptr().cast(), bytes, access) };
        let raw = NonNull::new(raw).ok_or_else(last_errno)?;
        Ok(Registration { raw, device: Rc::clone(&self.domain), _region: region.clone() })
    }

    /// The registration of the region that pages lie in, made now where there is none.
    pub(super) fn source(&self, pages: &Pages) -> Result<Rc<Registration>, Errno> {
        let (region, mut known) = (pages.region(), self.known.borrow_mut());
        let at = known.iter().rposition(|known| known.id == region.id());
        if let Some(at) = at {
            if at + 1 < known.len() {
                let used = known.remove(at);
                known.push(used);
            }
            return Ok(Rc::clone(&known[known.len() - 1].registration));
        }
        let registration = self.register_whole(region)?;
        if known.len() == REGIONS_MAX {
            // What is in use is registered until it has been sent.
            known.remove(0);
        }
        known.push(Known { id: region.id(), registration: Rc::clone(&registration) });
        Ok(registration)
    }

    fn register_whole(&self, region: &Region) -> Result<Rc<Registration>, Errno> {
        Ok(Rc::new(self.register(region, region.base(), region.len(), 0)?))
    }

    /// A page for frames, with its registration.
    pub(super) fn frame_page(&self) -> Result<(Buffer, Rc<Registration>), Errno> {
        let mut frames = self.frames.borrow_mut();
        let mut pools = frames.iter();
        let free = pools.find_map(|(pool, known)| Some((pool.acquire(1)?, Rc::clone(known))));
        if let Some(free) = free {
            return Ok(free);
        }
        let options = PoolOptions {
            name: String::from("culvert-verbs-frames"),
            bytes: FRAME_POOL_BYTES,
            backing: Backing::Ordinary,
            lock: false,
            ..PoolOptions::default()
        };
        let pool = Pool::new(&options).map_err(|error| {
            tracing::warn!(%error, device = self.name, "no memory for frames");
            Errno::NOMEM
        })?;
        let page = pool.acquire(1).ok_or(Errno::NOMEM)?;
        let registration = self.register_whole(page.region())?;
        frames.push((pool, Rc::clone(&registration)));
        Ok((page, registration))
    }

    /// Promises receives to a connection that opens, and posts them.
    pub(super) fn promise(&self, receives: u32) -> Result<(), Errno> {
        let promised = self.promised.get() + receives;
        if promised as usize > self.receives.borrow().len() {
            return Err(Errno::NOBUFS);
        }
        self.promised.set(promised);
        while self.posted.get() < promised {
            let posted = self.frame_page().and_then(|(page, registration)| {
                let free = self.receives.borrow().iter().position(Option::is_none);
                let number = free.ok_or(Errno::NOBUFS)?;
                self.post_receive(number, Receive { page, registration })
            });
            if let Err(error) = posted {
                self.promised.set(promised - receives);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes back what was promised to a connection.
    pub(super) fn release(&self, receives: u32) {
        self.promised.set(self.promised.get() - receives);
    }

    /// Receives that are posted, and those that were promised.
    #[cfg(test)]
    pub(super) fn receives(&self) -> (u32, u32) {
        (self.posted.get(), self.promised.get())
    }

    /// The page that a receive has filled, or was to fill. [`Device::repost`] follows.
    pub(super) fn received(&self, wr_id: u64) -> Received {
        let number = (wr_id & !RECEIVE) as usize;
        let receive = self.receives.borrow_mut()[number].take();
        self.posted.set(self.posted.get() - 1);
        Received { number, receive: receive.expect("a receive completes once") }
    }

    /// Posts a page again, unless fewer are needed now.
    pub(super) fn repost(&self, received: Received) -> Result<(), Errno> {
        if self.posted.get() >= self.promised.get() {
            return Ok(());
        }
        self.post_receive(received.number, received.receive)
    }

    fn post_receive(&self, number: usize, receive: Receive) -> Result<(), Errno> {
        let mut sge = Sge {
            addr: receive.page.as_ptr().as_ptr() as u64,
            length: PAGE_SIZE as u32,
            lkey: receive.registration.lkey(),
        };
        let mut request = RecvRequest {
            wr_id: number as u64 | RECEIVE,
            next: std::ptr::null_mut(),
            sg_list: &mut sge,
            num_sge: 1,
        };
        let mut bad: *mut RecvRequest = std::ptr::null_mut();
        // SAFETY: the driver copies the request; the page is kept in the table until it completes,
        // or the shared receive queue is destroyed.
        let posted = unsafe {
            (self.domain.driver.post_srq_recv)(self.srq.as_ptr(), &mut request, &mut bad)
        };
        if posted != 0 {
            return Err(Errno::from_raw_os_error(posted.abs()));
        }
        self.receives.borrow_mut()[number] = Some(receive);
        self.posted.set(self.posted.get() + 1);
        Ok(())
    }
}

/// A page that a receive has filled.
pub(super) struct Received {
    number: usize,
    receive: Receive,
}

impl Received {
    /// Its first bytes.
    pub(super) fn bytes(&self, bytes: u32) -> &[u8] {
        &self.receive.page.as_slice()[..bytes as usize]
    }
}
