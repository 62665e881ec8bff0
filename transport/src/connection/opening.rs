//! A connection whose handshake is under way: the socket, the handshake, and the memory made ready
//! for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use culvert_memory::{Mapping, RegionId, SharedBytes, SlotId};
use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use crate::connection::established::{Established, Link};
use crate::connection::limits::Limits;
use crate::counters::Counters;
use crate::error::mapping_reason;
use crate::handshake::message::{
    CONFIRM_BYTES, Confirm, HELLO_BYTES, Hello, Introduction, SHORT_NONCE_BYTES, WirePlace,
};
use crate::handshake::proof::Role;
use crate::handshake::state::{Farewell, Handshake, Step, Stop};
use crate::rdma::Joining;
use crate::rdma::link::{Place, RdmaLink};
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

/// What the messages of a handshake travel on.
#[derive(Debug)]
pub(crate) enum Way {
    Socket(OwnedFd),
    Verbs(Box<Joining>),
}

/// A connection that is being made.
pub(crate) struct Opening {
    pub(crate) slot: SlotId,
    pub(crate) address: Address,
    pub(crate) initiated: bool,
    pub(crate) window_mode: WindowMode,
    backend: Backend,
    way: Way,
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
    /// How often the device tries again, over RDMA.
    pub(crate) retries: u8,
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
        way: Way,
        (backend, role, window_mode): (Backend, Role, WindowMode),
        shared: &Shared,
    ) -> Self {
        let mut nonce = [0; 32];
        let random = if backend == Backend::Rdma { SHORT_NONCE_BYTES } else { nonce.len() };
        getrandom::fill(&mut nonce[..random]).expect("the kernel has random bytes");
        let handshake =
            Handshake::new(role, shared.introduction(window_mode), shared.key.clone(), nonce);
        Self {
            slot,
            address,
            initiated: role == Role::Connector,
            window_mode,
            backend,
            way,
            handshake,
            connecting: role == Role::Connector && backend == Backend::Tcp,
            deadline: None,
            message: [0; HELLO_BYTES],
            message_bytes: 0,
            files: Files::new(),
            landing: None,
            inbound: None,
            opened: None,
            retries: shared.options.rdma.retries,
        }
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// The socket, where there is one to be watched.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.way {
            Way::Socket(socket) => Some(socket.as_fd()),
            Way::Verbs(_) => None,
        }
    }

    /// The verbs connection that is being made.
    pub(crate) fn joining(&mut self) -> Option<&mut Joining> {
        match &mut self.way {
            Way::Verbs(joining) => Some(joining),
            Way::Socket(_) => None,
        }
    }

    /// The Hello as a request over RDMA carries it.
    pub(crate) fn short_hello(&self) -> impl IntoBytes + Immutable + use<> {
        self.handshake.hello().shorten()
    }

    /// The window made ready, and the link, when a verbs connection comes to nothing.
    pub(crate) fn into_verbs(self) -> (Option<Landing>, Option<Joining>) {
        match self.way {
            Way::Verbs(joining) => (self.landing, Some(*joining)),
            Way::Socket(_) => (self.landing, None),
        }
    }

    /// The connector's first message.
    pub(crate) fn send_hello(&mut self, counters: &mut Counters) -> Result<(), CloseReason> {
        let hello = *self.handshake.hello();
        self.send(hello.as_bytes(), counters)
    }

    /// The TCP connection stands, or does not.
    pub(crate) fn finish_connecting(&mut self, counters: &mut Counters) -> Result<(), CloseReason> {
        counters.system_calls += 1;
        let socket = self.socket().ok_or(CloseReason::PeerVanished)?;
        stream::outcome(socket).map_err(CloseReason::Io)?;
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
                Ok(Step::Reply(hello)) => self.send(hello.as_bytes(), &mut shared.counters)?,
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
        let place = match &mut self.way {
            Way::Verbs(joining) => {
                let link = joining.link_mut().ok_or(CloseReason::PeerVanished)?;
                let Place { address, rkey } = link.newest_place();
                WirePlace { address: address.into(), rkey: rkey.into(), ..WirePlace::default() }
            }
            Way::Socket(_) => WirePlace::default(),
        };
        let confirm = self.handshake.confirm(landing.pages(), place);
        let window = landing.last_region().map(culvert_memory::Region::fd);
        let rings = self.inbound.as_ref().map(|inbound| inbound.file().fd());
        {
            let files: ArrayVec<_, FILES_MAX> = rings.into_iter().chain(window).collect();
            let message = (confirm.as_bytes(), &files[..]);
            let counters = &mut shared.counters;
            send(&mut self.way, self.backend, self.retries, message, counters)?;
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
            Backend::Tcp | Backend::Rdma => None,
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
        let link = match (self.way, memory) {
            (Way::Verbs(joining), _) => {
                let mut link: RdmaLink = joining.into_link().expect("the handshake went over it");
                link.limit_records(limits.record_bytes_max);
                if remote.pages() > 0 {
                    let WirePlace { address, rkey, .. } = self.handshake.peer_place();
                    link.add_segment(0, Place { address: address.get(), rkey: rkey.get() });
                }
                Link::Rdma(Box::new(link))
            }
            (Way::Socket(socket), None) => {
                let sender = Sender::new(options.data_queue_bytes, options.control_queue_bytes);
                Link::Tcp(TcpLink::new(socket, sender, Receiver::new(limits.record_bytes_max)))
            }
            (Way::Socket(socket), Some(memory)) => {
                let inbound = self.inbound.expect("the rings were prepared with the window");
                let mut link = ShmLink::new(socket, inbound, memory.rings);
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

    /// Makes our window and rings ready. Only now, because the peer has proved that it may have
    /// them.
    fn prepare(&mut self, shared: &mut Shared) -> Result<(), CloseReason> {
        let Some(peer) = self.handshake.peer() else { return Err(CloseReason::NoMemory) };
        let pages_max = Limits::new(&shared.options, peer).window_pages_max;
        let mut landing = Landing::new(self.window_mode, pages_max);
        let pages = shared.options.window_pages_initial.min(pages_max);
        if let Some(window) = shared.make_window(self.backend, self.window_mode, pages) {
            if let Way::Verbs(joining) = &mut self.way {
                let link = joining.link_mut().ok_or(CloseReason::PeerVanished)?;
                if let Err(error) = link.open_window(&window) {
                    tracing::warn!(%error, "a landing window could not be registered");
                    shared.unmake_window(window);
                    return Err(self.refuse(Refusal::Resources, &mut shared.counters));
                }
            }
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
        let received = match (&mut self.way, self.backend) {
            (Way::Verbs(joining), _) => match joining.read(room) {
                0 => None,
                bytes => Some(bytes),
            },
            (Way::Socket(socket), Backend::Tcp | Backend::Rdma) => {
                counters.system_calls += 1;
                stream::receive(socket.as_fd(), room).map_err(CloseReason::Io)?
            }
            (Way::Socket(socket), Backend::Shm) => {
                counters.system_calls += 1;
                self.files.clear();
                match unix::receive(socket.as_fd(), room, &mut self.files)
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
                self.say_no(Hello::refusal(*refusal).as_bytes(), counters)
            }
            Some(Farewell::Confirm(refusal)) => {
                self.say_no(Confirm::refusal(*refusal).as_bytes(), counters)
            }
            // Whoever came in over RDMA waits for an answer, whatever it says.
            None if self.backend == Backend::Rdma && !self.initiated => {
                self.say_no(Hello::refusal(Refusal::NotThisProtocol).as_bytes(), counters)
            }
            None => Ok(()),
        };
        // Whether the peer hears it makes no difference here.
        let _ = said;
        stop.reason
    }

    fn say_no(&mut self, bytes: &[u8], counters: &mut Counters) -> Result<(), CloseReason> {
        match &mut self.way {
            Way::Verbs(joining) => joining.refuse(bytes, counters).map_err(CloseReason::Io),
            Way::Socket(_) => self.send(bytes, counters),
        }
    }

    fn send(&mut self, bytes: &[u8], counters: &mut Counters) -> Result<(), CloseReason> {
        send(&mut self.way, self.backend, self.retries, (bytes, &[]), counters)
    }
}

/// Sends a message of the handshake, and files with it over shared memory.
fn send(
    way: &mut Way,
    backend: Backend,
    retries: u8,
    (bytes, files): (&[u8], &[BorrowedFd<'_>]),
    counters: &mut Counters,
) -> Result<(), CloseReason> {
    counters.system_calls += 1;
    let sent = match way {
        Way::Verbs(joining) => joining.say(bytes, retries, counters),
        Way::Socket(socket) if backend == Backend::Shm => unix::send(socket.as_fd(), bytes, files),
        Way::Socket(socket) => stream::send(socket.as_fd(), bytes),
    };
    match sent {
        // What the peer said before it left may still be read.
        Ok(()) | Err(Errno::PIPE) => Ok(()),
        Err(error) => Err(CloseReason::Io(error)),
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
