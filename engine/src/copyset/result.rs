//! Result codes: what became of an entry.

/// What became of an entry, as its client is told and as its session's window remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResultCode {
    /// It took effect.
    Ok = 1,
    /// Its epoch is older than the copyset's.
    Fenced = 2,
    /// The copyset knows no such session.
    NoSession = 3,
    /// Its number lies below the session's window, so that nobody knows whether it took effect.
    BelowWindow = 4,
    /// The copyset's quota is used up.
    NoSpace = 5,
    /// Its range does not lie within a chunk, or it names no request number.
    OutOfRange = 6,
    /// The copyset holds as many sessions as it may.
    SessionsFull = 7,
}

impl ResultCode {
    /// Decodes a byte; `None` for a value no version wrote. Zero is no result.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<ResultCode> {
        Some(match byte {
            1 => ResultCode::Ok,
            2 => ResultCode::Fenced,
            3 => ResultCode::NoSession,
            4 => ResultCode::BelowWindow,
            5 => ResultCode::NoSpace,
            6 => ResultCode::OutOfRange,
            7 => ResultCode::SessionsFull,
            _ => return None,
        })
    }
}
