//! One seed from beginning to end, and its verdict.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use culvert_memory::{Backing, Pool, PoolOptions};

use super::agreement::is_settled;
use super::coverage::Coverage;
use super::faults::{FaultPlan, Profile};
use super::random::Random;
use super::scene::{NODES, POOL_BYTES};
use super::world::World;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// Clients that run beside each other; one more reads everything at the end.
const GUESTS: usize = 3;

/// Once all is well, everything must have come to its end within so long.
const PATIENCE_NS: u64 = 60 * SECOND;

/// Faults come for so long at most.
const SUFFERING_NS_MAX: u64 = 60 * SECOND;

/// A run has so many faults at least, however fast its clients are.
const FAULTS_MIN: u64 = 12;

/// How often it is asked whether all is settled.
const LOOK_NS: u64 = 5 * MS;

/// Blocks that the last reader reads at a time.
const READ_BLOCKS: u64 = 8;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Kinds of faults.
    pub profile: Profile,
    /// Operations of clients.
    pub operations: u64,
    /// Faults of the plan that do not come, by their numbers.
    pub without: Vec<u64>,
    /// Whether to keep a readable history.
    pub traced: bool,
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What did not hold.
    pub violation: Option<String>,
    /// Hash of all that happened.
    pub hash: u64,
    /// Operations that ended.
    pub operations: u64,
    /// Faults that came.
    pub faults: u64,
    /// Faults that were planned.
    pub planned: u64,
    /// What they met.
    pub coverage: Coverage,
    /// Nanoseconds that passed in the world.
    pub simulated_ns: u64,
    /// A readable history, if asked for.
    pub trace: Vec<String>,
}

thread_local! {
    /// Memory of the hosts, kept from seed to seed: mapping it is the costliest part of a run.
    static POOLS: RefCell<Vec<Pool>> = const { RefCell::new(Vec::new()) };
}

/// Runs one seed.
pub fn run(seed: u64, options: &RunOptions) -> Outcome {
    let pools = POOLS.with_borrow_mut(|pools| {
        if pools.is_empty() {
            pools.extend((0..NODES + GUESTS + 1).map(|_| open_pool()));
        }
        pools.clone()
    });
    let mut outcome = Outcome {
        seed,
        violation: None,
        hash: 0,
        operations: 0,
        faults: 0,
        planned: 0,
        coverage: Coverage::default(),
        simulated_ns: 0,
        trace: Vec::new(),
    };
    let lived = catch_unwind(AssertUnwindSafe(|| live(seed, options, &pools, &mut outcome)));
    let leaked = pools.iter().any(|pool| pool.free_pages() != pool.total_pages());
    let violation = match lived {
        Ok(Ok(())) if leaked => Some("pages did not come back to their pool".to_owned()),
        Ok(result) => result.err(),
        Err(panic) => Some(format!("panicked: {}", words_of(&*panic))),
    };
    if violation.is_some() {
        // What a panic left behind is nobody's memory any more.
        POOLS.with_borrow_mut(Vec::clear);
    }
    outcome.violation = violation;
    outcome
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

fn open_pool() -> Pool {
    let options = PoolOptions {
        name: "culvert-sim".to_owned(),
        bytes: POOL_BYTES,
        backing: Backing::Ordinary,
        numa_node: None,
        lock: false,
    };
    Pool::new(&options).expect("memory for a modelled host")
}

fn live(
    seed: u64,
    options: &RunOptions,
    pools: &[Pool],
    outcome: &mut Outcome,
) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x5ce7_e5ce_7e5c_e7e5);
    let mut world = World::new(seed, GUESTS, pools, options.traced);
    // Until its replicas are durable, a node that dies has to be told to make them once more.
    settle(&mut world, outcome, "a first leader", |world| is_settled(&world.statuses()))?;
    let plan = random.fork("faults");
    let mut plan = FaultPlan::new(options.profile, NODES + GUESTS, world.now_ns, plan);
    let result = suffer(&mut world, &mut plan, options, outcome)
        .and_then(|()| recover(&mut world, &pools[NODES + GUESTS], outcome));
    for guest in 0..world.guests.len() {
        let now_ns = world.now_ns;
        world.guests[guest].abandon(&mut world.history, now_ns);
    }
    outcome.hash = world.hash();
    outcome.faults = world.faults;
    outcome.coverage = std::mem::take(&mut world.coverage);
    outcome.simulated_ns = world.now_ns;
    let result = result.and_then(|()| world.history.check().map_err(|what| what.to_string()));
    if let Some(mut trace) = world.trace.take() {
        let mut text = String::new();
        world.history.trace(&mut text).expect("writing to a string");
        trace.extend(text.lines().map(str::to_owned));
        outcome.trace = trace;
    }
    result
}

/// Operations and faults, until there were enough of both, or for long enough.
fn suffer(
    world: &mut World,
    plan: &mut FaultPlan,
    options: &RunOptions,
    outcome: &mut Outcome,
) -> Result<(), String> {
    // Where one fault follows the other nobody gets through; progress is asked for afterwards.
    let limit_ns = world.now_ns + SUFFERING_NS_MAX;
    let operations = options.operations;
    let done = |ended, faults| ended >= operations && faults >= FAULTS_MIN;
    while !done(outcome.operations, outcome.planned) && world.now_ns < limit_ns {
        for guest in 0..world.guests.len() {
            let now_ns = world.now_ns;
            world.guests[guest].ask(&mut world.history, now_ns);
        }
        let asks = world.guests.iter().map(|guest| guest.asks_ns);
        let next = asks.filter(|at| *at > world.now_ns).chain([plan.next_ns()]).min();
        outcome.operations += world.step(next.unwrap_or(limit_ns))? as u64;
        if world.now_ns >= plan.next_ns() {
            let step = plan.take(world.now_ns, || world.cast(GUESTS));
            outcome.planned += 1;
            if !options.without.contains(&step.number) {
                world.suffer(step.number, step.fault, step.busy_ns);
            }
        }
    }
    Ok(())
}

/// All is well again: everything comes to its end, everything is read, and all replicas agree.
fn recover(world: &mut World, pool: &Pool, outcome: &mut Outcome) -> Result<(), String> {
    world.heal();
    wait_for(world, outcome, "operations to end", |world| {
        world.guests.iter().all(|guest| guest.in_flight() == 0)
    })?;
    world.add_guest(pool);
    let reader = world.guests.len() - 1;
    for block in (0..world.history.blocks()).step_by(READ_BLOCKS as usize) {
        let now_ns = world.now_ns;
        world.guests[reader].read(&mut world.history, block, READ_BLOCKS as u32, now_ns);
        wait_for(world, outcome, "a read", |world| world.guests[reader].in_flight() == 0)?;
    }
    if let Some(wrong) = world.guests.iter_mut().find_map(|guest| guest.wronged.take()) {
        return Err(wrong);
    }
    settle(world, outcome, "all replicas to be equal", |world| world.is_still())?;
    // What was applied is noted in the journal when nothing else is written for a while.
    let noted_ns = world.now_ns + 100_000_000;
    settle(world, outcome, "notes", |world| world.now_ns >= noted_ns)?;
    world.compare()?;
    world.check_disks()
}

/// As [`wait_for`], for what is costly to find out.
fn settle(
    world: &mut World,
    outcome: &mut Outcome,
    what: &str,
    done: impl Fn(&World) -> bool,
) -> Result<(), String> {
    let looked_ns = Cell::new(world.now_ns);
    wait_for(world, outcome, what, |world| {
        let due = world.now_ns >= looked_ns.get();
        looked_ns.set(if due { world.now_ns + LOOK_NS } else { looked_ns.get() });
        due && done(world)
    })
}

fn wait_for(
    world: &mut World,
    outcome: &mut Outcome,
    what: &str,
    done: impl Fn(&World) -> bool,
) -> Result<(), String> {
    let limit_ns = world.now_ns + PATIENCE_NS;
    while !done(world) {
        outcome.operations += world.step(limit_ns)? as u64;
        if world.now_ns >= limit_ns {
            return Err(format!(
                "waited in vain for {what}, a minute after all was well: {}",
                world.words()
            ));
        }
    }
    Ok(())
}
