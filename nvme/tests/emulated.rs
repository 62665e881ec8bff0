//! What only the emulated controller can do: faults, power failures, resets.

use std::collections::HashMap;
use std::path::Path;

use culvert_memory::{Buffer, Pool, PoolOptions};
use culvert_nvme::{
    ANYWHERE, Access, AnyQueuePair, Completion, DeviceClaim, Emulated, FaultTarget, Lba, Loss,
    METADATA_BYTES, OpenError, OpenOptions, Operation, QueuePair, Status, Submission, Tag, Times,
    open, open_claimed,
};

struct Rig {
    pair: AnyQueuePair,
    pool: Pool,
}

impl Rig {
    fn new(uri: &str) -> Rig {
        let claim = DeviceClaim::take(&uri.parse().expect("a good URI"), Access::Exclusive);
        Rig::on(&claim.unwrap_or_else(|error| panic!("{uri}: {error:?}")))
    }

    fn on(claim: &DeviceClaim) -> Rig {
        let pool = Pool::new(&PoolOptions { bytes: 4 << 20, ..PoolOptions::default() });
        let pool = pool.expect("memory");
        let mut pair = open_claimed(claim, &OpenOptions::default()).expect("a device");
        pair.register(&pool.regions()[0]).expect("registering the pool");
        Rig { pair, pool }
    }

    fn claim_file(path: &Path, options: &str) -> DeviceClaim {
        let uri = format!("emulated:1MiB?file={}&{options}", path.display());
        let uri = uri.parse().expect("a good URI");
        DeviceClaim::take(&uri, Access::Exclusive).expect("a file of ours")
    }

    fn device(&mut self) -> &mut Emulated {
        self.pair.as_emulated_mut().expect("an emulated device")
    }

    fn filled(&self, pages: u32, byte: u8) -> Buffer {
        let mut buffer = self.pool.acquire(pages).expect("memory");
        buffer.as_mut_slice().fill(byte);
        buffer
    }

    fn submit(&mut self, tag: u64, operation: Operation) {
        self.pair.submit(Submission { tag: Tag(tag), operation }).expect("the queue has room");
    }

    fn submit_write(&mut self, tag: u64, lba: u64, byte: u8) {
        let pages = self.filled(1, byte).freeze();
        self.submit(tag, Operation::Write { lba: Lba(lba), pages, fua: false });
    }

    fn finish(&mut self) -> HashMap<u64, Completion> {
        self.pair.ring();
        let mut completions = HashMap::new();
        for _ in 0..10_000_000 {
            if self.pair.in_flight() == 0 {
                return completions;
            }
            self.pair.poll(64, &mut |completion| {
                completions.insert(completion.tag.0, completion);
            });
        }
        panic!("{} commands never completed", self.pair.in_flight());
    }

    fn run(&mut self, operation: Operation) -> Completion {
        self.submit(1, operation);
        self.finish().remove(&1).expect("the completion")
    }

    fn write(&mut self, lba: u64, byte: u8) -> Status {
        self.submit_write(1, lba, byte);
        self.finish()[&1].status
    }

    fn flush(&mut self) -> Status {
        self.run(Operation::Flush).status
    }

    fn read_with_status(&mut self, lba: u64) -> (Status, Buffer) {
        let buffer = self.filled(1, 0xee);
        let completion = self.run(Operation::Read { lba: Lba(lba), buffer });
        (completion.status, completion.buffer.expect("a read hands its buffer back"))
    }

    fn read(&mut self, lba: u64) -> Vec<u8> {
        let (status, buffer) = self.read_with_status(lba);
        assert!(status.is_success(), "{status}");
        buffer.as_slice().to_vec()
    }
}

#[test]
fn reads_fail_where_told_and_no_further() {
    let mut rig = Rig::new("emulated:1MiB");
    assert!(rig.write(5, 1).is_success());
    let faults = rig.device().faults();
    faults.fail(FaultTarget::Reads, Lba(5)..Lba(7), Times::Next(2));
    assert!(rig.read_with_status(4).0.is_success());
    for _ in 0..2 {
        let (status, buffer) = rig.read_with_status(5);
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR);
        assert_eq!(buffer.as_slice(), [0xee; 4096], "a failed read moves nothing");
    }
    assert_eq!(rig.read(5), [1; 4096]);
    faults.fail(FaultTarget::Reads, Lba(6)..Lba(7), Times::Always);
    for _ in 0..5 {
        assert_eq!(rig.read_with_status(6).0, Status::UNRECOVERED_READ_ERROR);
    }
    faults.clear();
    assert!(rig.read_with_status(6).0.is_success());
    assert_eq!(rig.pair.counters().errors, 7);
}

#[test]
fn failed_writes_change_nothing() {
    let mut rig = Rig::new("emulated:1MiB");
    assert!(rig.write(3, 1).is_success());
    let faults = rig.device().faults();
    faults.fail(FaultTarget::Writes, ANYWHERE, Times::Next(2));
    assert_eq!(rig.write(3, 2), Status::WRITE_FAULT);
    let zeroes = Operation::WriteZeroes { lba: Lba(3), blocks: 1, deallocate: false };
    assert_eq!(rig.run(zeroes).status, Status::WRITE_FAULT);
    assert_eq!(rig.read(3), [1; 4096]);
    assert!(rig.write(3, 4).is_success());
}

#[test]
fn failed_flushes_destage_nothing() {
    let mut rig = Rig::new("emulated:1MiB?cache=volatile");
    assert!(rig.write(3, 1).is_success());
    rig.device().faults().fail(FaultTarget::Flushes, ANYWHERE, Times::Next(1));
    assert_eq!(rig.flush(), Status::INTERNAL_ERROR);
    assert_eq!(rig.device().unflushed(), 1);
    assert!(rig.flush().is_success());
    assert_eq!(rig.device().unflushed(), 0);
}

#[test]
fn faults_by_chance_repeat_with_their_seed() {
    let strikes = |seed| {
        let mut rig = Rig::new("emulated:1MiB");
        let times = Times::Chance { one_in: 3, seed };
        rig.device().faults().fail(FaultTarget::Writes, ANYWHERE, times);
        (0..100).map(|lba| rig.write(lba, 1).is_success()).collect::<Vec<_>>()
    };
    let first = strikes(9);
    assert_eq!(first, strikes(9));
    assert_ne!(first, strikes(10));
    let failed = first.iter().filter(|success| !**success).count();
    assert!((15..55).contains(&failed), "{failed} of 100 at one in three");
}

#[test]
fn bits_flip_on_the_medium() {
    let mut rig = Rig::new("emulated:1MiB");
    assert!(rig.write(2, 0xff).is_success());
    rig.device().faults().flip_bits(Lba(2), 100, 0x81);
    let mut expected = [0xff; 4096];
    expected[100] = 0x7e;
    assert_eq!(rig.read(2), expected);
    rig.device().faults().flip_bits(Lba(1 << 40), 0, 1);
    rig.device().faults().flip_bits(Lba(2), 4096, 1);
    assert_eq!(rig.read(2), expected);
}

fn a_removed_device_answers_everything(uri: &str) {
    let mut rig = Rig::new(uri);
    assert!(rig.write(0, 1).is_success());
    let faults = rig.device().faults();
    for tag in 0..20 {
        rig.submit_write(tag, tag, 2);
    }
    faults.remove_device();
    for tag in 100..110 {
        let buffer = rig.filled(3, 1);
        rig.submit(tag, Operation::Read { lba: Lba(0), buffer });
    }
    let completions = rig.finish();
    assert_eq!(completions.len(), 30);
    for (tag, completion) in completions {
        assert!(completion.status.is_device_gone(), "{}", completion.status);
        assert!(!completion.status.is_retryable());
        assert_eq!(completion.pages.is_some(), tag < 100);
        assert_eq!(completion.buffer.is_some(), tag >= 100);
    }
    assert_eq!(rig.pool.free_pages(), rig.pool.total_pages());
    // Later commands fail without a device to ask.
    for _ in 0..3 {
        assert!(rig.write(0, 3).is_device_gone());
        assert!(rig.flush().is_device_gone());
    }
    assert!(rig.pair.arm(), "nothing is in flight, so nothing to stay awake for");
    assert!(rig.device().reset().is_err());
    assert!(rig.write(0, 3).is_device_gone());
}

#[test]
fn a_removed_device_answers_everything_inline() {
    a_removed_device_answers_everything("emulated:1MiB?cache=volatile");
}

#[test]
fn a_removed_device_answers_everything_threaded() {
    a_removed_device_answers_everything("emulated:1MiB?cache=volatile&thread=1");
}

#[test]
fn a_power_failure_loses_keeps_and_tears() {
    let mut rig = Rig::new("emulated:1MiB?cache=volatile");
    for lba in 0..4 {
        assert!(rig.write(lba, 1).is_success());
    }
    assert!(rig.flush().is_success());
    for lba in 0..4 {
        assert!(rig.write(lba, 2).is_success());
    }
    let pages = rig.filled(1, 3).freeze();
    let durable = Operation::Write { lba: Lba(3), pages, fua: true };
    assert!(rig.run(durable).status.is_success());
    assert_eq!(rig.read(1), [2; 4096], "reads see the cache");

    let mut asked = Vec::new();
    rig.device().drop_unflushed(&mut |lba| {
        asked.push(lba.0);
        match lba.0 {
            0 => Loss::Lose,
            1 => Loss::Keep,
            _ => Loss::Tear { sectors: 0b0000_0110 },
        }
    });
    assert_eq!(asked, [0, 1, 2], "oldest first, and what was forced out is not asked for");
    assert_eq!(rig.read(0), [1; 4096]);
    assert_eq!(rig.read(1), [2; 4096]);
    let mut torn = [1; 4096];
    torn[512..1536].fill(2);
    assert_eq!(rig.read(2), torn);
    assert_eq!(rig.read(3), [3; 4096]);
    assert_eq!(rig.device().unflushed(), 0);
}

/// A block and its metadata are lost or kept together.
#[test]
fn a_power_failure_parts_no_block_from_its_metadata() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("device");
    let options = "metadata=64&cache=volatile";
    let mut rig = Rig::on(&Rig::claim_file(&path, options));
    let write = |rig: &mut Rig, lba, byte, fua| {
        let pages = rig.filled(1, byte).freeze();
        let metadata = [byte; METADATA_BYTES];
        let write = Operation::WriteWithMetadata { lba: Lba(lba), pages, fua, metadata };
        assert!(rig.run(write).status.is_success());
    };
    (0..3).for_each(|lba| write(&mut rig, lba, 1, false));
    assert!(rig.flush().is_success());
    (0..2).for_each(|lba| write(&mut rig, lba, 2, false));
    write(&mut rig, 2, 3, true);
    rig.device().drop_unflushed(&mut |lba| if lba.0 == 0 { Loss::Lose } else { Loss::Keep });
    drop(rig);
    let mut rig = Rig::on(&Rig::claim_file(&path, options));
    let buffer = rig.filled(5, 9);
    let read = rig.run(Operation::ReadWithMetadata { lba: Lba(0), buffer });
    assert!(read.status.is_success());
    let buffer = read.buffer.expect("a read hands its buffer back");
    let (data, metadata) = buffer.as_slice().split_at(4 * 4096);
    for (block, byte) in [1, 2, 3, 0].into_iter().enumerate() {
        assert_eq!(data[block * 4096..(block + 1) * 4096], [byte; 4096]);
        assert_eq!(metadata[block * 64..(block + 1) * 64], [byte; 64]);
    }
}

#[test]
fn blocks_of_512_bytes_do_not_tear() {
    let mut rig = Rig::new("emulated:1MiB?cache=volatile&block=512");
    assert!(rig.write(0, 1).is_success());
    assert_eq!(rig.device().unflushed(), 8);
    rig.device().drop_unflushed(&mut |lba| Loss::Tear { sectors: (lba.0 % 2) as u8 });
    let read = rig.read(0);
    for (block, bytes) in read.chunks(512).enumerate() {
        assert_eq!(bytes, [(block % 2) as u8; 512]);
    }
}

#[test]
fn the_seed_decides_what_a_power_failure_does() {
    let survivors = |seed: u64| {
        let mut rig = Rig::new(&format!("emulated:1MiB?cache=volatile&seed={seed}"));
        for lba in 0..64 {
            assert!(rig.write(lba, 1).is_success());
        }
        rig.device().lose_power();
        (0..64).flat_map(|lba| rig.read(lba)).collect::<Vec<_>>()
    };
    let first = survivors(1);
    assert_eq!(first, survivors(1));
    assert_ne!(first, survivors(2));
    assert!(first.contains(&0));
    assert!(first.contains(&1));
}

#[test]
fn a_full_cache_destages_the_oldest() {
    let mut rig = Rig::new("emulated:1MiB?cache=volatile&cache_blocks=4");
    for lba in 0..10 {
        assert!(rig.write(lba, 1).is_success());
    }
    let mut lost = Vec::new();
    rig.device().drop_unflushed(&mut |lba| {
        lost.push(lba.0);
        Loss::Lose
    });
    assert_eq!(lost, [6, 7, 8, 9]);
    assert_eq!(rig.read(5), [1; 4096]);
    assert_eq!(rig.read(6), [0; 4096]);
}

#[test]
fn files_outlive_their_device() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a&b?c");
    let encoded = directory.path().join("a%26b%3fc");
    for options in ["thread=0", "cache=volatile", "cache=volatile&thread=1"] {
        let mut rig = Rig::on(&Rig::claim_file(&encoded, options));
        assert!(rig.write(1, 7).is_success());
        assert!(rig.write(2, 8).is_success());
        // Not flushed: but a device that is shut down in order loses nothing.
        drop(rig);
        assert!(path.exists());
        let mut rig = Rig::on(&Rig::claim_file(&encoded, options));
        assert_eq!(rig.read(1), [7; 4096]);
        assert_eq!(rig.read(2), [8; 4096]);
        rig.run(Operation::Deallocate {
            ranges: [culvert_nvme::LbaRange { start: Lba(0), blocks: 256 }].into_iter().collect(),
        });
    }
}

#[test]
fn a_crash_shows_in_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("device");
    let claim = Rig::claim_file(&path, "cache=volatile");
    let mut rig = Rig::on(&claim);
    assert!(rig.write(1, 7).is_success());
    assert!(rig.flush().is_success());
    assert!(rig.write(1, 8).is_success());
    assert!(rig.write(2, 8).is_success());
    // Leaked, as the death of the process would leave it.
    std::mem::forget(rig.pair);
    let mut rig = Rig::on(&claim);
    assert_eq!(rig.read(1), [7; 4096]);
    assert_eq!(rig.read(2), [0; 4096]);
}

#[test]
fn bad_files_are_errors() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open_file = |path: &Path, size: &str| {
        let uri = format!("emulated:{size}?file={}", path.display()).parse().expect("a URI");
        open(&uri, &OpenOptions::default()).map(drop)
    };
    let error = open_file(&directory.path().join("no/such/directory"), "1MiB");
    assert!(matches!(error, Err(OpenError::File { .. })), "{error:?}");
    assert!(open_file(directory.path(), "1MiB").is_err());
    let path = directory.path().join("device");
    open_file(&path, "1MiB").expect("creating");
    open_file(&path, "2MiB").expect("extending");
    let error = open_file(&path, "1MiB");
    assert!(matches!(error, Err(OpenError::File { .. })), "{error:?}");
    // No file system has room for this.
    let error = open_file(&path, "4194304TiB");
    assert!(matches!(error, Err(OpenError::File { .. })), "{error:?}");
}

fn a_reset_aborts_what_is_in_flight(uri: &str) {
    let mut rig = Rig::new(uri);
    assert!(rig.write(9, 1).is_success());
    for round in 0..20 {
        for tag in 0..30 {
            rig.submit_write(tag, tag, round);
        }
        rig.pair.ring();
        rig.device().reset().expect("a reset");
        let completions = rig.finish();
        assert_eq!(completions.len(), 30);
        for completion in completions.values() {
            assert_eq!(completion.status, Status::ABORTED_BY_HOST);
            assert!(completion.pages.is_some());
        }
        assert_eq!(rig.pool.free_pages() + 30, rig.pool.total_pages());
        drop(completions);
        assert!(rig.write(0, 5).is_success());
        assert_eq!(rig.read(0), [5; 4096]);
    }
}

#[test]
fn a_reset_aborts_what_is_in_flight_inline() {
    a_reset_aborts_what_is_in_flight("emulated:1MiB");
}

#[test]
fn a_reset_aborts_what_is_in_flight_threaded() {
    a_reset_aborts_what_is_in_flight("emulated:1MiB?thread=1");
}

#[test]
fn an_abort_reaches_what_is_not_executed() {
    let mut rig = Rig::new("emulated:1MiB");
    rig.submit_write(1, 0, 1);
    rig.submit_write(2, 1, 1);
    rig.pair.ring();
    // The command before it is executed in the same turn.
    assert!(rig.device().abort(Tag(2)).expect("an answer"));
    assert!(!rig.device().abort(Tag(1)).expect("an answer"), "already executed");
    assert!(!rig.device().abort(Tag(3)).expect("an answer"), "unknown");
    let completions = rig.finish();
    assert_eq!(completions[&1].status, Status::SUCCESS);
    assert_eq!(completions[&2].status, Status::ABORT_REQUESTED);
    assert!(completions[&2].pages.is_some());
    assert_eq!(rig.read(1), [0; 4096]);
}

#[test]
fn shuffled_commands_complete_in_the_order_of_the_seed() {
    let order = |seed: u64| {
        let mut rig = Rig::new(&format!("emulated:1MiB?order=shuffled&seed={seed}"));
        for tag in 0..60 {
            rig.submit_write(tag, tag, 1);
        }
        rig.pair.ring();
        let mut order = Vec::new();
        let mut polls = 0;
        while rig.pair.in_flight() > 0 {
            rig.pair.poll(64, &mut |completion| order.push(completion.tag.0));
            polls += 1;
        }
        (order, polls)
    };
    let (first, polls) = order(4);
    assert!(polls > 1, "some commands take longer than others");
    assert_eq!(order(4), (first.clone(), polls));
    assert_ne!(order(5).0, first);
    assert!(!first.is_sorted());
}

#[test]
fn bad_options_are_errors() {
    let uri = "emulated:1MiB".parse().expect("a URI");
    for depth in [0, 4097, u32::MAX] {
        let options = OpenOptions { depth, ..OpenOptions::default() };
        assert!(matches!(open(&uri, &options), Err(OpenError::Depth { .. })));
    }
    let options = OpenOptions { regions_max: 0, ..OpenOptions::default() };
    assert!(matches!(open(&uri, &options), Err(OpenError::RegionsMax { .. })));
    let options = OpenOptions { depth: 4096, ..OpenOptions::default() };
    assert_eq!(open(&uri, &options).expect("the deepest").depth(), 4096);
}

const SECOND_NS: u64 = 1_000_000_000;

/// Looks after the device for so long, and gives what completed meanwhile.
fn tend(rig: &mut Rig, now_ns: &mut u64, seconds: u64) -> HashMap<u64, Completion> {
    let mut completions = HashMap::new();
    for _ in 0..2 * seconds {
        *now_ns += SECOND_NS / 2;
        rig.pair.tend(*now_ns);
        rig.pair.poll(64, &mut |completion| {
            completions.insert(completion.tag.0, completion);
        });
    }
    completions
}

#[test]
fn a_command_that_takes_too_long_is_aborted() {
    let mut rig = Rig::new("emulated:1MiB");
    let mut now_ns = 7;
    rig.device().faults().hold(FaultTarget::Writes, Lba(3)..Lba(4), Times::Next(1));
    tend(&mut rig, &mut now_ns, 100);
    rig.submit_write(1, 3, 9);
    rig.submit_write(2, 4, 9);
    rig.pair.ring();
    let completions = tend(&mut rig, &mut now_ns, 29);
    assert_eq!(completions.into_keys().collect::<Vec<_>>(), [2], "it has thirty seconds");
    // Others complete all the time, and wait to be visited whenever somebody looks.
    let mut completions = HashMap::new();
    for tag in 10..14 {
        rig.submit_write(tag, 8, 1);
        rig.pair.ring();
        rig.pair.poll(0, &mut |_| unreachable!("nothing is to be visited"));
        completions.extend(tend(&mut rig, &mut now_ns, 1));
    }
    assert_eq!(completions[&1].status, Status::ABORT_REQUESTED);
    assert!(completions[&1].pages.is_some());
    assert_eq!(rig.read(3), [0; 4096]);
    assert!(rig.write(3, 5).is_success());
}

#[test]
fn a_command_that_no_abort_ends_is_ended_by_a_reset() {
    let mut rig = Rig::new("emulated:1MiB");
    let mut now_ns = 0;
    assert!(rig.write(4, 1).is_success());
    rig.device().faults().lose(FaultTarget::Flushes, ANYWHERE, Times::Next(1));
    rig.submit(1, Operation::Flush);
    rig.pair.ring();
    assert!(tend(&mut rig, &mut now_ns, 59).is_empty());
    let completions = tend(&mut rig, &mut now_ns, 4);
    assert_eq!(completions[&1].status, Status::ABORTED_BY_HOST);
    assert_eq!(rig.read(4), [1; 4096]);
    // Commands of the new queues are as young as they are.
    rig.device().faults().lose(FaultTarget::Reads, ANYWHERE, Times::Next(1));
    let buffer = rig.filled(1, 0);
    rig.submit(2, Operation::Read { lba: Lba(4), buffer });
    rig.pair.ring();
    assert!(tend(&mut rig, &mut now_ns, 59).is_empty());
    assert!(tend(&mut rig, &mut now_ns, 4)[&2].buffer.is_some());
}

#[test]
fn a_controller_that_failed_is_reset() {
    for uri in ["emulated:1MiB", "emulated:1MiB?thread=1"] {
        let mut rig = Rig::new(uri);
        assert!(rig.write(4, 1).is_success());
        rig.device().faults().fail_controller();
        rig.submit_write(1, 4, 2);
        let mut now_ns = 0;
        let mut completions = HashMap::new();
        rig.pair.ring();
        while completions.is_empty() {
            completions = tend(&mut rig, &mut now_ns, 1);
            assert!(now_ns < 20 * SECOND_NS || uri.contains("thread"), "nobody resets it");
        }
        assert_eq!(completions[&1].status, Status::ABORTED_BY_HOST);
        assert!(completions[&1].pages.is_some());
        assert!(rig.write(5, 3).is_success());
        assert_eq!(rig.read(5), [3; 4096]);
    }
}

#[test]
fn what_a_controller_reports_is_looked_at() {
    let mut rig = Rig::new("emulated:1MiB");
    let mut now_ns = 0;
    let mut events = |rig: &mut Rig| {
        tend(rig, &mut now_ns, 1);
        rig.pair.counters().events
    };
    assert_eq!(events(&mut rig), 0);
    // Each is one, also the second of its kind: its log page was read, and the next was asked for.
    for count in 1..4 {
        rig.device().faults().warn(count as u8);
        assert_eq!(events(&mut rig), count);
        assert_eq!(events(&mut rig), count);
    }
    // Also after a reset, and while admin commands are answered.
    rig.device().faults().fail_controller();
    events(&mut rig);
    rig.device().faults().hold(FaultTarget::Writes, ANYWHERE, Times::Next(1));
    rig.submit_write(7, 1, 1);
    rig.pair.ring();
    assert_eq!(events(&mut rig), 3);
    rig.device().faults().warn(8);
    assert!(rig.device().abort(Tag(7)).expect("an answer"));
    assert_eq!(events(&mut rig), 4);
    assert!(rig.write(1, 1).is_success());
}

#[test]
fn time_in_which_nobody_looked_makes_nothing_late() {
    let mut rig = Rig::new("emulated:1MiB");
    let mut now_ns = 0;
    rig.device().faults().hold(FaultTarget::Writes, ANYWHERE, Times::Next(1));
    rig.submit_write(1, 3, 9);
    rig.pair.ring();
    for _ in 0..20 {
        now_ns += 3600 * SECOND_NS;
        assert!(tend(&mut rig, &mut now_ns, 0).is_empty());
        rig.pair.tend(now_ns);
    }
    assert_eq!(rig.pair.in_flight(), 1);
    assert!(!tend(&mut rig, &mut now_ns, 24).is_empty());
}
