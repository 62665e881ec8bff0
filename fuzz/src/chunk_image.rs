//! Images of chunks, in pieces, and the free space that they leave.
//!
//! An input is a list of pieces, each behind its length in two bytes.

use culvert::ids::{BlockRange, ChunkId, CopysetId, LogIndex};
use culvert::store::{ChunkKey, Geometry, Loaded, PIECE_BYTES_MIN, Store};

use crate::{set, u16_at};

/// A chunk of three leaves, the last one short.
const CHUNK_BLOCKS: u32 = 1100;
const DATA_BLOCKS: u32 = 500;
const COPYSET: CopysetId = CopysetId(3);

/// Loads any bytes as pieces.
pub fn run(bytes: &[u8]) {
    load(bytes, false);
    load(bytes, true);
}

/// A store that recovers.
pub(crate) fn store() -> Store {
    let geometry =
        Geometry { data_blocks: DATA_BLOCKS, chunk_blocks: CHUNK_BLOCKS, deallocate: false };
    Store::recovering(geometry)
}

fn load(mut bytes: &[u8], repaired: bool) {
    let mut store = store();
    let mut keys = Vec::new();
    while bytes.len() >= 2 {
        let (piece, rest) = bytes[2..].split_at(u16_at(bytes, 0).min(bytes.len() - 2));
        let mut piece = piece.to_vec();
        if repaired {
            repair(&mut piece);
        }
        if piece.is_empty() {
            // The end of the checkpoint, or of an increment; an increment follows.
            if store.loaded().is_err() {
                return;
            }
            store.load_increment();
            bytes = rest;
            continue;
        }
        match store.load(&piece) {
            Ok(Loaded::Chunk(key)) => keys.push(key),
            Ok(Loaded::Part(_) | Loaded::Absences(_)) => {}
            // The store is of no use any more.
            Err(_) => return,
        }
        bytes = rest;
    }
    if store.finish_recovery([], &[]).is_err() {
        return;
    }
    assert_eq!(store.verify([], &[]), Ok(0));
    for key in keys {
        // Absences may have taken it away.
        if store.chunk(key).is_some() {
            assert_same(&mut store, key);
        }
    }
}

/// Asserts that what was loaded is what its image says.
fn assert_same(store: &mut Store, key: ChunkKey) {
    let mut again = self::store();
    for piece in image(store, key) {
        again.load(&piece).expect("an image of our own");
    }
    assert_eq!(again.chunk(key), store.chunk(key));
}

fn image(store: &mut Store, key: ChunkKey) -> Vec<Vec<u8>> {
    let mut out = vec![0; PIECE_BYTES_MIN];
    let mut pieces = Vec::new();
    let frozen = store.freeze(key).expect("a chunk");
    let mut from = Some(0);
    while let Some(block) = from {
        let encoded = store.encode_chunk(frozen, LogIndex(0), block, &mut out);
        pieces.push(out[..encoded.bytes].to_vec());
        from = encoded.next;
    }
    store.thaw(frozen);
    pieces
}

fn repair(piece: &mut [u8]) {
    let length = (piece.len() as u32).to_le_bytes();
    set(piece, 0, b"CKIM");
    set(piece, 6, &1_u16.to_le_bytes());
    set(piece, 8, &length);
    set(piece, 40, &CHUNK_BLOCKS.to_le_bytes());
    set(piece, 60, &[0; 4]);
}

/// Two chunks, one of them in two pieces, and what is known of others that were deleted.
pub(crate) fn pieces() -> Vec<Vec<u8>> {
    let mut store = self::store();
    store.finish_recovery([], &[]).expect("nothing is used");
    let key = |chunk| ChunkKey { copyset: COPYSET, chunk: ChunkId(chunk) };
    let mut index = 1;
    let mut write = |chunk, first| {
        let range = BlockRange { first, blocks: 2 };
        let extents = store.allocate(2).expect("room");
        store.write(key(chunk), LogIndex(index), range, &extents, [7, 8].into_iter());
        index += 1;
    };
    for (chunk, first) in [(5, 3), (5, 1000), (6, 0), (7, 9)] {
        write(chunk, first);
    }
    store.discard(key(5), LogIndex(8), BlockRange { first: 3, blocks: 1 });
    store.delete(key(7), LogIndex(9));
    let mut pieces = image(&mut store, key(5));
    pieces.extend(image(&mut store, key(6)));
    let mut out = vec![0; PIECE_BYTES_MIN];
    let encoded = store.encode_absences(COPYSET, None, &mut out);
    pieces.push(out[..encoded.bytes].to_vec());
    pieces
}

/// The pieces as one input; and with an increment behind them in which nothing has changed.
pub fn seeds() -> Vec<Vec<u8>> {
    let behind_length =
        |piece: &Vec<u8>| [&(piece.len() as u16).to_le_bytes(), &piece[..]].concat();
    let whole = pieces();
    let mut both = whole.clone();
    both.push(Vec::new());
    let (absences, chunks) = whole.split_last().expect("chunks, and absences");
    for chunk in chunks {
        let mut unchanged = chunk[..64].to_vec();
        set(&mut unchanged, 8, &64_u32.to_le_bytes());
        set(&mut unchanged, 44, &0_u32.to_le_bytes());
        // Since what it was applied to.
        set(&mut unchanged, 52, &chunk[32..40]);
        both.push(unchanged);
    }
    both.push(absences.clone());
    [whole, both].map(|pieces| pieces.iter().flat_map(behind_length).collect()).into()
}
