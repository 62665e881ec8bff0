//! `culvert check`: everything on a device, looked at while nobody uses it.

use clap::Args;
use culvert::chunkserver::rebuild;
use culvert::config::ByteSize;
use culvert::shard::ShardConfig;
use culvert::shard::check::{CheckReport, Severity, check};
use serde_json::json;

use super::device::open_device;
use super::exit::{Code, Failure, Outcome, refuse};
use super::terminal::{Paint, Progress};

const EXAMPLES: &str = "\
Examples:
  culvert check --device uring:/dev/nvme0n1
  culvert check --device 'emulated:2GiB?file=/dev/shm/disk' --json

The node must be stopped. Nothing is written. Exit code 4 says that something is damaged; what a
crash leaves behind by design (a torn tail of the journal) is a note, not damage.";

/// Verifies everything on devices that no node uses at the moment
///
/// Headers, superblocks, checkpoints and journals; the checksum of every block that a chunk or an
/// unapplied entry names; that no block is used twice and none is lost.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// Where the devices are
    #[arg(long = "device", required = true, value_name = "URI")]
    devices: Vec<String>,
    /// Print JSON, one object for each device
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &CheckArgs) -> Outcome {
    let paint = Paint::of_stdout();
    let mut damaged = 0;
    for uri in &arguments.devices {
        let report = check_device(uri)?;
        if report.uuid.is_none() {
            return Err(refuse!(
                "device {uri}: no copy of a Culvert header can be read; `culvert format` makes one"
            ));
        }
        damaged += usize::from(!report.is_clean());
        if arguments.json {
            println!("{}", json!({ "uri": uri, "clean": report.is_clean(), "report": report }));
        } else {
            print_report(uri, &report, paint);
        }
    }
    if damaged == 0 {
        return Ok(());
    }
    let error = anyhow::anyhow!("{damaged} of {} devices are damaged", arguments.devices.len());
    Err(Failure { code: Code::Damage, error })
}

fn check_device(uri: &str) -> Outcome<CheckReport> {
    let mut device = open_device(uri, ByteSize::mib(64))?;
    let mut bar: Option<(u32, Progress)> = None;
    let report = check(
        &mut device.queue,
        &device.pool,
        &ShardConfig::default(),
        &mut rebuild,
        &mut |progress| {
            if bar.as_ref().is_none_or(|(shard, _)| *shard != progress.shard) {
                bar = Some((progress.shard, Progress::steps("check", progress.blocks_total)));
            }
            if let Some((_, bar)) = &mut bar {
                bar.reach(progress.blocks);
            }
        },
    )?;
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    Ok(report)
}

fn print_report(uri: &str, report: &CheckReport, paint: Paint) {
    let verdict = if report.is_clean() { paint.good("clean") } else { paint.bad("DAMAGED") };
    let uuid = report.uuid.map_or(String::new(), |uuid| uuid.to_string());
    println!("{} {uri}: {verdict}", paint.strong(&uuid));
    for shard in &report.shards {
        println!(
            "  shard {}: {} copysets, {} chunks, {} blocks mapped, {} checked, {} bad, {} missing, \
             {} leaked",
            shard.shard,
            shard.groups,
            shard.chunks,
            shard.mapped_blocks,
            shard.checked_blocks,
            shard.bad_blocks,
            shard.missing_blocks,
            shard.leaked_blocks
        );
    }
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Note => "note",
            Severity::Damage => "damage",
        };
        println!("  {severity}: {:?}: {}", finding.subject, finding.detail);
    }
}
