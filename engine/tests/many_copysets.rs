//! Hundreds of copysets that share a pair of nodes: the votes and heartbeats of one tick are many
//! times what a control queue holds.

use std::time::{Duration, Instant};

use culvert::cluster::PlanOptions;
use culvert::node::{LocalCluster, LocalOptions};
use tempfile::TempDir;

const COPYSETS: u32 = 300;
const PATIENCE: Duration = Duration::from_secs(60);

/// All copysets have a leader that all replicas follow, at one moment.
fn all_led(local: &mut LocalCluster) -> bool {
    let mut led = 0;
    let mut terms = vec![Vec::new(); COPYSETS as usize + 1];
    for number in 0..3 {
        let status = local.node(number).expect("it runs").reactor().chunkserver().status();
        for copyset in &status.copysets {
            led += usize::from(copyset.role == "leader");
            terms[copyset.id as usize].push((copyset.term, copyset.leader != 0, copyset.applied));
        }
    }
    led == COPYSETS as usize
        && terms[1..].iter().all(|replicas| {
            let (first, has_leader, applied) = replicas[0];
            has_leader
                && applied > 0
                && replicas.iter().all(|replica| *replica == replicas[0])
                && first > 0
        })
}

fn all_elect(tcp: bool) {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let device = |number: usize| {
        let file = folder.path().join(format!("device-{number}"));
        format!("emulated:512MiB?file={}", file.display())
    };
    let mut local = LocalCluster::start(&LocalOptions {
        folder: folder.path().into(),
        devices: (0..3).map(device).collect(),
        plan: PlanOptions {
            chunk_size: 1 << 20,
            copysets: COPYSETS,
            replicas: 3,
            quota_blocks: 300,
        },
        volume: ("disk".into(), 16 << 20),
        tcp,
        pool_bytes: 64 << 20,
        // The smallest that a configuration may ask for.
        adjust: |config| config.transport.control_queue_bytes = 4096,
    })
    .expect("a local cluster");
    let started = Instant::now();
    while !all_led(&mut local) {
        assert!(started.elapsed() < PATIENCE, "not all copysets have a leader");
        for _ in 0..200 {
            local.turn_except(&[]);
        }
    }
}

#[test]
fn all_elect_over_shared_memory() {
    all_elect(false);
}

#[test]
fn all_elect_over_tcp() {
    all_elect(true);
}
