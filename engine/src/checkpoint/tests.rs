use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::device::Salt;
use crate::ids::{BLOCK_SIZE, CopysetId, LogIndex, ReplicaId, Term};
use crate::journal::{HardState, ReplicaIdentity};

fn salt() -> Salt {
    Salt::new(&Uuid::from_u128(3), 5, 1)
}

fn head(copyset: u32) -> CopysetHead {
    CopysetHead {
        copyset: CopysetId(copyset),
        identity: ReplicaIdentity { id: ReplicaId(7), uuid: Uuid::from_u128(8) },
        applied: LogIndex(9),
        in_doubt: copyset == 2,
    }
}

/// Cuts sections into pages, a run of `run_pages` at a time.
fn pages(sections: &[Vec<u8>], run_pages: usize) -> (Vec<u8>, crate::device::CheckpointPlace) {
    write(StreamWriter::new(4, salt()), sections, run_pages)
}

/// The pages that `writer` makes of sections, and the place of the whole stream.
fn write(
    mut writer: StreamWriter,
    sections: &[Vec<u8>],
    run_pages: usize,
) -> (Vec<u8>, crate::device::CheckpointPlace) {
    let before = writer.first_page() as usize * BLOCK_SIZE;
    let mut run = vec![0xcc; run_pages * BLOCK_SIZE];
    let mut all = Vec::new();
    let mut take = |writer: &mut StreamWriter, run: &mut Vec<u8>| {
        assert_eq!(before + all.len(), writer.first_page() as usize * BLOCK_SIZE);
        all.extend_from_slice(&run[..writer.pages() as usize * BLOCK_SIZE]);
        writer.take();
    };
    for section in sections {
        let mut put = 0;
        while put < section.len() {
            put += writer.put(&mut run, &section[put..]);
            if writer.pages() as usize == run_pages {
                take(&mut writer, &mut run);
            }
        }
    }
    writer.finish(&mut run);
    take(&mut writer, &mut run);
    (all, writer.place(1))
}

fn section(kind: SectionKind, body: &[u8]) -> Vec<u8> {
    [&section_head(kind, body.len())[..], body].concat()
}

fn end(copysets: u32, chunks: u32) -> Vec<u8> {
    section(SectionKind::End, &[copysets.to_le_bytes(), chunks.to_le_bytes()].concat())
}

/// What a reader says to pages.
fn read(
    bytes: &[u8],
    place: crate::device::CheckpointPlace,
) -> Result<Vec<Vec<u8>>, CheckpointError> {
    let mut reader = StreamReader::new(place, salt());
    let mut seen = Vec::new();
    for page in bytes.chunks_exact(BLOCK_SIZE) {
        reader.page(page, |section| {
            seen.push(match section {
                Section::Copyset(head, items, image) => {
                    [&head.copyset.0.to_le_bytes()[..], items, image].concat()
                }
                Section::Chunk(piece) => piece.to_vec(),
                Section::End(..) => vec![],
            });
        })?;
    }
    reader.finish()?;
    Ok(seen)
}

#[test]
fn bytes_are_pinned() {
    let mut image = CopysetImage::default();
    image.begin(CopysetId(2));
    image.hard_state(HardState { term: Term(3), ..HardState::default() });
    image.state().extend_from_slice(b"state");
    let mut bytes = Vec::new();
    image.emit(&head(2), &mut bytes);
    assert_eq!(bytes[..16], [1, 0, 0, 0, 97, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(bytes[16..24], 7_u64.to_le_bytes());
    assert_eq!(bytes[24..40], *Uuid::from_u128(8).as_bytes());
    assert_eq!(bytes[40..56], [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[56..64], [36, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[100..], *b"state");
    let (page, place) = pages(&[bytes.clone()], 1);
    assert_eq!(page[..4], salt().crc(&page[4..]).to_le_bytes());
    assert_eq!(page[4..24], *b"CVCP\x04\0\0\0\0\0\0\0\0\0\0\0\x69\0\0\0");
    assert_eq!(page[24..129], bytes);
    assert!(page[129..].iter().all(|&byte| byte == 0));
    assert_eq!((place.pages, place.number, place.area), (1, 4, 1));
    assert_eq!(place.pages_crc, crc32c::crc32c(&page[..4]));
}

#[test]
fn an_end_that_does_not_agree_is_refused() {
    let chunk = section(SectionKind::Chunk, b"piece");
    let (bytes, place) = pages(&[chunk.clone(), end(0, 1)], 2);
    assert_eq!(read(&bytes, place).expect("whole").len(), 2);
    let (bytes, place) = pages(&[chunk.clone(), end(0, 2)], 2);
    assert_eq!(read(&bytes, place), Err(CheckpointError::End));
    let (bytes, place) = pages(&[end(0, 0), chunk.clone()], 2);
    assert_eq!(read(&bytes, place), Err(CheckpointError::End));
    let (bytes, place) = pages(&[chunk], 2);
    assert_eq!(read(&bytes, place), Err(CheckpointError::End));
    let (bytes, place) = pages(&[section_head(SectionKind::Chunk, 99).to_vec()], 2);
    assert_eq!(read(&bytes, place), Err(CheckpointError::End));
}

#[test]
fn an_increment_begins_with_a_page() {
    let chunk = section(SectionKind::Chunk, b"piece");
    let (mut bytes, whole) = pages(&[chunk.clone(), end(0, 1)], 2);
    let (more, both) = write(StreamWriter::resume(&whole, salt()), &[end(0, 0)], 2);
    bytes.extend(more);
    assert_eq!((whole.pages, both.pages), (1, 2));
    assert_eq!(read(&bytes, both).expect("whole").len(), 3);
    assert_eq!(read(&bytes[..BLOCK_SIZE], whole).expect("as before").len(), 2);
    // Its counts are its own.
    let (more, both) = write(StreamWriter::resume(&whole, salt()), &[end(0, 1)], 2);
    let wrong = [&bytes[..BLOCK_SIZE], &more].concat();
    assert_eq!(read(&wrong, both), Err(CheckpointError::End));
    // It does not begin before the end of what it goes on behind, nor in its last page.
    let (cut, place) = pages(&[chunk], 2);
    let (more, both) = write(StreamWriter::resume(&place, salt()), &[end(0, 1)], 2);
    assert_eq!(read(&[cut, more].concat(), both), Err(CheckpointError::End));
    let (bytes, place) = pages(&[end(0, 0), end(0, 0)], 2);
    assert_eq!(read(&bytes, place), Err(CheckpointError::End));
}

proptest! {
    #[test]
    fn sections_survive_being_cut_into_pages(
        bodies in prop::collection::vec(0_usize..20_000, 0..12),
        run_pages in 1_usize..9,
        damage in any::<prop::sample::Index>(),
    ) {
        let mut sections: Vec<Vec<u8>> = bodies
            .iter()
            .enumerate()
            .map(|(at, &length)| section(SectionKind::Chunk, &vec![at as u8; length]))
            .collect();
        sections.push(end(0, bodies.len() as u32));
        let (mut bytes, place) = pages(&sections, run_pages);
        let seen = read(&bytes, place).expect("whole");
        prop_assert_eq!(seen.len(), bodies.len() + 1);
        for (piece, &length) in seen.iter().zip(&bodies) {
            prop_assert_eq!(piece.len(), length);
        }
        let at = damage.index(bytes.len());
        bytes[at] ^= 0x20;
        prop_assert!(read(&bytes, place).is_err());
    }

    #[test]
    fn reader_survives_anything(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let (bytes, place) = pages(&[body], 1);
        let _ = read(&bytes, place);
    }
}
