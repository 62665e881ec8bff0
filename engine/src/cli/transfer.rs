//! `culvert volume import` and `export`.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use culvert::client::{TransferOptions, TransferReport, VolumeHandle, export, import};
use serde_json::json;

use super::connect::{CliClient, ClusterArgs, ConnectArgs, show};
use super::exit::{Failure, Outcome, Refuse, refuse};
use super::terminal::{Progress, say, warn};

const IMPORT_EXAMPLES: &str = "\
Examples:
  culvert volume import disk image.raw --cluster cluster.toml
  zstd -dc image.raw.zst | culvert volume import disk - --cluster cluster.toml";

const EXPORT_EXAMPLES: &str = "\
Examples:
  culvert volume export disk copy.raw --cluster cluster.toml
  culvert volume export disk - --cluster cluster.toml | zstd > disk.zst";

/// How long an operation may take: longer than an election and a restart.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes a file to the start of a volume
///
/// Prints the SHA-256 of what was written. What the volume holds behind the end of the file
/// stays as it is.
#[derive(Debug, Args)]
#[command(after_help = IMPORT_EXAMPLES)]
pub struct ImportArgs {
    /// The volume
    name: String,
    /// The file, or - for standard input
    file: PathBuf,
    #[command(flatten)]
    transfer: TransferArgs,
}

/// Reads a volume into a file
///
/// Prints the SHA-256 of what was read, to standard error where the data go to standard output.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub struct ExportArgs {
    /// The volume
    name: String,
    /// The file, or - for standard output
    file: PathBuf,
    #[command(flatten)]
    transfer: TransferArgs,
}

/// What import and export have in common.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// Operations of 1 MiB in flight
    #[arg(long, default_value_t = 8)]
    depth: u32,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl TransferArgs {
    fn open(&self, name: &str) -> Outcome<(CliClient, VolumeHandle)> {
        let cluster = self.cluster.load()?;
        let mut client = self.connect.connect(cluster, PATIENCE)?;
        let volume = client.client_mut().open_volume(name).refuse()?;
        Ok((client, volume))
    }

    fn options(&self) -> TransferOptions {
        TransferOptions { depth: self.depth, ..TransferOptions::default() }
    }
}

/// Runs `volume import`.
pub fn run_import(arguments: &ImportArgs) -> Outcome {
    let (mut source, bytes) = open_source(&arguments.file).refuse()?;
    let (client, volume) = arguments.transfer.open(&arguments.name)?;
    let (mut client, clock) = client.into_parts();
    let total = bytes.unwrap_or(volume.bytes());
    if total > volume.bytes() {
        return Err(refuse!(
            "{} has {total} bytes, the volume {} has {}",
            show(&arguments.file),
            arguments.name,
            volume.bytes()
        ));
    }
    let mut bar = Progress::bytes("import", total);
    let options = arguments.transfer.options();
    let mut progress = |bytes| bar.reach(bytes);
    let report = import(&mut client, &clock, volume, &mut source, &options, &mut progress)?;
    let took = bar.finish();
    client.close(&clock);
    let line = report_line(&report, took, arguments.transfer.json);
    say!("{line}");
    Ok(())
}

/// Runs `volume export`.
pub fn run_export(arguments: &ExportArgs) -> Outcome {
    let (client, volume) = arguments.transfer.open(&arguments.name)?;
    let (mut client, clock) = client.into_parts();
    let to_stdout = arguments.file == Path::new("-");
    let mut target: Box<dyn Write> = if to_stdout {
        Box::new(io::stdout().lock())
    } else {
        let file = File::create(&arguments.file);
        let file = file.with_context(|| format!("cannot create {}", show(&arguments.file)));
        Box::new(BufWriter::with_capacity(1 << 20, file.refuse()?))
    };
    let mut bar = Progress::bytes("export", volume.bytes());
    let options = arguments.transfer.options();
    let mut progress = |bytes| bar.reach(bytes);
    let report = export(&mut client, &clock, volume, &mut target, &options, &mut progress);
    let report = report.map_err(Failure::of_output)?;
    let took = bar.finish();
    let line = report_line(&report, took, arguments.transfer.json);
    if to_stdout {
        warn(format_args!("{line}"));
    } else {
        say!("{line}");
    }
    Ok(())
}

/// The source of an import and how long it is, where that is known.
fn open_source(path: &Path) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", show(path)))?;
    let metadata = file.metadata().with_context(|| format!("cannot ask for {}", show(path)))?;
    anyhow::ensure!(!metadata.is_dir(), "{} is a folder", show(path));
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

fn report_line(report: &TransferReport, took: Duration, as_json: bool) -> String {
    let sha256 = hex(&report.sha256);
    let seconds = took.as_secs_f64();
    if as_json {
        json!({ "bytes": report.bytes, "seconds": seconds, "sha256": sha256 }).to_string()
    } else {
        let rate = report.bytes as f64 / 1e6 / seconds.max(1e-9);
        format!("{} bytes in {seconds:.2} s, {rate:.0} MB/s, SHA-256 {sha256}", report.bytes)
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
