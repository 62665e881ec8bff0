//! The Unix socket of a shared-memory connection: messages with files.
//!
//! `SOCK_SEQPACKET`, so that a message is whole or not there. Every call is non-blocking by itself,
//! because a peer that shares nothing but a socket cannot make it block.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use arrayvec::ArrayVec;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The files that come with one message, at most: rings and window.
pub(crate) const FILES_MAX: usize = 2;

/// The files of one message.
pub(crate) type Files = ArrayVec<OwnedFd, FILES_MAX>;

/// What [`receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A message of this length, cut to the room there was.
    Message(usize),
    /// Nothing now.
    Nothing,
    /// The peer is gone.
    End,
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Connects to a listener; this either succeeds or fails at once.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Connections that wait to be accepted.
pub(crate) const BACKLOG: i32 = 128;

/// Binds to a path. A socket file that nobody listens at any more is replaced.
pub(crate) fn bind(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) if is_stale(path) => {
            rustix::fs::unlink(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        other => other?,
    }
    Ok(socket)
}

/// Whether the path is a socket at which nobody listens.
fn is_stale(path: &Path) -> bool {
    let is_socket = rustix::fs::lstat(path)
        .is_ok_and(|status| rustix::fs::FileType::from_raw_mode(status.st_mode).is_socket());
    is_socket && connect(path).is_err_and(|error| error == Errno::CONNREFUSED)
}

/// Accepts one connection.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Sends one message with at most [`FILES_MAX`] files. `AGAIN` when the socket is full.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        let pushed = ancillary.push(SendAncillaryMessage::ScmRights(files));
        assert!(pushed, "there is room for {FILES_MAX} files");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    debug_assert_eq!(sent, bytes.len(), "a packet goes whole");
    Ok(())
}

/// Receives one message into `bytes`, and its files into `files`; more of them than fit are closed.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    files: &mut Files,
) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut receive =
        || rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags);
    // A peer that closed without reading all it was sent shows as an error once, before what it
    // said itself.
    let message = match receive()
        .or_else(|error| if error == Errno::CONNRESET { receive() } else { Err(error) })
    {
        Ok(message) => message,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
        Err(Errno::CONNRESET | Errno::PIPE) => return Ok(Received::End),
        Err(error) => return Err(error),
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            received.take(FILES_MAX).for_each(|file| drop(files.try_push(file)));
        }
    }
    // A message of ours is never empty.
    Ok(if message.bytes == 0 { Received::End } else { Received::Message(message.bytes) })
}

/// A socket pair, for tests of the message layer.
#[cfg(test)]
pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .expect("a socket pair")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn messages_carry_files() {
        let (a, b) = pair();
        let file =
            rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
        send(a.as_fd(), b"hello", &[file.as_fd(), a.as_fd()]).expect("room");
        send(a.as_fd(), b"again", &[]).expect("room");
        let mut bytes = [0; 16];
        let mut files = Files::new();
        assert_eq!(receive(b.as_fd(), &mut bytes, &mut files), Ok(Received::Message(5)));
        assert_eq!((&bytes[..5], files.len()), (&b"hello"[..], 2));
        files.clear();
        assert_eq!(receive(b.as_fd(), &mut bytes, &mut files), Ok(Received::Message(5)));
        assert_eq!(receive(b.as_fd(), &mut bytes, &mut files), Ok(Received::Nothing));
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut bytes, &mut files), Ok(Received::End));
    }
}
