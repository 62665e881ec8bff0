use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::ids::Extent;

fn plan(bytes: u64, shards: u32) -> Layout {
    Layout::plan(bytes, 4096, &LayoutOptions { shards, ..LayoutOptions::default() })
        .expect("it fits")
}

fn header() -> DeviceHeader {
    DeviceHeader { uuid: Uuid::from_u128(0x1122), created_ns: 0x0304, layout: plan(1 << 30, 2) }
}

#[test]
fn header_bytes_are_pinned() {
    let bytes = header().emit();
    assert_eq!(bytes[..12], *b"CULVERT\0\x01\0\0\0");
    assert_eq!(bytes[12..16], 0x87be_b659_u32.to_le_bytes());
    assert_eq!(bytes[16..32], *Uuid::from_u128(0x1122).as_bytes());
    assert_eq!(bytes[32..40], 0x0304_u64.to_le_bytes());
    assert_eq!(bytes[40..48], (1_u64 << 30).to_le_bytes());
    assert_eq!(bytes[48..64], [0, 16, 0, 0, 0, 16, 0, 0, 2, 0, 0, 0, 0, 16, 0, 0]);
    assert_eq!(bytes[64..72], (1_u64 << 20).to_le_bytes());
    assert!(bytes[128..].iter().all(|&byte| byte == 0));
}

#[test]
fn header_is_read_back_and_refused_when_damaged() {
    let mut bytes = header().emit();
    assert_eq!(DeviceHeader::parse(&bytes), Ok(header()));
    for at in 0..bytes.len() {
        bytes[at] ^= 1;
        let expected = match at {
            0..8 => HeaderError::NotCulvert,
            8..12 => HeaderError::Version { found: 1 ^ 1 << (8 * (at - 8)) },
            _ => HeaderError::Checksum,
        };
        assert_eq!(DeviceHeader::parse(&bytes), Err(expected));
        bytes[at] ^= 1;
    }
    let other = header().check_geometry(1 << 29, 4096, 0);
    assert!(matches!(other, Err(HeaderError::Foreign { .. })));
    assert!(header().check_geometry(1 << 31, 4096, 0).is_ok());
    let other = header().check_identity(Uuid::nil());
    assert!(matches!(other, Err(HeaderError::Identity { .. })));
}

#[test]
fn plans_leave_a_ring_areas_and_data() {
    let layout = plan(1 << 30, 2);
    let [first, second] = layout.shards[..] else { panic!("two shards") };
    assert_eq!(first.start, 1 << 20);
    assert_eq!(second.start, first.data() + first.data_bytes);
    assert!(second.data() + second.data_bytes <= 1 << 30);
    assert!(first.ring_bytes >= (1 << 29) / 65);
    assert!(first.data_bytes > (1 << 29) / 100 * 95);
    let large = plan(8 << 40, 4).shards[0];
    assert!(large.ring_bytes >= (2_u64 << 40) / 257, "1/256 of the device");
    let small = Layout::plan(2 << 20, 512, &LayoutOptions::default());
    assert!(matches!(small, Err(LayoutError::TooSmall { .. })));
    let none = LayoutOptions { shards: 0, ..LayoutOptions::default() };
    assert_eq!(Layout::plan(1 << 30, 512, &none), Err(LayoutError::Shards { shards: 0 }));
    let odd = Layout::plan(1 << 30, 520, &LayoutOptions::default());
    assert_eq!(odd, Err(LayoutError::BlockSize { block_size: 520 }));
    let ring = LayoutOptions { ring_bytes: Some(4096), ..LayoutOptions::default() };
    assert!(matches!(Layout::plan(1 << 30, 512, &ring), Err(LayoutError::Ring { .. })));
    let huge = Layout::plan(64 << 40, 4096, &LayoutOptions::default());
    assert!(matches!(huge, Err(LayoutError::TooLarge { .. })));
}

#[test]
fn superblock_bytes_are_pinned_and_checked() {
    let layout = plan(1 << 30, 2).shards[1];
    let salt = header().salt(1);
    let place = CheckpointPlace { area: 1, number: 5, pages: 6, pages_crc: 7 };
    let segment = |start| Extent { start, blocks: 8 };
    let superblock = Superblock {
        sequence: 2,
        position: 3,
        mark: 9,
        incarnation: 4,
        checkpoint: Some(place),
        segments: [segment(10), segment(11), segment(12)],
    };
    let mut bytes = superblock.emit(1, salt);
    assert_eq!(bytes[..8], *b"CVSUPER\0");
    assert_eq!(bytes[12..16], [1, 0, 0, 0]);
    assert_eq!(bytes[16..40].iter().step_by(8).copied().collect::<Vec<_>>(), [2, 3, 9]);
    assert_eq!(bytes[40..64].iter().step_by(4).copied().collect::<Vec<_>>(), [4, 1, 5, 0, 6, 7]);
    assert_eq!(bytes[64..88].iter().step_by(4).copied().collect::<Vec<_>>(), [10, 8, 11, 8, 12, 8]);
    assert_eq!(Superblock::parse(&bytes, &layout, salt), Ok(superblock));
    let outside = Superblock { segments: [segment(layout.data_blocks() - 7); 3], ..superblock };
    let parsed = Superblock::parse(&outside.emit(1, salt), &layout, salt);
    assert_eq!(parsed, Err(SuperblockError::Field("segments")));
    let other = Superblock::parse(&bytes, &layout, header().salt(0));
    assert_eq!(other, Err(SuperblockError::Checksum));
    for at in 0..bytes.len() {
        bytes[at] ^= 0x80;
        assert!(Superblock::parse(&bytes, &layout, salt).is_err());
        bytes[at] ^= 0x80;
    }
    let empty = Superblock::empty().emit(1, salt);
    assert_eq!(Superblock::parse(&empty, &layout, salt), Ok(Superblock::empty()));
    assert_eq!(layout.superblock(1), 4096 * 4);
    assert_eq!(layout.superblock(2), 4096 * 3);
}

proptest! {
    #[test]
    fn parsers_survive_anything(tail in prop::collection::vec(any::<u8>(), 64), fixed in any::<bool>()) {
        let mut bytes = header().emit();
        bytes[16..80].copy_from_slice(&tail);
        if fixed {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        let _ = DeviceHeader::parse(&bytes);
        let _ = Superblock::parse(&bytes, &header().layout.shards[0], header().salt(0));
    }
}
