//! Where a transport listens and connects: `shm:///run/culvert/a.sock`, `tcp://127.0.0.1:9000`,
//! `rdma://10.0.0.1:9000`.
//!
//! Host names are not resolved here: an address is what the kernel takes, so that reading one never
//! blocks.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path that fits `sockaddr_un::sun_path` with its final zero byte.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// An address of a transport, printed and parsed as a URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Shared memory between processes of one machine; the path is that of the Unix socket of the
    /// handshake.
    Shm(PathBuf),
    /// TCP. Port 0 asks [`Transport::listen`](crate::Transport::listen) for any free port.
    Tcp(SocketAddr),
    /// RDMA over verbs, reached as librdmacm reaches an IP address. Port 0 asks
    /// [`Transport::listen`](crate::Transport::listen) for any free port.
    Rdma(SocketAddr),
}

/// Why a text is not an [`Address`]. The text itself is the caller's to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `scheme://`.
    #[error("an address begins with shm://, tcp:// or rdma://")]
    NoScheme,
    /// The scheme is none of ours.
    #[error("unknown scheme: an address begins with shm://, tcp:// or rdma://")]
    UnknownScheme,
    /// After `tcp://` and `rdma://` must come an IP address and a port.
    #[error(
        "after tcp:// and rdma:// comes an IP address and a port, such as 127.0.0.1:9000 or [::1]:9000"
    )]
    NotASocketAddress,
    /// After `shm://` must come an absolute path.
    #[error("after shm:// comes an absolute path, such as /run/culvert/a.sock")]
    PathNotAbsolute,
    /// The kernel's limit for the path of a Unix socket.
    #[error("the path of a Unix socket has at most {SOCKET_PATH_BYTES_MAX} bytes and no zero byte")]
    PathNotUsable,
}

impl Address {
    /// What stands before its `://`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match self {
            Address::Shm(_) => "shm",
            Address::Tcp(_) => "tcp",
            Address::Rdma(_) => "rdma",
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::NoScheme)?;
        match scheme {
            "shm" => parse_path(rest),
            "tcp" => rest.parse().map(Address::Tcp).map_err(|_| AddressError::NotASocketAddress),
            "rdma" => rest.parse().map(Address::Rdma).map_err(|_| AddressError::NotASocketAddress),
            _ => Err(AddressError::UnknownScheme),
        }
    }
}

fn parse_path(path: &str) -> Result<Address, AddressError> {
    if !path.starts_with('/') {
        return Err(AddressError::PathNotAbsolute);
    }
    if path.len() > SOCKET_PATH_BYTES_MAX || path.contains('\0') {
        return Err(AddressError::PathNotUsable);
    }
    Ok(Address::Shm(PathBuf::from(path)))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Shm(path) => write!(f, "shm://{}", path.display()),
            Address::Tcp(address) | Address::Rdma(address) => {
                write!(f, "{}://{address}", self.scheme())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for text in [
            "shm:///run/culvert/a.sock",
            "tcp://127.0.0.1:9000",
            "tcp://[::1]:9000",
            "rdma://10.0.0.1:4420",
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let long = format!("shm:///{}", "a".repeat(107));
        for (text, error) in [
            ("", AddressError::NoScheme),
            ("127.0.0.1:9000", AddressError::NoScheme),
            ("http://127.0.0.1:9000", AddressError::UnknownScheme),
            ("rdma://10.0.0.1", AddressError::NotASocketAddress),
            ("tcp://localhost:9000", AddressError::NotASocketAddress),
            ("tcp://127.0.0.1", AddressError::NotASocketAddress),
            ("shm://relative.sock", AddressError::PathNotAbsolute),
            (long.as_str(), AddressError::PathNotUsable),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}
