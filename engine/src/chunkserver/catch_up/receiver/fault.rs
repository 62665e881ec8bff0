//! Why a task ends on its receiver.

use crate::copyset;
use crate::store::InstallError;
use crate::wire::FrameError;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("frames come out of order")]
    Order,
    #[error("the sender does not lead the group")]
    NotLeader,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("block {0} is out of order, outside of the chunk or of no kind")]
    Block(u32),
    #[error("payload is not what the frame says")]
    Payload,
    #[error("block {0} does not match its checksum")]
    Checksum(u32),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error("the list of chunks is not ascending, or of another length than it says")]
    List,
    #[error("the copyset's state: {0}")]
    State(#[from] copyset::ImageError),
    #[error("the copyset's state is that of another index, copyset or length")]
    StateOf,
    #[error("the membership cannot be that of this replica's group")]
    Membership,
    #[error("an item of {bytes} bytes does not fit the journal's batches; raise batch_bytes")]
    TooLong { bytes: usize },
}
