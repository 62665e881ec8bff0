//! Many seeds of everything at once: each operation is reported once, what is read was written,
//! nothing is executed twice, and nothing leaks.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{Faults, Random};
use super::*;

/// What each block may hold, as far as the caller can know.
struct Expectation {
    /// Tags that a read may find now.
    possible: BTreeMap<u64, BTreeSet<u64>>,
    /// Tags of changes of unknown outcome, which may still arrive.
    lingering: BTreeMap<u64, BTreeSet<u64>>,
}

impl Expectation {
    fn settled(&mut self, block: u64, tag: u64) {
        let mut possible = self.lingering.get(&block).cloned().unwrap_or_default();
        possible.insert(tag);
        self.possible.insert(block, possible);
    }

    fn unknown(&mut self, block: u64, tag: u64) {
        self.possible.entry(block).or_insert_with(|| BTreeSet::from([0])).insert(tag);
        self.lingering.entry(block).or_default().insert(tag);
    }

    fn allows(&self, block: u64, tag: u64) -> bool {
        self.possible.get(&block).map_or(tag == 0, |possible| possible.contains(&tag))
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Write,
    Read,
    Discard,
}

struct Trial {
    bench: Bench,
    random: Random,
    expectation: Expectation,
    /// By token, which is the tag of a write too.
    open: BTreeMap<u64, (Kind, u64, u64)>,
    next_token: u64,
    unknown: u64,
}

impl Trial {
    fn new(seed: u64, faults: Faults) -> Trial {
        let mut random = Random(seed);
        let stripe_blocks = [4, 8, 16, 32, 64][random.below(5) as usize];
        let options = ClientOptions {
            in_flight_max: 1 + random.below(64) as u32,
            seed,
            ..ClientOptions::default()
        };
        let bench = Bench::new(seed, stripe_blocks, options);
        let initial = [0, 1, 8, 64][random.below(4) as usize];
        let max = [initial.max(8), 64, 512][random.below(3) as usize].max(initial);
        {
            let mut world = bench.world();
            world.faults = faults;
            world.window_pages = (initial, max);
            world.queue_frames = 1 + random.below(32) as usize;
        }
        let expectation = Expectation { possible: BTreeMap::new(), lingering: BTreeMap::new() };
        Trial { bench, random, expectation, open: BTreeMap::new(), next_token: 1, unknown: 0 }
    }

    /// A range that no open operation touches.
    fn range(&mut self, blocks_max: u64) -> Option<(u64, u64)> {
        let offset = self.random.below(2048);
        let longest = if self.random.chance(700) { 4 } else { blocks_max };
        let blocks = (1 + self.random.below(longest)).min(2048 - offset);
        let clear = |(_, start, length): &(Kind, u64, u64)| {
            offset + blocks <= *start || *start + *length <= offset
        };
        self.open.values().all(clear).then_some((offset, blocks))
    }

    fn submit(&mut self) {
        let (kind, blocks_max) = match self.random.below(10) {
            0 => (Kind::Discard, 600),
            1..5 => (Kind::Read, 256),
            _ => (Kind::Write, 256),
        };
        let Some((offset, blocks)) = self.range(blocks_max) else { return };
        let token = self.next_token;
        let taken = match kind {
            Kind::Write => self.bench.write(token, token, offset, blocks as u32),
            Kind::Read => self.bench.read(token, offset, blocks as u32),
            Kind::Discard if blocks > self.bench.volume.discard_blocks_max() => return,
            Kind::Discard => self.bench.discard(token, offset, blocks),
        };
        match taken {
            Ok(()) => {
                self.next_token += 1;
                self.open.insert(token, (kind, offset, blocks));
            }
            Err(refusal) => assert_eq!(refusal, Refusal::Full),
        }
    }

    fn check(&mut self, report: &Report) {
        let open = self.open.remove(&report.token);
        let (kind, offset, blocks) = open.expect("reported once, and only what was submitted");
        let tag = if matches!(kind, Kind::Write) { report.token } else { 0 };
        let executions = |block: u64| {
            let world = self.bench.world();
            world.servers.executions.get(&(tag, block)).copied().unwrap_or(0)
        };
        for block in offset..offset + blocks {
            match (kind, report.result) {
                (Kind::Read, Ok(())) => {
                    let read = report.tags[(block - offset) as usize];
                    assert!(self.expectation.allows(block, read), "block {block} has {read}");
                }
                (Kind::Read, Err(_)) => {}
                (Kind::Write, Ok(())) => {
                    assert_eq!(executions(block), 1, "write {tag} of block {block}");
                    self.expectation.settled(block, tag);
                }
                (Kind::Discard, Ok(())) => self.expectation.settled(block, 0),
                (_, Err(ClientError::OutcomeUnknown)) => self.expectation.unknown(block, tag),
                (Kind::Write, Err(ClientError::TimedOut(_))) => {
                    assert_eq!(executions(block), 0, "write {tag} of block {block}");
                }
                (Kind::Discard, Err(ClientError::TimedOut(_))) => {}
                (_, Err(error)) => panic!("{kind:?} of {offset}+{blocks}: {error}"),
            }
        }
        self.unknown += u64::from(report.result == Err(ClientError::OutcomeUnknown));
    }

    fn run(&mut self, operations: u64) {
        let mut reports = Vec::new();
        while self.next_token <= operations {
            for _ in 0..self.random.below(4) {
                self.submit();
            }
            self.bench.turn(&mut reports);
            reports.drain(..).for_each(|report| self.check(&report));
        }
        for report in self.bench.finish() {
            self.check(&report);
        }
        assert!(self.open.is_empty());
    }

    /// Everything works again: what is read now is there to stay.
    fn heal(&mut self) {
        self.bench.world().faults = Faults::default();
        self.bench.world().down.clear();
        let mut reports = Vec::new();
        while !self.bench.world().is_quiet() {
            self.bench.turn(&mut reports);
        }
        for block in 0..2048 {
            let stored = self.bench.stored(block);
            assert!(self.expectation.allows(block, stored), "block {block} has {stored}");
        }
        for offset in (0..2048).step_by(256) {
            self.bench.read(1, offset, 256).expect("room for one");
            let tags = self.bench.outcome().expect("everything works");
            for (block, tag) in (offset..).zip(tags) {
                assert_eq!(tag, self.bench.stored(block));
            }
        }
        for ((tag, block), count) in &self.bench.world().servers.executions {
            assert_eq!(*count, 1, "write {tag} of block {block}");
        }
    }
}

fn trial(seed: u64, faults: Faults, operations: u64) -> (Statistics, u64) {
    let mut trial = Trial::new(seed, faults);
    trial.run(operations);
    trial.heal();
    let statistics = *trial.bench.client.statistics();
    if faults.corrupt_read == 0 {
        assert_eq!(statistics.corrupt_reads, 0);
    }
    assert_eq!(statistics.submitted, statistics.completed);
    trial.bench.check_idle();
    (statistics, trial.unknown)
}

#[test]
fn without_faults_nothing_is_repeated() {
    for seed in 0..20 {
        let (statistics, unknown) = trial(seed, Faults::default(), 300);
        assert_eq!((statistics.retries, statistics.timeouts, statistics.failed), (0, 0, 0));
        assert_eq!(unknown, 0);
    }
}

#[test]
fn leaders_change_and_servers_are_busy() {
    let faults = Faults { change_leader: 20, busy: 50, bad_hint: 200, ..Faults::default() };
    let mut redirects = 0;
    for seed in 0..30 {
        let (statistics, unknown) = trial(seed, faults, 300);
        assert_eq!(unknown, 0, "sessions outlive leaders");
        assert_eq!(statistics.failed, 0);
        redirects += statistics.redirects;
    }
    assert!(redirects > 0);
}

#[test]
fn connections_drop() {
    let faults = Faults { drop_connection: 20, connect_fails: 200, ..Faults::default() };
    for seed in 0..30 {
        let (statistics, unknown) = trial(seed, faults, 300);
        assert_eq!((unknown, statistics.failed), (0, 0), "sessions outlive connections");
    }
}

#[test]
fn frames_are_lost_late_and_doubled() {
    let faults = Faults {
        lose_request: 5,
        lose_reply: 5,
        duplicate_reply: 50,
        slow: 5,
        ..Faults::default()
    };
    for seed in 0..20 {
        let (statistics, unknown) = trial(seed, faults, 300);
        assert_eq!((unknown, statistics.failed), (0, 0));
    }
}

#[test]
fn bytes_are_damaged() {
    let faults = Faults { corrupt_read: 20, damage_write: 20, media: 20, ..Faults::default() };
    let mut corrupt = 0;
    for seed in 0..20 {
        let (statistics, _) = trial(seed, faults, 300);
        assert_eq!(statistics.failed, 0);
        corrupt += statistics.corrupt_reads;
    }
    assert!(corrupt > 0);
}

#[test]
fn everything_at_once() {
    let faults = Faults {
        connect_fails: 100,
        drop_connection: 5,
        change_leader: 5,
        expire_sessions: 2,
        busy: 20,
        lose_request: 3,
        lose_reply: 3,
        duplicate_reply: 30,
        slow: 3,
        corrupt_read: 3,
        damage_write: 3,
        bad_hint: 300,
        media: 3,
        no_shm: false,
        no_leader: false,
    };
    let mut unknown = 0;
    for seed in 0..50 {
        unknown += trial(seed, faults, 300).1;
    }
    assert!(unknown > 0, "sessions expire with changes on their way");
}
