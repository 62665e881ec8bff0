//! Landing windows: ours, into which the peer writes, and the peer's, into which we write.

pub(crate) mod landing;
pub(crate) mod remote;
pub(crate) mod runs;
