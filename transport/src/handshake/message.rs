//! The messages of the handshake. Byte map: `docs/format/transport.md`.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::config::{QUEUE_BYTES_LIMIT, QUEUE_BYTES_MIN, WINDOW_PAGES_LIMIT};
use crate::{Identity, PeerKind, Refusal, WindowMode};

/// The version of the protocol: of every byte that a transport sends.
pub(crate) const VERSION: u16 = 1;

/// The first bytes of every message.
pub(crate) const MAGIC: [u8; 8] = *b"CULVERT\0";

/// Bytes of a [`Hello`].
pub(crate) const HELLO_BYTES: usize = size_of::<Hello>();

/// Bytes of a [`Confirm`].
pub(crate) const CONFIRM_BYTES: usize = size_of::<Confirm>();

/// The bit of [`Hello::flags`] that says that a key is required.
const FLAG_KEYED: u16 = 1;

/// The beginning of every message, the same in every version.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct Preamble {
    magic: [u8; 8],
    version: U16,
    /// 0, or the number of a [`Refusal`].
    status: U16,
}

/// Bytes of a [`Preamble`].
pub(crate) const PREAMBLE_BYTES: usize = size_of::<Preamble>();

/// The first message of each side.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct Hello {
    preamble: Preamble,
    kind: u8,
    window_mode: u8,
    flags: U16,
    node: [u8; 16],
    endpoint: U32,
    frame_bytes_max: U32,
    data_queue_bytes: U32,
    control_queue_bytes: U32,
    window_pages_max: U32,
    reserved: [u8; 12],
    nonce: [u8; 32],
}

/// A Hello in the 56 bytes that a connection request over RDMA has room for. Its nonce has 16 bytes,
/// behind which the Hello that it stands for has zeroes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct ShortHello {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    window_mode: u8,
    flags: u8,
    data_queue_log2: u8,
    control_queue_log2: u8,
    reserved: u8,
    endpoint: U32,
    frame_bytes_max: U32,
    window_pages_max: U32,
    node: [u8; 16],
    nonce: [u8; SHORT_NONCE_BYTES],
}

/// Bytes of a [`ShortHello`].
pub(crate) const SHORT_HELLO_BYTES: usize = size_of::<ShortHello>();

/// Random bytes of a nonce that fits a [`ShortHello`].
pub(crate) const SHORT_NONCE_BYTES: usize = 16;

/// The first bytes of a [`ShortHello`].
const SHORT_MAGIC: [u8; 4] = *b"CLVT";

/// The second message of each side.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct Confirm {
    preamble: Preamble,
    /// Pages of the first segment of the sender's window; 0 when it has none yet.
    window_pages: U32,
    /// Where that segment is for whoever writes it over RDMA; elsewhere zero.
    place: WirePlace,
    proof: [u8; 32],
}

/// An address of ours and the key that lets the peer write there.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub(crate) struct WirePlace {
    pub(crate) address: U64,
    pub(crate) rkey: U32,
    pub(crate) reserved: U32,
}

const _: () = assert!(PREAMBLE_BYTES == 12);
const _: () = assert!(HELLO_BYTES == 96);
const _: () = assert!(SHORT_HELLO_BYTES == 56);
const _: () = assert!(CONFIRM_BYTES == 64);

/// What one side says of itself, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) identity: Identity,
    pub(crate) window_mode: WindowMode,
    /// Whether this side holds a key and requires the other to prove it.
    pub(crate) keyed: bool,
    pub(crate) frame_bytes_max: u32,
    pub(crate) data_queue_bytes: u32,
    pub(crate) control_queue_bytes: u32,
    pub(crate) window_pages_max: u32,
}

impl Preamble {
    fn new(refusal: Option<Refusal>) -> Self {
        let status = refusal.map_or(0, |refusal| refusal as u16);
        Self { magic: MAGIC, version: U16::new(VERSION), status: U16::new(status) }
    }

    /// Reads the beginning of a message: `Err` with what is wrong with it here, `Ok(Some)` with the
    /// peer's refusal.
    pub(crate) fn parse(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Option<Refusal>, Refusal> {
        let preamble: Self = zerocopy::transmute!(*bytes);
        if preamble.magic != MAGIC {
            return Err(Refusal::NotThisProtocol);
        }
        let refusal = Refusal::from_wire(preamble.status.get());
        if preamble.version.get() != VERSION && refusal.is_none() {
            return Err(Refusal::Version);
        }
        Ok(refusal)
    }
}

impl Hello {
    pub(crate) fn new(me: &Introduction, nonce: [u8; 32]) -> Self {
        Self {
            preamble: Preamble::new(None),
            kind: me.identity.kind as u8,
            window_mode: me.window_mode as u8,
            flags: U16::new(if me.keyed { FLAG_KEYED } else { 0 }),
            node: *me.identity.node.as_bytes(),
            endpoint: U32::new(me.identity.endpoint),
            frame_bytes_max: U32::new(me.frame_bytes_max),
            data_queue_bytes: U32::new(me.data_queue_bytes),
            control_queue_bytes: U32::new(me.control_queue_bytes),
            window_pages_max: U32::new(me.window_pages_max),
            reserved: [0; 12],
            nonce,
        }
    }

    /// The short form, of a Hello whose nonce is short.
    pub(crate) fn shorten(&self) -> ShortHello {
        let (nonce, rest) = self.nonce.split_first_chunk().expect("a nonce is longer");
        debug_assert!(rest.iter().all(|byte| *byte == 0), "the nonce is a short one");
        let log2 = |bytes: U32| bytes.get().ilog2() as u8;
        ShortHello {
            magic: SHORT_MAGIC,
            version: self.preamble.version,
            kind: self.kind,
            window_mode: self.window_mode,
            flags: self.flags.get() as u8,
            data_queue_log2: log2(self.data_queue_bytes),
            control_queue_log2: log2(self.control_queue_bytes),
            reserved: 0,
            endpoint: self.endpoint,
            frame_bytes_max: self.frame_bytes_max,
            window_pages_max: self.window_pages_max,
            node: self.node,
            nonce: *nonce,
        }
    }

    /// The Hello that a short one stands for; what is wrong with its fields is found out later.
    pub(crate) fn lengthen(bytes: &[u8]) -> Result<Self, Refusal> {
        let short = ShortHello::read_from_prefix(bytes);
        let (short, _) = short.map_err(|_| Refusal::NotThisProtocol)?;
        if short.magic != SHORT_MAGIC {
            return Err(Refusal::NotThisProtocol);
        }
        let bytes = |log2: u8| U32::new(1_u32.checked_shl(log2.into()).unwrap_or(0));
        if short.version.get() == VERSION && short.reserved != 0 {
            return Err(Refusal::Malformed);
        }
        let mut nonce = [0; 32];
        nonce[..SHORT_NONCE_BYTES].copy_from_slice(&short.nonce);
        let preamble = Preamble { magic: MAGIC, version: short.version, status: U16::ZERO };
        Ok(Self {
            preamble,
            kind: short.kind,
            window_mode: short.window_mode,
            flags: U16::new(short.flags.into()),
            node: short.node,
            endpoint: short.endpoint,
            frame_bytes_max: short.frame_bytes_max,
            data_queue_bytes: bytes(short.data_queue_log2),
            control_queue_bytes: bytes(short.control_queue_log2),
            window_pages_max: short.window_pages_max,
            reserved: [0; 12],
            nonce,
        })
    }

    /// A Hello that says no and nothing else.
    pub(crate) fn refusal(refusal: Refusal) -> Self {
        let mut hello = Self::new_zeroed_hello();
        hello.preamble = Preamble::new(Some(refusal));
        hello
    }

    fn new_zeroed_hello() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }

    /// Checks a Hello whose preamble has been checked.
    pub(crate) fn introduction(&self) -> Result<Introduction, Refusal> {
        let kind = match self.kind {
            1 => PeerKind::Node,
            2 => PeerKind::Client,
            _ => return Err(Refusal::Malformed),
        };
        let window_mode = match self.window_mode {
            1 => WindowMode::Granted,
            2 => WindowMode::Named,
            _ => return Err(Refusal::Malformed),
        };
        let queue_fits = |bytes: u32| {
            bytes.is_power_of_two()
                && (QUEUE_BYTES_MIN..=QUEUE_BYTES_LIMIT).contains(&(bytes as usize))
        };
        let introduction = Introduction {
            identity: Identity {
                node: Uuid::from_bytes(self.node),
                kind,
                endpoint: self.endpoint.get(),
            },
            window_mode,
            keyed: self.flags.get() & FLAG_KEYED != 0,
            frame_bytes_max: self.frame_bytes_max.get(),
            data_queue_bytes: self.data_queue_bytes.get(),
            control_queue_bytes: self.control_queue_bytes.get(),
            window_pages_max: self.window_pages_max.get(),
        };
        let sensible = self.flags.get() & !FLAG_KEYED == 0
            && self.reserved == [0; 12]
            && queue_fits(introduction.data_queue_bytes)
            && queue_fits(introduction.control_queue_bytes)
            && introduction.frame_bytes_max >= 64
            && introduction.window_pages_max <= WINDOW_PAGES_LIMIT;
        if sensible { Ok(introduction) } else { Err(Refusal::Malformed) }
    }
}

impl Confirm {
    pub(crate) fn new(window_pages: u32, place: WirePlace, proof: [u8; 32]) -> Self {
        Self { preamble: Preamble::new(None), window_pages: U32::new(window_pages), place, proof }
    }

    /// A Confirm that says no and nothing else.
    pub(crate) fn refusal(refusal: Refusal) -> Self {
        let mut confirm = Self::new(0, WirePlace::default(), [0; 32]);
        confirm.preamble = Preamble::new(Some(refusal));
        confirm
    }

    /// The pages of the first segment, where that is, and the proof.
    pub(crate) fn content(&self) -> Result<(u32, WirePlace, [u8; 32]), Refusal> {
        if self.place.reserved != U32::ZERO {
            return Err(Refusal::Malformed);
        }
        Ok((self.window_pages.get(), self.place, self.proof))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn introduction() -> Introduction {
        Introduction {
            identity: Identity {
                node: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
                kind: PeerKind::Client,
                endpoint: 3,
            },
            window_mode: WindowMode::Named,
            keyed: true,
            frame_bytes_max: 8192,
            data_queue_bytes: 65536,
            control_queue_bytes: 8192,
            window_pages_max: 1024,
        }
    }

    #[test]
    fn hello_bytes_are_fixed() {
        let hello = Hello::new(&introduction(), [0x5a; 32]);
        let mut expected = Vec::new();
        expected.extend_from_slice(b"CULVERT\0");
        expected.extend_from_slice(&[1, 0, 0, 0]);
        expected.extend_from_slice(&[2, 2, 1, 0]);
        expected.extend_from_slice(&[0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]);
        expected.extend_from_slice(&[0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
        expected
            .extend_from_slice(&[3, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0x20, 0, 0, 0, 4, 0, 0]);
        expected.extend_from_slice(&[0; 12]);
        expected.extend_from_slice(&[0x5a; 32]);
        assert_eq!(hello.as_bytes(), expected);
        assert_eq!(hello.introduction(), Ok(introduction()));
    }

    #[test]
    fn confirm_bytes_are_fixed() {
        let confirm = Confirm::new(8, WirePlace::default(), [0xa5; 32]);
        let mut expected = Vec::new();
        expected.extend_from_slice(b"CULVERT\0");
        expected.extend_from_slice(&[1, 0, 0, 0, 8, 0, 0, 0]);
        expected.extend_from_slice(&[0; 16]);
        expected.extend_from_slice(&[0xa5; 32]);
        assert_eq!(confirm.as_bytes(), expected);
        assert_eq!(confirm.content(), Ok((8, WirePlace::default(), [0xa5; 32])));
    }

    #[test]
    fn a_short_hello_stands_for_a_whole_one() {
        let mut nonce = [0; 32];
        nonce[..SHORT_NONCE_BYTES].fill(0x5a);
        let hello = Hello::new(&introduction(), nonce);
        let short = hello.shorten();
        let mut expected = b"CLVT".to_vec();
        expected.extend_from_slice(&[1, 0, 2, 2, 1, 16, 13, 0, 3, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0x20, 0, 0, 0, 4, 0, 0]);
        expected.extend_from_slice(introduction().identity.node.as_bytes());
        expected.extend_from_slice(&[0x5a; 16]);
        assert_eq!(short.as_bytes(), expected);
        expected.push(0);
        assert_eq!(Hello::lengthen(&expected), Ok(hello), "private data is filled up");
        for (at, value) in [(0, b'c'), (11, 1)] {
            let mut other = expected.clone();
            other[at] = value;
            assert!(Hello::lengthen(&other).is_err(), "byte {at}");
        }
        assert!(Hello::lengthen(&expected[..55]).is_err());
        let mut other = expected.clone();
        other[9] = 200;
        let hello = Hello::lengthen(&other).expect("looked at later");
        assert_eq!(hello.introduction(), Err(Refusal::Malformed));
    }

    #[test]
    fn preamble_tells_refusals_apart() {
        let parse = |bytes: &[u8]| Preamble::parse(bytes.first_chunk().expect("long enough"));
        assert_eq!(parse(Hello::new(&introduction(), [0; 32]).as_bytes()), Ok(None));
        assert_eq!(
            parse(Hello::refusal(Refusal::WrongKey).as_bytes()),
            Ok(Some(Refusal::WrongKey))
        );
        assert_eq!(parse(b"GET / HTTP/1.1"), Err(Refusal::NotThisProtocol));
        let mut newer = Hello::new(&introduction(), [0; 32]);
        newer.preamble.version = U16::new(2);
        assert_eq!(parse(newer.as_bytes()), Err(Refusal::Version));
        let mut refusal = Hello::refusal(Refusal::Version);
        refusal.preamble.version = U16::new(2);
        assert_eq!(
            parse(refusal.as_bytes()),
            Ok(Some(Refusal::Version)),
            "a refusal is understood from any version"
        );
    }

    #[test]
    fn senseless_fields_are_refused() {
        let good = Hello::new(&introduction(), [0; 32]);
        for (at, value) in [
            (12, 0),
            (12, 3),
            (13, 0),
            (13, 3),
            (14, 2),
            (15, 1),
            (37, 0),
            (40, 1),
            (44, 1),
            (50, 2),
            (55, 1),
        ] {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] = value;
            let hello = Hello::read_from_bytes(&bytes).expect("its size");
            assert_eq!(hello.introduction(), Err(Refusal::Malformed), "byte {at} = {value}");
        }
    }
}
