//! The backend for machines with RDMA: reliable connections over verbs, made by librdmacm.
//!
//! | part | what |
//! | --- | --- |
//! | `library`, `ffi` | the two libraries, opened at run time, and their types |
//! | `cm` | identifiers and their events |
//! | `device` | domain, completion queue, shared receives, registered memory |
//! | `queue_pair` | work requests and what they hold |
//! | [`link`](self::link), `lane` | the protocol of messages over them |
//! | [`Joining`] | a connection that is being made |
//! | [`Verbs`] | all of it for one transport |
//!
//! A device is opened for the first connection over it, and stays open until it is gone or the
//! transport is.

mod cm;
mod device;
mod ffi;
mod joining;
mod lane;
mod library;
pub(crate) mod link;
mod queue_pair;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use culvert_memory::SlotId;
use rustix::io::Errno;

pub(crate) use cm::{Happening, Id, Report};
pub(crate) use joining::Joining;

use self::cm::Channel;
use self::device::{COMPLETIONS_MAX, Device, RECEIVE};
use self::ffi::{COMPLETION_RECV, COMPLETION_WITH_IMM, WorkCompletion};
use self::library::Functions;
use self::link::{LinkOptions, RdmaLink};
use crate::config::{RDMA_LINGER_NS, RDMA_SENDS_MAX, RDMA_SLOTS};
use crate::transport::shared::{Backend, Shared};
use crate::window::landing::Landing;
use crate::{CloseReason, TransportOptions, Violation, WorkStatus};

/// Completions that a connection may have at once: its sends, each signalled when it is flushed,
/// and its receives.
const COMPLETIONS_PER_CONNECTION: u32 = RDMA_SENDS_MAX + RDMA_SLOTS;

/// Rounds of [`COMPLETIONS_MAX`] completions that one poll takes from a device.
const ROUNDS_PER_TURN: usize = 4;

/// A device and the connections over it, sorted by the numbers of their queue pairs.
struct Opened {
    device: Rc<Device>,
    connections: Vec<(u32, SlotId)>,
    /// It has failed or was removed: nothing is asked of it any more.
    gone: bool,
}

/// A connection that has ended here, while the device still works for it.
struct Lingering {
    link: RdmaLink,
    /// Its window: nobody else may have these pages while the peer can write them.
    landing: Option<Landing>,
    until: u64,
}

/// Verbs as one transport uses them.
pub(crate) struct Verbs {
    functions: &'static Functions,
    /// By the numbers that epoll knows them by.
    devices: Vec<Option<Opened>>,
    /// Which connection an identifier belongs to; there are as many as connections.
    keys: Vec<(usize, SlotId)>,
    lingering: Vec<Lingering>,
    /// Identifiers of connections that have ended, and until when they are kept for their peers to
    /// hear of it: with the identifier goes what the kernel has not sent.
    leaving: Vec<(Id, u64)>,
    completions: Box<[WorkCompletion; COMPLETIONS_MAX]>,
    connections_max: u32,
    link_options: LinkOptions,
    keepalive_ns: u64,
    /// When connections over which nothing goes are looked at next.
    keepalive_at_ns: u64,
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
            lingering: Vec::new(),
            leaving: Vec::new(),
            completions: Box::new([WorkCompletion::default(); COMPLETIONS_MAX]),
            connections_max: options.connections_max,
            link_options: LinkOptions {
                data_queue_bytes: options.data_queue_bytes,
                control_queue_bytes: options.control_queue_bytes,
                sends_max: RDMA_SENDS_MAX,
                inline_bytes: options.rdma.inline_bytes_max,
            },
            keepalive_ns: u64::try_from(options.rdma.keepalive.as_nanos()).unwrap_or(u64::MAX),
            keepalive_at_ns: 0,
            channel,
        })
    }

    /// The connections that are to be kept alive now, if it is time.
    pub(crate) fn due_for_keepalive(&mut self, now_ns: u64) -> Vec<SlotId> {
        if now_ns < self.keepalive_at_ns {
            return Vec::new();
        }
        self.keepalive_at_ns = now_ns.saturating_add(self.keepalive_ns);
        let open = self.devices.iter().flatten().filter(|opened| !opened.gone);
        open.flat_map(|opened| &opened.connections).map(|(_, slot)| *slot).collect()
    }

    /// Readable when the connection manager has something to say.
    pub(crate) fn manager_fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    /// Descriptors of a device: completions, events.
    pub(crate) fn device_fds(&self, device: usize) -> Option<[BorrowedFd<'_>; 2]> {
        let device = &self.opened(device)?.device;
        Some([device.completion_fd(), device.event_fd()])
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

    /// Makes a link over the device that an identifier is bound to. The number of the device, if it
    /// was opened for that, so that its descriptors are watched.
    pub(crate) fn link(
        &mut self,
        id: Id,
        slot: SlotId,
    ) -> Result<(RdmaLink, Option<usize>), (Id, Errno)> {
        let usable = |opened: &Opened| !opened.gone && opened.device.is_of(&id);
        let known = self.devices.iter().position(|one| one.as_ref().is_some_and(usable));
        let (index, fresh) = match known {
            Some(index) => (index, None),
            None => {
                let receives = self.connections_max.saturating_mul(RDMA_SLOTS);
                let completions = self.connections_max.saturating_mul(COMPLETIONS_PER_CONNECTION);
                match Device::open(self.functions, &id, receives, completions) {
                    Err(error) => return Err((id, error)),
                    Ok(device) => {
                        tracing::info!(device = device.name, "RDMA device opened");
                        let opened = Opened { device, connections: Vec::new(), gone: false };
                        let free = self.devices.iter().position(Option::is_none);
                        let index = free.unwrap_or(self.devices.len());
                        self.devices.resize_with(self.devices.len().max(index + 1), || None);
                        self.devices[index] = Some(opened);
                        (index, Some(index))
                    }
                }
            }
        };
        let Opened { device, connections, .. } = self.devices[index].as_mut().expect("open");
        let lingering =
            self.lingering.iter().filter(|lingering| lingering.link.is_on(device)).count();
        let room = device.completions_max() / COMPLETIONS_PER_CONNECTION;
        if connections.len() + lingering >= room as usize {
            return Err((id, Errno::NOBUFS));
        }
        let link = RdmaLink::new(id, device, &self.link_options)?;
        let number = link.number();
        let at = connections.partition_point(|(known, _)| *known < number);
        connections.insert(at, (number, slot));
        Ok((link, fresh))
    }

    /// Takes a connection that has ended here: what it has posted is still sent.
    pub(crate) fn linger(&mut self, link: RdmaLink, landing: Option<Landing>, now: u64) {
        self.forget(link.id());
        for Opened { device, connections, .. } in self.devices.iter_mut().flatten() {
            if link.is_on(device) {
                connections.retain(|(number, _)| *number != link.number());
            }
        }
        self.lingering.push(Lingering { link, landing, until: now + RDMA_LINGER_NS });
    }

    /// When the first connection is looked at, or one that lingers or leaves is forgotten.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let leaving = self.leaving.iter().map(|(_, until)| *until);
        let connected = self.devices.iter().flatten().any(|opened| !opened.connections.is_empty());
        let keepalive = connected.then_some(self.keepalive_at_ns);
        let lingering = self.lingering.iter().map(|lingering| lingering.until);
        lingering.chain(leaving).chain(keepalive).min()
    }

    /// Connections that linger.
    pub(crate) fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// Ends what lingered and has nothing under way any more. The queue pair goes first, then the
    /// right to write the window, and only then the window's pages.
    pub(crate) fn end_lingering(&mut self, shared: &mut Shared) {
        let now = shared.now;
        let is_over = |lingering: &mut Lingering| {
            lingering.link.is_idle() || lingering.link.ended.is_some() || now >= lingering.until
        };
        for Lingering { link, landing, .. } in self.lingering.extract_if(.., is_over) {
            self.leaving.push((link.end(), now + RDMA_LINGER_NS));
            if let Some(landing) = landing {
                shared.retire(landing, Backend::Rdma);
            }
        }
        self.leaving.retain(|(_, until)| now < *until);
        for place in &mut self.devices {
            let is_left = |opened: &mut Opened| {
                let of_it = |lingering: &Lingering| lingering.link.is_on(&opened.device);
                opened.gone && opened.connections.is_empty() && !self.lingering.iter().any(of_it)
            };
            if let Some(Opened { device, .. }) = place.take_if(is_left) {
                tracing::info!(device = device.name, "RDMA device closed");
            }
        }
    }

    /// A peer has heard that the connection of an identifier is over.
    pub(crate) fn forget_leaving(&mut self, key: usize) {
        self.leaving.retain(|(id, _)| id.key() != key);
    }

    /// Takes completions off all devices, and gives each to `f`.
    pub(crate) fn completions(&mut self, mut f: impl FnMut(&mut Self, Completed)) {
        for index in 0..self.devices.len() {
            for _ in 0..ROUNDS_PER_TURN {
                let open = self.devices[index].as_ref().filter(|opened| !opened.gone);
                let Some(Opened { device, .. }) = open else { break };
                let Ok(count) = device.poll(&mut self.completions) else {
                    self.lose(index, &mut f);
                    break;
                };
                for at in 0..count {
                    let completion = self.completions[at];
                    if let Some(completed) = self.sort(index, &completion) {
                        f(self, completed);
                    }
                }
                if count < COMPLETIONS_MAX {
                    break;
                }
            }
        }
    }

    fn slot_of(&self, device: usize, number: u32) -> Option<SlotId> {
        let connections = &self.opened(device)?.connections;
        let at = connections.binary_search_by_key(&number, |(known, _)| *known).ok()?;
        Some(connections[at].1)
    }

    /// Whose completion it is; those of links that linger are dealt with here.
    fn sort(&mut self, device: usize, completion: &WorkCompletion) -> Option<Completed> {
        let slot = self.slot_of(device, completion.qp_num);
        let status = WorkStatus::new(completion.status);
        let failed = (!status.is_success()).then_some(CloseReason::WorkRequest(status));
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
                let opened = Rc::clone(&self.opened(device)?.device);
                let mut lingering = self.lingering.iter_mut().map(|lingering| &mut lingering.link);
                let link = lingering
                    .find(|link| link.is_on(&opened) && link.number() == completion.qp_num)?;
                link.sent(completion.wr_id);
                link.ended = link.ended.or(failed);
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

    fn break_all(
        &mut self,
        device: usize,
        reason: CloseReason,
        f: &mut impl FnMut(&mut Self, Completed),
    ) {
        let connections = self.opened(device).map(|opened| &opened.connections[..]);
        let slots: Vec<_> = connections.unwrap_or_default().iter().map(|(_, slot)| *slot).collect();
        for slot in slots {
            f(self, Completed::Broken(slot, reason));
        }
    }

    /// A device is gone: nothing is asked of it any more, and all its connections end.
    fn lose(&mut self, device: usize, f: &mut impl FnMut(&mut Self, Completed)) {
        let Some(opened) = self.devices[device].as_mut() else { return };
        if !std::mem::replace(&mut opened.gone, true) {
            tracing::warn!(device = opened.device.name, "RDMA device gone");
            self.break_all(device, CloseReason::DeviceGone, f);
        }
    }

    /// The device of a connection is gone; its number.
    pub(crate) fn lose_device_of(
        &mut self,
        slot: SlotId,
        mut f: impl FnMut(&mut Self, Completed),
    ) -> Option<usize> {
        let has = |opened: &Opened| opened.connections.iter().any(|(_, other)| *other == slot);
        let device = self.devices.iter().position(|one| one.as_ref().is_some_and(has))?;
        self.lose(device, &mut f);
        Some(device)
    }

    /// Takes the asynchronous events of a device; whether it is gone.
    pub(crate) fn events(
        &mut self,
        device: usize,
        mut f: impl FnMut(&mut Self, Completed),
    ) -> bool {
        while let Some(opened) = self.opened(device)
            && let Some((kind, number)) = opened.device.next_event()
        {
            let name = opened.device.name.clone();
            let slot = number.and_then(|number| self.slot_of(device, number));
            match (kind, slot) {
                (QP_REQUEST_ERROR | QP_ACCESS_ERROR, Some(slot)) => {
                    f(self, Completed::Broken(slot, Violation::RemoteAccess.into()));
                }
                (QP_FATAL, Some(slot)) => {
                    f(self, Completed::Broken(slot, CloseReason::QueuePairFatal));
                }
                (PORT_ERROR, _) => {
                    tracing::warn!(device = name, "RDMA port down");
                    self.break_all(device, CloseReason::PortDown, &mut f);
                }
                (DEVICE_FATAL | CQ_ERROR | SRQ_ERROR, _) => self.lose(device, &mut f),
                (kind, _) => tracing::debug!(device = name, kind, "RDMA event"),
            }
        }
        self.opened(device).is_none_or(|opened| opened.gone)
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

// Asynchronous events, by their numbers in verbs.h.
const CQ_ERROR: u32 = 0;
const QP_FATAL: u32 = 1;
const QP_REQUEST_ERROR: u32 = 2;
const QP_ACCESS_ERROR: u32 = 3;
const DEVICE_FATAL: u32 = 8;
const PORT_ERROR: u32 = 10;
const SRQ_ERROR: u32 = 14;
