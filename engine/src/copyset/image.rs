//! A copyset's state as bytes, for a checkpoint and for a receiver that catches up.
//!
//! Equal states have equal bytes. Byte map: `docs/format/copyset-image.md`.
//!
//! Fault model: whoever keeps or sends an image guards it by a CRC; the bytes are still not
//! believed. [`CopysetState::parse`] accepts only what [`CopysetState::encode`] writes.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::copyset::CopysetState;
use crate::copyset::session::{SESSIONS_MAX, SESSIONS_OF_CLIENT_MAX, Seen, Session, WINDOW, WORDS};
use crate::ids::{CopysetId, Epoch, LogIndex, RequestNumber, SessionId, Term};
use crate::store::LOG_INDEX_MAX;

/// "CSIM".
const MAGIC: u32 = u32::from_le_bytes(*b"CSIM");
const VERSION: u16 = 1;

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<SessionImage>() == SESSION_IMAGE_BYTES);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: U32,
    version: U16,
    reserved: U16,
    /// Bytes of the image, header included.
    length: U32,
    copyset: U32,
    quota: U64,
    applied: U64,
    term: U64,
    epoch: U64,
    sessions: U32,
    reserved_end: [u8; 12],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SessionImage {
    id: U64,
    client: [u8; 16],
    /// The highest number that took effect; zero: none.
    highest: U64,
    /// Whether number `n` took effect: bit `n % 1024`, counted from the lowest of the first word.
    effects: [U64; WORDS],
}

/// Bytes of one session in an image.
pub const SESSION_IMAGE_BYTES: usize = 32 + WINDOW / 8;

/// Bytes of the longest image.
pub const IMAGE_BYTES_MAX: u32 =
    (size_of::<Header>() + SESSIONS_MAX * size_of::<SessionImage>()) as u32;

/// Why bytes are not a copyset's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Fewer or more bytes than the image says it has.
    #[error("copyset image has the wrong length")]
    Length,
    /// A field holds a value that no writer produces.
    #[error("copyset image field {0} holds an impossible value")]
    Field(&'static str),
}

impl CopysetState {
    /// Bytes of the image.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        size_of::<Header>() + self.sessions() * size_of::<SessionImage>()
    }

    /// Appends the image to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let header = Header {
            magic: MAGIC.into(),
            version: VERSION.into(),
            reserved: U16::ZERO,
            length: U32::new(self.image_bytes() as u32),
            copyset: self.id.0.into(),
            quota: self.quota.into(),
            applied: self.applied.0.into(),
            term: self.term.0.into(),
            epoch: self.epoch.0.into(),
            sessions: U32::new(self.sessions() as u32),
            reserved_end: [0; 12],
        };
        out.extend_from_slice(header.as_bytes());
        for session in self.sessions.iter() {
            out.extend_from_slice(&session.id.0.to_le_bytes());
            out.extend_from_slice(&session.client);
            out.extend_from_slice(&session.highest.to_le_bytes());
            session.effects.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        }
    }

    /// Reads an image; what is the leader's alone begins anew.
    ///
    /// # Errors
    ///
    /// [`ImageError`] names what is wrong; nothing of the bytes may be believed then.
    pub fn parse(bytes: &[u8]) -> Result<CopysetState, ImageError> {
        use ImageError::Field;
        let (header, body) = Header::ref_from_prefix(bytes).map_err(|_| ImageError::Length)?;
        if header.magic.get() != MAGIC || header.version.get() != VERSION {
            return Err(Field("magic"));
        }
        if header.length.get() as usize != bytes.len() {
            return Err(ImageError::Length);
        }
        if header.reserved.get() != 0 || header.reserved_end != [0; 12] {
            return Err(Field("reserved"));
        }
        let sessions = <[SessionImage]>::ref_from_bytes(body).map_err(|_| ImageError::Length)?;
        if sessions.len() != header.sessions.get() as usize {
            return Err(ImageError::Length);
        }
        if sessions.len() > SESSIONS_MAX {
            return Err(Field("sessions"));
        }
        let mut state = CopysetState::new(CopysetId(header.copyset.get()), header.quota.get());
        state.applied = LogIndex(header.applied.get());
        state.term = Term(header.term.get());
        state.epoch = Epoch(header.epoch.get());
        if state.applied > LOG_INDEX_MAX {
            return Err(Field("applied"));
        }
        if !sessions.is_sorted_by(|one, next| one.id.get() < next.id.get()) {
            return Err(Field("session"));
        }
        for image in sessions {
            let session = image.parse(state.applied)?;
            let same = |other: &&Session| other.client == session.client;
            if state.sessions.iter().filter(same).count() >= SESSIONS_OF_CLIENT_MAX {
                return Err(Field("client"));
            }
            state.sessions.open(session);
        }
        Ok(state)
    }
}

impl SessionImage {
    fn parse(&self, applied: LogIndex) -> Result<Session, ImageError> {
        use ImageError::Field;
        if self.id.get() == 0 || self.id.get() > applied.0 {
            return Err(Field("session"));
        }
        let mut session = Session::new(SessionId(self.id.get()), self.client);
        session.highest = self.highest.get();
        session.effects = self.effects.map(U64::get);
        session.check().ok_or(Field("effects"))?;
        Ok(session)
    }
}

impl Session {
    /// Whether the highest number took effect and no impossible one did.
    fn check(&self) -> Option<()> {
        if self.highest > 0 && self.look(RequestNumber(self.highest)) == Seen::No {
            return None;
        }
        // While fewer numbers exist than bits, number zero and those above have none.
        let window = WINDOW as u64;
        let above = (self.highest.saturating_add(1).min(window)..window).any(|n| self.bit(n));
        let zero = self.highest < window && self.bit(0);
        (!above && !zero).then_some(())
    }
}
