//! The image: pinned bytes, round trips, damage.

use proptest::prelude::*;

use crate::copyset::image::ImageError;
use crate::copyset::session::Session;
use crate::copyset::*;
use crate::ids::RequestNumber;

fn sample() -> CopysetState {
    let mut state = CopysetState::new(CopysetId(0x0a0b), 0x0c0d);
    state.applied = LogIndex(0x1122);
    state.term = Term(3);
    state.epoch = Epoch(5);
    for (id, numbers) in [(0x77, 1..4), (0x1101, 2000..2003)] {
        let mut session = Session::new(SessionId(id), [id as u8; 16]);
        for number in numbers {
            session.note(RequestNumber(number));
        }
        state.sessions.open(session);
    }
    state
}

fn encode(state: &CopysetState) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.encode(&mut bytes);
    assert_eq!(bytes.len(), state.image_bytes());
    bytes
}

#[test]
fn bytes_are_pinned() {
    let bytes = encode(&sample());
    assert_eq!(bytes.len(), 64 + 2 * 160);
    assert_eq!(&bytes[..16], [b'C', b'S', b'I', b'M', 1, 0, 0, 0, 0x80, 1, 0, 0, 11, 10, 0, 0]);
    assert_eq!(&bytes[16..32], [13, 12, 0, 0, 0, 0, 0, 0, 0x22, 0x11, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[32..48], [3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[48..64], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[64..72], [0x77, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[72..88], [0x77; 16]);
    assert_eq!(&bytes[88..98], [3, 0, 0, 0, 0, 0, 0, 0, 0x0e, 0]);
    let second = &bytes[64 + 160..];
    assert_eq!(&second[24..32], [0xd2, 7, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&second[32 + 121..32 + 124], [0, 0x07, 0]);
}

#[test]
fn what_is_parsed_is_what_was_encoded() {
    let state = sample();
    let parsed = CopysetState::parse(&encode(&state)).expect("own image");
    assert_eq!(encode(&parsed), encode(&state));
    assert_eq!((parsed.applied(), parsed.applied_term()), (LogIndex(0x1122), Term(3)));
    assert_eq!(
        (parsed.id(), parsed.quota(), parsed.epoch()),
        (CopysetId(0x0a0b), 0x0c0d, Epoch(5))
    );
    assert_eq!(parsed.client(SessionId(0x77)), Some([0x77; 16]));
    let new = CopysetState::new(CopysetId(1), 0);
    assert_eq!(encode(&CopysetState::parse(&encode(&new)).expect("own image")), encode(&new));
}

#[test]
fn cut_images_are_refused() {
    let bytes = encode(&sample());
    for length in (0..80).chain(200..250).chain(bytes.len() - 20..bytes.len()) {
        assert!(
            matches!(CopysetState::parse(&bytes[..length]), Err(ImageError::Length)),
            "{length}"
        );
    }
}

#[test]
fn impossible_sessions_are_refused() {
    let good = encode(&sample());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        CopysetState::parse(&bytes).map(|_| ())
    };
    let field = |name| Err(ImageError::Field(name));
    assert_eq!(with(64 + 160, 0), Ok(()));
    assert_eq!(with(64 + 160 + 1, 0x12), field("session"), "it is above the applied index");
    assert_eq!(with(64, 0), field("session"));
    assert_eq!(with(64 + 32, 0x06), field("effects"), "the highest number has none");
    assert_eq!(with(64 + 32, 0x0f), field("effects"), "number zero has one");
    assert_eq!(with(64 + 32, 0x1e), field("effects"), "a number above the highest has one");
    assert_eq!(with(6, 1), field("reserved"));
    assert_eq!(with(4, 2), field("magic"));
}

proptest! {
    #[test]
    fn only_images_are_parsed(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..=255), 1..4),
        in_header in any::<bool>(),
    ) {
        let mut bytes = encode(&sample());
        for (at, bits) in flips {
            let at = at.index(if in_header { 100 } else { bytes.len() });
            bytes[at] ^= bits;
        }
        if let Ok(state) = CopysetState::parse(&bytes) {
            prop_assert_eq!(encode(&state), bytes);
        }
    }
}
