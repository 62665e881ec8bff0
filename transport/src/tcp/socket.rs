//! Making the sockets of streams.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::config::NOT_SENT_BYTES;

/// A failed step, by the name of its system call.
pub(crate) type Failure = (&'static str, Errno);

/// Begins to connect: whether it succeeded shows when the socket becomes writable.
pub(crate) fn connect(address: SocketAddr, from: Option<IpAddr>) -> Result<OwnedFd, Failure> {
    let socket = new_socket(address)?;
    tune(&socket).map_err(|error| ("setsockopt", error))?;
    if let Some(from) = from {
        let from = SocketAddr::new(from, 0);
        socket.bind(&from.into()).map_err(|error| ("bind", errno(&error)))?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket.into()),
        Err(error) => match errno(&error) {
            Errno::INPROGRESS | Errno::AGAIN => Ok(socket.into()),
            error => Err(("connect", error)),
        },
    }
}

/// Connections that wait to be accepted.
pub(crate) const BACKLOG: i32 = 1024;

/// Binds; the address with its port resolved.
pub(crate) fn bind(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Failure> {
    let socket = new_socket(address)?;
    socket.set_reuse_address(true).map_err(|error| ("setsockopt", errno(&error)))?;
    socket.bind(&address.into()).map_err(|error| ("bind", errno(&error)))?;
    let bound = socket.local_addr().map_err(|error| ("getsockname", errno(&error)))?;
    let bound = bound.as_socket().ok_or(("getsockname", Errno::AFNOSUPPORT))?;
    Ok((socket.into(), bound))
}

/// Accepts one connection.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, address) = rustix::net::acceptfrom_with(listener, flags)?;
    let socket = Socket::from(socket);
    tune(&socket)?;
    Ok((socket.into(), address.and_then(|address| SocketAddr::try_from(address).ok())))
}

/// Why a connection under way failed, if it did.
pub(crate) fn outcome(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::sockopt::socket_error(socket)?
}

/// Sends a handshake message, which a fresh socket takes whole.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)? {
        sent if sent == bytes.len() => Ok(()),
        _ => Err(Errno::AGAIN),
    }
}

/// Receives at most the bytes asked for; `None` when there is nothing now, 0 at the end.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Option<usize>, Errno> {
    match rustix::net::recv(socket, bytes, RecvFlags::DONTWAIT) {
        Ok((_, received)) => Ok(Some(received)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn new_socket(address: SocketAddr) -> Result<Socket, Failure> {
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))
        .map_err(|error| ("socket", errno(&error)))
}

/// No waiting for more to send, no deep queue in the kernel, and an end to peers that have lost
/// their power.
fn tune(socket: &Socket) -> Result<(), Errno> {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_nodelay(true).map_err(|error| errno(&error))?;
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES).map_err(|error| errno(&error))?;
    socket.set_tcp_keepalive(&keepalive).map_err(|error| errno(&error))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
