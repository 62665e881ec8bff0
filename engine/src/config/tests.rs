//! What a configuration file may say, and what it is told when it says something else.

use super::*;

const MINIMAL: &str = r#"
    node = "6f1c1f4e-9c0b-4c5e-8f5e-0d7a5c1f2b3a"
    cluster_file = "cluster.toml"
    [[reactors]]
    core = 0
    listen = ["shm:///run/culvert/0.sock", "tcp://127.0.0.1:9000"]
    [[devices]]
    uri = "uring:/dev/nvme0n1"
"#;

fn load(text: &str) -> Result<NodeConfig, ConfigError> {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("node.toml");
    std::fs::write(&path, text).expect("a scratch file");
    NodeConfig::load(&path)
}

fn fault(text: &str) -> String {
    match load(text) {
        Err(ConfigError::Fault { fault, .. }) => fault.to_string(),
        Err(ConfigError::Syntax { source, .. }) => source.to_string(),
        other => panic!("no fault in {text}: {other:?}"),
    }
}

#[test]
fn a_minimal_file_has_the_defaults() {
    let config = load(MINIMAL).expect("a good file");
    assert_eq!(config.idle, IdleConfig { polling_us: 75, yields: true });
    assert_eq!(config.reactors[0].pool_bytes, ByteSize::mib(256));
    assert!(config.cluster_file.is_absolute(), "relative to the file's folder");
    assert_eq!(config.pre_shared_key().expect("none configured"), None);
}

#[test]
fn what_is_printed_reads_back() {
    let config = load(MINIMAL).expect("a good file");
    let printed = config.to_toml();
    assert!(printed.contains("pool_bytes = \"256MiB\""), "{printed}");
    assert_eq!(load(&printed).expect("its own output"), config);
}

#[test]
fn an_unknown_key_is_refused_where_it_stands() {
    let text = fault(&format!("{MINIMAL}\ndepht_max = 3"));
    assert!(text.contains("unknown field `depht_max`"), "{text}");
    assert!(text.contains("line 10"), "{text}");
    let text = fault(&MINIMAL.replace("cluster_file", "cluster"));
    assert!(text.contains("unknown field `cluster`"), "{text}");
}

#[test]
fn values_out_of_range_are_named() {
    for (addition, expected) in [
        (
            "[idle]\npolling_us = 2000000",
            "idle.polling_us is 2000000; it must be from 0 to 1000000",
        ),
        ("[raft]\ntick_ms = 0", "raft.tick_ms is 0; it must be from 1 to 10000"),
        (
            "[raft]\nelection_ticks = 5",
            "raft.election_ticks is 5, but a follower must miss three heartbeats before it asks for \
             votes (raft.heartbeat_ticks is 2)",
        ),
        (
            "[raft]\nlease_drift_margin_ms = 200",
            "raft.lease_drift_margin_ms is 200, but at most half of the lease may be margin \
             (the longest lease in ms is 200)",
        ),
        (
            "[raft]\nlease_drift_margin_ms = 2",
            "raft.lease_drift_margin_ms is 2, but clocks that drift need a margin, or two leaders \
             serve reads (1% of the election timeout in ms is 3)",
        ),
        (
            "[transport]\nwindow_max_pages = 63",
            "transport.window_max_pages is 63, but a request takes at most half of a window and \
             has up to this many pages (the longest operation is 32)",
        ),
        (
            "[transport]\nwindow_budget_pages = 40000",
            "transport.window_budget_pages is 40000, but half of the pool is the most that windows \
             may take (reactors.pool_bytes in pages of 4 KiB is 65536)",
        ),
        (
            "[transport]\nconnections_max = 65536\nwindow_budget_pages = 32768\nwindow_initial_pages = 1",
            "transport.connections_max is 65536, but all segments of the windows of so many \
             connections are more than that: lower it, window_max_pages or window_budget_pages \
             (regions of memory that a device takes beside the pool is 16383)",
        ),
        (
            "[transport]\nunsent_max_pages = 287",
            "transport.feed_unsent_max_pages is 256, but with the longest operation, 32 pages, on \
             top of it entries alone would cost a follower its connection \
             (transport.unsent_max_pages is 287)",
        ),
        (
            "[raft]\nappend_frames_in_flight_max = 513",
            "raft.append_frames_in_flight_max is 513; it must be from 1 to 512",
        ),
        (
            "[transport]\nrequests_max = 1000",
            "transport.window_max_pages is 1024, but a client may write each page of one window \
             and read into each of another, so that requests must be twice as many \
             (transport.requests_max is 1000)",
        ),
        (
            "[transport]\ndata_queue_bytes = 100000",
            "transport.data_queue_bytes is 100000; it must be a power of two",
        ),
        (
            "[store]\nbatch_bytes = 70000",
            "store.batch_bytes is 70000; it must be a multiple of 4KiB",
        ),
        ("[[devices]]\nuri = \"uring:/dev/nvme0n1\"", "devices.uri names uring:/dev/nvme0n1 twice"),
        ("[[reactors]]\ncore = 0", "reactors.core names 0 twice"),
        (
            "[[reactors]]\ncore = 1\npool_bytes = \"3MiB\"",
            "reactors.pool_bytes is 3MiB; it must be a multiple of 2MiB",
        ),
        (
            "[[reactors]]\ncore = 1\nlisten = [\"tcp://localhost:1\"]",
            "reactors.listen names tcp://localhost:1: after tcp:// and rdma:// comes an IP address and a port, such \
             as 127.0.0.1:9000 or [::1]:9000",
        ),
    ] {
        assert_eq!(fault(&format!("{MINIMAL}\n{addition}")), expected);
    }
}

#[test]
fn a_node_needs_a_name_a_reactor_and_a_device() {
    let nil = Uuid::nil().to_string();
    let named = MINIMAL.replace("6f1c1f4e-9c0b-4c5e-8f5e-0d7a5c1f2b3a", &nil);
    assert!(fault(&named).starts_with("node is the nil UUID"));
    let mut config = load(MINIMAL).expect("a good file");
    config.devices.clear();
    assert_eq!(config.check(), Err(ConfigFault::Empty("devices")));
    let mut config = load(MINIMAL).expect("a good file");
    config.reactors.clear();
    assert_eq!(config.check(), Err(ConfigFault::Empty("reactors")));
}

#[test]
fn a_key_is_read_without_its_newline_and_must_be_long() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("key");
    std::fs::write(&path, "0123456789abcdef\n").expect("a scratch file");
    assert_eq!(read_key(&path).expect("long enough"), b"0123456789abcdef");
    std::fs::write(&path, "short   \n").expect("a scratch file");
    assert!(matches!(read_key(&path), Err(ConfigError::ShortKey { bytes: 5, .. })));
    assert!(matches!(read_key(&folder.path().join("none")), Err(ConfigError::Unreadable { .. })));
}
