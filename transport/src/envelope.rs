//! The envelope of a frame: the same bytes on a stream, in a ring, and behind a one-sided write.
//!
//! A record is an 8-byte header, 8 bytes per placement, the frame's bytes, and zeros up to a
//! multiple of 8. Byte map: `docs/format/transport.md`. Nothing here trusts a length: a record is
//! parsed from bytes that are already private.

use arrayvec::ArrayVec;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::config::{CREDIT_RUNS_MAX, FRAME_BYTES_LIMIT, PAYLOADS_MAX, PLACEMENT_PAGES_MAX};
use crate::handshake::message::WirePlace;
use crate::rdma::link::Place;
use crate::{Class, Placement, Violation};

/// Bytes of the header of a record.
pub(crate) const HEADER_BYTES: usize = 8;

/// Bytes of a placement, and of a run of credits.
pub(crate) const PLACEMENT_BYTES: usize = 8;

/// Bytes of everything around a frame, at most.
pub(crate) const ENVELOPE_BYTES_MAX: usize = HEADER_BYTES + PAYLOADS_MAX * PLACEMENT_BYTES;

/// Bytes of a record, at most.
pub(crate) const RECORD_BYTES_LIMIT: usize = ENVELOPE_BYTES_MAX + FRAME_BYTES_LIMIT;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A frame of the caller, class data.
    Data = 1,
    /// A frame of the caller, class control.
    Control = 2,
    /// Credits: a list of runs in place of a frame.
    Credits = 3,
    /// The sender wishes for a larger window.
    Want = 4,
    /// Pages granted (on a stream; over shared memory the grant comes with its file).
    Grant = 5,
    /// A grant of a named window has been taken, so that its pages may be named.
    Taken = 6,
}

impl Kind {
    const fn from_wire(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Data,
            2 => Self::Control,
            3 => Self::Credits,
            4 => Self::Want,
            5 => Self::Grant,
            6 => Self::Taken,
            _ => return None,
        })
    }
}

impl From<Class> for Kind {
    fn from(class: Class) -> Self {
        match class {
            Class::Data => Self::Data,
            Class::Control => Self::Control,
        }
    }
}

/// The first 8 bytes of a record.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct Header {
    /// Bytes of the whole record without the padding behind it.
    length: U32,
    kind: u8,
    /// Number of placements.
    payloads: u8,
    reserved: U16,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// A run of pages on the wire.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct WireRun {
    page: U32,
    pages: U16,
    reserved: U16,
}

const _: () = assert!(size_of::<WireRun>() == PLACEMENT_BYTES);

/// Pages on the wire: the body of `Grant`, `Taken` and `Want` records and of the notice that
/// carries a file.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct WireGrant {
    page: U32,
    pages: U32,
}

/// The body of a `Grant` over RDMA: where the pages are comes along.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct WirePlacedGrant {
    grant: WireGrant,
    place: WirePlace,
}

impl WirePlacedGrant {
    pub(crate) fn new(page: u32, pages: u32, place: Place) -> Self {
        let Place { address, rkey } = place;
        let place =
            WirePlace { address: address.into(), rkey: rkey.into(), ..WirePlace::default() };
        Self { grant: WireGrant::new(page, pages), place }
    }

    pub(crate) fn parse(body: &[u8]) -> Result<((u32, u32), Place), Violation> {
        let body = Self::read_from_bytes(body).map_err(|_| Violation::FrameMalformed)?;
        let WirePlace { address, rkey, reserved } = body.place;
        if reserved != U32::ZERO {
            return Err(Violation::FrameMalformed);
        }
        let place = Place { address: address.get(), rkey: rkey.get() };
        Ok(((body.grant.page.get(), body.grant.pages.get()), place))
    }
}

impl WireGrant {
    pub(crate) fn new(page: u32, pages: u32) -> Self {
        Self { page: U32::new(page), pages: U32::new(pages) }
    }

    pub(crate) fn parse(body: &[u8]) -> Result<(u32, u32), Violation> {
        let grant = Self::read_from_bytes(body).map_err(|_| Violation::FrameMalformed)?;
        Ok((grant.page.get(), grant.pages.get()))
    }
}

impl WireRun {
    pub(crate) fn new(page: u32, pages: u32) -> Self {
        debug_assert!(pages <= PLACEMENT_PAGES_MAX);
        Self { page: U32::new(page), pages: U16::new(pages as u16), reserved: U16::ZERO }
    }

    fn parse(self) -> Result<Placement, Violation> {
        if self.reserved != U16::ZERO {
            return Err(Violation::FrameMalformed);
        }
        let (page, pages) = (self.page.get(), u32::from(self.pages.get()));
        Placement::named(page, pages).ok_or(Violation::Placement { page, pages })
    }
}

impl Header {
    /// The header of a record with `payloads` placements and `body` bytes behind them.
    pub(crate) fn new(kind: Kind, payloads: usize, body: usize) -> Self {
        debug_assert!(payloads <= PAYLOADS_MAX);
        let length = HEADER_BYTES + payloads * PLACEMENT_BYTES + body;
        Self {
            length: U32::new(length as u32),
            kind: kind as u8,
            payloads: payloads as u8,
            reserved: U16::ZERO,
        }
    }

    /// Reads a header whose record may have at most `bytes_max` bytes.
    pub(crate) fn parse(bytes: [u8; HEADER_BYTES], bytes_max: usize) -> Result<Self, Violation> {
        let header: Self = zerocopy::transmute!(bytes);
        let length = header.length.get();
        let least = HEADER_BYTES + usize::from(header.payloads) * PLACEMENT_BYTES;
        if (length as usize) < least || length as usize > bytes_max {
            return Err(Violation::FrameLength { bytes: length });
        }
        if usize::from(header.payloads) > PAYLOADS_MAX || header.reserved != U16::ZERO {
            return Err(Violation::FrameMalformed);
        }
        if Kind::from_wire(header.kind).is_none() {
            return Err(Violation::FrameKind { kind: header.kind });
        }
        Ok(header)
    }

    /// Bytes of the record without its padding.
    pub(crate) fn length(self) -> u32 {
        self.length.get()
    }

    /// Bytes of the record with its padding.
    pub(crate) fn padded(self) -> usize {
        padded(self.length.get() as usize)
    }

    /// Number of placements.
    pub(crate) fn payloads(self) -> usize {
        usize::from(self.payloads)
    }
}

/// `bytes` rounded up to the alignment of records.
pub(crate) const fn padded(bytes: usize) -> usize {
    (bytes + 7) & !7
}

/// The bytes that a record with `payloads` placements and `body` bytes takes.
pub(crate) const fn record_bytes(payloads: usize, body: usize) -> usize {
    padded(HEADER_BYTES + payloads * PLACEMENT_BYTES + body)
}

/// A parsed record, still naming places that nobody has checked against a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    placements: &'a [WireRun],
    pub(crate) body: &'a [u8],
    /// Bytes up to the next record.
    pub(crate) padded: usize,
}

impl<'a> Record<'a> {
    /// Parses the record at the start of `bytes`, of at most `bytes_max` bytes.
    pub(crate) fn parse(bytes: &'a [u8], bytes_max: usize) -> Result<Self, Violation> {
        let short = Violation::FrameLength { bytes: bytes.len() as u32 };
        let head = *bytes.first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let header = Header::parse(head, bytes_max)?;
        let length = header.length.get();
        if bytes.len() < header.padded() {
            return Err(Violation::FrameLength { bytes: length });
        }
        let (places, body) =
            bytes[HEADER_BYTES..length as usize].split_at(header.payloads() * PLACEMENT_BYTES);
        let placements =
            <[WireRun]>::ref_from_bytes(places).map_err(|_| Violation::FrameMalformed)?;
        let kind =
            Kind::from_wire(header.kind).ok_or(Violation::FrameKind { kind: header.kind })?;
        if !matches!(kind, Kind::Data | Kind::Control) && !placements.is_empty() {
            return Err(Violation::FrameMalformed);
        }
        Ok(Self { kind, placements, body, padded: header.padded() })
    }

    /// The placements, each of 1 to [`PLACEMENT_PAGES_MAX`] pages.
    pub(crate) fn placements(&self) -> impl Iterator<Item = Result<Placement, Violation>> + 'a {
        self.placements.iter().map(|run| run.parse())
    }

    /// Number of placements.
    pub(crate) fn payloads(&self) -> usize {
        self.placements.len()
    }

    /// The runs of a credit record.
    pub(crate) fn credits(
        &self,
    ) -> Result<impl Iterator<Item = Result<Placement, Violation>> + 'a, Violation> {
        let runs = <[WireRun]>::ref_from_bytes(self.body).map_err(|_| Violation::FrameMalformed)?;
        if runs.len() > CREDIT_RUNS_MAX {
            return Err(Violation::FrameMalformed);
        }
        Ok(runs.iter().map(|run| run.parse()))
    }
}

/// The body of one credit record being filled.
pub(crate) type CreditRuns = ArrayVec<WireRun, CREDIT_RUNS_MAX>;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, places: &[(u32, u32)], body: &[u8]) -> Vec<u8> {
        let mut bytes = Header::new(kind, places.len(), body.len()).as_bytes().to_vec();
        for (page, pages) in places {
            bytes.extend_from_slice(WireRun::new(*page, *pages).as_bytes());
        }
        bytes.extend_from_slice(body);
        bytes.resize(padded(bytes.len()), 0);
        bytes
    }

    #[test]
    fn bytes_are_fixed() {
        let bytes = record(Kind::Control, &[(0x0102_0304, 5)], b"frame");
        assert_eq!(
            bytes,
            [
                21, 0, 0, 0, 2, 1, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0, b'f', b'r', b'a', b'm', b'e', 0,
                0, 0
            ]
        );
    }

    #[test]
    fn parses_what_it_emits() {
        let bytes = record(Kind::Data, &[(7, 1), (9, 256)], b"hello");
        let parsed = Record::parse(&bytes, 4096).expect("well-formed");
        assert_eq!(parsed.kind, Kind::Data);
        assert_eq!(parsed.body, b"hello");
        assert_eq!(parsed.padded, bytes.len());
        let places: Vec<_> = parsed.placements().map(|place| place.expect("in range")).collect();
        assert_eq!(
            places,
            [Placement::named(7, 1).expect("1"), Placement::named(9, 256).expect("256")]
        );
    }

    #[test]
    fn refuses_lies() {
        let good = record(Kind::Data, &[(7, 1)], b"hello");
        for (at, value) in [(0, 3), (0, 255), (3, 1), (4, 0), (4, 9), (5, 65), (5, 255), (6, 1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(Record::parse(&bytes, 4096).is_err(), "byte {at} = {value}");
        }
        assert!(Record::parse(&good, 20).is_err(), "longer than allowed");
        assert!(Record::parse(&good[..16], 4096).is_err(), "cut off");
        assert!(Record::parse(&good[..3], 4096).is_err(), "cut off in the header");
        for empty in [(7, 0), (7, 257)] {
            let mut bytes = good.clone();
            bytes[8..16].copy_from_slice(&[
                empty.0,
                0,
                0,
                0,
                empty.1 as u8,
                (empty.1 >> 8) as u8,
                0,
                0,
            ]);
            let parsed = Record::parse(&bytes, 4096).expect("the envelope is fine");
            assert!(parsed.placements().next().expect("one").is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok(parsed) = Record::parse(&bytes, 4096) {
                proptest::prop_assert!(parsed.padded <= bytes.len());
                parsed.placements().for_each(|_| ());
                if let Ok(runs) = parsed.credits() {
                    runs.for_each(|_| ());
                }
            }
        }
    }
}
