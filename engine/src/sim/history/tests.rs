//! Histories written by hand, good and bad; the bytes of a block; and one block's history against
//! every order of its operations (`orders`), and of blocks that really exist (`world`).

mod orders;
mod world;

use std::collections::BTreeSet;

use super::violation::Cause;
use super::*;

/// One block and its clients; time passes with everything that happens.
struct Story {
    history: History,
    now_ns: u64,
}

impl Story {
    fn new() -> Story {
        Story { history: History::new(1), now_ns: 0 }
    }

    fn tick(&mut self) -> u64 {
        self.now_ns += 10;
        self.now_ns
    }

    fn write(&mut self) -> OperationId {
        let now_ns = self.tick();
        self.history.invoke(Kind::Write, 1, 0, 1, now_ns)
    }

    fn discard(&mut self) -> OperationId {
        let now_ns = self.tick();
        self.history.invoke(Kind::Discard, 2, 0, 1, now_ns)
    }

    fn read(&mut self) -> OperationId {
        let now_ns = self.tick();
        self.history.invoke(Kind::Read, 3, 0, 1, now_ns)
    }

    fn done(&mut self, id: OperationId) {
        let now_ns = self.tick();
        self.history.complete(id, now_ns);
    }

    fn unknown(&mut self, id: OperationId) {
        let now_ns = self.tick();
        self.history.unknown(id, now_ns);
    }

    fn written(&mut self) -> Value {
        let id = self.write();
        self.done(id);
        Value::Written(id.0)
    }

    fn found(&mut self, id: OperationId, value: Value) {
        let now_ns = self.tick();
        self.history.complete_contents(id, now_ns, std::iter::once(Ok(value))).expect("known");
    }

    fn reads(&mut self, value: Value) {
        let id = self.read();
        self.found(id, value);
    }

    /// The verdict, which settling must share.
    fn holds(&self) -> bool {
        let verdict = self.history.check().is_ok();
        assert_eq!(self.history.clone().settle().is_ok(), verdict || self.history.in_flight() > 0);
        verdict
    }
}

fn value(id: OperationId) -> Value {
    Value::Written(id.0)
}

#[test]
fn reads_find_what_was_written_last() {
    let mut story = Story::new();
    story.reads(Value::Zero);
    let first = story.written();
    story.reads(first);
    let second = story.written();
    story.reads(second);
    assert!(story.holds());
    story.reads(first);
    assert!(!story.holds(), "a stale read");
}

#[test]
fn an_acknowledged_write_that_was_lost_is_found_by_a_last_read() {
    let mut story = Story::new();
    story.written();
    assert!(story.holds());
    story.reads(Value::Zero);
    assert!(!story.holds());

    let mut story = Story::new();
    let kept = story.written();
    story.history.settle().expect("nothing was lost yet");
    let lost = story.written();
    assert_eq!(story.history.possible(0).unwrap(), BTreeSet::from([lost]));
    story.history.settle().expect("nothing was lost yet");
    story.reads(kept);
    assert!(!story.holds());
}

#[test]
fn a_value_is_not_read_before_its_write_begins() {
    let mut story = Story::new();
    let read = story.read();
    let now_ns = story.tick();
    let early = std::iter::once(Ok(Value::Written(2)));
    let violation = story.history.complete_contents(read, now_ns, early).unwrap_err();
    assert_eq!(*violation.cause(), Cause::Bad(BadBlock::NobodyWrote(2)));
    story.written();
    assert!(story.history.check().is_err(), "it stays a violation");
    assert!(story.history.settle().is_err(), "it stays a violation");
}

#[test]
fn concurrent_writes_have_one_order() {
    let mut story = Story::new();
    let (first, second) = (story.write(), story.write());
    story.reads(value(first));
    story.reads(value(second));
    let flipped = story.history.clone();
    story.done(first);
    story.done(second);
    assert!(story.holds());
    story.reads(value(second));
    assert!(story.holds());

    let mut story = Story { history: flipped, now_ns: 1000 };
    story.reads(value(first));
    assert!(!story.holds(), "back to a value that was overwritten");
}

#[test]
fn readers_agree_on_the_order_of_concurrent_writes() {
    let mut story = Story::new();
    let (first, second) = (story.write(), story.write());
    let (early, late) = (story.read(), story.read());
    story.found(early, value(first));
    story.found(late, value(second));
    story.done(first);
    story.done(second);
    assert!(story.holds(), "overlapping reads go either way");
    story.reads(value(first));
    assert!(story.holds(), "the second was overwritten by the first");
    story.reads(value(second));
    assert!(!story.holds());
}

#[test]
fn a_write_of_unknown_outcome_takes_effect_once_at_any_time_or_never() {
    let mut story = Story::new();
    let unknown = story.write();
    story.unknown(unknown);
    let known = story.written();
    story.reads(known);
    assert!(story.holds(), "never");
    story.history.settle().expect("it holds");
    story.written();
    story.reads(value(unknown));
    assert!(story.holds(), "late");
    story.history.settle().expect("it holds");
    let last = story.written();
    story.reads(last);
    story.reads(value(unknown));
    assert!(!story.holds(), "twice");
}

#[test]
fn the_value_before_is_gone_once_an_unknown_write_was_seen() {
    let mut story = Story::new();
    let old = story.written();
    let unknown = story.write();
    story.unknown(unknown);
    story.reads(old);
    story.reads(value(unknown));
    assert!(story.holds());
    story.reads(old);
    assert!(!story.holds());
}

#[test]
fn an_unanswered_write_is_an_unknown_one() {
    let mut story = Story::new();
    let open = story.write();
    story.reads(Value::Zero);
    story.reads(value(open));
    assert!(story.holds());
    story.reads(Value::Zero);
    assert!(!story.holds());
}

#[test]
fn zero_is_read_only_where_something_discards() {
    let mut story = Story::new();
    story.written();
    let discard = story.discard();
    story.reads(Value::Zero);
    assert!(story.holds());
    let value = story.written();
    story.reads(value);
    story.done(discard);
    assert!(story.holds());
    story.reads(Value::Zero);
    assert!(!story.holds(), "it took effect before the second write");
}

#[test]
fn each_discard_makes_zero_of_one_value_only() {
    for (discards, holds) in [(1, false), (2, true)] {
        let mut story = Story::new();
        for _ in 0..discards {
            let discard = story.discard();
            story.unknown(discard);
        }
        for _ in 0..2 {
            let value = story.written();
            story.reads(value);
            story.history.settle().expect("so far");
            story.reads(Value::Zero);
        }
        assert_eq!(story.holds(), holds, "{discards} discards");
    }
}

#[test]
fn a_discard_is_not_lost() {
    let mut story = Story::new();
    let value = story.written();
    let discard = story.discard();
    story.done(discard);
    assert_eq!(story.history.possible(0).unwrap(), BTreeSet::from([Value::Zero]));
    story.reads(value);
    assert!(!story.holds());
}

#[test]
fn a_refused_write_is_never_read() {
    let mut story = Story::new();
    let refused = story.write();
    let now_ns = story.tick();
    story.history.failed_cleanly(refused, now_ns);
    assert!(story.holds());
    story.reads(value(refused));
    assert!(!story.holds());
}

#[test]
fn a_violation_shows_the_operations_around_it() {
    let mut story = Story::new();
    let first = story.written();
    for _ in 0..100 {
        story.written();
        let newest = Value::Written(story.history.operations);
        story.reads(newest);
    }
    story.reads(first);
    let text = story.history.check().unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "block 0, operation 202: no order of the operations explains its answer; just before it, \
         a read could have found: [value 200]"
    );
    assert_eq!(
        lines[1],
        "  operation     1 of client  1: write value 1, invoked at 10 ns, complete at 20 ns"
    );
    assert_eq!(
        lines.last().unwrap(),
        &"> operation   202 of client  3: read  value 1, invoked at 4030 ns, complete at 4040 ns"
    );
    assert_eq!(lines.len(), 19);
}

#[test]
fn blocks_of_one_operation_are_judged_one_by_one() {
    let mut history = History::new(8);
    let write = history.invoke(Kind::Write, 1, 2, 4, 10);
    let mut written = vec![0; 4 * BLOCK];
    history.fill(write, &mut written);
    let mut half = written.clone();
    half[2 * BLOCK..].fill(0);
    let read = history.invoke(Kind::Read, 2, 2, 4, 11);
    history.complete_read(read, 12, &half).expect("whole blocks");
    history.complete(write, 13);
    history.check().expect("the write was under way");
    let read = history.invoke(Kind::Read, 2, 2, 4, 14);
    history.complete_read(read, 15, &half).expect("whole blocks");
    assert_eq!(history.check().unwrap_err().block(), 4);

    half.copy_within(..BLOCK, BLOCK);
    let read = history.invoke(Kind::Read, 2, 2, 4, 16);
    let violation = history.complete_read(read, 17, &half).unwrap_err();
    assert_eq!(violation.block(), 3);
    let other = BadBlock::OtherBlock { block: 2, value: write.0 };
    assert_eq!(*violation.cause(), Cause::Bad(other));
}

#[test]
fn hash_and_trace_say_what_happened() {
    let run = |client, read_at| {
        let mut history = History::new(2);
        let write = history.invoke(Kind::Write, client, 0, 2, 1);
        let read = history.invoke(Kind::Read, 1, 1, 1, 2);
        history.complete_read(read, read_at, &[0; BLOCK]).expect("whole");
        history.complete(write, 5);
        let mut trace = String::new();
        history.trace(&mut trace).expect("strings take everything");
        (history.hash(), trace)
    };
    assert_eq!(run(7, 3), run(7, 3));
    assert_ne!(run(7, 3).0, run(8, 3).0);
    assert_ne!(run(7, 3).0, run(7, 4).0);
    assert_eq!(
        run(7, 3).1,
        "block     0, operation     1 of client  7: write value 1, invoked at 1 ns, complete at 5 ns\n\
         block     1, operation     1 of client  7: write value 1, invoked at 1 ns, complete at 5 ns\n\
         block     1, operation     2 of client  1: read  zero, invoked at 2 ns, complete at 3 ns\n"
    );
}

fn filled(block: u64, value: u64) -> Vec<u8> {
    let mut bytes = vec![0xAA; BLOCK];
    fill(block, value, &mut bytes);
    bytes
}

#[test]
fn content_comes_back() {
    assert_eq!(parse(7, &[0; BLOCK]), Ok(Value::Zero));
    for (block, value) in [(0, 1), (7, 1), (u64::MAX, u64::MAX), (1 << 40, 3)] {
        assert_eq!(parse(block, &filled(block, value)), Ok(Value::Written(value)));
    }
    let other = BadBlock::OtherBlock { block: 7, value: 9 };
    assert_eq!(parse(8, &filled(7, 9)), Err(other));
}

#[test]
fn every_flipped_bit_is_seen() {
    let mut bytes = filled(3, 77);
    for bit in 0..BLOCK * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(parse(3, &bytes), Err(BadBlock::Garbage(_))), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    let mut zero = vec![0; BLOCK];
    for bit in 0..BLOCK * 8 {
        zero[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(3, &zero).is_err(), "bit {bit} of nothing");
        zero[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_mix_of_two_writes_is_seen() {
    let (old, new) = (filled(3, 77), filled(3, 78));
    for mask in 1..255_u32 {
        for under in [&old, &vec![0; BLOCK]] {
            let mut mixed = under.clone();
            for sector in (0..8).filter(|sector| mask & 1 << sector != 0) {
                mixed[sector * 512..][..512].copy_from_slice(&new[sector * 512..][..512]);
            }
            assert!(matches!(parse(3, &mixed), Err(BadBlock::Torn(_))), "sectors {mask:#x}");
        }
    }
    let mut shifted = new.clone();
    shifted.rotate_left(512);
    assert!(matches!(parse(3, &shifted), Err(BadBlock::Garbage(_))), "sectors out of place");
    let text = parse(3, &[&new[..512], &old[512..]].concat()).unwrap_err().to_string();
    assert!(text.starts_with("the block is torn; its sectors: [value 78 of block 3] [value 77"));
}
