//! Blocks that really exist: every operation takes effect at a random moment between its invocation
//! and its answer, block by block, and one of unknown outcome at any time after.

use super::super::*;
use super::orders::{Fate, Pair, has_order};
use crate::sim::random::Random;

struct Running {
    id: OperationId,
    kind: Kind,
    first: u64,
    /// For each block: what a read found, or whether a change took effect.
    done: Vec<Option<Value>>,
}

/// A volume without faults, and clients that lose answers.
struct World {
    random: Random,
    stored: Vec<Value>,
    running: Vec<Running>,
    /// Changes that nobody waits for any more.
    abandoned: Vec<Running>,
    history: History,
    now_ns: u64,
}

impl World {
    fn new(seed: u64, blocks: u64) -> World {
        World {
            random: Random::new(seed),
            stored: vec![Value::Zero; blocks as usize],
            running: Vec::new(),
            abandoned: Vec::new(),
            history: History::new(blocks),
            now_ns: 0,
        }
    }

    fn step(&mut self, concurrent_max: usize) {
        self.now_ns += self.random.below(3);
        match self.random.below(4) {
            0 if self.running.len() < concurrent_max => self.invoke(),
            1 if !self.running.is_empty() => self.end(),
            _ => self.execute(),
        }
    }

    fn invoke(&mut self) {
        let blocks = self.random.within(1..self.stored.len().min(8) as u64 + 1);
        let first = self.random.below(self.stored.len() as u64 - blocks + 1);
        let kinds = [Kind::Write, Kind::Write, Kind::Read, Kind::Read, Kind::Read, Kind::Discard];
        let kind = kinds[self.random.below(6) as usize];
        let client = self.random.below(16) as u32;
        let id = self.history.invoke(kind, client, first, blocks, self.now_ns);
        self.running.push(Running { id, kind, first, done: vec![None; blocks as usize] });
    }

    /// One block of one operation, abandoned ones included.
    fn execute(&mut self) {
        let count = self.running.len() + self.abandoned.len();
        if count == 0 {
            return;
        }
        let which = self.random.below(count as u64) as usize;
        let mut all = self.running.iter_mut().chain(&mut self.abandoned);
        let operation = all.nth(which).expect("one of them");
        let index = self.random.below(operation.done.len() as u64) as usize;
        execute_block(&mut self.stored, operation, index);
        self.abandoned.retain(|operation| operation.done.contains(&None));
    }

    fn end(&mut self) {
        let which = self.random.below(self.running.len() as u64) as usize;
        let mut operation = self.running.swap_remove(which);
        let (id, is_new) = (operation.id, operation.done.iter().all(Option::is_none));
        if self.random.chance(50_000) {
            self.history.unknown(id, self.now_ns);
            self.abandoned.push(operation);
        } else if is_new && self.random.chance(50_000) {
            self.history.failed_cleanly(id, self.now_ns);
        } else {
            for index in 0..operation.done.len() {
                execute_block(&mut self.stored, &mut operation, index);
            }
            if operation.kind == Kind::Read {
                let found = operation.done.iter().map(|value| Ok(value.expect("executed")));
                self.history.complete_contents(id, self.now_ns, found).expect("known values");
            } else {
                self.history.complete(id, self.now_ns);
            }
        }
    }
}

fn execute_block(stored: &mut [Value], operation: &mut Running, index: usize) {
    if operation.done[index].is_some() {
        return;
    }
    let stored = &mut stored[operation.first as usize + index];
    match operation.kind {
        Kind::Read => {}
        Kind::Write => *stored = Value::Written(operation.id.0),
        Kind::Discard => *stored = Value::Zero,
    }
    operation.done[index] = Some(*stored);
}

#[test]
fn what_really_happened_is_explained() {
    for seed in 0..200 {
        let (blocks, concurrent_max) = (1 + seed % 5, 2 + seed as usize % 15);
        let mut world = World::new(seed, blocks);
        let mut forgetful = World::new(seed, blocks);
        for number in 0..1_000 {
            world.step(concurrent_max);
            forgetful.step(concurrent_max);
            if number % 16 == 0 {
                forgetful.history.settle().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            }
        }
        world.history.check().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert_eq!(world.history.hash(), forgetful.history.hash());
        for block in 0..blocks {
            let possible = world.history.possible(block).expect("it was checked");
            assert_eq!(possible, forgetful.history.possible(block).expect("it was checked"));
            assert!(possible.contains(&world.stored[block as usize]), "seed {seed}");
        }
    }
}

/// A long run over many blocks is judged in little time and little memory.
#[test]
fn a_long_run_is_forgotten_as_it_goes() {
    let mut world = World::new(1, 300);
    let mut remembered_max = 0;
    while world.history.operations < 30_000 {
        world.step(16);
        if world.history.moments.is_multiple_of(1_000) {
            world.history.settle().unwrap_or_else(|why| panic!("{why}"));
            let remembered = world.history.blocks.iter().map(|block| block.remembered().count());
            remembered_max = remembered.sum::<usize>().max(remembered_max);
        }
    }
    world.history.check().unwrap_or_else(|why| panic!("{why}"));
    assert!(remembered_max < 20_000, "{remembered_max} operations on blocks");
}

/// A history of one block that really happened but for the answer of one read, the first one from
/// operation `changed` on.
fn changed_history(random: &mut Random, changed: u64) -> Pair {
    let (mut pair, mut stored) = (Pair::new(), Value::Zero);
    let (mut running, mut changed): (Vec<Running>, _) = (Vec::new(), Some(changed));
    while pair.tried.len() < 8 || !running.is_empty() {
        if pair.tried.len() < 8 && running.len() < 4 && random.chance(400_000) {
            let kinds = [Kind::Write, Kind::Read, Kind::Read, Kind::Discard];
            let kind = kinds[random.below(4) as usize];
            let id = pair.invoke(kind);
            running.push(Running { id, kind, first: 0, done: vec![None] });
            continue;
        }
        if running.is_empty() {
            continue;
        }
        let which = random.below(running.len() as u64) as usize;
        execute_block(std::slice::from_mut(&mut stored), &mut running[which], 0);
        if random.chance(500_000) {
            let operation = running.swap_remove(which);
            let is_read = operation.kind == Kind::Read;
            let mut found = operation.done[0].expect("executed");
            if is_read && changed.is_some_and(|changed| operation.id.0 > changed) {
                changed = None;
                found = pair.any_value(random.bits());
            }
            let is_lost = !is_read && random.chance(100_000);
            let fate = if is_lost { Fate::Open } else { Fate::Done(0) };
            pair.end(operation.id, fate, found);
        }
    }
    pair
}

#[test]
fn a_changed_read_is_judged_as_all_orders_judge_it() {
    let mut bad = 0;
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let changed = random.below(8);
        let pair = changed_history(&mut random, changed);
        let verdict = has_order(&pair.tried);
        bad += u32::from(!verdict);
        let said = pair.history.check();
        assert_eq!(said.is_ok(), verdict, "seed {seed}: {said:?} of {:#?}", pair.tried);
    }
    assert!((2_000..18_000).contains(&bad), "{bad} of 20000 histories are bad");
}
