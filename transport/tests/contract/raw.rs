//! Peers made of bytes: what somebody can send who has read the format and means no good.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use culvert_memory::{Backing, Mapping, MappingOptions, PAGE_SIZE, SharedBytes};
use culvert_transport::Address;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::harness::{Scheme, Side};

pub const DATA_RING: usize = 64 << 10;
pub const CONTROL_RING: usize = 8 << 10;
/// Where things lie in a file of rings.
pub const DATA_TAIL: usize = 0;
pub const CONTROL_TAIL: usize = 4;
pub const DATA_HEAD: usize = 128;
pub const CONTROL_RING_AT: usize = 4096;
pub const DATA_RING_AT: usize = CONTROL_RING_AT + CONTROL_RING;

/// The Hello of a client with a window of the given mode (1 granted, 2 named).
pub fn hello(mode: u8) -> Vec<u8> {
    let mut bytes = b"CULVERT\0\x01\0\0\0\x02".to_vec();
    bytes.extend_from_slice(&[mode, 0, 0]);
    bytes.extend_from_slice(&[9; 16]);
    for value in [0u32, 8192, DATA_RING as u32, CONTROL_RING as u32, 1024] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&[3; 32]);
    assert_eq!(bytes.len(), 96);
    bytes
}

pub fn confirm(window_pages: u32) -> Vec<u8> {
    let mut bytes = b"CULVERT\0\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&window_pages.to_le_bytes());
    bytes.extend_from_slice(&[0; 48]);
    bytes
}

/// A record: kind, placements, body.
pub fn record(kind: u8, places: &[(u32, u16)], body: &[u8]) -> Vec<u8> {
    let mut bytes = ((8 + 8 * places.len() + body.len()) as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&[kind, places.len() as u8, 0, 0]);
    for (page, pages) in places {
        bytes.extend_from_slice(&runs(&[(*page, *pages)]));
    }
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Runs of pages as they stand in credits.
pub fn runs(runs: &[(u32, u16)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (page, pages) in runs {
        bytes.extend_from_slice(&page.to_le_bytes());
        bytes.extend_from_slice(&pages.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
    }
    bytes
}

/// The head and frames of a batch.
pub fn batch(frames: &[u8], pages: u32) -> Vec<u8> {
    let mut bytes = b"CVB1".to_vec();
    bytes.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&pages.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), frames);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(frames);
    let padded = bytes.len().max(256);
    bytes.resize(padded, 0);
    bytes
}

/// A peer on TCP that has shaken hands.
pub fn tcp_peer(address: &Address, server: &mut Side) -> TcpStream {
    let mut stream = tcp_stream(address);
    stream.write_all(&hello(1)).expect("room");
    read_exactly(&mut stream, server, 96);
    stream.write_all(&confirm(8)).expect("room");
    read_exactly(&mut stream, server, 64);
    stream
}

pub fn tcp_stream(address: &Address) -> TcpStream {
    let Address::Tcp(address) = address else { panic!("a TCP address") };
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    stream
}

/// Reads while the server has its turns.
pub fn read_exactly(stream: &mut TcpStream, server: &mut Side, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    let mut have = 0;
    for _ in 0..5000 {
        server.turn();
        match stream.read(&mut content[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(_) => {}
        }
        if have == bytes {
            return content;
        }
    }
    panic!("{have} of {bytes} bytes");
}

/// A peer on shared memory that has shaken hands.
pub struct ShmPeer {
    pub socket: OwnedFd,
    /// The server's rings, which we fill.
    pub rings: SharedBytes,
    pub rings_file: OwnedFd,
    /// Our rings, which the server fills.
    pub own_rings: SharedBytes,
    pub tails: [u32; 2],
}

pub fn memory(bytes: usize, seal: bool) -> Mapping {
    let options =
        MappingOptions { bytes, seal, backing: Backing::Ordinary, ..MappingOptions::default() };
    Mapping::create(&options).expect("memory")
}

pub fn send(socket: &OwnedFd, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(files)));
    }
    // The server may have closed it already.
    let _ =
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
}

pub fn receive(socket: &OwnedFd, server: &mut Side) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    for _ in 0..5000 {
        server.turn();
        let mut bytes = [0; 128];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut vectors = [IoSliceMut::new(&mut bytes)];
        let Ok(message) =
            rustix::net::recvmsg(socket, &mut vectors, &mut ancillary, RecvFlags::DONTWAIT)
        else {
            continue;
        };
        let mut files = Vec::new();
        for content in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = content {
                files.extend(received);
            }
        }
        return (message.bytes > 0).then(|| (bytes[..message.bytes].to_vec(), files));
    }
    panic!("nothing came");
}

pub fn shm_socket(address: &Address) -> OwnedFd {
    let Address::Shm(path) = address else { panic!("a path") };
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    );
    let socket = socket.expect("a socket");
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).expect("a path"))
        .expect("somebody listens");
    socket
}

pub fn shm_peer(address: &Address, server: &mut Side) -> ShmPeer {
    let socket = shm_socket(address);
    send(&socket, &hello(1), &[]);
    receive(&socket, server).expect("a Hello");
    let own = memory(DATA_RING_AT + DATA_RING, true);
    let window = memory(8 * PAGE_SIZE, true);
    send(&socket, &confirm(8), &[own.fd(), window.fd()]);
    let (_, files) = receive(&socket, server).expect("a Confirm");
    assert_eq!(files.len(), 2);
    let rings = files.into_iter().next().expect("two");
    let rings_file = rustix::io::fcntl_dupfd_cloexec(&rings, 0).expect("a descriptor");
    let rings = Mapping::from_fd(rings, DATA_RING_AT + DATA_RING).expect("sealed and of its size");
    let view = |mapping| SharedBytes::of_mapping(Rc::new(mapping));
    ShmPeer { socket, rings: view(rings), rings_file, own_rings: view(own), tails: [0; 2] }
}

impl ShmPeer {
    /// Puts bytes into the data ring and shows them.
    pub fn push(&mut self, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().enumerate() {
            let at = (self.tails[0] as usize + offset) % DATA_RING;
            self.rings.write_bytes(DATA_RING_AT + at, &[*byte]);
        }
        self.tails[0] = self.tails[0].wrapping_add(bytes.len() as u32);
        self.rings.store_release_u32(DATA_TAIL, self.tails[0]);
    }

    pub fn set_tail(&mut self, at: usize, tail: u32) {
        self.rings.store_release_u32(at, tail);
    }
}

/// A peer of either kind, to which records can be given.
pub enum Peer {
    Tcp(TcpStream),
    Shm(ShmPeer),
}

impl Peer {
    pub fn new(scheme: Scheme, address: &Address, server: &mut Side) -> Self {
        match scheme {
            Scheme::Tcp => Self::Tcp(tcp_peer(address, server)),
            Scheme::Shm => Self::Shm(shm_peer(address, server)),
            Scheme::Rdma => unreachable!("it has no socket"),
        }
    }

    /// Sends records that announce `pages` pages of payload, and the payload.
    pub fn send(&mut self, frames: &[u8], pages: u32) {
        match self {
            Self::Shm(peer) => peer.push(frames),
            Self::Tcp(stream) => {
                let mut bytes = batch(frames, pages);
                bytes.resize(bytes.len() + pages as usize * PAGE_SIZE, 0x55);
                // The server may have closed it already.
                let _ = stream.write_all(&bytes);
            }
        }
    }
}
