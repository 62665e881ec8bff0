//! Chunk images: pinned bytes, round trips, damage.

use proptest::prelude::*;

use super::*;

/// All pieces of a chunk's image and of the absences, each of at most `limit` bytes.
fn pieces(store: &mut Store, chunk: u64, limit: usize) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut out = vec![0; limit];
    if let Ok(frozen) = store.freeze(key(chunk)) {
        let mut from = Some(0);
        while let Some(block) = from {
            let encoded = store.encode_chunk(frozen, LogIndex(0), block, &mut out);
            pieces.push(out[..encoded.bytes].to_vec());
            from = encoded.next;
        }
        store.thaw(frozen);
    }
    let mut after = None;
    loop {
        let encoded = store.encode_absences(COPYSET, after, &mut out);
        if encoded.bytes > 0 {
            pieces.push(out[..encoded.bytes].to_vec());
        }
        after = encoded.next;
        if after.is_none() {
            return pieces;
        }
    }
}

fn load(geometry: Geometry, pieces: &[Vec<u8>]) -> Result<Store, ImageError> {
    let mut store = Store::recovering(geometry);
    for piece in pieces {
        store.load(piece)?;
    }
    Ok(store)
}

/// A chunk with two leaves of entries, a hole in them, a missing block, and two deletions.
fn sample() -> Store {
    let mut store = Store::new(geometry(2000, 1500));
    write(&mut store, key(5), 0x0102, range(3, 2));
    write(&mut store, key(5), 0x0304, range(1024, 1));
    store.discard(key(5), LogIndex(0x0506), range(3, 1));
    let missing = [Extent { start: MISSING, blocks: 1 }];
    store.write(key(5), LogIndex(0x0607), range(1499, 1), &missing, [0xabcd].into_iter());
    write(&mut store, key(6), 0x0701, range(0, 1));
    store.delete(key(6), LogIndex(0x0702));
    store.retain_chunks(COPYSET, LogIndex(0x0800), &[ChunkId(5), ChunkId(8)]);
    store
}

#[test]
fn bytes_are_pinned() {
    let pieces = pieces(&mut sample(), 5, PIECE_BYTES_MIN);
    assert_eq!(pieces.len(), 2);
    let chunk = &pieces[0];
    assert_eq!(chunk.len(), 64 + 2 * (8 + 2 * 2 + 2 * 14));
    assert_eq!(&chunk[..12], [b'C', b'K', b'I', b'M', 1, 3, 2, 0, 144, 0, 0, 0]);
    assert_eq!(&chunk[12..24], [7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&chunk[24..40], [2, 1, 0, 0, 0, 0, 0, 0, 7, 6, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&chunk[40..52], [0xdc, 5, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(chunk[52..64], [0; 12]);
    // Leaf 0: block 3, a hole; block 4, at 1 of the data space.
    assert_eq!(&chunk[64..76], [0, 0, 0, 0, 2, 0, 1, 0, 3, 0, 4, 0]);
    assert_eq!(&chunk[76..90], [0, 0, 0, 0, 0, 0, 0, 0, 6, 5, 0, 0, 0, 0]);
    assert_eq!(&chunk[90..104], [2, 0, 0, 0, 4, 0x20, 0x10, 0, 2, 1, 0, 0, 0, 0]);
    // Leaf 2: block 0 at 2; block 475, missing.
    assert_eq!(&chunk[104..116], [2, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0xdb, 1]);
    assert_eq!(&chunk[116..130], [3, 0, 0, 0, 0, 0x44, 0x30, 0, 4, 3, 0, 0, 0, 0]);
    assert_eq!(&chunk[130..], [255, 255, 255, 255, 0xcd, 0xab, 0, 0, 7, 6, 0, 0, 0, 0]);

    let absences = &pieces[1];
    assert_eq!(absences.len(), 64 + 3 * 16);
    assert_eq!(&absences[4..12], [2, 0, 2, 0, 112, 0, 0, 0]);
    assert_eq!(&absences[32..40], [0, 8, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&absences[44..48], [3, 0, 0, 0]);
    assert_eq!(&absences[64..80], [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(&absences[80..96], [6, 0, 0, 0, 0, 0, 0, 0, 2, 7, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn many_blocks_of_a_leaf_are_a_bitmap() {
    let mut store = Store::new(geometry(2000, 1500));
    write(&mut store, key(5), 1, range(512 + 7, 31));
    let few = pieces(&mut store, 5, PIECE_BYTES_MIN);
    assert_eq!(few[0].len(), 64 + 8 + 31 * (2 + 14));
    write(&mut store, key(5), 2, range(512 + 300, 1));
    let mut many = pieces(&mut store, 5, PIECE_BYTES_MIN);
    assert_eq!(many[0].len(), 64 + 8 + 64 + 32 * 14);
    assert_eq!(&many[0][64..78], [1, 0, 0, 0, 32, 0, 0, 0, 0x80, 255, 255, 255, 0x3f, 0]);
    assert_eq!(many[0][72 + 37], 0b1_0000);
    // The version before was the same, but that all sections were so.
    many[0][6] = 1;
    let loaded = load(store.geometry(), &many).expect("own image");
    assert_eq!(loaded.chunk(key(5)), store.chunk(key(5)));
    for first in (0..1500).step_by(30) {
        let range = range(first, 30);
        assert_eq!(states(&loaded, key(5), range), states(&store, key(5), range));
    }
}

#[test]
fn lists_that_name_no_block_of_their_leaf_are_refused() {
    let mut store = Store::new(geometry(2000, 1500));
    write(&mut store, key(5), 1, range(7, 2));
    let own = pieces(&mut store, 5, PIECE_BYTES_MIN);
    let with = |at: usize, bytes: [u8; 2]| {
        let mut pieces = own.clone();
        pieces[0][at..at + 2].copy_from_slice(&bytes);
        load(store.geometry(), &pieces).map(|_| ())
    };
    assert_eq!(with(72, [6, 0]), Ok(()));
    assert_eq!(with(74, [7, 0]), Err(ImageError::Field("present")), "twice");
    assert_eq!(with(74, [6, 0]), Err(ImageError::Field("present")), "descending");
    assert_eq!(with(74, [0, 2]), Err(ImageError::Field("present")), "the next leaf's");
    assert_eq!(with(70, [2, 0]), Err(ImageError::Field("form")));
}

#[test]
fn what_is_loaded_is_what_was_written() {
    let mut store = sample();
    let pieces = pieces(&mut store, 5, PIECE_BYTES_MIN);
    let mut loaded = load(store.geometry(), &pieces).expect("own image");
    assert_eq!(loaded.chunk(key(5)), store.chunk(key(5)));
    for first in (0..1500).step_by(30) {
        let range = range(first, 30);
        assert_eq!(states(&loaded, key(5), range), states(&store, key(5), range));
    }
    for (chunk, index) in [(6, 0x0702), (6, 0x0801), (8, 1), (9, 0x0800), (9, 0x0801)] {
        let index = LogIndex(index);
        assert_eq!(loaded.covers(key(chunk), index), store.covers(key(chunk), index));
    }
    assert_eq!(loaded.mapped_blocks(COPYSET), 3);
    loaded.finish_recovery([], &[]).expect("sound");
    assert_eq!(loaded.statistics().free_blocks, 2000 - 2);
}

#[test]
fn a_large_chunk_goes_in_pieces_at_one_index() {
    let mut store = Store::new(geometry(20_000, 16_384));
    for first in (0..16_384).step_by(32) {
        write(&mut store, key(5), u64::from(first + 1), range(first, 32));
    }
    let frozen = store.freeze(key(5)).expect("a chunk");
    let before = store.chunk(key(5));
    let mut out = vec![0; 64 * 1024];
    let mut pieces = Vec::new();
    let mut from = Some(0);
    while let Some(block) = from {
        let encoded = store.encode_chunk(frozen, LogIndex(0), block, &mut out);
        pieces.push(out[..encoded.bytes].to_vec());
        from = encoded.next;
        // The chunk is written to while its image is.
        write(&mut store, key(5), 20_000 + u64::from(block), range(16_000 - block, 1));
    }
    assert_eq!(pieces.len(), 4);
    let loaded = load(store.geometry(), &pieces).expect("own image");
    assert_eq!(loaded.chunk(key(5)), before);
    assert_eq!(states(&loaded, key(5), range(16_000, 1)).expect("a chunk")[0].index.0, 16_001);
}

#[test]
fn pieces_out_of_order_are_refused() {
    let mut store = Store::new(geometry(4000, 2048));
    for first in (0..2048).step_by(32) {
        write(&mut store, key(5), u64::from(first + 1), range(first, 32));
    }
    let own = pieces(&mut store, 5, PIECE_BYTES_MIN);
    assert_eq!(own.len(), 4);
    let order = |order: &[usize]| {
        let pieces: Vec<_> = order.iter().map(|&at| own[at].clone()).collect();
        load(store.geometry(), &pieces).map(|_| ())
    };
    assert_eq!(order(&[0, 1, 2, 3]), Ok(()));
    assert_eq!(order(&[1]), Err(ImageError::Order));
    assert_eq!(order(&[0, 0]), Err(ImageError::Order));
    assert_eq!(order(&[0, 2, 1]), Err(ImageError::Order));
    assert_eq!(order(&[0, 2, 3]), Err(ImageError::Field("mapped")));
    assert_eq!(order(&[0, 1, 2, 3, 0]), Err(ImageError::Order));
    let mut cut = load(store.geometry(), &own[..3]).expect("a beginning");
    assert_eq!(cut.finish_recovery([], &[]), Err(SpaceError::Unfinished(key(5))));
}

#[test]
fn images_that_name_a_block_twice_are_found() {
    let mut store = Store::new(geometry(64, 64));
    write(&mut store, key(5), 1, range(0, 2));
    write(&mut store, key(5), 2, range(2, 2));
    let mut pieces = pieces(&mut store, 5, PIECE_BYTES_MIN);
    // Entry 3 says what entry 1 says.
    let entry = |at: usize| 64 + 8 + 4 * 2 + at * 14;
    pieces[0].copy_within(entry(1)..entry(1) + 4, entry(3));
    let mut loaded = load(store.geometry(), &pieces).expect("each block is possible");
    let user = |block| User::Chunk { key: key(5), block };
    let error = SpaceError::DoubleUse { block: 1, first: user(1), second: user(3) };
    assert_eq!(loaded.finish_recovery([], &[]), Err(error));
}

#[test]
fn a_chunk_deleted_behind_its_capture_is_gone() {
    let mut store = Store::new(geometry(64, 64));
    write(&mut store, key(5), 1, range(0, 2));
    let mut all = pieces(&mut store, 5, PIECE_BYTES_MIN);
    store.delete(key(5), LogIndex(2));
    write(&mut store, key(5), 3, range(0, 1));
    all.extend(pieces(&mut store, 99, PIECE_BYTES_MIN));
    let mut loaded = load(store.geometry(), &all).expect("own image");
    assert_eq!(loaded.chunk(key(5)), None);
    assert!(loaded.covers(key(5), LogIndex(2)));
    loaded.finish_recovery([], &[]).expect("sound");
    assert_eq!(loaded.statistics().free_blocks, 64);
}

#[test]
fn cut_pieces_are_refused() {
    let pieces = pieces(&mut sample(), 5, PIECE_BYTES_MIN);
    for piece in &pieces {
        for length in 0..piece.len() {
            let mut store = Store::recovering(geometry(2000, 1500));
            assert_eq!(store.load(&piece[..length]), Err(ImageError::Length), "{length}");
        }
    }
}

proptest! {
    #[test]
    fn damage_is_an_error_or_another_image(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..=255), 1..4),
        second in any::<bool>(),
    ) {
        let mut pieces = pieces(&mut sample(), 5, PIECE_BYTES_MIN);
        let piece = &mut pieces[usize::from(second)];
        for (at, bits) in flips {
            let at = at.index(piece.len());
            piece[at] ^= bits;
        }
        if let Ok(mut store) = load(geometry(2000, 1500), &pieces) {
            prop_assert!(store.finish_recovery([], &[]).is_ok() || store.space.is_none());
        }
    }

    #[test]
    fn noise_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0_u8..3) {
        if bytes.len() >= 64 {
            let length = bytes.len() as u32;
            bytes[..8].copy_from_slice(&[b'C', b'K', b'I', b'M', kind, 3 * (kind & 1), 1, 0]);
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes[40..44].copy_from_slice(&64_u32.to_le_bytes());
            bytes[52..64].fill(0);
        }
        let mut store = Store::recovering(geometry(64, 64));
        if store.load(&bytes).is_ok() {
            let _ = store.finish_recovery([], &[]);
        }
    }
}
