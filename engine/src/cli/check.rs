//! `culvert check`: everything on a device, verified offline.

use clap::Args;
use culvert::chunkserver::rebuild;
use culvert::config::ByteSize;
use culvert::shard::ShardConfig;
use culvert::shard::check::{CheckReport, Severity, ShardReport, Subject, check};
use culvert_nvme::Access;
use serde_json::json;

use super::device::open_device;
use super::exit::{Code, Failure, Outcome, refuse};
use super::terminal::{Paint, Progress, say};

const EXAMPLES: &str = "\
Examples:
  culvert check --device uring:/dev/nvme0n1
  culvert check --device 'emulated:2GiB?file=/dev/shm/disk' --json

The node must be stopped: a device that is in use is refused. Nothing is written. Exit code 4 says
that something is damaged; what a crash leaves behind by design (a torn tail of the journal) is a
note, not damage.";

/// Memory for the reads of a check.
const POOL_BYTES: ByteSize = ByteSize::mib(64);

/// Verifies everything on devices whose node is stopped
///
/// Reads headers, superblocks, checkpoint and journal as a start would, rebuilds the maps, derives
/// the space, and compares every block that a map or a log entry names with its checksum. Writes
/// nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The device; may be given more than once
    #[arg(long = "device", short, required = true, value_name = "URI")]
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
        if arguments.json {
            say!("{}", json!({ "uri": uri, "clean": report.is_clean(), "report": report }));
        } else {
            print_report(uri, &report, paint)?;
        }
        damaged += usize::from(!report.is_clean());
    }
    if damaged > 0 {
        let error = anyhow::anyhow!("{damaged} of {} devices are damaged", arguments.devices.len());
        return Err(Failure { code: Code::Damage, error });
    }
    Ok(())
}

/// Checks one device.
pub fn check_device(uri: &str) -> Outcome<CheckReport> {
    let mut device = open_device(uri, Access::Shared, POOL_BYTES)?;
    let mut bar: Option<(u32, Progress)> = None;
    let report = check(
        &mut device.queue,
        &device.pool,
        &ShardConfig::default(),
        &mut rebuild,
        &mut |progress| {
            if bar.as_ref().is_none_or(|(shard, _)| *shard != progress.shard) {
                let total = progress.blocks_total;
                bar = Some((progress.shard, Progress::steps("blocks", total)));
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

fn print_report(uri: &str, report: &CheckReport, paint: Paint) -> Outcome {
    let name =
        report.uuid.map_or_else(|| "no device of Culvert".to_owned(), |uuid| uuid.to_string());
    let verdict = if report.is_clean() { paint.good("clean") } else { paint.bad("DAMAGED") };
    say!("{} {uri}: {verdict}", paint.strong(&name));
    for shard in &report.shards {
        say!("  {}", shard_line(shard));
    }
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Note => "note".to_owned(),
            Severity::Damage => paint.bad("damage"),
        };
        say!("  {severity}: {}: {}", subject(&finding.subject), finding.detail);
    }
    Ok(())
}

fn shard_line(shard: &ShardReport) -> String {
    format!(
        "shard {}: {} replicas, {} chunks, {} blocks mapped, {} read and compared, {} bad, {} held \
         elsewhere, {} in use by nobody; {} journal items replayed",
        shard.shard,
        shard.groups,
        shard.chunks,
        shard.mapped_blocks,
        shard.checked_blocks,
        shard.bad_blocks,
        shard.missing_blocks,
        shard.leaked_blocks,
        shard.recovery.items
    )
}

fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Header { copy } => format!("copy {copy} of the header"),
        Subject::Superblock { shard, slot } => format!("shard {shard}, superblock slot {slot}"),
        Subject::Shard { shard } => format!("shard {shard}"),
        Subject::Checkpoint { shard } => format!("shard {shard}, the newest checkpoint"),
        Subject::Journal { shard, position } => {
            format!("shard {shard}, journal from position {position} on")
        }
        Subject::Group { shard, copyset } => format!("shard {shard}, copyset {copyset}"),
        Subject::Space { shard } => format!("shard {shard}, data space"),
        Subject::Block { shard, copyset, chunk, block, granule } => {
            format!(
                "shard {shard}, copyset {copyset}, chunk {chunk:#x}, block {block} at {granule}"
            )
        }
    }
}
