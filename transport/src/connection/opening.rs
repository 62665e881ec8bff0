//! A connection whose handshake is under way: the socket, the handshake, and the memory made ready
//! for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use culvert_memory::{Mapping, RegionId, SharedBytes, SlotId};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::connection::established::{Established, Link};
use crate::connection::limits::Limits;
use crate::counters::Counters;
use crate::error::mapping_reason;
use crate::handshake::message::{CONFIRM_BYTES, Confirm, HELLO_BYTES, Hello, Introduction};
use crate::handshake::proof::Role;
use crate::handshake::state::{Farewell, Handshake, Step, Stop};
use crate::shm::link::{ShmLink, map_segment};
use crate::shm::ring::{Inbound, Outbound, RingSizes};
use crate::shm::socket::{self as unix, FILES_MAX, Files, Received};
use crate::tcp::link::TcpLink;
use crate::tcp::receiver::Receiver;
use crate::tcp::sender::Sender;
use crate::tcp::socket as stream;
use crate::transport::shared::{Backend, Shared};
use crate::window::landing::Landing;
use crate::window::remote::Remote;
use crate::{Address, CloseReason, Identity, Refusal, Violation, WindowMode};

/// A connection that is being made.
pub(crate) struct Opening {
    pub(crate) slot: SlotId,
    pub(crate) address: Address,
    pub(crate) initiated: bool,
    pub(crate) window_mode: WindowMode,
    backend: Backend,
    socket: OwnedFd,
    handshake: Handshake,
    /// The TCP connection itself is not there yet.
    pub(crate) connecting: bool,
    /// The time at which it must be done; set by the first poll that sees it.
    pub(crate) deadline: Option<u64>,
    /// The message that is coming in.
    message: [u8; HELLO_BYTES],
    message_bytes: usize,
    /// The files that came with it.
    files: Files,
    landing: Option<Landing>,
    inbound: Option<Inbound>,
    opened: Option<Opened>,
}

const _: () = assert!(CONFIRM_BYTES <= HELLO_BYTES);

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening")
            .field("slot", &self.slot)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// How far a handshake got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Waiting for the peer.
    Waiting,
    /// Our window is ready; its region has to be reported before the peer is told.
    Unreported,
    /// Both sides are done.
    Done,
}

impl Opening {
    pub(crate) fn new(
        slot: SlotId,
        address: Address,
        socket: OwnedFd,
        (backend, role, window_mode): (Backend, Role, WindowMode),
        shared: &Shared,
    ) -> Self {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).expect("the kernel has random bytes");
        let handshake =
            Handshake::new(role, shared.introduction(window_mode), shared.key.clone(), nonce);
        Self {
            slot,
            address,
            initiated: role == Role::Connector,
            window_mode,
            backend,
            socket,
            handshake,
            connecting: role == Role::Connector && backend == Backend::Tcp,
            deadline: None,
            message: [0; HELLO_BYTES],
            message_bytes: 0,
            files: Files::new(),
            landing: None,
            inbound: None,
            opened: None,
        }
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The connector's first message.
    pub(crate) fn send_hello(&mut self, counters: &mut Counters) -> Result<(), CloseReason> {
        let hello = *self.handshake.hello();
        self.send(hello.as_bytes(), &[], counters)
    }

    /// The TCP connection stands, or does not.
    pub(crate) fn finish_connecting(&mut self, counters: &mut Counters) -> Result<(), CloseReason> {
        counters.system_calls += 1;
        stream::outcome(self.socket()).map_err(CloseReason::Io)?;
        self.connecting = false;
        self.send_hello(counters)
    }

    /// Reads what has come in and goes on as far as that leads.
    pub(crate) fn advance(&mut self, shared: &mut Shared) -> Result<Progress, CloseReason> {
        while self.handshake.expected_bytes() > 0 {
            if !self.read(&mut shared.counters)? {
                return Ok(Progress::Waiting);
            }
            let message = self.message;
            let length = std::mem::take(&mut self.message_bytes);
            match self.handshake.receive(&message[..length]) {
                Ok(Step::Reply(hello)) => self.send(hello.as_bytes(), &[], &mut shared.counters)?,
                Ok(Step::Done) => return Ok(Progress::Done),
                Err(stop) => return Err(self.stop(stop, &mut shared.counters)),
                Ok(Step::Prepare) => {
                    self.prepare(shared)?;
                    if shared.must_report(self.backend) {
                        return Ok(Progress::Unreported);
                    }
                    return self.confirm(shared);
                }
            }
        }
        Ok(Progress::Waiting)
    }

    /// Tells the peer of our window.
    pub(crate) fn confirm(&mut self, shared: &mut Shared) -> Result<Progress, CloseReason> {
        let landing = self.landing.as_ref().ok_or(CloseReason::NoMemory)?;
        let confirm = self.handshake.confirm(landing.pages());
        let window = landing.last_region().map(culvert_memory::Region::fd);
        let rings = self.inbound.as_ref().map(|inbound| inbound.file().fd());
        {
            let files: ArrayVec<_, FILES_MAX> = rings.into_iter().chain(window).collect();
            self.send(confirm.as_bytes(), &files, &mut shared.counters)?;
        }
        if self.handshake.role() == Role::Acceptor {
            return Ok(Progress::Done);
        }
        // The answer may be there already, and the edge of its arrival gone by.
        self.advance(shared)
    }

    /// Turns a peer away that has just come in. What it has said is read first, because closing a
    /// socket on unread bytes may cost the peer the answer.
    pub(crate) fn turn_away(&mut self, counters: &mut Counters) -> CloseReason {
        let _ = self.read(counters);
        self.refuse(Refusal::Resources, counters)
    }

    /// Tells a peer that its window cannot be had; the connection is over.
    pub(crate) fn turn_away_unregistered(&mut self, counters: &mut Counters) {
        let _reason = self.refuse(Refusal::Resources, counters);
    }

    /// The region of the window made ready.
    pub(crate) fn newest_region(&self) -> Option<RegionId> {
        Some(self.landing.as_ref()?.last_region()?.id())
    }

    /// Refuses the peer, for want of something here.
    fn refuse(&mut self, refusal: Refusal, counters: &mut Counters) -> CloseReason {
        let stop = self.handshake.refuse(refusal);
        self.stop(stop, counters)
    }

    /// Takes what the peer has confirmed: the last step that can fail.
    pub(crate) fn open_peer(&mut self, shared: &Shared) -> Result<(), CloseReason> {
        let Some(&peer) = self.handshake.peer() else { return Err(CloseReason::NoMemory) };
        let limits = Limits::new(&shared.options, &peer);
        let pages = self.handshake.peer_window_pages();
        let mut remote = Remote::new(peer.window_mode, limits.window_pages_max);
        if pages > 0 {
            remote.grow(0, pages)?;
        }
        let memory = match self.backend {
            Backend::Tcp => None,
            Backend::Shm => Some(PeerMemory::map(std::mem::take(&mut self.files), &peer, pages)?),
        };
        self.opened = Some(Opened { peer: peer.identity, limits, remote, memory });
        Ok(())
    }

    /// Makes an open connection of it, after [`Opening::open_peer`].
    pub(crate) fn establish(self, shared: &Shared) -> Established {
        let Opened { peer, limits, remote, memory } =
            self.opened.expect("the peer's side was opened");
        let mut landing = self.landing.expect("the window was prepared before it was confirmed");
        landing.acknowledge();
        let options = &shared.options;
        let link = match memory {
            None => {
                let sender = Sender::new(options.data_queue_bytes, options.control_queue_bytes);
                Link::Tcp(TcpLink::new(self.socket, sender, Receiver::new(limits.record_bytes_max)))
            }
            Some(memory) => {
                let inbound = self.inbound.expect("the rings were prepared with the window");
                let mut link = ShmLink::new(self.socket, inbound, memory.rings);
                memory.window.into_iter().for_each(|window| link.add_segment(0, window));
                Link::Shm(link)
            }
        };
        Established::new(
            self.slot,
            self.address,
            self.initiated,
            (peer, limits),
            (landing, remote),
            link,
        )
    }

    /// The window made ready, when the connection comes to nothing.
    pub(crate) fn take_landing(&mut self) -> Option<Landing> {
        self.landing.take()
    }

    /// Makes our window and rings ready. Only now, because the peer has proved that it may have
    /// them.
    fn prepare(&mut self, shared: &mut Shared) -> Result<(), CloseReason> {
        let Some(peer) = self.handshake.peer() else { return Err(CloseReason::NoMemory) };
        let pages_max = Limits::new(&shared.options, peer).window_pages_max;
        let mut landing = Landing::new(self.window_mode, pages_max);
        let pages = shared.options.window_pages_initial.min(pages_max);
        if let Some(window) = shared.make_window(self.backend, self.window_mode, pages) {
            shared.attach(&mut landing, window, self.backend);
        }
        self.landing = Some(landing);
        if self.backend == Backend::Shm {
            let sizes = RingSizes {
                data: shared.options.data_queue_bytes as u32,
                control: shared.options.control_queue_bytes as u32,
            };
            match Inbound::create(sizes) {
                Ok(inbound) => self.inbound = Some(inbound),
                Err(error) => {
                    tracing::warn!(%error, "no memory for the rings of a connection");
                    return Err(self.refuse(Refusal::Resources, &mut shared.counters));
                }
            }
        }
        Ok(())
    }

    /// Reads into the message; whether it is whole.
    fn read(&mut self, counters: &mut Counters) -> Result<bool, CloseReason> {
        let expected = self.handshake.expected_bytes();
        let room = &mut self.message[self.message_bytes..expected];
        counters.system_calls += 1;
        let received = match self.backend {
            Backend::Tcp => stream::receive(self.socket.as_fd(), room).map_err(CloseReason::Io)?,
            Backend::Shm => {
                self.files.clear();
                match unix::receive(self.socket.as_fd(), room, &mut self.files)
                    .map_err(CloseReason::Io)?
                {
                    Received::Nothing => None,
                    Received::End => Some(0),
                    Received::Message(bytes) => Some(bytes),
                }
            }
        };
        match received {
            None => return Ok(false),
            Some(0) => return Err(CloseReason::PeerVanished),
            Some(bytes) => self.message_bytes += bytes,
        }
        let message = self.message;
        if let Err(stop) = self.handshake.check_beginning(&message[..self.message_bytes]) {
            return Err(self.stop(stop, counters));
        }
        if self.backend == Backend::Shm && self.message_bytes < expected {
            return Err(self.refuse(Refusal::Malformed, counters));
        }
        Ok(self.message_bytes == expected)
    }

    /// Says the last word, if there is one, and takes the reason.
    fn stop(&mut self, stop: Stop, counters: &mut Counters) -> CloseReason {
        let said = match &stop.reply {
            Some(Farewell::Hello(refusal)) => {
                self.send(Hello::refusal(*refusal).as_bytes(), &[], counters)
            }
            Some(Farewell::Confirm(refusal)) => {
                self.send(Confirm::refusal(*refusal).as_bytes(), &[], counters)
            }
            None => Ok(()),
        };
        // Whether the peer hears it makes no difference here.
        let _ = said;
        stop.reason
    }

    fn send(
        &self,
        bytes: &[u8],
        files: &[BorrowedFd<'_>],
        counters: &mut Counters,
    ) -> Result<(), CloseReason> {
        counters.system_calls += 1;
        let sent = match self.backend {
            Backend::Tcp => stream::send(self.socket(), bytes),
            Backend::Shm => unix::send(self.socket(), bytes, files),
        };
        match sent {
            // What the peer said before it left may still be read.
            Ok(()) | Err(Errno::PIPE) => Ok(()),
            Err(error) => Err(CloseReason::Io(error)),
        }
    }
}

/// What is known of the peer at the end of the handshake.
struct Opened {
    peer: Identity,
    limits: Limits,
    remote: Remote,
    memory: Option<PeerMemory>,
}

/// The peer's memory, mapped here.
struct PeerMemory {
    rings: Outbound,
    window: Option<SharedBytes>,
}

impl PeerMemory {
    /// Maps the peer's rings and the first segment of its window.
    fn map(files: Files, peer: &Introduction, window_pages: u32) -> Result<Self, CloseReason> {
        let mut files = files.into_iter();
        let rings = files.next().ok_or(Violation::SharedMemory)?;
        let sizes = RingSizes { data: peer.data_queue_bytes, control: peer.control_queue_bytes };
        let mapping =
            Mapping::from_fd(rings, sizes.file_bytes()).map_err(|error| mapping_reason(&error))?;
        let rings = Outbound::new(mapping, sizes);
        if window_pages == 0 {
            return Ok(Self { rings, window: None });
        }
        let file = files.next().ok_or(Violation::SharedMemory)?;
        Ok(Self { rings, window: Some(map_segment(file, window_pages)?) })
    }
}
