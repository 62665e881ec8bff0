//! Pages seen as slices: copies through a slice are in no counter.
//!
//! What copies pages by the methods of their handles is counted
//! (`culvert_memory::page_bytes_copied`), and so the figure "payload bytes copied" is a measurement.
//! A file that sees pages as a slice could copy them past it. These may, because what they see is
//! no payload on the data path; pages that a peer may write are never seen as a slice at all.

use super::Finding;
use super::source::Tree;

/// Files that see pages as slices, and what is in those pages.
const SEERS: &[(&str, &str)] = &[
    ("engine/src/bench/load.rs", "what the load will write, filled before it is measured"),
    ("engine/src/client/transfer.rs", "a file on its way in or out"),
    ("engine/src/device/format.rs", "headers and superblocks"),
    ("engine/src/raft_group/proposals.rs", "no pages: a list of runs"),
    ("engine/src/shard/appender.rs", "the journal"),
    ("engine/src/shard/check/mod.rs", "superblocks"),
    ("engine/src/shard/checkpoint_stream.rs", "the checkpoint"),
    ("engine/src/shard/checkpointing.rs", "superblocks"),
    ("engine/src/shard/opening/beginning.rs", "the journal"),
    ("engine/src/shard/opening/metadata.rs", "metadata"),
    ("engine/src/shard/opening/mod.rs", "superblocks"),
    ("engine/src/sim/guest.rs", "what a simulated client writes"),
    ("engine/src/shard/reader.rs", "the journal and the checkpoint, read back"),
    ("transport/src/rdma/device.rs", "frames that came in"),
    ("transport/src/rdma/link.rs", "frames on their way out"),
    ("transport/src/shm/link.rs", "no pages: a list of file descriptors"),
];

const VIEWS: &[&str] = &[".as_slice()", ".as_mut_slice()"];

/// Files that see pages as slices and are not in the table, and the reverse.
pub fn seers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for source in &tree.sources {
        let mut lines =
            source.code_lines().filter(|(_, line)| VIEWS.iter().any(|view| line.contains(view)));
        let Some((number, _)) = lines.next() else { continue };
        seen.push(source.path.as_str());
        if !SEERS.iter().any(|(path, _)| *path == source.path) {
            findings.push(format!(
                "{}:{number}: sees pages as a slice, where copies are not counted; use the \
                 methods of the handle, or add the file to SEERS in slices.rs with its reason",
                source.path
            ));
        }
    }
    let stale = SEERS.iter().filter(|(path, _)| !seen.contains(path));
    findings.extend(stale.map(|(path, _)| format!("{path}: sees no slice: take it off SEERS")));
    findings
}
