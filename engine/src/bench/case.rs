//! What is measured: the cells of the matrix.

use std::fmt;

use serde::Serialize;

use culvert::client::Transports;
use culvert::config::ByteSize;
use culvert::ids::BLOCK_SIZE;

/// Largest request: 1 MiB, as for any client.
pub const BLOCK_SIZE_MAX: u64 = 1 << 20;

/// Largest depth.
pub const DEPTH_MAX: u32 = 1024;

/// How peers and clients are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// Shared memory between processes of one machine.
    Shm,
    /// TCP: over the loopback interface, or the addresses that RDMA has.
    Tcp,
    /// RDMA over verbs.
    Rdma,
}

impl TransportKind {
    /// A client's word for it.
    #[must_use]
    pub fn transports(self) -> Transports {
        match self {
            TransportKind::Shm => Transports::Shm,
            TransportKind::Tcp => Transports::Tcp,
            TransportKind::Rdma => Transports::Rdma,
        }
    }

    /// The scheme of its addresses.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            TransportKind::Shm => "shm",
            TransportKind::Tcp => "tcp",
            TransportKind::Rdma => "rdma",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.scheme())
    }
}

/// Which requests the client makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Writes at random places.
    Randwrite,
    /// Writes one behind the other.
    Write,
    /// Reads at random places.
    Randread,
    /// Reads one behind the other.
    Read,
}

impl Pattern {
    /// Whether it writes.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Pattern::Randwrite | Pattern::Write)
    }

    /// Whether places are random.
    #[must_use]
    pub fn is_random(self) -> bool {
        matches!(self, Pattern::Randwrite | Pattern::Randread)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Pattern::Randwrite => "randwrite",
            Pattern::Write => "write",
            Pattern::Randread => "randread",
            Pattern::Read => "read",
        })
    }
}

/// One row of the table: everything but the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Which requests.
    pub pattern: Pattern,
    /// Bytes of each.
    pub block_size: ByteSize,
    /// Requests in flight.
    pub depth: u32,
}

/// Why a size or depth cannot be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// Not whole blocks of 4 KiB, or too large.
    #[error("a block size is a multiple of 4KiB up to 1MiB, not {0}")]
    BlockSize(ByteSize),
    /// Zero or too deep.
    #[error("a depth is from 1 to {DEPTH_MAX}, not {0}")]
    Depth(u32),
}

/// Every combination, in the order of the table: sizes within patterns, depths within sizes.
///
/// # Errors
///
/// [`CaseError`] for the first size or depth that cannot be measured.
pub fn rows(
    patterns: &[Pattern],
    block_sizes: &[ByteSize],
    depths: &[u32],
) -> Result<Vec<Row>, CaseError> {
    let fits = |size: &ByteSize| {
        size.0 > 0 && size.0 <= BLOCK_SIZE_MAX && size.0.is_multiple_of(BLOCK_SIZE as u64)
    };
    if let Some(size) = block_sizes.iter().find(|size| !fits(size)) {
        return Err(CaseError::BlockSize(*size));
    }
    if let Some(depth) = depths.iter().find(|depth| !(1..=DEPTH_MAX).contains(*depth)) {
        return Err(CaseError::Depth(*depth));
    }
    let mut rows = Vec::new();
    for &pattern in patterns {
        for &block_size in block_sizes {
            rows.extend(depths.iter().map(|&depth| Row { pattern, block_size, depth }));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_table() {
        let sizes = [ByteSize::kib(4), ByteSize::kib(16)];
        let rows = rows(&[Pattern::Randwrite, Pattern::Write], &sizes, &[1, 128]).expect("fits");
        assert_eq!(rows.len(), 8);
        assert_eq!(rows[1].depth, 128);
        assert_eq!(rows[2].block_size, ByteSize::kib(16));
        assert_eq!(rows[4].pattern, Pattern::Write);
    }

    #[test]
    fn odd_sizes_and_depths_are_refused() {
        let one = |size, depth| rows(&[Pattern::Write], &[ByteSize(size)], &[depth]);
        assert_eq!(one(512, 1), Err(CaseError::BlockSize(ByteSize(512))));
        assert_eq!(one(2 << 20, 1), Err(CaseError::BlockSize(ByteSize(2 << 20))));
        assert_eq!(one(4096, 0), Err(CaseError::Depth(0)));
        assert!(one(1 << 20, 1024).is_ok());
    }
}
