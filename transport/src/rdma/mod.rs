//! The backend for machines with RDMA: reliable connections over verbs, made by librdmacm.
//!
//! | part | what |
//! | --- | --- |
//! | `library`, `ffi` | the two libraries, opened at run time, and their types |
//! | `cm` | identifiers and their events |
//! | `device` | domain, completion queue, shared receives, registered memory |
//! | `inbox` | asynchronous events, and whom they concern |
//! | `access` | what a peer may write |
//! | `queue_pair` | work requests and what they hold |
//! | [`link`](self::link), `lane` | the protocol of messages over them |
//! | [`Joining`] | a connection that is being made |
//! | `ending` | connections that have ended here |
//! | [`Verbs`] | all of it for one transport |
//!
//! A device is opened for the first connection over it, and stays open until it is gone or the
//! transport is.

mod access;
mod cm;
mod device;
mod ending;
mod ffi;
#[cfg(test)]
mod hostile;
mod inbox;
mod joining;
mod lane;
mod library;
pub(crate) mod link;
mod queue_pair;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use culvert_memory::SlotId;
use rustix::io::Errno;

pub(crate) use cm::{Happening, Id, Report};
pub(crate) use joining::Joining;

use self::cm::Channel;
use self::device::{COMPLETIONS_MAX, Device, RECEIVE};
use self::ending::Ending;
use self::ffi::{COMPLETION_RECV, COMPLETION_WITH_IMM, WorkCompletion};
use self::inbox::DeviceEvent;
use self::library::Functions;
use self::link::{LinkOptions, RdmaLink};
use crate::config::{RDMA_SENDS_MAX, RDMA_SLOTS};
use crate::transport::shared::{Backend, Shared};
use crate::window::landing::Landing;
use crate::{CloseReason, TransportOptions, Violation, WorkStatus};

/// Completions that a connection may have at once: its sends, each signalled when it is flushed,
/// and its receives.
const COMPLETIONS_PER_CONNECTION: u32 = RDMA_SENDS_MAX + RDMA_SLOTS;

/// Rounds of [`COMPLETIONS_MAX`] completions that one poll takes from a device.
const ROUNDS_PER_TURN: usize = 4;

/// A connection, by its queue pair.
struct Known {
    number: u32,
    serial: u32,
    slot: SlotId,
}

/// A device and the connections over it, sorted by the numbers of their queue pairs.
struct Opened {
    device: Rc<Device>,
    connections: Vec<Known>,
    /// Serials of those in whose error state all receives have come back.
    drained: Vec<u32>,
    /// It has failed or was removed: nothing is asked of it any more.
    gone: bool,
    /// Its descriptors are watched.
    watched: bool,
}

/// How far the completions of a turn have been taken.
#[derive(Default)]
struct Cursor {
    device: usize,
    rounds: usize,
    /// Of those of the current round.
    at: usize,
    count: usize,
    /// There are more than one turn takes.
    more: bool,
}

/// Verbs as one transport uses them.
pub(crate) struct Verbs {
    functions: &'static Functions,
    /// By the numbers that epoll knows them by.
    devices: Vec<Option<Opened>>,
    /// Which connection an identifier belongs to; there are as many as connections.
    keys: Vec<(usize, SlotId)>,
    ending: Ending,
    completions: Box<[WorkCompletion; COMPLETIONS_MAX]>,
    cursor: Cursor,
    /// Connections that are over, and nobody has been told.
    broken: VecDeque<(SlotId, CloseReason)>,
    connections_max: u32,
    link_options: LinkOptions,
    keepalive_ns: u64,
    /// When connections over which nothing goes are looked at next.
    keepalive_at_ns: u64,
    /// Those that are looked at now.
    due: Vec<SlotId>,
    channel: Channel,
}

impl std::fmt::Debug for Verbs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verbs").field("devices", &self.devices.len()).finish_non_exhaustive()
    }
}

/// A completion, and whose it is.
pub(crate) enum Completed {
    /// Sends of a connection have completed up to this number.
    Sent(SlotId, u64),
    /// A connection is over.
    Broken(SlotId, CloseReason),
    /// A message of a connection; [`Verbs::repost`] follows.
    Message(SlotId, Message),
}

/// A message that came in.
pub(crate) struct Message {
    device: usize,
    received: device::Received,
    bytes: u32,
    pub(crate) immediate: u32,
}

impl Message {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.received.bytes(self.bytes)
    }
}

impl Verbs {
    /// Opens the libraries. `Err` says in one line what is missing.
    pub(crate) fn open(options: &TransportOptions) -> Result<Self, String> {
        let functions = library::functions().map_err(str::to_string)?;
        let channel = Channel::new(functions)
            .map_err(|error| format!("no RDMA connection manager (module rdma_ucm): {error}"))?;
        Ok(Self {
            functions,
            devices: Vec::new(),
            keys: Vec::new(),
            ending: Ending::default(),
            completions: Box::new([WorkCompletion::default(); COMPLETIONS_MAX]),
            cursor: Cursor::default(),
            broken: VecDeque::new(),
            connections_max: options.connections_max,
            link_options: LinkOptions {
                data_queue_bytes: options.data_queue_bytes,
                control_queue_bytes: options.control_queue_bytes,
                sends_max: RDMA_SENDS_MAX,
                inline_bytes: options.rdma.inline_bytes_max,
            },
            keepalive_ns: u64::try_from(options.rdma.keepalive.as_nanos()).unwrap_or(u64::MAX),
            keepalive_at_ns: 0,
            due: Vec::new(),
            channel,
        })
    }

    /// Notes the connections that are to be kept alive, if it is time.
    pub(crate) fn check_keepalive(&mut self, now_ns: u64) {
        if now_ns < self.keepalive_at_ns {
            return;
        }
        self.keepalive_at_ns = now_ns.saturating_add(self.keepalive_ns);
        let open = self.devices.iter().flatten().filter(|opened| !opened.gone);
        self.due.extend(open.flat_map(|opened| &opened.connections).map(|known| known.slot));
    }

    /// The next of them.
    pub(crate) fn next_due(&mut self) -> Option<SlotId> {
        self.due.pop()
    }

    /// Readable when the connection manager has something to say.
    pub(crate) fn manager_fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    /// Descriptors of a device: completions, its events, ours of them that others found.
    pub(crate) fn device_fds(&self, device: usize) -> Option<[BorrowedFd<'_>; 3]> {
        let device = &self.opened(device)?.device;
        Some([device.completion_fd(), device.event_fd(), device.inbox_fd()])
    }

    /// A device that is to be watched from now on, or no longer, which counts as done.
    pub(crate) fn next_to_watch(&mut self) -> Option<(usize, bool)> {
        let find = |gone: bool| {
            let is_due = |one: &Opened| one.gone == gone && one.watched == gone;
            self.devices.iter().position(|one| one.as_ref().is_some_and(is_due))
        };
        // One that is gone may share a descriptor with one that has taken its place.
        let device = find(true).or_else(|| find(false))?;
        let opened = self.devices[device].as_mut()?;
        opened.watched = !opened.gone;
        Some((device, opened.watched))
    }

    fn opened(&self, device: usize) -> Option<&Opened> {
        self.devices.get(device)?.as_ref()
    }

    pub(crate) fn new_id(&self) -> Result<Id, Errno> {
        Id::new(&self.channel)
    }

    /// Begins to look for the way to an address.
    pub(crate) fn resolve(
        &self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        options: &TransportOptions,
    ) -> Result<Id, (&'static str, Errno)> {
        let id = self.new_id().map_err(|error| ("rdma_create_id", error))?;
        id.set_ack_timeout(options.rdma.ack_timeout);
        let timeout = i32::try_from(options.handshake_timeout.as_millis()).unwrap_or(i32::MAX);
        let begun = id.resolve_address(from, to, timeout);
        begun.map_err(|error| ("rdma_resolve_addr", error))?;
        Ok(id)
    }

    /// Notes whose identifier it is.
    pub(crate) fn name(&mut self, id: &Id, slot: SlotId) {
        self.keys.push((id.key(), slot));
    }

    /// Forgets an identifier.
    pub(crate) fn forget(&mut self, id: &Id) {
        self.keys.retain(|(key, _)| *key != id.key());
    }

    /// Whose identifier it is.
    pub(crate) fn owner(&self, key: usize) -> Option<SlotId> {
        self.keys.iter().find(|(known, _)| *known == key).map(|(_, slot)| *slot)
    }

    /// The next thing that the connection manager says.
    pub(crate) fn next_report(&self) -> Option<Report> {
        self.channel.next()
    }

    /// The device that an identifier is bound to, opened now where it is not.
    fn device_of(&mut self, id: &Id) -> Result<usize, Errno> {
        let usable = |opened: &Opened| !opened.gone && opened.device.is_of(id);
        let known = self.devices.iter().position(|one| one.as_ref().is_some_and(usable));
        if let Some(index) = known {
            return Ok(index);
        }
        let receives = self.connections_max.saturating_mul(RDMA_SLOTS);
        let completions = self.connections_max.saturating_mul(COMPLETIONS_PER_CONNECTION);
        let device = Device::open(self.functions, id, receives, completions)?;
        let (connections, drained) = (Vec::new(), Vec::new());
        let opened = Opened { device, connections, drained, gone: false, watched: false };
        let free = self.devices.iter().position(Option::is_none);
        let index = free.unwrap_or(self.devices.len());
        self.devices.resize_with(self.devices.len().max(index + 1), || None);
        self.devices[index] = Some(opened);
        Ok(index)
    }

    /// Makes a link over the device that an identifier is bound to. [`Verbs::next_to_watch`]
    /// follows.
    pub(crate) fn link(&mut self, id: Id, slot: SlotId) -> Result<RdmaLink, (Id, Errno)> {
        let index = match self.device_of(&id) {
            Ok(index) => index,
            Err(error) => return Err((id, error)),
        };
        let Opened { device, connections, .. } = self.devices[index].as_mut().expect("open");
        let room = device.completions_max() / COMPLETIONS_PER_CONNECTION;
        if connections.len() + self.ending.count_on(device) >= room as usize {
            return Err((id, Errno::NOBUFS));
        }
        let link = RdmaLink::new(id, device, &self.link_options)?;
        let (number, serial) = (link.number(), link.serial());
        let at = connections.partition_point(|known| known.number < number);
        connections.insert(at, Known { number, serial, slot });
        Ok(link)
    }

    /// Takes a connection that has ended here.
    pub(crate) fn linger(&mut self, link: RdmaLink, landing: Option<Landing>, now: u64) {
        self.forget(link.id());
        let mut drained = false;
        for opened in self.devices.iter_mut().flatten() {
            if link.is_on(&opened.device) {
                let serial = link.serial();
                opened.connections.retain(|known| known.serial != serial);
                drained = opened.drained.extract_if(.., |known| *known == serial).count() > 0;
            }
        }
        self.ending.push(link, landing, drained, now);
    }

    /// When the first connection is looked at, or one of those that have ended.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let connected = self.devices.iter().flatten().any(|opened| !opened.connections.is_empty());
        let keepalive = connected.then_some(self.keepalive_at_ns);
        self.ending.deadline().into_iter().chain(keepalive).min()
    }

    /// Connections that linger.
    pub(crate) fn lingering(&self) -> usize {
        self.ending.len()
    }

    /// Goes on with connections that have ended, and closes devices that are gone and unused.
    pub(crate) fn advance_ending(&mut self, shared: &mut Shared) {
        let devices = &self.devices;
        let is_gone = |link: &RdmaLink| {
            let its = devices.iter().flatten().find(|opened| link.is_on(&opened.device));
            its.is_none_or(|opened| opened.gone)
        };
        let now = shared.now;
        let retire = |landing| shared.retire(landing, Backend::Rdma);
        self.ending.advance(now, is_gone, !self.cursor.more, retire);
        for place in &mut self.devices {
            let is_left = |opened: &mut Opened| {
                let used = !opened.connections.is_empty() || opened.watched;
                opened.gone && !used && self.ending.count_on(&opened.device) == 0
            };
            if let Some(Opened { device, .. }) = place.take_if(is_left) {
                tracing::info!(device = device.name, "RDMA device closed");
            }
        }
    }

    /// A peer has heard that the connection of an identifier is over, or never will.
    pub(crate) fn forget_leaving(&mut self, key: usize) {
        self.ending.forget(key);
    }

    /// Begins to take completions anew; those of the last round that nobody took come first.
    pub(crate) fn begin_completions(&mut self) {
        let Cursor { at, count, .. } = self.cursor;
        self.cursor = Cursor { at, count, ..Cursor::default() };
    }

    /// Whether there are completions, or connections that are over, of which nobody was told.
    pub(crate) fn has_more(&self) -> bool {
        self.cursor.more || !self.broken.is_empty()
    }

    /// Takes the next completion off the devices. `None` when there is none, or the turn has had its
    /// share.
    pub(crate) fn next_completed(&mut self) -> Option<Completed> {
        loop {
            if let Some((slot, reason)) = self.broken.pop_front() {
                return Some(Completed::Broken(slot, reason));
            }
            let Cursor { device, at, count, .. } = self.cursor;
            if at < count {
                self.cursor.at += 1;
                let completion = self.completions[at];
                match self.sort(device, &completion) {
                    None => continue,
                    completed => return completed,
                }
            }
            let whole = count == COMPLETIONS_MAX;
            if self.cursor.rounds > 0 && (!whole || self.cursor.rounds == ROUNDS_PER_TURN) {
                self.cursor.more |= whole;
                self.cursor.device += 1;
                self.cursor.rounds = 0;
            }
            self.cursor.rounds += 1;
            (self.cursor.at, self.cursor.count) = (0, 0);
            let opened = self.devices.get(self.cursor.device)?.as_ref();
            let Some(Opened { device, .. }) = opened.filter(|opened| !opened.gone) else {
                continue;
            };
            match device.poll(&mut self.completions) {
                Ok(count) => self.cursor.count = count,
                Err(error) => {
                    tracing::warn!(device = device.name, %error, "ibv_poll_cq");
                    self.lose(self.cursor.device);
                }
            }
        }
    }

    fn slot_of(&self, device: usize, number: u32) -> Option<SlotId> {
        let connections = &self.opened(device)?.connections;
        let at = connections.binary_search_by_key(&number, |known| known.number).ok()?;
        Some(connections[at].slot)
    }

    /// Whose completion it is; those of links that linger are dealt with here.
    fn sort(&mut self, device: usize, completion: &WorkCompletion) -> Option<Completed> {
        let slot = self.slot_of(device, completion.qp_num);
        let status = WorkStatus::new(completion.status);
        // Before either side has ended the connection nothing is flushed but by the device.
        let failed = (!status.is_success()).then_some(match status {
            status if status.is_flushed() => CloseReason::QueuePairFatal,
            status => CloseReason::WorkRequest(status),
        });
        if completion.wr_id & RECEIVE != 0 {
            let received = self.opened(device)?.device.received(completion.wr_id);
            // A one-sided write that uses up a receive has its length here, and no bytes.
            let is_message = completion.opcode == COMPLETION_RECV
                && completion.wc_flags & COMPLETION_WITH_IMM != 0;
            let failed = failed.or((!is_message).then(|| Violation::RemoteAccess.into()));
            let bytes = completion.byte_len;
            let immediate = u32::from_be(completion.imm_data);
            let message = Message { device, received, bytes, immediate };
            return match (slot, failed) {
                (Some(slot), None) => Some(Completed::Message(slot, message)),
                (slot, reason) => {
                    self.repost(message);
                    Some(Completed::Broken(slot?, reason?))
                }
            };
        }
        match (slot, failed) {
            (Some(slot), None) => Some(Completed::Sent(slot, completion.wr_id)),
            (Some(slot), Some(reason)) => Some(Completed::Broken(slot, reason)),
            (None, failed) => {
                let opened = self.devices[device].as_ref()?;
                self.ending.sent(&opened.device, completion.qp_num, completion.wr_id, failed);
                None
            }
        }
    }

    /// Lets a message's page receive again.
    pub(crate) fn repost(&mut self, message: Message) {
        let Some(Opened { device, .. }) = self.opened(message.device) else { return };
        if let Err(error) = device.repost(message.received) {
            tracing::warn!(device = device.name, %error, "a receive could not be posted again");
        }
    }

    fn break_all(&mut self, device: usize, reason: CloseReason) {
        let Some(opened) = self.devices.get(device).and_then(Option::as_ref) else { return };
        self.broken.extend(opened.connections.iter().map(|known| (known.slot, reason)));
    }

    /// A device is gone: nothing is asked of it any more, and all its connections end.
    fn lose(&mut self, device: usize) {
        let Some(opened) = self.devices[device].as_mut() else { return };
        if !std::mem::replace(&mut opened.gone, true) {
            tracing::warn!(device = opened.device.name, "RDMA device gone");
            self.break_all(device, CloseReason::DeviceGone);
        }
    }

    /// A device goes away, as its own identifier was told.
    pub(crate) fn remove_device(&mut self, key: usize) {
        let kept =
            |one: &Option<Opened>| one.as_ref().is_some_and(|one| one.device.is_kept_by(key));
        if let Some(device) = self.devices.iter().position(kept) {
            if let Some(opened) = self.opened(device) {
                opened.device.set_removed();
            }
            self.lose(device);
        }
    }

    /// Takes the asynchronous events of a device. [`Verbs::next_completed`] tells what they mean.
    pub(crate) fn take_events(&mut self, device: usize) {
        if let Some(opened) = self.opened(device) {
            opened.device.look_for_events();
        }
        while let Some(opened) = self.devices.get_mut(device).and_then(Option::as_mut)
            && let Some(event) = opened.device.next_event()
        {
            let (serial, reason) = match event {
                DeviceEvent::QueuePairFatal(serial) => (serial, CloseReason::QueuePairFatal),
                DeviceEvent::RemoteAccess(serial) => (serial, Violation::RemoteAccess.into()),
                DeviceEvent::LastReceive(serial) => {
                    self.ending.drained(&opened.device, serial);
                    // Only of open connections it has to be known.
                    if opened.connections.iter().any(|known| known.serial == serial) {
                        opened.drained.push(serial);
                    }
                    continue;
                }
                DeviceEvent::PortDown => {
                    tracing::warn!(device = opened.device.name, "RDMA port down");
                    self.break_all(device, CloseReason::PortDown);
                    continue;
                }
                DeviceEvent::Fatal => {
                    self.lose(device);
                    continue;
                }
            };
            let its = opened.connections.iter().find(|known| known.serial == serial);
            self.broken.extend(its.map(|known| (known.slot, reason)));
        }
    }

    /// Of each device: receives that are posted, and those that were promised.
    #[cfg(test)]
    fn receives(&self) -> Vec<(u32, u32)> {
        self.devices.iter().flatten().map(|opened| opened.device.receives()).collect()
    }

    /// Takes the wake-ups of a device.
    pub(crate) fn take_wake_ups(&self, device: usize) {
        if let Some(opened) = self.opened(device) {
            opened.device.take_wake_ups();
        }
    }

    /// Asks all devices to wake us at the next completion.
    pub(crate) fn ask_to_be_woken(&self) {
        let open = self.devices.iter().flatten().filter(|opened| !opened.gone);
        for Opened { device, .. } in open {
            if let Err(error) = device.ask_to_be_woken() {
                tracing::warn!(device = device.name, %error, "ibv_req_notify_cq");
            }
        }
    }
}
