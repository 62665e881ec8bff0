//! Production code over a driven queue pair: formatting a disk and opening its shard.

use culvert::device::{DeviceHeader, FormatOptions, LayoutOptions, format, read_header};
use culvert::shard::{Opened, Opening, OpeningMode, ShardConfig};
use uuid::Uuid;

use super::*;

/// Opens shard 0 as a node does.
fn open_shard(rig: &mut Rig, header: &DeviceHeader) {
    let config =
        ShardConfig { batch_bytes: 64 << 10, open_read_bytes: 64 << 10, ..ShardConfig::default() };
    let namespace = rig.pair.namespace().clone();
    let mut opening =
        Opening::new(config, &namespace, header, 0, OpeningMode::Run, &rig.pool).expect("memory");
    loop {
        while let Some(submission) = opening.poll_submission() {
            if let Err(refused) = rig.pair.submit(submission) {
                opening.give_back(refused);
                break;
            }
        }
        rig.pair.ring();
        match opening.poll() {
            None => {}
            Some(Ok(Opened::Running(_))) => return,
            Some(Ok(Opened::Inspected(_))) => panic!("asked to run"),
            Some(Err(error)) => panic!("opening failed: {error:?}"),
        }
        rig.pair.poll(64, &mut |completion| opening.complete(completion));
    }
}

#[test]
fn a_shard_survives_losses_of_power() {
    for (seed, block_size) in [(1, 4096), (2, 512)] {
        for volatile_write_cache in [true, false] {
            let blocks = (16 << 20) / u64::from(block_size);
            let options = DiskOptions { block_size, blocks, volatile_write_cache, ..options() };
            let mut rig = Rig::new(options, seed);
            rig.pair.set_driven(true);
            let layout = LayoutOptions { chunk_blocks: 64, ..LayoutOptions::default() };
            let uuid = Uuid::from_u128(7);
            let format_options = FormatOptions { uuid, now_ns: 5, layout, force: false };
            let header = format(&mut rig.pair, &rig.pool, &format_options).expect("it is empty");
            for kind in [Crash::Power, Crash::Kill, Crash::Power] {
                rig.restart(kind);
                rig.pair.set_driven(true);
                assert_eq!(read_header(&mut rig.pair, &rig.pool), Ok(header.clone()));
                open_shard(&mut rig, &header);
            }
        }
    }
}
