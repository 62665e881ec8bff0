//! Figures that no single load shows: what happens when servers die, stop, start, idle, fill up.
//!
//! Each scenario makes clusters of its own, three processes on this machine, and reports named
//! [`Figure`]s. One file for each of them; [`bed`] is what they have in common.

mod bed;
mod copysets;
mod disturbed;
mod failover;
mod idle;
mod overwrite;
mod restart;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::case::TransportKind;
use super::hardware::Hardware;
use super::machine::{CoreTimes, memcpy_gb_s};
use super::result::{STEAL_PERCENT_MAX, median};
use super::site::Site;
use crate::cli::exit::{Failure, Outcome};

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Servers that nobody asks anything: what a reactor costs
    Idle,
    /// Half of the device, overwritten four times at random: device bytes and memory
    Overwrite,
    /// The same load over 4 and over 256 copysets: what a copyset costs
    Copysets,
    /// Latencies while checkpoints are written, against the others of the same load
    Checkpoint,
    /// Latencies with one follower stopped by SIGSTOP, against those before
    StoppedFollower,
    /// A leader killed by SIGKILL: until the next write is acknowledged
    Failover,
    /// Full devices, all servers killed by SIGKILL and started: until leaders write and read
    Restart,
}

/// What scenarios are told.
#[derive(Clone, Debug)]
pub struct ScenarioOptions {
    /// The scenarios, in order.
    pub scenarios: Vec<Scenario>,
    /// Transports.
    pub transports: Vec<TransportKind>,
    /// URI of the devices.
    pub device: String,
    /// Replicas, and nodes.
    pub replicas: u32,
    /// How long what takes a time of its own choice is measured.
    pub duration: Duration,
    /// Rounds.
    pub rounds: u32,
    /// Whether devices that are formatted may be formatted again.
    pub force: bool,
    /// Where clusters stand.
    pub site: Site,
}

/// One figure: the median of its rounds. The names are those of the JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Where it comes from.
    pub scenario: Scenario,
    /// How everybody is connected.
    pub transport: TransportKind,
    /// What it is.
    pub figure: &'static str,
    /// The median.
    pub value: f64,
    /// Its unit; empty for a ratio.
    pub unit: &'static str,
    /// The highest of the rounds that count: the worst one, where less is better.
    pub highest: f64,
    /// URI of the devices, as asked for.
    pub device: String,
    /// Replicas of each copyset.
    pub replicas: u32,
    /// Rounds that the figure is the median of.
    pub rounds: u32,
    /// Rounds that were left out because more than 2% of the time was stolen.
    pub rounds_dropped: u32,
    /// Time that the hypervisor gave to somebody else, in the worst round that counts.
    pub steal_percent: f64,
    /// Memory copy bandwidth of one core.
    pub memcpy_gb_s: f64,
    /// What of the machine is only pretended.
    pub machine: Hardware,
}

/// What a round of a scenario says: name, value, unit.
type Values = Vec<(&'static str, f64, &'static str)>;

/// One round: its steal, and what it measured.
type Round = (f64, Values);

/// Runs every scenario on every transport. `progress` is called after each round.
pub fn run(options: &ScenarioOptions, progress: &mut dyn FnMut()) -> Outcome<Vec<Figure>> {
    let memcpy_gb_s = memcpy_gb_s();
    let mut figures = Vec::new();
    for &scenario in &options.scenarios {
        for &transport in &options.transports {
            let mut rounds = Vec::new();
            for _ in 0..options.rounds {
                let before = CoreTimes::now();
                let values = round(options, scenario, transport, memcpy_gb_s);
                let name = format!("scenario {} over {transport}", name(scenario));
                let values = values.map_err(|Failure { code, error }| Failure {
                    code,
                    error: error.context(name),
                })?;
                rounds.push((CoreTimes::now().steal_percent_since(before), values));
                progress();
            }
            let sample = Figure {
                scenario,
                transport,
                figure: "",
                value: 0.0,
                unit: "",
                highest: 0.0,
                device: options.device.clone(),
                replicas: options.replicas,
                rounds: 0,
                rounds_dropped: 0,
                steal_percent: 0.0,
                memcpy_gb_s,
                machine: options.site.hardware.clone(),
            };
            figures.extend(medians(&sample, &rounds));
        }
    }
    Ok(figures)
}

fn round(
    options: &ScenarioOptions,
    scenario: Scenario,
    transport: TransportKind,
    memcpy_gb_s: f64,
) -> Outcome<Values> {
    let ground = bed::Ground { options, transport, memcpy_gb_s };
    match scenario {
        Scenario::Idle => idle::run(&ground),
        Scenario::Overwrite => overwrite::run(&ground),
        Scenario::Copysets => copysets::run(&ground),
        Scenario::Checkpoint => disturbed::while_checkpointing(&ground),
        Scenario::StoppedFollower => disturbed::with_a_follower_stopped(&ground),
        Scenario::Failover => failover::run(&ground),
        Scenario::Restart => restart::run(&ground),
    }
}

/// The medians of rounds of one scenario, figure by figure; rounds with too much steal are left
/// out, unless all have it.
fn medians(sample: &Figure, rounds: &[Round]) -> Vec<Figure> {
    let quiet: Vec<&Round> =
        rounds.iter().filter(|(steal, _)| *steal <= STEAL_PERCENT_MAX).collect();
    let kept = if quiet.is_empty() { rounds.iter().collect() } else { quiet };
    let mut values: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (_, round) in &kept {
        for (at, (_, value, _)) in round.iter().enumerate() {
            values.entry(at).or_default().push(*value);
        }
    }
    let names = &kept.first().expect("at least one round").1;
    let figure = |(at, values): (usize, Vec<f64>)| Figure {
        figure: names[at].0,
        unit: names[at].2,
        highest: values.iter().copied().fold(0.0, f64::max),
        value: median(values),
        rounds: kept.len() as u32,
        rounds_dropped: (rounds.len() - kept.len()) as u32,
        steal_percent: kept.iter().map(|(steal, _)| *steal).fold(0.0, f64::max),
        ..sample.clone()
    };
    values.into_iter().map(figure).collect()
}

fn name(scenario: Scenario) -> String {
    let value = clap::ValueEnum::to_possible_value(&scenario).expect("no scenario is hidden");
    value.get_name().to_owned()
}

/// Figures as text.
#[must_use]
pub fn render(figures: &[Figure]) -> String {
    let banner = figures.first().map(|first| first.machine.banner()).unwrap_or_default();
    let mut out = format!(
        "{banner}{:<17} {:<5} {:<44} {:>10} {:>10}\n",
        "scenario", "", "figure", "median", "highest"
    );
    for figure in figures {
        let text = |value: f64| format!("{value:.2}{}", figure.unit);
        let _ = writeln!(
            out,
            "{:<17} {:<5} {:<44} {:>10} {:>10}",
            name(figure.scenario),
            figure.transport,
            figure.figure,
            text(figure.value),
            text(figure.highest)
        );
    }
    if let Some(first) = figures.first() {
        let dropped = figures.iter().map(|figure| figure.rounds_dropped).max().unwrap_or(0);
        let steal = figures.iter().map(|figure| figure.steal_percent).fold(0.0, f64::max);
        let _ = writeln!(
            out,
            "{}, {} replicas, median of {} rounds, up to {dropped} left out for steal; steal up to \
             {steal:.1}%, memory copy {:.1} GB/s",
            first.device, first.replicas, first.rounds, first.memcpy_gb_s
        );
    }
    out.push_str(&banner);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Figure {
        Figure {
            scenario: Scenario::StoppedFollower,
            transport: TransportKind::Tcp,
            figure: "",
            value: 0.0,
            unit: "",
            highest: 0.0,
            device: "emulated:1GiB".into(),
            replicas: 3,
            rounds: 0,
            rounds_dropped: 0,
            steal_percent: 0.0,
            memcpy_gb_s: 8.0,
            machine: Hardware::default(),
        }
    }

    #[test]
    fn stolen_rounds_are_left_out() {
        let round = |steal, value| (steal, vec![("p99", value, "us"), ("ratio", 1.0, "")]);
        let rounds = [round(0.0, 3.0), round(50.0, 99.0), round(1.0, 5.0), round(1.5, 4.0)];
        let figures = medians(&sample(), &rounds);
        assert_eq!(figures.len(), 2);
        assert_eq!((figures[0].figure, figures[0].value, figures[0].highest), ("p99", 4.0, 5.0));
        assert_eq!((figures[0].rounds, figures[0].rounds_dropped), (3, 1));
        assert_eq!(figures[0].steal_percent, 1.5);
        let all = medians(&sample(), &rounds[1..2]);
        assert_eq!((all[0].value, all[0].rounds_dropped), (99.0, 0));
    }

    #[test]
    fn the_text_names_scenario_figure_and_unit() {
        let rounds = [(0.5, vec![("p99, one follower stopped", 812.0, "us")])];
        let figures = medians(&sample(), &rounds);
        let text = render(&figures);
        assert!(text.contains("stopped-follower  tcp   p99, one follower stopped"), "{text}");
        assert!(text.contains("812.00us"), "{text}");
        let json = serde_json::to_value(&figures[0]).expect("plain data");
        assert_eq!(json["scenario"], "stopped-follower");
        assert!(json["machine"]["emulated"].is_null(), "{json}");
    }
}
