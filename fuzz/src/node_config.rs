//! The configuration of a node.

use std::path::{Path, PathBuf};

use culvert::config::{DeviceConfig, NodeConfig};
use uuid::Uuid;

/// Reads any bytes as a configuration.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = NodeConfig::parse(text, Path::new("node.toml")) else { return };
    config.check().expect("what was parsed was checked");
    let again = NodeConfig::parse(&config.to_toml(), Path::new("node.toml"));
    assert_eq!(again.expect("a text of our own"), config);
}

/// The defaults written out, and as little as possible.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut config = NodeConfig::new(Uuid::from_u128(0xc017), PathBuf::from("cluster.toml"), 0);
    config.reactors[0].listen.push("tcp://127.0.0.1:7700".to_owned());
    config.devices.push(DeviceConfig::new("uring:/dev/nvme0n1".to_owned()));
    let least = "node = \"00000000-0000-0000-0000-00000000c017\"\ncluster_file = \"c.toml\"\n\
                 [[reactors]]\ncore = 0\n[[devices]]\nuri = \"mem:a?size=1GiB\"\n";
    vec![config.to_toml().into_bytes(), least.as_bytes().to_vec()]
}
