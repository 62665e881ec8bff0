//! What the replicas say, compared from outside.

use std::collections::BTreeMap;

use culvert::chunkserver::CopysetStatus;
use culvert::ids::{BlockRange, CopysetId, LogIndex};
use culvert::store::{BlockStates, Place};

use super::device::Disk;
use super::process::Process;
use super::scene::CHUNK_BLOCKS;

/// Whether all replicas have applied the same, nobody catches up and nobody is in doubt.
pub fn is_settled(statuses: &[Vec<CopysetStatus>]) -> bool {
    let count = statuses.first().map_or(0, Vec::len);
    let equal = |id: u32| {
        let all: Vec<_> = statuses.iter().flatten().filter(|status| status.id == id).collect();
        all.len() == statuses.len()
            && all.iter().filter(|status| status.role == "leader").count() == 1
            && all.iter().all(|status| status.applied == all[0].applied)
            && all.iter().all(|status| status.last == status.applied)
            && all.iter().all(|status| !status.catching_up && status.catch_ups.is_empty())
            && all.iter().all(|status| status.role != "in doubt")
    };
    count > 0 && statuses.iter().flatten().all(|status| equal(status.id))
}

/// Per chunk: birth, applied index and mapped blocks; per block what it is, its checksum and index.
type Content = BTreeMap<u64, ((LogIndex, LogIndex, u32), Vec<(bool, u32, LogIndex)>)>;

/// Compares what the nodes hold of a copyset, block by block, with each other and with their disks.
///
/// # Errors
///
/// The first difference.
pub fn compare(id: CopysetId, nodes: &mut [(&mut Process, &Disk)]) -> Result<(), String> {
    let mut first: Option<Content> = None;
    for (node, (process, disk)) in nodes.iter_mut().enumerate() {
        let content = content(id, process, disk).map_err(|what| format!("node {node}: {what}"))?;
        match &first {
            None => first = Some(content),
            Some(first) if *first == content => {}
            Some(first) => return Err(difference(id, node, first, &content)),
        }
    }
    Ok(())
}

/// Whether what a node's store counts is what it holds: blocks mapped, and blocks free. Nothing is on
/// its way.
///
/// # Errors
///
/// The first number that is wrong.
pub fn count(process: &mut Process, copysets: &[CopysetId]) -> Result<(), String> {
    let store = process.reactor.chunkserver_mut().shard_mut(0).store();
    let mut all = 0;
    for id in copysets {
        let (mut mapped, mut after) = (0, None);
        while let Some(chunk) = store.chunk_after(*id, after) {
            after = Some(chunk.key.chunk);
            mapped += u64::from(chunk.mapped);
        }
        if store.mapped_blocks(*id) != mapped {
            let counted = store.mapped_blocks(*id);
            return Err(format!("copyset {id}: {counted} blocks counted, {mapped} mapped"));
        }
        all += mapped;
    }
    let statistics = store.statistics();
    if statistics.free_blocks + statistics.kept_blocks + all != statistics.data_blocks {
        return Err(format!("{all} blocks are mapped, but {statistics:?}"));
    }
    Ok(())
}

fn difference(id: CopysetId, node: usize, first: &Content, other: &Content) -> String {
    let chunks = first.keys().chain(other.keys());
    for chunk in chunks {
        let (Some(one), Some(two)) = (first.get(chunk), other.get(chunk)) else {
            return format!("copyset {id}: chunk {chunk:x} is on node 0 or {node} only");
        };
        if one.0 != two.0 {
            return format!(
                "copyset {id} chunk {chunk:x}: {:?} and on node {node} {:?}",
                one.0, two.0
            );
        }
        for (block, (one, two)) in one.1.iter().zip(&two.1).enumerate() {
            if one != two {
                return format!(
                    "copyset {id} chunk {chunk:x} block {block}: {one:?} and on node {node} {two:?}"
                );
            }
        }
    }
    unreachable!("they differ")
}

fn content(id: CopysetId, process: &mut Process, disk: &Disk) -> Result<Content, String> {
    let shard = process.reactor.chunkserver_mut().shard_mut(0);
    let data = shard.layout().data() / 4096;
    let (store, mut content, mut after) = (shard.store(), Content::new(), None);
    while let Some(chunk) = store.chunk_after(id, after) {
        after = Some(chunk.key.chunk);
        let mut blocks = Vec::new();
        for first in (0..CHUNK_BLOCKS).step_by(32) {
            let mut states = BlockStates::new();
            store.lookup(chunk.key, BlockRange { first, blocks: 32 }, &mut states);
            for state in states {
                match state.place {
                    Place::Hole => {}
                    Place::Missing => return Err(format!("{chunk:?} misses a block")),
                    Place::At(place) => {
                        let bytes = disk.read_block(data + u64::from(place));
                        if crc32c(&bytes) != state.crc {
                            return Err(format!("{chunk:?}: block at {place} has other bytes"));
                        }
                    }
                }
                blocks.push((state.place == Place::Hole, state.crc, state.index));
            }
        }
        content.insert(chunk.key.chunk.0, ((chunk.birth, chunk.applied, chunk.mapped), blocks));
    }
    Ok(content)
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
