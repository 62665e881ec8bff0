//! The cluster file.

use std::path::Path;

use culvert::cluster::{Cluster, Device, Node, PlanOptions, Reactor, VolumeOptions};
use uuid::Uuid;

/// Reads any bytes as a cluster file.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let cluster = match Cluster::parse(text, Path::new("cluster.toml")) {
        Ok(cluster) => cluster,
        Err(error) => {
            let _said = error.to_string();
            return;
        }
    };
    for volume in cluster.volumes() {
        let layout = cluster.layout(volume);
        assert!(layout.blocks() > 0);
        let _part = layout.part(layout.blocks() - 1, 1);
    }
    for (copyset, replica) in cluster.devices().iter().flat_map(|d| cluster.replicas_on(d.uuid)) {
        let endpoint = cluster.endpoint_of(replica);
        let _addresses = cluster.addresses(endpoint);
        assert!(cluster.copyset(copyset.id).is_some());
    }
    let again = cluster.to_text().expect("what was read can be written");
    let again = Cluster::parse(&again, Path::new("cluster.toml")).expect("a text of our own");
    assert_eq!(again.document(), cluster.document());
}

/// A cluster of three nodes with a volume.
pub fn seeds() -> Vec<Vec<u8>> {
    let uuid = |number: u128| Uuid::from_u128(number);
    let mut nodes = Vec::new();
    let mut devices = Vec::new();
    for number in 0..3 {
        let address = format!("tcp://127.0.0.1:{}", 7700 + number);
        let address = address.parse().expect("an address");
        let reactors = vec![Reactor { addresses: vec![address] }];
        nodes.push(Node { uuid: uuid(0xc0 + number), reactors });
        devices.push(Device { uuid: uuid(0xd0 + number), node: uuid(0xc0 + number), shards: 1 });
    }
    let options =
        PlanOptions { chunk_size: 256 << 10, copysets: 2, replicas: 3, quota_blocks: 1024 };
    let mut cluster = Cluster::plan(nodes, devices, &options).expect("a possible plan");
    cluster.create_volume("disk", 4 << 20, &VolumeOptions::default()).expect("room");
    vec![cluster.to_text().expect("a text").into_bytes()]
}
