//! `culvert quickstart`: everything once, on this machine, in under a minute.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use culvert::client::{TransferOptions, TransferReport, export, import};
use culvert::config::ByteSize;
use culvert::ids::BLOCK_SIZE;
use sha2::{Digest, Sha256};

use super::check::check_device;
use super::connect::{CliClient, ConnectArgs, TransportChoice, show};
use super::exit::{Code, Failure, Outcome, Refuse, refuse};
use super::status::fetch;
use super::terminal::{Paint, Progress, say};
use super::transfer::hex;
use crate::bench::case::{Pattern, TransportKind, rows};
use crate::bench::local_cluster::{LocalCluster, LocalOptions, VOLUME};
use crate::bench::matrix::{self, MatrixOptions};
use crate::bench::result::{Conditions, Nodes};
use crate::bench::servers::Servers;
use crate::bench::site::Site;
use crate::bench::{cleanup, table};

const EXAMPLES: &str = "\
Examples:
  culvert quickstart
  culvert quickstart --file image.raw
  culvert quickstart --no-bench

Everything happens in a folder of its own in /dev/shm, which is removed at the end, whatever the
end is. Exits with 0 only if every step held.";

/// Shows the engine at work: three servers, a file in, a killed leader, the file out, figures
///
/// Formats three emulated devices over memory-backed files, starts three server processes over
/// shared memory, imports a file, kills the leader in the middle, finishes, restarts the dead
/// server, waits until it has caught up, exports the file, compares SHA-256, verifies the devices, and
/// measures shared memory against TCP.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct QuickstartArgs {
    /// File to import [default: one that is made, of 256MiB]
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Leave the measurement out
    #[arg(long)]
    no_bench: bool,
    /// How long each case is measured
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Bytes of the file that is made where none is named.
const FILE_BYTES: ByteSize = ByteSize::mib(256);

const NODES: u32 = 3;
const COPYSETS: u32 = 4;

/// Devices of the measurement, and its volume.
const BENCH_DEVICE: &str = "emulated:512MiB";
const BENCH_VOLUME: ByteSize = ByteSize::mib(128);

/// How long a step of recovery may take.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(20);

/// Runs the command.
pub fn run(arguments: &QuickstartArgs) -> Outcome {
    cleanup::on_signals()?;
    let started = Instant::now();
    let mut show = Show::new();
    let cluster = survive(arguments, &mut show)?;
    drop(cluster);
    if !arguments.no_bench {
        measure(arguments, &mut show)?;
    }
    show.step("done", &format!("everything held, in {:.1} s", started.elapsed().as_secs_f64()))?;
    Ok(())
}

/// Prints what has been done.
struct Show {
    paint: Paint,
}

impl Show {
    fn new() -> Show {
        Show { paint: Paint::of_stdout() }
    }

    fn step(&mut self, name: &str, what: &str) -> Outcome {
        say!("{} {what}", self.paint.strong(&format!("{name:<10}")));
        Ok(())
    }
}

/// From an empty cluster to the same bytes again, by way of a crash.
fn survive(arguments: &QuickstartArgs, show: &mut Show) -> Outcome<LocalCluster> {
    let bytes = match &arguments.file {
        Some(path) => file_bytes(path).refuse()?,
        None => FILE_BYTES.bytes(),
    };
    let mut local = create(bytes)?;
    let source = match &arguments.file {
        Some(path) => path.clone(),
        None => make_file(&local.path("source"), bytes)?,
    };
    let device = ByteSize(device_bytes(bytes));
    show.step(
        "devices",
        &format!("{NODES} emulated, {device} each, over files in memory, formatted"),
    )?;

    let clock = Instant::now();
    local.start_all(true)?;
    let mut client = connect(&local)?;
    local.wait_ready(&mut client, RECOVERY_PATIENCE)?;
    let took = clock.elapsed().as_millis();
    show.step(
        "servers",
        &format!("{NODES} processes over shared memory, leaders elected in {took} ms"),
    )?;

    let (imported, victim) = import_through_a_crash(&mut local, client, &source, bytes, show)?;
    let mut client = connect(&local)?;
    restart(&mut local, &mut client, victim, show)?;
    let exported = export_and_hash(&local, client, bytes, show)?;
    if exported != imported.sha256 {
        let error = anyhow!(
            "SHA-256 differs: imported {}, exported {}",
            hex(&imported.sha256),
            hex(&exported)
        );
        return Err(Failure { code: Code::Damage, error });
    }
    show.step("compare", &format!("{} SHA-256 {}", show.paint.good("equal"), hex(&exported)))?;
    local.stop_all()?;
    check(&local, show)?;
    Ok(local)
}

/// Verifies the devices of the stopped servers, block by block.
fn check(local: &LocalCluster, show: &mut Show) -> Outcome {
    let mut blocks = 0;
    for uri in local.devices() {
        let report = check_device(uri)?;
        if !report.is_clean() {
            let error = anyhow!("{uri} is damaged: {:?}", report.findings);
            return Err(Failure { code: Code::Damage, error });
        }
        blocks += report.shards.iter().map(|shard| shard.checked_blocks).sum::<u64>();
    }
    let clean = show.paint.good("clean");
    show.step(
        "check",
        &format!("{clean}: {blocks} blocks on {NODES} devices match their checksums"),
    )?;
    Ok(())
}

fn create(file_bytes: u64) -> Outcome<LocalCluster> {
    let device = device_bytes(file_bytes);
    let transports = vec![TransportKind::Shm, TransportKind::Tcp];
    let site = Site::here(NODES, &transports, &[])?;
    let local = LocalCluster::create(&LocalOptions {
        nodes: NODES,
        device: format!("emulated:{}", ByteSize(device)),
        copysets: COPYSETS,
        volume_bytes: Some(ByteSize(file_bytes.next_multiple_of(BLOCK_SIZE as u64))),
        transports,
        force: false,
        site,
    })?;
    let free = rustix::fs::statvfs(local.path("."))?;
    let free = free.f_bavail * free.f_frsize;
    let copies = 2 * file_bytes;
    if free < copies {
        return Err(refuse!(
            "{} are free for the file and its copy, {} are needed",
            ByteSize(free).approximate(),
            ByteSize(copies).approximate()
        ));
    }
    Ok(local)
}

/// Room for the file, for what is overwritten and not yet released, and for the journal.
fn device_bytes(file_bytes: u64) -> u64 {
    (file_bytes + file_bytes / 4).next_multiple_of(1 << 20) + ByteSize::mib(128).bytes()
}

fn file_bytes(path: &Path) -> anyhow::Result<u64> {
    let metadata = path.metadata().with_context(|| format!("cannot read {}", show(path)))?;
    anyhow::ensure!(metadata.is_file(), "{} is not a file", show(path));
    anyhow::ensure!(metadata.len() > 0, "{} is empty", show(path));
    Ok(metadata.len())
}

/// A file that no two blocks of are equal.
fn make_file(path: &Path, bytes: u64) -> anyhow::Result<PathBuf> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = std::process::id() as u64 | 1;
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()?;
    Ok(path.to_owned())
}

fn connect(local: &LocalCluster) -> Outcome<CliClient> {
    let transport = TransportChoice::Any;
    let arguments =
        ConnectArgs { transport, source: None, pre_shared_key_file: None, epoch: 0, timeout: None };
    arguments.connect(local.cluster().clone(), RECOVERY_PATIENCE)
}

/// Imports the file and kills a leader half-way. Returns the report and the node that died.
fn import_through_a_crash(
    local: &mut LocalCluster,
    mut client: CliClient,
    source: &Path,
    bytes: u64,
    show: &mut Show,
) -> Outcome<(TransferReport, usize)> {
    let first = local.cluster().copysets()[0].id.0;
    let victim = fetch(&mut client).leader_of(first).ok_or_else(|| anyhow!("no leader"))?;
    let volume = client.client_mut().open_volume(VOLUME)?;
    let (mut client, clock) = client.into_parts();
    let mut file = File::open(source)?;
    let mut bar = Progress::bytes("import", bytes);
    let mut killed = None;
    let mut last = Instant::now();
    let mut pause = Duration::ZERO;
    let mut outcome = Ok(());
    let mut progress = |done| {
        bar.reach(done);
        if killed.is_some() {
            pause = pause.max(last.elapsed());
        } else if done >= bytes / 2 {
            outcome = local.kill(victim);
            killed = Some(done);
        }
        last = Instant::now();
    };
    let options = TransferOptions::default();
    let report = import(&mut client, &clock, volume, &mut file, &options, &mut progress)?;
    outcome?;
    let took = bar.finish();
    show.step(
        "import",
        &format!(
            "{} in {:.2} s; node {victim}, a leader, killed with SIGKILL after {}; longest pause \
             from then on {} ms",
            ByteSize(report.bytes).approximate(),
            took.as_secs_f64(),
            ByteSize(killed.unwrap_or(0)).approximate(),
            pause.as_millis()
        ),
    )?;
    Ok((report, victim))
}

fn restart(
    local: &mut LocalCluster,
    client: &mut CliClient,
    victim: usize,
    show: &mut Show,
) -> Outcome {
    let applied = |client: &mut CliClient| -> u64 {
        let copysets = fetch(client).copysets();
        copysets.values().flatten().map(|(_, replica)| replica.commit).max().unwrap_or(0)
    };
    let clock = Instant::now();
    local.start(victim, false)?;
    local.wait_ready(client, RECOVERY_PATIENCE)?;
    let commit = applied(client);
    let took = clock.elapsed().as_millis();
    show.step(
        "restart",
        &format!("node {victim} recovered and caught up in {took} ms, up to entry {commit}"),
    )?;
    Ok(())
}

/// Exports the volume and returns the SHA-256 of as many bytes of it as the file has.
fn export_and_hash(
    local: &LocalCluster,
    mut client: CliClient,
    bytes: u64,
    show: &mut Show,
) -> Outcome<[u8; 32]> {
    let volume = client.client_mut().open_volume(VOLUME)?;
    let (mut client, clock) = client.into_parts();
    let path = local.path("copy");
    let mut target = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    let mut bar = Progress::bytes("export", volume.bytes());
    let options = TransferOptions::default();
    let mut progress = |done| bar.reach(done);
    export(&mut client, &clock, volume, &mut target, &options, &mut progress)?;
    let took = bar.finish();
    drop(target);
    show.step(
        "export",
        &format!("{} in {:.2} s", ByteSize(volume.bytes()).approximate(), took.as_secs_f64()),
    )?;
    Ok(hash_file(&path, bytes)?)
}

fn hash_file(path: &Path, bytes: u64) -> io::Result<[u8; 32]> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?).take(bytes);
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&piece[..read]),
        }
    }
}

/// A short matrix, shared memory against TCP.
fn measure(arguments: &QuickstartArgs, show: &mut Show) -> Outcome {
    let transports = vec![TransportKind::Shm, TransportKind::Tcp];
    let site = Site::here(NODES, &transports, &[])?;
    let conditions = Conditions::of_local(BENCH_DEVICE, Nodes::Processes, &site);
    let local = LocalCluster::create(&LocalOptions {
        nodes: NODES,
        device: BENCH_DEVICE.to_owned(),
        copysets: COPYSETS,
        volume_bytes: Some(BENCH_VOLUME),
        transports: transports.clone(),
        force: false,
        site,
    })?;
    let cluster = local.cluster().clone();
    let patterns = [Pattern::Randwrite, Pattern::Randread];
    let rows = rows(&patterns, &[ByteSize::kib(4)], &[1, 128])?;
    let mut bar = Progress::steps("cases", (rows.len() * transports.len()) as u64);
    let options = MatrixOptions {
        transports,
        rows,
        duration: Duration::try_from_secs_f64(arguments.seconds).context("--seconds").refuse()?,
        rounds: 1,
        volume: VOLUME.to_owned(),
        pre_shared_key: None,
        source: None,
        conditions,
    };
    let mut servers = Servers::Processes(local);
    let results = matrix::run(&options, &cluster, &mut servers, &mut || bar.advance(1))?;
    bar.finish();
    show.step("measure", "shared memory against TCP, three server processes and one client\n")?;
    say!("{}\n{}", table::render(&results), table::render_costs(&results));
    Ok(())
}
