//! `culvert format`: devices become Culvert's.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use culvert::config::ByteSize;
use culvert::device::{DeviceHeader, FormatError, FormatOptions, LayoutOptions, format};
use culvert::ids::BLOCK_SIZE;
use culvert_nvme::Access;
use serde_json::{Value, json};
use uuid::Uuid;

use super::connect::mint_uuid;
use super::device::open_device;
use super::exit::{Outcome, Refuse, refuse};
use super::terminal::{Paint, say};

const EXAMPLES: &str = "\
Examples:
  culvert format uring:/dev/nvme0n1
  culvert format 'uring:/data/disk?size=10GiB'            # a file, made if it is missing
  culvert format 'emulated:2GiB?file=/dev/shm/disk' --shards 2
  culvert format vfio:0000:5e:00.0 --metadata             # see docs/format/journal.md
  culvert format uring:/dev/nvme0n1 uring:/dev/nvme1n1 --json

A device that is Culvert's already, or whose first 128KiB are not all zeroes (a filesystem, a
partition table), is refused (exit code 3) unless --force is given. A device that somebody uses is
refused always.";

/// Formats devices: mints their names and lays out journal, checkpoints and data
///
/// What was on them is lost. The name (a UUID) that is printed is the one by which the cluster file
/// lists the device from then on.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FormatArgs {
    /// Where the devices are
    #[arg(required = true, value_name = "URI")]
    devices: Vec<String>,
    /// Shards, each with its own journal and run by one core
    #[arg(long, default_value_t = 1)]
    shards: u32,
    /// Bytes of a chunk, equal on all devices of a cluster
    #[arg(long, default_value_t = ByteSize::mib(16), value_name = "SIZE")]
    chunk_size: ByteSize,
    /// Bytes of each shard's journal ring [default: 1/64 of the device, at most 1GiB a shard]
    #[arg(long, value_name = "SIZE")]
    ring_size: Option<ByteSize>,
    /// Bytes of each of a shard's two checkpoint areas: more copysets need more [default: 1/100 of the
    /// shard]
    #[arg(long, value_name = "SIZE")]
    checkpoint_size: Option<ByteSize>,
    /// Let the journal's entry of a 4KiB write stand in the metadata of its block, one command and one
    /// write for both: needs blocks of 4096 bytes with at least 64 bytes of separate metadata
    #[arg(long)]
    metadata: bool,
    /// Name of the device, where it takes the place of one that was lost [default: a new one]
    ///
    /// Its node then starts with --rejoin-replicas, once.
    #[arg(long, value_name = "UUID")]
    uuid: Option<Uuid>,
    /// Format devices that are Culvert's already, or not empty
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &FormatArgs) -> Outcome {
    let blocks = arguments.chunk_size.bytes() / BLOCK_SIZE as u64;
    let whole = arguments.chunk_size.bytes().is_multiple_of(BLOCK_SIZE as u64);
    let chunk_blocks = u32::try_from(blocks).ok().filter(|_| whole);
    let layout = LayoutOptions {
        shards: arguments.shards,
        ring_bytes: arguments.ring_size.map(ByteSize::bytes),
        checkpoint_bytes: arguments.checkpoint_size.map(ByteSize::bytes),
        chunk_blocks: chunk_blocks.ok_or_else(|| {
            refuse!("--chunk-size {} is not whole blocks of 4KiB", arguments.chunk_size)
        })?,
        metadata: arguments.metadata,
    };
    if arguments.uuid.is_some() && arguments.devices.len() > 1 {
        return Err(refuse!("--uuid names one device, and {} are given", arguments.devices.len()));
    }
    let paint = Paint::of_stdout();
    for uri in &arguments.devices {
        let header = format_device(uri, arguments.uuid, layout, arguments.force)?;
        if arguments.json {
            say!("{}", device_json(uri, &header));
        } else {
            say!("{}", device_line(uri, &header, paint));
        }
    }
    Ok(())
}

/// Formats one device.
pub fn format_device(
    uri: &str,
    uuid: Option<Uuid>,
    layout: LayoutOptions,
    force: bool,
) -> Outcome<DeviceHeader> {
    let mut device = open_device(uri, Access::Exclusive, ByteSize::mib(2))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let uuid = uuid.map_or_else(mint_uuid, Ok)?;
    let options = FormatOptions { uuid, now_ns: now.as_nanos() as u64, layout, force };
    match format(&mut device.queue, &device.pool, &options) {
        Ok(header) => Ok(header),
        Err(
            error @ (FormatError::AlreadyFormatted { .. }
            | FormatError::OtherVersion { .. }
            | FormatError::NotEmpty { .. }),
        ) => Err(error).with_context(|| format!("device {uri} (--force formats it)")).refuse(),
        Err(error @ FormatError::Io(_)) => Err(error).with_context(|| format!("device {uri}"))?,
        Err(error) => Err(error).with_context(|| format!("device {uri}")).refuse(),
    }
}

fn device_line(uri: &str, header: &DeviceHeader, paint: Paint) -> String {
    let shard = &header.layout.shards[0];
    let data: u64 = header.layout.shards.iter().map(|shard| shard.data_bytes).sum();
    format!(
        "{} {uri}: {} shards, {} for data, rings of {}, blocks of {}{}",
        paint.strong(&header.uuid.to_string()),
        header.layout.shards.len(),
        ByteSize(data).approximate(),
        ByteSize(shard.ring_bytes).approximate(),
        header.layout.block_size,
        if header.layout.metadata { ", entries in metadata" } else { "" }
    )
}

fn device_json(uri: &str, header: &DeviceHeader) -> Value {
    let layout = &header.layout;
    json!({
        "device": header.uuid,
        "uri": uri,
        "bytes": layout.device_bytes,
        "block_size": layout.block_size,
        "metadata": layout.metadata,
        "chunk_size": u64::from(layout.chunk_blocks) * BLOCK_SIZE as u64,
        "shards": layout.shards.iter().map(|shard| json!({
            "ring_bytes": shard.ring_bytes,
            "checkpoint_bytes": shard.checkpoint_bytes,
            "data_bytes": shard.data_bytes,
        })).collect::<Vec<_>>(),
    })
}
