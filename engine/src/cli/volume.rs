//! `culvert volume`: create, list, import, export, discard, fence.

use std::time::Duration;

use clap::{Args, Subcommand};
use culvert::cluster::{Cluster, Volume, VolumeOptions};
use culvert::config::ByteSize;
use culvert::ids::{BLOCK_SIZE, CopysetId, Epoch};
use serde_json::{Value, json};

use super::connect::{ClusterArgs, ConnectArgs};
use super::exit::{Outcome, Refuse, refuse};
use super::terminal::{Paint, say};
use super::transfer::{ExportArgs, ImportArgs, run_export, run_import};

const CREATE_EXAMPLES: &str = "\
Examples:
  culvert volume create disk --size 10GiB --cluster cluster.toml
  culvert volume create logs --size 1GiB --copysets 1,2,3 --cluster cluster.toml";

const LIST_EXAMPLES: &str = "\
Examples:
  culvert volume list --cluster cluster.toml
  culvert volume list --cluster cluster.toml --json";

const DISCARD_EXAMPLES: &str = "\
Examples:
  culvert volume discard disk --cluster cluster.toml
  culvert volume discard disk --offset 1GiB --length 512MiB --cluster cluster.toml";

const FENCE_EXAMPLES: &str = "\
Examples:
  culvert volume fence disk --epoch 7 --cluster cluster.toml";

/// How long an operation of a command may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Creates, lists, fills, reads and empties volumes
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Adds a volume to the cluster file
    ///
    /// A volume is an array of 4 KiB blocks, striped over the chunks of its copysets. Blocks that
    /// were never written read as zeroes and take no space. Servers need not be told; clients that
    /// are running see the volume when they read the file again.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// Lists the volumes of the cluster file
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    Import(ImportArgs),
    Export(ExportArgs),
    /// Gives the space of a volume, or of a part of it, back to its copysets
    ///
    /// What is discarded reads as zeroes. It is possible, and what helps, where a copyset is at
    /// its quota.
    #[command(after_help = DISCARD_EXAMPLES)]
    Discard(DiscardArgs),
    /// Refuses all clients that hold an older fencing epoch
    ///
    /// The epoch is the copysets': clients of other volumes that lie on the same copysets are
    /// refused as well, unless they hold it. Commands take it as --epoch.
    #[command(after_help = FENCE_EXAMPLES)]
    Fence(FenceArgs),
}

/// Arguments of `volume discard`.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    /// The volume
    name: String,
    /// Where to begin, a multiple of 4KiB
    #[arg(long, default_value = "0", value_name = "SIZE")]
    offset: ByteSize,
    /// How much, a multiple of 4KiB [default: up to the end]
    #[arg(long, value_name = "SIZE")]
    length: Option<ByteSize>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Arguments of `volume fence`.
#[derive(Debug, Args)]
pub struct FenceArgs {
    /// The volume
    name: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Arguments of `volume create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name: letters, digits, '.', '_' and '-'
    name: String,
    /// Size, a multiple of 4KiB
    #[arg(long, short)]
    size: ByteSize,
    /// Bytes of a stripe, a divisor of the chunk size [default: 128KiB]
    #[arg(long, value_name = "SIZE")]
    stripe_size: Option<ByteSize>,
    /// Numbers of the copysets to lie on [default: all]
    #[arg(long, value_delimiter = ',', value_name = "ID,...")]
    copysets: Vec<u32>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `volume list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a command of `culvert volume`.
pub fn run(command: VolumeCommand) -> Outcome {
    match command {
        VolumeCommand::Create(arguments) => create(&arguments),
        VolumeCommand::List(arguments) => list(&arguments),
        VolumeCommand::Import(arguments) => run_import(&arguments),
        VolumeCommand::Export(arguments) => run_export(&arguments),
        VolumeCommand::Discard(arguments) => discard(&arguments),
        VolumeCommand::Fence(arguments) => fence(&arguments),
    }
}

fn create(arguments: &CreateArgs) -> Outcome {
    let mut cluster = arguments.cluster.load()?;
    let stripe_blocks = |size: ByteSize| {
        let blocks = size.bytes() / BLOCK_SIZE as u64;
        let whole = size.bytes().is_multiple_of(BLOCK_SIZE as u64);
        let blocks = u32::try_from(blocks).ok().filter(|_| whole);
        blocks.ok_or_else(|| refuse!("--stripe-size {size} is not whole blocks of 4KiB"))
    };
    let copysets = arguments.copysets.iter().map(|id| CopysetId(*id)).collect::<Vec<_>>();
    let options = VolumeOptions {
        stripe_blocks: arguments.stripe_size.map(stripe_blocks).transpose()?,
        copysets: (!copysets.is_empty()).then_some(copysets),
    };
    let size = arguments.size.bytes();
    let volume = cluster.create_volume(&arguments.name, size, &options).refuse()?.clone();
    cluster.save(&arguments.cluster.cluster)?;
    if arguments.json {
        say!("{}", volume_json(&cluster, &volume));
    } else {
        say!(
            "{}: {} over {} copysets, number {}",
            volume.name,
            arguments.size,
            volume.copysets.len(),
            volume.id
        );
    }
    Ok(())
}

/// Whole chunk sets are deleted, so that servers forget them; what is left at the ends is unmapped.
fn discard(arguments: &DiscardArgs) -> Outcome {
    let cluster = arguments.cluster.load()?;
    let mut client = arguments.connect.connect(cluster, PATIENCE)?;
    let volume = client.client_mut().open_volume(&arguments.name).refuse()?;
    let block = BLOCK_SIZE as u64;
    let offset = arguments.offset.bytes();
    let length = arguments.length.map_or(volume.bytes().saturating_sub(offset), ByteSize::bytes);
    let end = offset.checked_add(length).filter(|end| *end <= volume.bytes());
    let Some(end) = end.filter(|_| length > 0) else {
        return Err(refuse!(
            "there is nothing from {} on to {}: the volume has {} bytes",
            arguments.offset,
            ByteSize(length),
            volume.bytes()
        ));
    };
    if !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
        return Err(refuse!("--offset and --length are whole blocks of 4KiB"));
    }
    let (first, end, set) = (offset / block, end / block, volume.set_blocks());
    let to_end = end == volume.blocks();
    let sets_begin = first.next_multiple_of(set).min(end);
    let sets_end = if to_end { end } else { end / set * set }.max(sets_begin);
    client.discard(volume, first, sets_begin - first)?;
    client.delete(volume, sets_begin, sets_end - sets_begin)?;
    client.discard(volume, sets_end, end - sets_end)?;
    client.close();
    say!("{length} bytes discarded");
    Ok(())
}

fn fence(arguments: &FenceArgs) -> Outcome {
    let epoch = arguments.connect.epoch;
    if epoch == 0 {
        return Err(refuse!(
            "--epoch says from which epoch on clients are let in; nobody is below 0"
        ));
    }
    let cluster = arguments.cluster.load()?;
    let mut client = arguments.connect.connect(cluster, PATIENCE)?;
    let volume = client.client_mut().open_volume(&arguments.name).refuse()?;
    client.fence(volume, Epoch(epoch))?;
    client.close();
    say!("{} copysets let in clients from epoch {epoch} on", volume.copysets());
    Ok(())
}

fn list(arguments: &ListArgs) -> Outcome {
    let cluster = arguments.cluster.load()?;
    if arguments.json {
        let volumes = cluster.volumes().iter().map(|volume| volume_json(&cluster, volume));
        say!("{}", Value::Array(volumes.collect()));
        return Ok(());
    }
    let paint = Paint::of_stdout();
    let width = cluster.volumes().iter().map(|volume| volume.name.len()).max().unwrap_or(0).max(6);
    let heading =
        format!("{:width$} {:>6} {:>10} {:>8}  copysets", "volume", "number", "size", "stripe");
    say!("{}", paint.strong(&heading));
    for volume in cluster.volumes() {
        let stripe = ByteSize(u64::from(volume.stripe_blocks) * BLOCK_SIZE as u64);
        let copysets: Vec<String> = volume.copysets.iter().map(ToString::to_string).collect();
        say!(
            "{:width$} {:>6} {:>10} {:>8}  {}",
            volume.name,
            volume.id,
            ByteSize(volume.size).to_string(),
            stripe.to_string(),
            copysets.join(",")
        );
    }
    Ok(())
}

fn volume_json(cluster: &Cluster, volume: &Volume) -> Value {
    json!({
        "name": volume.name,
        "id": volume.id,
        "size": volume.size,
        "stripe_size": u64::from(volume.stripe_blocks) * BLOCK_SIZE as u64,
        "chunks": cluster.layout(volume).chunks(),
        "copysets": volume.copysets.iter().map(|id| id.0).collect::<Vec<_>>(),
    })
}
