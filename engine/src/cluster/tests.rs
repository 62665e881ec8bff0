use std::path::Path;

use super::*;

const SAMPLE: &str = r#"
uuid = "00000000-0000-4000-8000-000000000001"
chunk_size = 65536
next_volume = 3

[[nodes]]
uuid = "00000000-0000-4000-8000-000000000011"

[[nodes.reactors]]
addresses = ["shm:///run/culvert/a.sock", "tcp://127.0.0.1:9000"]

[[nodes.reactors]]
addresses = ["tcp://127.0.0.1:9001"]

[[devices]]
uuid = "00000000-0000-4000-8000-000000000021"
node = "00000000-0000-4000-8000-000000000011"
shards = 2

[[devices]]
uuid = "00000000-0000-4000-8000-000000000022"
node = "00000000-0000-4000-8000-000000000011"
shards = 4

[[copysets]]
id = 1
quota_blocks = 100

[[copysets.replicas]]
uuid = "00000000-0000-4000-8000-000000000031"
id = 71
device = "00000000-0000-4000-8000-000000000021"
shard = 1

[[copysets.replicas]]
uuid = "00000000-0000-4000-8000-000000000032"
id = 72
device = "00000000-0000-4000-8000-000000000022"
shard = 2

[[copysets]]
id = 2
quota_blocks = 100

[[copysets.replicas]]
uuid = "00000000-0000-4000-8000-000000000033"
id = 73
device = "00000000-0000-4000-8000-000000000022"
shard = 3

[[volumes]]
name = "disk"
id = 2
size = 131072
stripe_blocks = 8
copysets = [2, 1]
"#;

fn parse(text: &str) -> Result<Cluster, LoadError> {
    Cluster::parse(text, Path::new("cluster.toml"))
}

fn sample() -> Cluster {
    parse(SAMPLE).expect("the sample keeps the rules")
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let text = include_str!("../../../docs/format/cluster-file.md");
    let from = text.find("```toml").expect("an example") + "```toml".len();
    let to = from + text[from..].find("```").expect("its end");
    let cluster = parse(&text[from..to]).expect("it keeps the rules");
    let layout = cluster.layout(cluster.volume("disk").expect("listed"));
    assert_eq!(layout.copyset_blocks(), [131_072]);
}

#[test]
fn finds_who_runs_what() {
    let cluster = sample();
    assert_eq!(cluster.chunk_blocks(), 16);
    let (copyset, replica) = cluster.replica(ReplicaId(73)).expect("listed");
    assert_eq!(copyset.id, CopysetId(2));
    assert_eq!(cluster.endpoint_of(replica), EndpointIndex { node: 0, reactor: 1 });
    assert_eq!(cluster.addresses(cluster.endpoint_of(replica)).len(), 1);
    let device = cluster.devices()[1].uuid;
    assert_eq!(cluster.replicas_on(device).count(), 2);
    assert_eq!(cluster.shard_quota_blocks(device, 3), 100);
    let volume = cluster.volume("disk").expect("listed");
    assert_eq!(cluster.layout(volume).blocks(), 32);
    assert_eq!(cluster.layout(volume).width(), 2);
}

#[test]
fn what_is_saved_is_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cluster.toml");
    let mut cluster = sample();
    cluster.save(&path).expect("saved");
    cluster.create_volume("second", 65536, &VolumeOptions::default()).expect("room");
    cluster.save(&path).expect("replaced");
    assert_eq!(Cluster::load(&path).expect("loaded"), cluster);
    let files = std::fs::read_dir(directory.path()).expect("readable").count();
    assert_eq!(files, 1, "nothing is left beside it");
}

#[test]
fn a_file_that_cannot_be_written_says_so() {
    let path = Path::new("/nonexistent/cluster.toml");
    assert!(matches!(sample().save(path), Err(SaveError::Io { step: "write", .. })));
    assert!(matches!(Cluster::load(path), Err(LoadError::Io { .. })));
}

/// Breaks the sample by replacing one text and returns the message.
fn broken(from: &str, to: &str) -> String {
    assert!(SAMPLE.contains(from), "{from}");
    let error = parse(&SAMPLE.replacen(from, to, 1)).expect_err(to);
    match &error {
        LoadError::Syntax { source, .. } => format!("{error}\n{source}"),
        _ => error.to_string(),
    }
}

#[test]
fn broken_rules_are_named_with_their_lines() {
    for (from, to, message) in [
        (
            "chunk_size = 65536",
            "chunk_size = 65537",
            "cluster.toml:1: cluster: chunk_size is 65537",
        ),
        (
            "4000-8000-000000000011\"\n\n",
            "0000-0000-000000000000\"\n\n",
            "cluster.toml:6: nodes[0]: the uuid is all zeroes",
        ),
        (":9001", ":9000", "cluster.toml:12: nodes[0].reactors[1]: address tcp://127.0.0.1:9000"),
        ("shards = 4", "shards = 0", "cluster.toml:20: devices[1]: the device has no shards"),
        ("id = 2\nquota", "id = 1\nquota", "cluster.toml:41: copysets[1]: copyset 1 is listed"),
        ("id = 72", "id = 71", "cluster.toml:35: copysets[0].replicas[1]: replica id 71 is used"),
        ("shard = 2", "shard = 4", "cluster.toml:35: copysets[0].replicas[1]: shard 4 of"),
        ("id = 71", "id = 0", "cluster.toml:29: copysets[0].replicas[0]: replica id 0"),
        ("stripe_blocks = 8", "stripe_blocks = 5", "cluster.toml:51: volumes[0]: stripe_blocks"),
        ("copysets = [2, 1]", "copysets = [2, 3]", "volumes[0]: copyset 3 is not in this file"),
        ("copysets = [2, 1]", "copysets = []", "volumes[0]: the volume lies on no copyset"),
        ("size = 131072", "size = 1310720", "need 160 blocks and its quota is 100"),
        ("next_volume = 3", "next_volume = 2", "volume id 2 is not below next_volume"),
        ("name = \"disk\"", "name = \"my disk\"", "volume name \"my disk\" is not"),
    ] {
        let said = broken(from, to);
        assert!(said.contains(message), "{said:?} should say {message:?}");
    }
}

#[test]
fn duplicates_and_strangers_are_refused() {
    for (from, to, message) in [
        ("-000000000033\"", "-000000000032\"", "copysets[1].replicas[0]: uuid"),
        ("-000000000022\"\nnode", "-000000000021\"\nnode", "devices[1]: uuid"),
        ("-000000000022\"\nshard = 2", "-000000000021\"\nshard = 0", "are on device"),
        ("-000000000022\"\nshard = 3", "-000000000029\"\nshard = 3", "is not in this file"),
        ("-000000000011\"\nshards = 4", "-000000000012\"\nshards = 4", "devices[1]: node"),
    ] {
        let said = broken(from, to);
        assert!(said.contains(message), "{said:?} should say {message:?}");
    }
}

#[test]
fn what_is_not_the_format_is_shown_with_its_line() {
    for (from, to, message) in [
        ("shards = 2", "shard = 2", "line 18"),
        ("tcp://127.0.0.1:9001", "tcp://localhost:9001", "tcp://localhost:9001: after tcp://"),
        ("id = 71", "id = \"71\"", "line 31"),
        ("next_volume = 3", "", "missing field `next_volume`"),
        ("chunk_size = 65536", "chunk_size = -1", "line 3"),
    ] {
        let said = broken(from, to);
        assert!(said.contains(message), "{said:?} should say {message:?}");
    }
}

#[test]
fn volumes_are_created_within_the_quotas() {
    let mut cluster = sample();
    let before = cluster.clone();
    let options = VolumeOptions { stripe_blocks: Some(4), ..VolumeOptions::default() };
    let volume = cluster.create_volume("new", 128 * 4096, &options).expect("room").clone();
    assert_eq!((volume.id, volume.copysets.len(), volume.stripe_blocks), (3, 2, 4));
    assert_eq!(cluster.document().next_volume, 4);
    let error = |cluster: &mut Cluster, name: &str, size, options: &VolumeOptions| {
        cluster.create_volume(name, size, options).expect_err("refused")
    };
    let mut cluster = before.clone();
    let none = VolumeOptions::default();
    assert!(matches!(error(&mut cluster, "disk", 4096, &none), VolumeError::NameTwice(_)));
    assert!(matches!(error(&mut cluster, "", 4096, &none), VolumeError::Name(_)));
    assert_eq!(error(&mut cluster, "x", 100, &none), VolumeError::Size(100));
    assert!(matches!(error(&mut cluster, "x", 1 << 30, &none), VolumeError::Quota { .. }));
    assert!(matches!(error(&mut cluster, "x", 1 << 62, &none), VolumeError::TooManyChunks));
    assert_eq!(cluster, before, "a refusal changes nothing");
}

fn topology(nodes: u128, devices: u128) -> (Vec<Node>, Vec<Device>) {
    let address = |node: u128, reactor: u128| format!("tcp://10.0.0.{node}:{}", 9000 + reactor);
    let reactor = |node, reactor| Reactor {
        addresses: vec![address(node, reactor).parse().expect("an address")],
    };
    let node = |number| Node {
        uuid: Uuid::from_u128(number),
        reactors: vec![reactor(number, 0), reactor(number, 1)],
    };
    let device = |number: u128| Device {
        uuid: Uuid::from_u128(100 + number),
        node: Uuid::from_u128(1 + number % nodes),
        shards: 2,
    };
    ((1..=nodes).map(node).collect(), (0..devices).map(device).collect())
}

#[test]
fn a_plan_spreads_replicas_and_leaders() {
    let (nodes, devices) = topology(3, 6);
    let options = PlanOptions { copysets: 24, ..PlanOptions::default() };
    let cluster = Cluster::plan(nodes, devices, &options).expect("enough of everything");
    assert_eq!(cluster.copysets().len(), 24);
    for copyset in cluster.copysets() {
        let nodes: std::collections::HashSet<_> =
            copyset.replicas.iter().map(|replica| cluster.endpoint_of(replica).node).collect();
        assert_eq!(nodes.len(), 3, "each replica on a node of its own");
    }
    for device in cluster.devices() {
        for shard in 0..2 {
            let replicas = cluster.replicas_on(device.uuid).filter(|(_, r)| r.shard == shard);
            assert_eq!(replicas.count(), 6);
        }
    }
    for node in 0..3 {
        for reactor in 0..2 {
            let endpoint = EndpointIndex { node, reactor };
            let led = |copyset: &&Copyset| cluster.endpoint_of(&copyset.replicas[0]) == endpoint;
            assert_eq!(cluster.copysets().iter().filter(led).count(), 4);
        }
    }
}

#[test]
fn one_node_with_enough_devices_will_do() {
    let (nodes, devices) = topology(1, 3);
    let options = PlanOptions { copysets: 4, ..PlanOptions::default() };
    Cluster::plan(nodes, devices, &options).expect("three devices");
    let (nodes, devices) = topology(1, 2);
    let refused = Cluster::plan(nodes, devices, &options);
    assert!(matches!(refused, Err(PlanError::DevicesTooFew { replicas: 3, devices: 2 })));
}
