//! The header of a device and the superblocks of its shards.

use culvert::device::{
    CheckpointPlace, DEVICE_VERSION, DEVICE_VERSION_METADATA, DeviceHeader, Layout,
    STRUCTURE_BYTES, Salt, ShardLayout, Superblock,
};
use culvert::ids::Extent;
use uuid::Uuid;

use crate::set;

const DEVICE: Uuid = Uuid::from_u128(0xd017);

/// Looks at any bytes as a device header and as a superblock; what is missing is zero.
pub fn run(bytes: &[u8]) {
    let mut block = [0; STRUCTURE_BYTES];
    let length = bytes.len().min(STRUCTURE_BYTES);
    block[..length].copy_from_slice(&bytes[..length]);
    look_at_header(&block);
    look_at_superblock(&block);

    let mut header = block;
    set(&mut header, 0, b"CULVERT\0");
    for version in [DEVICE_VERSION, DEVICE_VERSION_METADATA] {
        set(&mut header, 8, &version.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
        set(&mut header, 12, &crc.to_le_bytes());
        look_at_header(&header);
    }

    let mut superblock = block;
    set(&mut superblock, 0, b"CVSUPER\0");
    let crc = crc32c::crc32c_append(salt().crc(&superblock[..8]), &superblock[12..]);
    set(&mut superblock, 8, &crc.to_le_bytes());
    look_at_superblock(&superblock);
}

fn salt() -> Salt {
    Salt::new(&DEVICE, 1, 0)
}

fn shard() -> ShardLayout {
    ShardLayout {
        shard: 0,
        start: 1 << 20,
        ring_bytes: 4 << 20,
        checkpoint_bytes: 512 << 10,
        data_bytes: 64 << 20,
    }
}

/// First byte behind a shard; the sum must not overflow.
fn end(shard: &ShardLayout) -> u64 {
    shard.start + shard.ring_bytes + 2 * shard.checkpoint_bytes + shard.data_bytes
}

fn look_at_header(bytes: &[u8; STRUCTURE_BYTES]) {
    let Ok(header) = DeviceHeader::parse(bytes) else { return };
    assert_eq!(DeviceHeader::parse(&header.emit()).as_ref(), Ok(&header));
    // Both may refuse; the geometry of a header that is believed has no overflow in it.
    let _fits = header.check_geometry(header.layout.device_bytes, header.layout.block_size, 64);
    header
        .layout
        .shards
        .iter()
        .for_each(|shard| assert!(header.layout.kept_blocks(shard) <= shard.data_blocks().into()));
    let mut free_from = 0;
    for shard in &header.layout.shards {
        let end = end(shard);
        assert!(shard.start >= free_from);
        assert!(end <= header.layout.device_bytes);
        free_from = end;
    }
}

fn look_at_superblock(bytes: &[u8; STRUCTURE_BYTES]) {
    let Ok(superblock) = Superblock::parse(bytes, &shard(), salt()) else { return };
    assert!(superblock.position <= superblock.mark);
    let again = Superblock::parse(&superblock.emit(0, salt()), &shard(), salt());
    assert_eq!(again, Ok(superblock));
}

/// A header with two shards, and superblocks with and without a checkpoint. Cut behind their
/// fields: what is missing is zero.
pub fn seeds() -> Vec<Vec<u8>> {
    let second = ShardLayout { shard: 1, start: end(&shard()), ..shard() };
    let layout = Layout {
        device_bytes: 256 << 20,
        block_size: 4096,
        chunk_blocks: 64,
        metadata: true,
        shards: vec![shard(), second],
    };
    let header = DeviceHeader { uuid: DEVICE, created_ns: 1, layout };
    let place = CheckpointPlace { area: 1, number: 2, pages: 3, pages_crc: 4 };
    let segment = |start| Extent { start, blocks: 512 };
    let full = Superblock {
        sequence: 3,
        position: 10,
        mark: 12,
        incarnation: 1,
        checkpoint: Some(place),
        segments: [segment(0), segment(512), segment(2048)],
    };
    vec![
        header.emit()[..128].to_vec(),
        full.emit(0, salt())[..88].to_vec(),
        Superblock::empty().emit(0, salt())[..64].to_vec(),
    ]
}
