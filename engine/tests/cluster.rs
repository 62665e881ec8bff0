//! Three nodes and a client in one thread, over the production drivers.

mod rig;

use rig::local::Rig;

fn reads_what_was_written(tcp: bool) {
    let mut rig = Rig::new(tcp, 1, |_| {});
    rig.submit_write(7, 1);
    rig.finish();
    rig.read(7, 1);
    // Never written: zeroes.
    rig.read(100, 4);
    rig.submit_write(200, 256);
    rig.finish();
    rig.read(200, 256);
}

#[test]
fn reads_what_was_written_over_shared_memory() {
    reads_what_was_written(false);
}

#[test]
fn reads_what_was_written_over_tcp() {
    reads_what_was_written(true);
}

/// Many writes at once while the leader dies, comes back and dies again. None may fail, because a
/// majority lives, and none may be lost.
fn survives_the_death_of_leaders(tcp: bool) {
    let mut rig = Rig::new(tcp, 1, |_| {});
    for round in 0..4 {
        for block in 0..100 {
            rig.submit_write(block * 7, 1);
        }
        if round > 0 {
            let leader = rig.leader_of(1 + round % 3).expect("somebody leads");
            rig.local.kill(leader);
            rig.finish();
            rig.local.open(leader, false).expect("it comes back");
        } else {
            rig.finish();
        }
        rig.read_all();
    }
}

#[test]
fn survives_the_death_of_leaders_over_shared_memory() {
    survives_the_death_of_leaders(false);
}

#[test]
fn survives_the_death_of_leaders_over_tcp() {
    survives_the_death_of_leaders(true);
}
