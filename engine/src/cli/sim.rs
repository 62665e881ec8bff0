//! `culvert sim`: the whole cluster from one seed.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::exit::{Code, Failure, Outcome};
use super::terminal::{Progress, say};
use crate::sim::coverage::{Coverage, STATES};
use crate::sim::faults::Profile;
use crate::sim::run::{self, RunOptions};

const EXAMPLES: &str = "\
Examples:
  culvert sim --seeds 0..1000
  culvert sim --seeds 0..100 --profile crash --steps 5000 --jobs 2
  culvert sim --seed 4711 --trace

Exit code 4 says that a seed broke a promise; its replay command is printed with it.";

/// Runs that looking for a smaller failing plan may take.
const SHRINKING_RUNS_MAX: usize = 200;

/// Fewer operations than this say no more.
const SHRUNK_OPERATIONS_MIN: u64 = 200;

/// Runs whole clusters in a modelled world, each from a seed
///
/// The production reactor, consensus, journal, store and client run in one thread over modelled
/// networks, devices and clocks, while processes, machines and connections fail. Afterwards every
/// client's history must be linearizable, nothing acknowledged lost, and all replicas equal. Equal
/// seeds give equal runs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimArgs {
    /// Seeds to run, the second excluded
    #[arg(long, value_name = "A..B", value_parser = parse_range, default_value = "0..100")]
    seeds: Range<u64>,
    /// One seed to run
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// What goes wrong
    #[arg(long, value_enum, default_value = "all")]
    profile: Profile,
    /// Operations of clients in each run
    #[arg(long, default_value_t = 2000, value_name = "N")]
    steps: u64,
    /// Runs beside each other [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Go on with further seeds after one that broke a promise
    #[arg(long)]
    keep_going: bool,
    /// Faults of the plan that do not come, by the numbers that --trace shows; for one seed
    #[arg(long, value_name = "N,..", value_delimiter = ',', requires = "seed")]
    without: Vec<u64>,
    /// Do not try to do without faults that have no part in it when a seed broke a promise
    #[arg(long)]
    no_shrink: bool,
    /// Print which kinds of faults met which states of the cluster
    #[arg(long)]
    coverage: bool,
    /// Print what happened, in order; for one seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print JSON, one object for each seed
    #[arg(long)]
    json: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("two numbers with .. between them, as 0..100")?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|error| error.to_string());
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("no seed lies in this range".to_owned()) } else { Ok(range) }
}

/// Runs the command.
pub fn run(arguments: &SimArgs) -> Outcome {
    let seeds = arguments.seed.map_or(arguments.seeds.clone(), |seed| seed..seed + 1);
    let options = RunOptions {
        profile: arguments.profile,
        operations: arguments.steps,
        without: arguments.without.clone(),
        traced: arguments.trace,
    };
    if !arguments.trace {
        // A panic is a finding like any other, and said with its seed.
        std::panic::set_hook(Box::new(|_| ()));
    }
    let started = Instant::now();
    let outcomes = run_all(seeds.clone(), &options, arguments)?;
    let mut violations = 0;
    for outcome in &outcomes {
        for line in &outcome.trace {
            say!("{line}");
        }
        if arguments.json {
            say!(
                "{}",
                json!({
                    "seed": outcome.seed,
                    "violation": outcome.violation,
                    "hash": format!("{:016x}", outcome.hash),
                    "operations": outcome.operations,
                    "faults": outcome.faults,
                    "coverage": coverage_json(&outcome.coverage),
                    "simulated_s": outcome.simulated_ns as f64 / 1e9,
                })
            );
        } else if let Some(violation) = &outcome.violation {
            say!(
                "seed {}: {violation}\n  replay: {}",
                outcome.seed,
                replay(outcome.seed, &options, arguments)
            );
            if !arguments.no_shrink && !arguments.trace {
                let (shrunk, violation) = shrink(outcome, &options);
                say!(
                    "  with {} of {} faults: {}\n  replay: {}",
                    outcome.planned - shrunk.without.len() as u64,
                    outcome.planned,
                    violation.lines().next().unwrap_or_default(),
                    replay(outcome.seed, &shrunk, arguments)
                );
            }
        }
        violations += u64::from(outcome.violation.is_some());
    }
    let _default = std::panic::take_hook();
    if !arguments.json {
        if arguments.coverage {
            show_coverage(&outcomes)?;
        }
        summarize(&outcomes, started.elapsed())?;
    }
    if violations > 0 {
        let error = anyhow::anyhow!("{violations} of {} seeds broke a promise", outcomes.len());
        return Err(Failure { code: Code::Damage, error });
    }
    Ok(())
}

fn replay(seed: u64, options: &RunOptions, arguments: &SimArgs) -> String {
    let profile = clap::ValueEnum::to_possible_value(&arguments.profile).expect("none is hidden");
    let without: Vec<String> = options.without.iter().map(u64::to_string).collect();
    let without = match without.is_empty() {
        true => String::new(),
        false => format!(" --without {}", without.join(",")),
    };
    format!(
        "culvert sim --seed {seed} --profile {} --steps {}{without} --trace",
        profile.get_name(),
        options.operations
    )
}

/// Leaves out every fault without which the seed breaks a promise all the same, and half of the
/// operations as often as that does. Returns what is left, and the promise that is broken then.
fn shrink(outcome: &run::Outcome, options: &RunOptions) -> (RunOptions, String) {
    let mut best = RunOptions { traced: false, ..options.clone() };
    let mut violation = outcome.violation.clone().unwrap_or_default();
    let mut try_it = |options: RunOptions, best: &mut RunOptions| {
        let broken = run::run(outcome.seed, &options).violation;
        let is_broken = broken.is_some();
        if let Some(broken) = broken {
            (*best, violation) = (options, broken);
        }
        is_broken
    };
    while best.operations > SHRUNK_OPERATIONS_MIN {
        let fewer = RunOptions { operations: best.operations / 2, ..best.clone() };
        if !try_it(fewer, &mut best) {
            break;
        }
    }
    // The last ones first: what comes before a moment decides what happens in it.
    let mut runs = SHRINKING_RUNS_MAX;
    let mut chunk = (outcome.planned as usize).next_power_of_two().max(1);
    while chunk > 0 && runs > 0 {
        let mut end = outcome.planned as usize;
        while end > 0 && runs > 0 {
            let start = end.saturating_sub(chunk);
            let mut fewer = best.clone();
            let more = (start as u64..end as u64).filter(|number| !best.without.contains(number));
            fewer.without.extend(more);
            fewer.without.sort_unstable();
            if fewer.without.len() > best.without.len() {
                runs -= 1;
                try_it(fewer, &mut best);
            }
            end = start;
        }
        chunk /= 2;
    }
    (best, violation)
}

/// The table of faults and states, summed up.
fn total(outcomes: &[run::Outcome]) -> Coverage {
    let mut total = Coverage::default();
    outcomes.iter().for_each(|outcome| total.add(&outcome.coverage));
    total
}

fn show_coverage(outcomes: &[run::Outcome]) -> Outcome {
    let heads: Vec<String> = STATES.iter().map(|state| format!("{:>14}", state.name())).collect();
    say!("{:<14}{}", "fault", heads.concat());
    for (kind, counts) in total(outcomes).rows() {
        let cells: Vec<String> = counts.iter().map(|count| format!("{count:>14}")).collect();
        say!("{kind:<14}{}", cells.concat());
    }
    Ok(())
}

fn coverage_json(coverage: &Coverage) -> serde_json::Value {
    let row = |counts: &[u64]| {
        let cells = STATES.iter().zip(counts).map(|(state, count)| (state.name(), *count));
        cells.collect::<std::collections::BTreeMap<_, _>>()
    };
    json!(
        coverage
            .rows()
            .map(|(kind, counts)| (kind, row(counts)))
            .collect::<std::collections::BTreeMap<_, _>>()
    )
}

fn summarize(outcomes: &[run::Outcome], elapsed: Duration) -> Outcome {
    let simulated = outcomes.iter().map(|outcome| outcome.simulated_ns).sum::<u64>() as f64 / 1e9;
    let operations: u64 = outcomes.iter().map(|outcome| outcome.operations).sum();
    let faults: u64 = outcomes.iter().map(|outcome| outcome.faults).sum();
    let failed = outcomes.iter().filter(|outcome| outcome.violation.is_some()).count();
    let seconds = elapsed.as_secs_f64();
    say!(
        "{} seeds, {failed} broke a promise; {operations} operations, {faults} faults, \
         {simulated:.0} s simulated in {seconds:.1} s ({:.0} : 1)",
        outcomes.len(),
        simulated / seconds
    );
    Ok(())
}

/// Runs the seeds on as many threads as asked for; outcomes in order of seeds.
fn run_all(
    seeds: Range<u64>,
    options: &RunOptions,
    arguments: &SimArgs,
) -> Outcome<Vec<run::Outcome>> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = arguments.jobs.unwrap_or(cores).max(1);
    let next = AtomicU64::new(seeds.start);
    let outcomes = Mutex::new(Vec::new());
    let progress = Mutex::new(Progress::steps("seeds", seeds.end - seeds.start));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = run::run(seed, options);
                    if outcome.violation.is_some() && !arguments.keep_going {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                    progress.lock().expect("no job panics").advance(1);
                    outcomes.lock().expect("no job panics").push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no job panics");
    outcomes.sort_by_key(|outcome| outcome.seed);
    Ok(outcomes)
}
