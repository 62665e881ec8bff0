//! What travels on the Unix socket of an established connection.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Violation;
use crate::envelope::WireGrant;

/// Bytes of a notice.
pub(crate) const NOTICE_BYTES: usize = size_of::<WireNotice>();

const WAKE: u8 = 1;
const GRANT: u8 = 2;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct WireNotice {
    kind: u8,
    reserved: [u8; 7],
    grant: WireGrant,
}

/// A message on the Unix socket behind the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// There is something in your rings, or room in mine.
    Wake,
    /// Pages of my window; their file comes along. No pages: none can be had.
    Grant {
        /// First page.
        page: u32,
        /// Number of pages.
        pages: u32,
    },
}

impl Notice {
    pub(crate) fn emit(self) -> WireNotice {
        let (kind, page, pages) = match self {
            Self::Wake => (WAKE, 0, 0),
            Self::Grant { page, pages } => (GRANT, page, pages),
        };
        WireNotice { kind, reserved: [0; 7], grant: WireGrant::new(page, pages) }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Violation> {
        let notice = WireNotice::read_from_bytes(bytes).map_err(|_| Violation::FrameMalformed)?;
        let (page, pages) = WireGrant::parse(notice.grant.as_bytes())?;
        match (notice.kind, notice.reserved) {
            (WAKE, [0, 0, 0, 0, 0, 0, 0]) => Ok(Self::Wake),
            (GRANT, [0, 0, 0, 0, 0, 0, 0]) => Ok(Self::Grant { page, pages }),
            _ => Err(Violation::FrameMalformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_fixed() {
        let grant = Notice::Grant { page: 8, pages: 512 };
        assert_eq!(grant.emit().as_bytes(), [2, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 2, 0, 0]);
        assert_eq!(
            Notice::Wake.emit().as_bytes(),
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        for notice in [grant, Notice::Wake] {
            assert_eq!(Notice::parse(notice.emit().as_bytes()), Ok(notice));
        }
    }

    #[test]
    fn refuses_garbage() {
        assert!(Notice::parse(&[]).is_err());
        assert!(Notice::parse(&[0; 16]).is_err());
        assert!(Notice::parse(&[3; 16]).is_err());
        assert!(Notice::parse(&[1; 17]).is_err());
    }
}
