//! Processors: NUMA nodes, cores kept free for reactors, frequency, and how deep idle cores sleep.

use std::collections::{BTreeMap, BTreeSet};

use super::cores::Cores;
use super::machine::{Machine, Unread};
use super::{Area, Findings, numa};

const CPU: &str = "/sys/devices/system/cpu";

/// A core that takes longer to wake is late for a reactor, which polls for 75 us and then sleeps:
/// shallow states (C1, C1E) wake within 10 us, deep ones (C3, C6) take 30 to 300.
const WAKE_US_MAX: u64 = 20;

/// What a virtual machine does not show.
const HOST: &str = "the host decides it where this is a virtual machine";

pub(super) fn examine(machine: &Machine) -> Findings {
    let mut findings = Findings::of(Area::Cpu);
    examine_nodes(machine, &mut findings);
    let isolated = examine_isolation(machine, &mut findings);
    examine_tick(machine, &isolated, &mut findings);
    examine_governor(machine, &mut findings);
    examine_idle(machine, &isolated, &mut findings);
    findings
}

fn examine_nodes(machine: &Machine, findings: &mut Findings) {
    let nodes = match numa::nodes(machine) {
        Ok(nodes) => nodes,
        Err(error) => return findings.unknown("NUMA", "not told", error),
    };
    if let [node] = &nodes[..] {
        return findings.good("NUMA", format!("one node, cores {}", node.cores));
    }
    for node in &nodes {
        let far = numa::distances(&nodes, node);
        let far = if far.is_empty() { far } else { format!(", distance {far}") };
        let cores = match node.cores.is_empty() {
            true => "no cores".to_owned(),
            false => format!("cores {}", node.cores),
        };
        findings.good(format!("NUMA node {}", node.id), format!("{cores}{far}"));
    }
}

/// Returns the cores that are isolated.
fn examine_isolation(machine: &Machine, findings: &mut Findings) -> Cores {
    let subject = "isolated cores";
    let isolated: Cores = match machine.parsed(&format!("{CPU}/isolated")) {
        Ok(isolated) => isolated,
        Err(error) => {
            findings.unknown(subject, "not told", error);
            return Cores::default();
        }
    };
    if !isolated.is_empty() {
        let what = format!("{isolated}: for reactors, with idle.yields = false");
        findings.good(subject, what);
        return isolated;
    }
    match proposal(machine) {
        Ok(cores) if !cores.is_empty() => {
            // The kernel has the file where it is built for the argument.
            let tick = match machine.has(&format!("{CPU}/nohz_full")) {
                true => format!(" nohz_full={cores} rcu_nocbs={cores}"),
                false => String::new(),
            };
            let mend = format!("kernel arguments: isolcpus=managed_irq,domain,{cores}{tick}");
            findings.bad(
                subject,
                "none: other threads run on the cores of reactors, and p99 shows it",
                mend,
            );
        }
        Ok(_) => findings.unknown(subject, "none", "there is one core, which everything shares"),
        Err(error) => findings.unknown(subject, "none", error),
    }
    isolated
}

/// Cores that reactors could have to themselves: of each NUMA node the upper half of the physical
/// cores, with all their threads.
fn proposal(machine: &Machine) -> Result<Cores, Unread> {
    let groups: Vec<Cores> = match numa::nodes(machine) {
        Ok(nodes) => nodes.into_iter().map(|node| node.cores).collect(),
        Err(_) => vec![machine.parsed(&format!("{CPU}/online"))?],
    };
    let mut proposed = BTreeSet::new();
    for group in groups {
        let mut physical: Vec<Cores> = Vec::new();
        let mut seen = BTreeSet::new();
        for core in group.0 {
            let path = format!("{CPU}/cpu{core}/topology/thread_siblings_list");
            let alone = || Cores([core].into());
            let threads = machine.parsed::<Cores>(&path).unwrap_or_else(|_| alone());
            if seen.insert(core) {
                seen.extend(&threads.0);
                physical.push(threads);
            }
        }
        let kept = physical.len().div_ceil(2);
        proposed.extend(physical.into_iter().skip(kept).flat_map(|threads| threads.0));
    }
    Ok(Cores(proposed))
}

/// Isolated cores still have a timer tick, unless they are listed here as well.
fn examine_tick(machine: &Machine, isolated: &Cores, findings: &mut Findings) {
    if isolated.is_empty() {
        return;
    }
    match machine.parsed::<Cores>(&format!("{CPU}/nohz_full")) {
        Ok(quiet) if isolated.0.is_subset(&quiet.0) => {
            findings.good("timer tick", "none on isolated cores while one thread runs there");
        }
        Ok(_) => findings.bad(
            "timer tick",
            "interrupts reactors on isolated cores 100 to 1000 times a second",
            format!("kernel arguments: nohz_full={isolated} rcu_nocbs={isolated}"),
        ),
        Err(error) => findings.unknown("timer tick", "not told", error),
    }
}

fn examine_governor(machine: &Machine, findings: &mut Findings) {
    let policies = machine.numbered(&format!("{CPU}/cpufreq"), "policy").unwrap_or_default();
    if policies.is_empty() {
        return findings.unknown("governor", "no frequency scaling to be seen", HOST);
    }
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    for policy in &policies {
        match machine.text(&format!("{CPU}/cpufreq/policy{policy}/scaling_governor")) {
            Ok(governor) => *by_name.entry(governor).or_default() += 1,
            Err(error) => return findings.unknown("governor", "not told", error),
        }
    }
    let all = policies.len();
    if by_name.keys().all(|governor| governor == "performance") {
        return findings.good("governor", format!("performance on all {all} policies"));
    }
    let shown: Vec<String> =
        by_name.iter().map(|(governor, count)| format!("{governor} on {count}")).collect();
    findings.bad(
        "governor",
        format!("{} of {all} policies: cores that were idle start slowly", shown.join(", ")),
        format!("echo performance | tee {CPU}/cpufreq/policy*/scaling_governor"),
    );
}

/// An idle state that is not switched off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct IdleState {
    wake_us: u64,
    name: String,
    number: u32,
}

fn examine_idle(machine: &Machine, isolated: &Cores, findings: &mut Findings) {
    let online = || machine.parsed::<Cores>(&format!("{CPU}/online"));
    let cores = if isolated.is_empty() { online() } else { Ok(isolated.clone()) };
    let cores = match cores {
        Ok(cores) => cores,
        Err(error) => return findings.unknown("idle states", "not told", error),
    };
    let mut deep: BTreeMap<IdleState, usize> = BTreeMap::new();
    let mut shallow = None;
    for core in &cores.0 {
        for state in idle_states(machine, *core) {
            match state.wake_us > WAKE_US_MAX {
                true => *deep.entry(state).or_default() += 1,
                false => shallow = shallow.max(Some(state)),
            }
        }
    }
    let which = if isolated.is_empty() { "" } else { "isolated " };
    let Some((deepest, count)) = deep.last_key_value() else {
        return match shallow {
            Some(IdleState { wake_us, name, .. }) => findings.good(
                "idle states",
                format!("at most {name}, which {which}cores leave in {wake_us} us"),
            ),
            None => findings.unknown("idle states", "none to be seen", HOST),
        };
    };
    let IdleState { wake_us, name, .. } = deepest;
    let what = format!(
        "{name}, which takes {wake_us} us to leave, on {count} of {} {which}cores: reactors that \
         slept answer late",
        cores.0.len()
    );
    let numbers: BTreeSet<String> = deep.keys().map(|state| state.number.to_string()).collect();
    let numbers: String = numbers.into_iter().collect();
    let states = if numbers.len() == 1 { numbers } else { format!("[{numbers}]") };
    let mend = format!("echo 1 | tee {CPU}/cpu*/cpuidle/state{states}/disable");
    findings.bad("idle states", what, mend);
}

/// What a core may fall into. States are numbered from 0 to 9; one that says nothing of itself
/// does not count.
fn idle_states(machine: &Machine, core: u32) -> Vec<IdleState> {
    let folder = format!("{CPU}/cpu{core}/cpuidle");
    let numbers = machine.numbered(&folder, "state").unwrap_or_default();
    let state = |number| {
        let file = |name: &str| format!("{folder}/state{number}/{name}");
        let enabled = machine.parsed::<u64>(&file("disable")).ok()? == 0;
        let wake_us = machine.parsed(&file("latency")).ok()?;
        let name = machine.text(&file("name")).ok()?;
        enabled.then_some(IdleState { wake_us, name, number })
    };
    numbers.into_iter().filter_map(state).collect()
}
