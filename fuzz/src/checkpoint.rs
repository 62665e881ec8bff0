//! Checkpoints: pages, the sections in them, and what is in those.
//!
//! An input is taken for the stream, which is cut into pages as a writer does it, and for pages.

use culvert::checkpoint::{
    PAGE_BODY_BYTES, PAGE_HEADER_BYTES, Section, SectionKind, StreamReader, StreamWriter,
    section_head,
};
use culvert::copyset::CopysetState;
use culvert::device::{CheckpointPlace, Salt};
use culvert::ids::BLOCK_SIZE;
use uuid::Uuid;

use crate::{chunk_image, copyset_image, journal, set, u16_at};

const NUMBER: u64 = 2;

/// Looks at any bytes as the stream of a checkpoint, and as its pages.
pub fn run(bytes: &[u8]) {
    stream(bytes);
    pages(bytes);
}

fn salt() -> Salt {
    Salt::new(&Uuid::from_u128(0xd017), 1, 0)
}

fn stream(bytes: &[u8]) {
    let pages = bytes.len() / PAGE_BODY_BYTES + 1;
    let mut run = vec![0; pages * BLOCK_SIZE];
    let mut writer = StreamWriter::new(NUMBER, salt());
    assert_eq!(writer.put(&mut run, bytes), bytes.len());
    writer.finish(&mut run);
    let written = writer.pages() as usize;
    writer.take();
    let mut reader = StreamReader::new(writer.place(0), salt());
    for page in run[..written * BLOCK_SIZE].chunks_exact(BLOCK_SIZE) {
        if reader.page(page, |section| look(&section)).is_err() {
            return;
        }
    }
    let _whole = reader.finish();
}

/// Pages of any content whose checksums are right.
fn pages(bytes: &[u8]) {
    let pages = bytes.len().div_ceil(BLOCK_SIZE);
    let place = CheckpointPlace { area: 0, number: NUMBER, pages: pages as u32, pages_crc: 0 };
    let mut reader = StreamReader::new(place, salt());
    for (at, part) in bytes.chunks(BLOCK_SIZE).enumerate() {
        let mut page = [0; BLOCK_SIZE];
        page[..part.len()].copy_from_slice(part);
        let used = u16_at(&page, 20) % (BLOCK_SIZE - PAGE_HEADER_BYTES + 2);
        set(&mut page, 4, b"CVCP");
        set(&mut page, 8, &NUMBER.to_le_bytes());
        set(&mut page, 16, &(at as u32).to_le_bytes());
        set(&mut page, 20, &(used as u32).to_le_bytes());
        let crc = salt().crc(&page[4..]);
        set(&mut page, 0, &crc.to_le_bytes());
        if reader.page(&page, |section| look(&section)).is_err() {
            return;
        }
    }
    assert!(reader.finish().is_err(), "the checksum of all pages is not that of these");
}

fn look(section: &Section<'_>) {
    match section {
        Section::Copyset(head, items, image) => {
            let _in_doubt = head.in_doubt;
            let mut items = items.to_vec();
            journal::repair_items(&mut items);
            journal::items(&items);
            let _state = CopysetState::parse(image);
        }
        Section::Chunk(piece) => {
            let _loaded = chunk_image::store().load(piece);
        }
        Section::End(..) => {}
    }
}

/// A whole stream: a copyset, its chunks, the end.
pub fn seeds() -> Vec<Vec<u8>> {
    let items = journal::seeds().swap_remove(0);
    let image = copyset_image::seeds().swap_remove(0);
    let mut copyset = vec![0; 56];
    set(&mut copyset, 0, &3_u32.to_le_bytes());
    set(&mut copyset, 48, &(items.len() as u32).to_le_bytes());
    copyset.extend_from_slice(&items);
    copyset.extend_from_slice(&image);
    let pieces = chunk_image::pieces();
    let mut out = Vec::new();
    let mut put = |kind, body: &[u8]| {
        out.extend_from_slice(&section_head(kind, body.len()));
        out.extend_from_slice(body);
    };
    put(SectionKind::Copyset, &copyset);
    pieces.iter().for_each(|piece| put(SectionKind::Chunk, piece));
    put(SectionKind::End, &[1, 0, 0, 0, pieces.len() as u8, 0, 0, 0]);
    vec![out]
}
