//! The image of a copyset's state, from a checkpoint or from a peer.

use culvert::copyset::CopysetState;
use culvert::ids::CopysetId;

use crate::set;

/// Looks at any bytes as an image.
pub fn run(bytes: &[u8]) {
    look(bytes);
    let mut bytes = bytes.to_vec();
    let mut right = Vec::new();
    CopysetState::new(CopysetId(0), 0).encode(&mut right);
    let length = (bytes.len() as u32).to_le_bytes();
    set(&mut bytes, 0, &right[..8]);
    set(&mut bytes, 8, &length);
    look(&bytes);
}

fn look(bytes: &[u8]) {
    let Ok(state) = CopysetState::parse(bytes) else { return };
    assert_eq!(state.image_bytes(), bytes.len());
    let mut out = Vec::new();
    state.encode(&mut out);
    assert_eq!(out, bytes);
}

/// An empty state, and one with two sessions.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut empty = Vec::new();
    CopysetState::new(CopysetId(3), 64).encode(&mut empty);
    let session = |id: u64, client: u8| {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[client; 16]);
        // Numbers 1 and 2 took effect.
        bytes.extend_from_slice(&2_u64.to_le_bytes());
        bytes.push(0b110);
        bytes.resize(culvert::copyset::SESSION_IMAGE_BYTES, 0);
        bytes
    };
    let mut full = empty.clone();
    full.extend(session(4, 1));
    full.extend(session(6, 2));
    let length = (full.len() as u32).to_le_bytes();
    set(&mut full, 8, &length);
    set(&mut full, 24, &9_u64.to_le_bytes());
    set(&mut full, 48, &2_u32.to_le_bytes());
    assert!(CopysetState::parse(&full).is_ok(), "a seed is right");
    vec![empty, full]
}
