//! Journal blocks below the mark go bad: the replica whose records they held goes on from before
//! them, promises nothing until its leader has readmitted it, and is whole again; nobody else
//! notices.
//!
//! Three nodes and clients in one thread. The first copyset works alone; then a second one is
//! created and gets the space that the first has released. Then blocks of the first one's records
//! go bad on one device: its maps there are as old as what is left, and name blocks that the second
//! one uses by now.

mod rig;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use culvert::chunkserver::rebuild;
use culvert::cluster::{Cluster, Document, Volume};
use culvert::ids::CopysetId;
use culvert::shard::ShardConfig;
use culvert::shard::check::{CheckReport, Subject, check};
use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{Plan, VOLUME, Wishes, emulated, open_device, pool};
use rig::random::{Random, number_from};

const LATER: &str = "later";
const CHUNK_BYTES: u64 = 256 << 10;
const DEPTH: usize = 8;
/// The node whose device goes bad.
const VICTIM: usize = 0;
/// Where the journal's ring begins on a device of one shard, and its least size.
const RING: u64 = 1 << 20;
const RING_BYTES: u64 = 4 << 20;

/// One volume on copyset 1, and another on copyset 2.
fn clusters(plan: &Plan) -> (Cluster, Cluster) {
    let both = plan.cluster.document().clone();
    let mut volume = both.volumes[0].clone();
    volume.copysets = vec![CopysetId(1)];
    let later =
        Volume { name: LATER.into(), id: 2, copysets: vec![CopysetId(2)], ..volume.clone() };
    let both = Document { next_volume: 3, volumes: vec![volume.clone(), later], ..both };
    let mut first = Document { volumes: vec![volume], ..both.clone() };
    first.copysets.retain(|copyset| copyset.id == CopysetId(1));
    (Cluster::check(first).expect("sound"), Cluster::check(both).expect("sound"))
}

fn work(nodes: &mut Nodes, load: &mut Load, operations: u64) {
    let enough = load.operations() + operations;
    while load.operations() < enough {
        nodes.turn();
        load.turn();
    }
    load.settle(|| nodes.turn());
    load.read_all(|| nodes.turn());
}

/// Lets an idle batch carry the mark on.
fn rest(nodes: &mut Nodes) {
    let since = std::time::Instant::now();
    nodes.run_until("a while passes", |_| since.elapsed().as_millis() > 100);
}

fn restart(nodes: &mut Nodes, create: bool) {
    (0..3).for_each(|node| nodes.kill(node));
    (0..3).for_each(|node| nodes.open(node, create));
}

/// Bytes of the device where blocks of the journal's first incarnation lie.
fn first_journal_blocks(device: &Path) -> Vec<u64> {
    let file = OpenOptions::new().read(true).open(device).expect("its file");
    let mut found = Vec::new();
    for at in (RING..RING + RING_BYTES).step_by(4096) {
        let mut block = [0; 40];
        file.read_exact_at(&mut block, at).expect("its file");
        if block[4..6] == *b"CJ" && block[32..36] == 1u32.to_le_bytes() {
            found.push(at);
        }
    }
    found
}

fn check_device(uri: &str) -> CheckReport {
    let pool = pool("check", 8 << 20);
    let mut device = open_device(uri, &pool);
    check(&mut device, &pool, &ShardConfig::default(), &mut rebuild, &mut |_| {}).expect("pages")
}

/// The damage is told, and everything told is about the first copyset.
fn tells_of_the_first_only(report: &CheckReport) {
    let about_first = |subject: &Subject| match subject {
        Subject::Group { copyset, .. } => *copyset == CopysetId(1),
        Subject::Block { copyset, .. } => *copyset == 1,
        Subject::Journal { .. } | Subject::Superblock { .. } => true,
        _ => false,
    };
    let findings = &report.findings;
    assert!(findings.iter().all(|found| about_first(&found.subject)), "{findings:#?}");
    let lost = findings.iter().find(|found| found.detail.contains("lost entries from index"));
    assert!(lost.is_some(), "{findings:#?}");
}

fn role(nodes: &mut Nodes, copyset: u32) -> String {
    let status = nodes.status(VICTIM);
    let found = status.copysets.iter().find(|status| status.id == copyset);
    found.expect("a replica of it").role.to_owned()
}

/// Until the replica on the bad device promises again, and has all that was promised.
fn returns(nodes: &mut Nodes) {
    nodes.run_until("the replica is readmitted", |nodes| role(nodes, 1) != "in doubt");
}

/// Whether the second copyset uses what the first one's maps name.
fn returns_from_damage(seed: u64) -> bool {
    println!("CULVERT_DAMAGE_SEED={seed}");
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes = Wishes {
        copysets: 2,
        chunk_bytes: CHUNK_BYTES,
        volume_bytes: 2 * CHUNK_BYTES,
        adjust: |config| config.raft.tick_ms = 10,
        ..Wishes::new(folder.path(), emulated(folder.path(), "64MiB", ""))
    };
    let mut plan = Plan::new(&wishes);
    let (first, both) = clusters(&plan);
    plan.cluster = first;
    let mut random = Random::new(seed);
    let mut nodes = Nodes::start_planned(plan);
    let mut one = Load::new(nodes.client(1), VOLUME, DEPTH, seed);
    work(&mut nodes, &mut one, 300);
    rest(&mut nodes);
    nodes.plan.cluster = both;
    restart(&mut nodes, true);
    let mut two = Load::new(nodes.client(2), LATER, DEPTH, seed + 1);
    work(&mut nodes, &mut two, 60);
    rest(&mut nodes);

    (0..3).for_each(|node| nodes.kill(node));
    let path = folder.path().join(format!("device-{VICTIM}"));
    let blocks = first_journal_blocks(&path);
    assert!(blocks.len() > 20, "{} blocks", blocks.len());
    let at = blocks.len() / 8 + random.below(blocks.len() as u64 / 8) as usize;
    let device = OpenOptions::new().write(true).open(&path).expect("its file");
    for &block in &blocks[at..at + 4] {
        device.write_all_at(&[0x5a; 4096], block).expect("its file");
    }
    let uri = nodes.plan.configs[VICTIM].devices[0].uri.clone();
    let report = check_device(&uri);
    tells_of_the_first_only(&report);
    let reused = report.findings.iter().any(|found| found.detail.contains("belong to other"));

    // One of the others is missing: nobody can say what was promised to it.
    nodes.open(VICTIM, false);
    nodes.open(1, false);
    rest(&mut nodes);
    assert_eq!(role(&mut nodes, 1), "in doubt");
    nodes.kill(VICTIM);
    nodes.open(VICTIM, false);
    assert_eq!(role(&mut nodes, 1), "in doubt", "a restart changes nothing");
    assert_ne!(role(&mut nodes, 2), "in doubt", "the other copyset has lost nothing");
    nodes.open(2, false);
    returns(&mut nodes);
    work(&mut nodes, &mut one, 50);
    for other in [1, 2] {
        // Each of the others in turn is not there: both copysets need the replica that was bad.
        nodes.kill(other);
        work(&mut nodes, &mut one, 100);
        work(&mut nodes, &mut two, 300);
        nodes.open(other, false);
        rest(&mut nodes);
    }
    (0..3).for_each(|node| nodes.kill(node));
    for config in &nodes.plan.configs {
        let report = check_device(&config.devices[0].uri);
        assert!(report.is_clean(), "{:#?}", report.findings);
        assert_eq!(report.shards[0].missing_blocks, 0);
    }
    reused
}

#[test]
fn a_hole_in_the_journal_costs_only_whom_it_hit() {
    let first = number_from("CULVERT_DAMAGE_SEED", 1);
    let seeds = first..first + number_from("CULVERT_DAMAGE_SEEDS", 3);
    let reused = seeds.filter(|seed| returns_from_damage(*seed)).count();
    assert!(reused > 0, "nothing of the damaged copyset was reused: the test shows nothing");
    println!("reused under {reused} seeds");
}
