//! Memory that changes while a command is in flight, and commands that meet.

use std::collections::BTreeSet;

use culvert_memory::{SharedBytes, Window, WindowOptions};

use super::*;

/// A window of a peer, registered with the rig's queue pair.
fn window(rig: &mut Rig) -> (Window, SharedBytes) {
    let options = WindowOptions { name: String::from("peer"), pages: 1, lock: false };
    let window = Window::create(&options).expect("memory");
    rig.pair.register(window.region()).expect("a place");
    let bytes = SharedBytes::of_region(window.region());
    (window, bytes)
}

#[test]
fn a_page_that_is_overwritten_too_early_is_caught() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..50 {
        let mut rig = Rig::new(options(), seed);
        let (window, peer) = window(&mut rig);
        peer.write_bytes(0, &[1; BLOCK_BYTES]);
        let pages = window.claim(0, 1).expect("the peer's page").freeze();
        rig.submit(Operation::Write { lba: Lba(7), pages, fua: true });
        rig.pair.ring();
        rig.disk.advance(20_000);
        peer.write_bytes(0, &[2; BLOCK_BYTES]);
        assert_eq!(rig.wait()[0].status, Status::SUCCESS);
        outcomes.insert(uniform(&rig.disk.read_block(7)));
        assert!(sectors(&rig.disk.read_block(7)).iter().all(|byte| [1, 2].contains(byte)));
    }
    let expected = [None, Some(1), Some(2)];
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_read_fills_its_buffer_bit_by_bit() {
    let mut halves = 0;
    for seed in 0..50 {
        let mut rig = Rig::new(options(), seed);
        rig.write(7, 9, true);
        let (window, peer) = window(&mut rig);
        let buffer = window.claim(0, 1).expect("the peer's page");
        rig.submit(Operation::Read { lba: Lba(7), buffer });
        rig.pair.ring();
        let mut bytes = [0; BLOCK_BYTES];
        while !rig.disk.has_completions() {
            rig.disk.advance(rig.disk.next_ns().expect("in flight"));
            peer.read_bytes(0, &mut bytes);
            halves += u64::from(uniform(&bytes).is_none());
        }
        peer.read_bytes(0, &mut bytes);
        assert_eq!(uniform(&bytes), Some(9));
    }
    assert!(halves > 20, "{halves}");
}

#[test]
fn commands_that_meet_act_sector_by_sector() {
    let mut outcomes = BTreeSet::new();
    let mut mixed_reads = 0;
    for seed in 0..100 {
        let mut rig = Rig::new(options(), seed);
        for byte in [1, 2] {
            let write = rig.write_of(7, byte, byte == 1);
            rig.submit(write);
        }
        let buffer = rig.buffer(1);
        rig.submit(Operation::Read { lba: Lba(7), buffer });
        rig.pair.ring();
        while rig.pair.in_flight() > 0 {
            for completion in rig.wait() {
                let Some(buffer) = completion.buffer else { continue };
                assert!(sectors(buffer.as_slice()).iter().all(|byte| *byte <= 2));
                mixed_reads += u64::from(uniform(buffer.as_slice()).is_none());
            }
        }
        outcomes.insert(uniform(&rig.disk.read_block(7)));
        for (live, durable) in
            sectors(&rig.disk.read_block(7)).into_iter().zip(sectors(&rig.disk.durable_block(7)))
        {
            assert!(live != 0);
            // Where the forced write came second it replaced the other.
            assert!(durable == live || (durable, live) == (1, 2));
        }
    }
    assert_eq!(outcomes.len(), 3);
    assert!(mixed_reads > 5, "{mixed_reads}");
}
