//! Sleeping until something completes.

use std::time::{Duration, Instant};

use culvert_nvme::{Lba, Operation, QueuePair, Wake};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::rig::Rig;

/// Sleeps until the queue pair's descriptor is readable; false after a second.
fn sleep(pair: &impl QueuePair) -> bool {
    let Wake::Fd(fd) = pair.wake() else { return true };
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&second)).expect("poll(2)") > 0
}

pub fn a_sleeper_is_woken(mut rig: Rig<impl QueuePair>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for round in 0..200 {
        let written = rig.filled(1 + round % rig.transfer_pages_max().min(32), u64::from(round));
        rig.submit(1, Operation::Write { lba: Lba(0), pages: written.freeze(), fua: false });
        rig.submit(2, Operation::Flush);
        rig.pair.ring();
        if round == 100 {
            // Long enough for a controller's thread to park.
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut seen = 0;
        while seen < 2 {
            seen += rig.pair.poll(8, &mut |completion| {
                assert!(completion.status.is_success());
            });
            if seen < 2 && rig.pair.arm() {
                assert!(sleep(&rig.pair), "round {round}: nobody woke the sleeper");
            }
            assert!(Instant::now() < deadline, "round {round}: no completion");
        }
    }
}

pub fn arming_sees_what_is_there(mut rig: Rig<impl QueuePair>) {
    assert!(rig.pair.arm(), "nothing is in flight");
    // An answer without a device waits at once.
    rig.submit(1, Operation::WriteZeroes { lba: Lba(0), blocks: 0, deallocate: false });
    assert!(!rig.pair.arm(), "an answer is waiting");
    rig.finish();
    rig.submit(2, Operation::Flush);
    rig.pair.ring();
    if matches!(rig.pair.wake(), Wake::Poll) {
        assert!(!rig.pair.arm(), "without a descriptor nobody wakes the sleeper");
    } else {
        // Sooner or later the completion is there, and arming says so.
        let deadline = Instant::now() + Duration::from_secs(20);
        while rig.pair.arm() {
            sleep(&rig.pair);
            assert!(Instant::now() < deadline, "arming never sees the completion");
        }
    }
    assert_eq!(rig.finish().len(), 1);
}
