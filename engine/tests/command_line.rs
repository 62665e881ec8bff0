//! The `culvert` binary from outside: what it prints, and how it ends.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs the binary and waits for it.
fn culvert(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    command.args(arguments).env("RUST_BACKTRACE", "0").output().expect("the binary runs")
}

/// Checks the exit code and returns what was printed: output, and errors.
fn expect(code: i32, arguments: &[&str]) -> (String, String) {
    let output = culvert(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{printed}\n{said}");
    (printed, said)
}

fn path_in(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// A node's configuration over an emulated device in `folder`.
fn write_config(folder: &Path, extra: &str) -> String {
    write_config_on(folder, &device_in(folder), extra)
}

fn write_config_on(folder: &Path, device: &str, extra: &str) -> String {
    let path = path_in(folder, "node.toml");
    let text = format!(
        "node = \"6f1c1f4e-9c0b-4c5e-8f5e-0d7a5c1f2b3a\"\ncluster_file = \"cluster.toml\"\n{extra}\n\
         [[reactors]]\ncore = 0\nlisten = [\"shm://{}\"]\n[[devices]]\nuri = \"{}\"\n",
        path_in(folder, "node.sock"),
        device
    );
    std::fs::write(&path, text).expect("a scratch file");
    path
}

fn device_in(folder: &Path) -> String {
    format!("emulated:64MiB?file={}", path_in(folder, "device"))
}

#[test]
fn help_lists_exit_codes_and_every_command_has_examples() {
    let (printed, _) = expect(0, &["--help"]);
    assert!(printed.contains("Exit codes:"), "{printed}");
    for command in ["quickstart", "format", "serve", "status", "check", "doctor", "bench"] {
        assert!(printed.contains(command), "{printed}");
        let (printed, _) = expect(0, &[command, "--help"]);
        assert!(printed.contains("Examples:"), "{printed}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let (_, said) = expect(2, &["format", "--no-such-option"]);
    assert!(said.contains("--no-such-option"), "{said}");
    expect(2, &["volume", "create", "disk", "--size", "4KB", "--cluster", "x"]);
}

#[test]
fn a_formatted_device_is_refused_until_forced() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let device = device_in(folder.path());
    let (printed, _) = expect(0, &["format", &device, "--json", "--shards", "2"]);
    let first: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(first["shards"].as_array().map(Vec::len), Some(2));
    let (_, said) = expect(3, &["format", &device]);
    assert!(said.contains(first["device"].as_str().expect("a UUID")), "{said}");
    assert!(said.contains("--force"), "{said}");
    let (printed, _) = expect(0, &["format", &device, "--json", "--force"]);
    let second: Value = serde_json::from_str(&printed).expect("JSON");
    assert_ne!(first["device"], second["device"], "a name is never used again");
}

/// The mark of ext4 stands in bytes 1080 and 1081.
#[test]
fn a_device_that_seems_to_be_somebodys_is_refused_until_forced() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let device = device_in(folder.path());
    let (_, file) = device.split_once("file=").expect("it is over a file");
    let mut bytes = vec![0; 4096];
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    std::fs::write(file, &bytes).expect("written");
    let (_, said) = expect(3, &["format", &device]);
    assert!(said.contains("byte 1080") && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(file).expect("readable")[..4096], bytes, "it is as it was");
    expect(0, &["format", &device, "--force"]);
}

#[test]
fn devices_and_files_that_are_not_what_they_should_be_are_named() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (_, said) = expect(3, &["format", "floppy:0"]);
    assert!(said.contains("unknown backend \"floppy\""), "{said}");
    let (_, said) = expect(3, &["format", "emulated:1MiB"]);
    assert!(said.contains("too few"), "{said}");

    let config = write_config(folder.path(), "colour = 3");
    let (_, said) = expect(3, &["serve", "--config", &config]);
    assert!(said.contains("unknown field `colour`"), "{said}");
    assert!(said.contains("node.toml"), "{said}");

    let config = write_config(folder.path(), "");
    let (_, said) = expect(3, &["serve", "--config", &config]);
    assert!(said.contains("cannot read") && said.contains("cluster.toml"), "{said}");
    let cluster = path_in(folder.path(), "cluster.toml");
    let (_, said) = expect(3, &["cluster", "plan", &config, "--out", &cluster]);
    assert!(said.contains("not a Culvert device"), "{said}");
}

#[test]
fn the_effective_configuration_reads_back() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let config = write_config(folder.path(), "");
    let (printed, _) = expect(0, &["serve", "--config", &config, "--print-config"]);
    assert!(printed.contains("polling_us = 75"), "{printed}");
    let copy = path_in(folder.path(), "copy.toml");
    std::fs::write(&copy, &printed).expect("a scratch file");
    let (again, _) = expect(0, &["serve", "--config", &copy, "--print-config"]);
    assert_eq!(printed, again);
}

#[test]
fn a_cluster_is_planned_once_and_volumes_fit_into_it() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    expect(0, &["format", &device_in(folder.path()), "--chunk-size", "1MiB"]);
    let config = write_config(folder.path(), "");
    let cluster = path_in(folder.path(), "cluster.toml");
    let plan =
        ["cluster", "plan", &config, "--out", &cluster, "--replicas", "1", "--copysets", "2"];
    expect(0, &plan);
    let (_, said) = expect(3, &plan);
    assert!(said.contains("exists"), "{said}");

    let create = |name: &str, size: &str, code| {
        expect(code, &["volume", "create", name, "--size", size, "--cluster", &cluster]).1
    };
    create("disk", "16MiB", 0);
    let said = create("disk", "16MiB", 3);
    assert!(said.contains("already"), "{said}");
    let said = create("huge", "1TiB", 3);
    assert!(said.contains("quota"), "{said}");
    let (printed, _) = expect(0, &["volume", "list", "--cluster", &cluster, "--json"]);
    let volumes: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(volumes[0]["name"], "disk");
    assert_eq!(volumes.as_array().map(Vec::len), Some(1));

    let (_, said) = expect(3, &["volume", "import", "none", &config, "--cluster", &cluster]);
    assert!(said.contains("none"), "{said}");
    let arguments = ["status", "--cluster", &cluster, "--timeout", "0.2"];
    let (printed, said) = expect(1, &arguments);
    assert!(said.contains("1 of 1 nodes do not answer"), "{said}");
    assert!(printed.contains("cannot be reached"), "{printed}");
}

#[test]
fn check_tells_a_clean_device_from_a_damaged_one() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let device = device_in(folder.path());
    let (_, said) = expect(3, &["check", "--device", &device]);
    assert!(said.contains("no copy of a Culvert header"), "nothing is on it: {said}");
    expect(0, &["format", &device]);
    let (printed, _) = expect(0, &["check", "--device", &device]);
    assert!(printed.contains("clean"), "{printed}");
    let file = path_in(folder.path(), "device");
    let mut bytes = std::fs::read(&file).expect("the device's file");
    bytes[100] ^= 1;
    std::fs::write(&file, bytes).expect("the device's file");
    let (printed, _) = expect(4, &["check", "--device", &device, "--json"]);
    let report: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(report["clean"], false);
    assert_eq!(report["report"]["findings"][0]["subject"]["kind"], "header", "{report}");
}

/// What it finds is this machine's affair. That two runs say the same is not asked for: hugepages
/// may be taken in between.
#[test]
fn doctor_counts_what_it_found() {
    let ends = |arguments: &[&str]| {
        let output = culvert(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let counted = |(code, said): (Option<i32>, &str), [good, bad, unknown]: [usize; 3]| {
        let all = good + bad + unknown;
        assert_eq!(code, Some(i32::from(bad > 0)), "{said}");
        assert_eq!(said.contains(&format!("{bad} of {all} findings are bad")), bad > 0, "{said}");
        all
    };

    let (code, printed, said) = ends(&["doctor"]);
    let lines = |word: &str| {
        let start = format!("  {word:<7} ");
        printed.lines().filter(|line| line.starts_with(&start)).count()
    };
    let counts = ["good", "bad", "unknown"].map(lines);
    let [good, bad, unknown] = counts;
    let closing = format!("{good} good, {bad} bad, {unknown} unknown");
    assert_eq!(printed.lines().last(), Some(closing.as_str()), "{printed}");
    let all = counted((code, &said), counts);

    let (code, printed, said) = ends(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&printed).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let counts = ["good", "bad", "unknown"].map(|word| {
        let count = findings.iter().filter(|finding| finding["verdict"] == word).count();
        assert_eq!(report["counts"][word], count, "{report}");
        count
    });
    assert_eq!(counted((code, &said), counts), all, "as many as in the text");
    for finding in findings {
        for key in ["area", "subject", "what"] {
            assert!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{finding}");
        }
        assert_eq!(finding["verdict"] == "bad", finding["mend"].is_string(), "{finding}");
        assert_eq!(finding["verdict"] == "unknown", finding["why"].is_string(), "{finding}");
    }
}

/// A server of its own, killed at the end.
struct Server(Child);

impl Server {
    /// Formats a device, plans a cluster of one node on it, and starts the node. `None`, with a
    /// message, where this machine has no such backend.
    fn make(folder: &Path, device: &str) -> Option<Server> {
        let output = culvert(&["format", device, "--chunk-size", "1MiB"]);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("io_uring is not available") || said.contains("O_DIRECT") {
            eprintln!("skipped: {said}");
            return None;
        }
        assert!(output.status.success(), "{said}");
        let config = write_config_on(folder, device, "");
        let cluster = path_in(folder, "cluster.toml");
        let plan = ["cluster", "plan", &config, "--out", &cluster];
        expect(0, &[&plan[..], &["--replicas", "1", "--copysets", "1"]].concat());
        Some(Server::start(folder, &["--create-replicas"]))
    }

    /// Starts the node of a folder and waits until it serves.
    fn start(folder: &Path, extra: &[&str]) -> Server {
        Server::start_until(folder, extra, "")
    }

    /// ... or until the complaint of `status` has these words in it.
    fn start_until(folder: &Path, extra: &[&str], words: &str) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.args(["serve", "--config", &path_in(folder, "node.toml")]).args(extra);
        let mut child = command.stderr(Stdio::null()).spawn().expect("the binary runs");
        let cluster = path_in(folder, "cluster.toml");
        let since = Instant::now();
        loop {
            let status = culvert(&["status", "--cluster", &cluster, "--timeout", "0.2"]);
            let said = String::from_utf8_lossy(&status.stderr).into_owned();
            if status.status.success() || (!words.is_empty() && said.contains(words)) {
                return Server(child);
            }
            let ended = child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "it ended: {ended:?}");
            assert!(since.elapsed() < Duration::from_secs(20), "it does not serve: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it where it stands.
    fn kill(mut self) {
        self.0.kill().expect("a child of ours");
        self.0.wait().expect("a child of ours");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_before = self.0.kill();
        let _ended_before = self.0.wait();
    }
}

/// What a file holds once nobody has written to it for a while.
fn settled(file: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(file).expect("the device's file");
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(100));
        let now = std::fs::read(file).expect("the device's file");
        if now == bytes {
            return bytes;
        }
        bytes = now;
    }
    panic!("an idle server goes on writing");
}

/// Nothing that another process does to a live node's device is done, not even in part.
#[test]
fn the_device_of_a_live_node_is_left_alone() {
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let disk = tempfile::tempdir().expect("a scratch folder");
    let file = |folder: &tempfile::TempDir| path_in(folder.path(), "device");
    let emulated = format!("emulated:64MiB?file={}", file(&memory));
    let uring = format!("uring:{}?size=64MiB", file(&disk));
    for (folder, device) in [(&memory, emulated), (&disk, uring)] {
        let Some(server) = Server::make(folder.path(), &device) else { continue };
        let before = settled(Path::new(&file(folder)));
        let config = path_in(folder.path(), "node.toml");
        let plan = path_in(folder.path(), "other.toml");
        for arguments in [
            &["serve", "--config", &config][..],
            &["format", &device, "--force"],
            &["check", "--device", &device],
            &["cluster", "plan", &config, "--out", &plan],
            &["bench", "--device", &device.replace("device", "devic{node}"), "--replicas", "1"],
        ] {
            if arguments[0] == "bench" {
                // Its node 0 is given a name of the same device.
                let other = path_in(folder.path(), "devic0");
                std::fs::hard_link(file(folder), other).expect("a second name");
            }
            let force: &[&str] =
                if arguments[0] == "bench" { &["--force", "--volume-size", "8MiB"] } else { &[] };
            let (_, said) = expect(3, &[arguments, force].concat());
            let holder = format!("in use by process {}", server.0.id());
            assert!(said.contains(&holder) && said.contains(&device[..8]), "{said}");
            assert!(said.contains("is this node already running?"), "{said}");
        }
        assert!(std::fs::read(file(folder)).expect("its file") == before, "{device}");
        server.kill();
        // At once: what was killed holds nothing.
        let again = Server::start(folder.path(), &[]);
        again.kill();
        expect(0, &["check", "--device", &device]);
    }
}

/// A replica that nobody created serves nothing, and `status` says so with its exit code.
#[test]
fn status_shows_shards_and_complains_of_replicas_out_of_service() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let server = Server::make(folder.path(), &device_in(folder.path())).expect("it is emulated");
    let cluster = path_in(folder.path(), "cluster.toml");
    let (printed, _) = expect(0, &["status", "--cluster", &cluster]);
    let line = printed.lines().find(|line| line.starts_with("  shard 0 of emulated:64MiB"));
    let line = line.unwrap_or_else(|| panic!("{printed}"));
    assert!(line.contains("blocks of 4096, no volatile cache") && line.contains("ring "), "{line}");
    let (printed, _) = expect(0, &["status", "--cluster", &cluster, "--json"]);
    let status: Value = serde_json::from_str(&printed).expect("JSON");
    let device = &status["nodes"][0]["reactors"][0]["shards"][0]["device"];
    assert_eq!(device["backend"], "emulated");
    assert_eq!(device["block_size"], 4096);
    assert_eq!(device["volatile_write_cache"], false);
    server.kill();

    // Another cluster file with the same device knows another replica.
    let config = path_in(folder.path(), "node.toml");
    let plan = ["cluster", "plan", &config, "--out", &cluster, "--force"];
    expect(0, &[&plan[..], &["--replicas", "1", "--copysets", "1"]].concat());
    let _server = Server::start_until(folder.path(), &[], "out of service");
    let (printed, said) = expect(1, &["status", "--cluster", &cluster]);
    assert!(said.contains("1 replicas are out of service"), "{said}");
    assert!(printed.contains("0 out: "), "{printed}");
}

/// An address that is taken is found before recovery writes, and said once.
#[test]
fn an_address_that_is_taken_costs_nothing() {
    let first = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let second = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let _server = Server::make(first.path(), &device_in(first.path())).expect("it is emulated");
    Server::make(second.path(), &device_in(second.path())).expect("it is emulated").kill();
    let device = Path::new(&path_in(second.path(), "device")).to_owned();
    let before = std::fs::read(&device).expect("its file");

    let config = path_in(second.path(), "node.toml");
    let text = std::fs::read_to_string(&config).expect("its file");
    let theirs = path_in(first.path(), "node.sock");
    let text = text.replace(&path_in(second.path(), "node.sock"), &theirs);
    std::fs::write(&config, text).expect("its file");
    let (_, said) = expect(3, &["serve", "--config", &config]);
    assert!(said.contains("cannot listen on") && said.contains(&theirs), "{said}");
    assert!(said.contains("is this node already running?"), "{said}");
    assert_eq!(said.matches("the address is in use").count(), 1, "{said}");
    assert!(std::fs::read(&device).expect("its file") == before, "nothing was written");
}

/// As `culvert check ... | head -0`.
#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let device = device_in(folder.path());
    expect(0, &["format", &device, "--chunk-size", "1MiB"]);
    let config = write_config(folder.path(), "");
    let cluster = path_in(folder.path(), "cluster.toml");
    expect(
        0,
        &["cluster", "plan", &config, "--out", &cluster, "--replicas", "1", "--copysets", "1"],
    );
    for arguments in [
        &["check", "--device", &device][..],
        &["format", &device, "--force"],
        &["serve", "--config", &config, "--print-config"],
        &["volume", "create", "disk", "--size", "1MiB", "--cluster", &cluster],
        &["volume", "list", "--cluster", &cluster],
        &["status", "--cluster", &cluster, "--timeout", "0.1"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        let output = command.args(arguments).stdout(writer).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(141), "{arguments:?}: {said}");
        assert_eq!(said, "", "{arguments:?}");
    }
}

#[test]
fn quickstart_brings_a_file_through_a_crash() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = path_in(folder.path(), "file");
    // Not whole blocks, so that the end of the file is looked at too.
    let bytes: Vec<u8> = (0..20_000_001u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    std::fs::write(&file, bytes).expect("a scratch file");
    let (printed, _) = expect(0, &["quickstart", "--file", &file, "--no-bench"]);
    for step in ["devices", "servers", "import", "restart", "export", "compare", "check", "done"] {
        assert!(printed.lines().any(|line| line.starts_with(step)), "{step}: {printed}");
    }
    assert!(printed.contains("SIGKILL"), "{printed}");
}

#[test]
fn bench_prints_the_promised_json_for_both_transports() {
    let patterns =
        ["--seconds", "0.2", "--pattern", "randwrite,randread", "--depth", "8", "--json"];
    let (printed, _) = expect(0, &[&BENCH[..], &patterns].concat());
    let cases: Value = serde_json::from_str(&printed).expect("JSON");
    let cases = cases.as_array().expect("an array");
    assert_eq!(cases.len(), 4);
    for case in cases {
        assert!(case["iops"].as_f64().is_some_and(|iops| iops > 0.0), "{case}");
        assert!(case["cpu_us_per_operation"].as_f64().is_some_and(|time| time > 0.0), "{case}");
        assert_eq!(case["payload_copies_per_operation"]["other"], 0.0, "{case}");
        assert_eq!(case["errors"], 0);
        assert_eq!(case["nodes"], "processes");
        // Off RDMA the fields are there, and empty.
        assert!(case["work_requests_per_operation"].is_null(), "{case}");
        assert!(case["machine"].as_object().is_some_and(|m| m.contains_key("emulated")), "{case}");
        assert_eq!(case["machine"]["rdma"], serde_json::json!([]), "{case}");
        assert_eq!(case["addresses"], serde_json::json!([]), "{case}");
        assert!(case["pool_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{case}");
    }
    let bytes = &cases[0]["device_bytes_per_user_byte"];
    assert!(bytes.as_f64().is_some_and(|bytes| bytes > 1.0), "journal included: {bytes}");
}

/// A small bench.
const BENCH: [&str; 7] =
    ["bench", "--block-size", "4KiB", "--device", "emulated:128MiB", "--volume-size", "16MiB"];

/// One small case of it.
const SMALL_CASE: [&str; 7] =
    ["--seconds", "0.1", "--pattern", "randwrite", "--depth", "4", "--json"];

#[test]
fn bench_takes_the_addresses_it_is_told() {
    let addresses = ["--transport", "tcp", "--address", "127.0.0.2,127.0.0.3"];
    let (printed, _) = expect(0, &[&BENCH[..], &SMALL_CASE, &addresses].concat());
    let cases: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(cases[0]["addresses"], serde_json::json!(["127.0.0.2", "127.0.0.3"]));
    // An address of somebody else, and more addresses than anybody has use for.
    let foreign = ["--transport", "tcp", "--address", "192.0.2.1"];
    let (_, said) = expect(3, &[&BENCH[..], &SMALL_CASE, &foreign].concat());
    assert!(said.contains("192.0.2.1: is it an address of this machine?"), "{said}");
    let many = ["--address", "127.0.0.1,127.0.0.2,127.0.0.3", "--replicas", "1"];
    let (_, said) = expect(3, &[&BENCH[..], &SMALL_CASE, &many].concat());
    assert!(said.contains("1 servers and a client"), "{said}");
}

#[test]
fn bench_refuses_a_transport_that_a_cluster_does_not_have() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a scratch folder");
    expect(0, &["format", &device_in(folder.path()), "--chunk-size", "64KiB"]);
    let config = write_config(folder.path(), "");
    let cluster = path_in(folder.path(), "cluster.toml");
    expect(0, &["cluster", "plan", &config, "--out", &cluster, "--replicas", "1"]);
    let foreign = ["bench", "--cluster", &cluster, "--volume", "disk", "--transport", "shm,tcp"];
    let (_, said) = expect(3, &foreign);
    assert!(said.contains("has no tcp:// address"), "{said}");
}

#[test]
fn bench_without_rdma_says_so_once() {
    let has_devices = std::fs::read_dir("/sys/class/infiniband").is_ok_and(|d| d.count() > 0);
    if has_devices {
        return;
    }
    let (_, said) = expect(3, &[&BENCH[..], &SMALL_CASE, &["--transport", "rdma,tcp"]].concat());
    assert!(said.contains("culvert doctor") && said.lines().count() == 1, "{said}");
    let told = ["--transport", "rdma", "--address", "127.0.0.1"];
    let (_, said) = expect(3, &[&BENCH[..], &SMALL_CASE, &told].concat());
    assert!(said.contains("rdma:// cannot be used at 127.0.0.1"), "{said}");
    assert!(said.contains("culvert doctor") && said.lines().count() == 1, "{said}");
}

#[test]
fn bench_prints_the_figures_of_scenarios() {
    let scenarios = "idle,overwrite,failover,restart,stopped-follower";
    let (printed, _) = expect(
        0,
        &[
            "bench",
            "--scenario",
            scenarios,
            "--transport",
            "shm",
            "--device",
            "emulated:128MiB",
            "--seconds",
            "0.3",
            "--json",
        ],
    );
    let figures: Vec<Value> = serde_json::from_str(&printed).expect("an array");
    for scenario in scenarios.split(',') {
        let of = |figure: &&Value| figure["scenario"] == *scenario;
        let values: Vec<f64> = figures
            .iter()
            .filter(of)
            .map(|figure| figure["value"].as_f64().expect("a number"))
            .collect();
        assert!(!values.is_empty(), "{scenario}: {printed}");
        assert!(values.iter().all(|value| *value > 0.0), "{scenario}: {printed}");
    }
    let (_, said) = expect(2, &["bench", "--scenario", "idle", "--depth", "1"]);
    assert!(said.contains("--depth"), "{said}");
}

#[test]
fn bench_in_one_thread_says_so_and_writes_a_report() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let report = path_in(folder.path(), "report.html");
    let case = ["--nodes", "one-thread", "--seconds", "0.1", "--pattern", "randwrite"];
    let rest = ["--depth", "16", "--transport", "shm", "--report", &report];
    let (printed, _) = expect(0, &[&BENCH[..], &case, &rest].concat());
    assert!(printed.contains("one-thread"), "{printed}");
    let report = std::fs::read_to_string(&report).expect("a report");
    assert!(report.contains("<svg") && report.contains("not a deployment"));
}

/// A server that is killed with the test.
struct Serving(Child);

impl Serving {
    fn start(config: &str, socket: &Path) -> Serving {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.args(["serve", "--create-replicas", "--end-with-parent", "--config", config]);
        let serving = Serving(command.stderr(Stdio::null()).spawn().expect("the binary runs"));
        let since = Instant::now();
        while !socket.exists() {
            assert!(since.elapsed() < Duration::from_secs(20), "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // One that has ended needs no killing.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn a_volume_is_emptied_and_fenced() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a scratch folder");
    expect(0, &["format", &device_in(folder.path()), "--chunk-size", "64KiB"]);
    let config = write_config(folder.path(), "");
    let cluster = path_in(folder.path(), "cluster.toml");
    expect(
        0,
        &["cluster", "plan", &config, "--out", &cluster, "--replicas", "1", "--copysets", "2"],
    );
    expect(0, &["volume", "create", "disk", "--size", "1MiB", "--cluster", &cluster]);
    let _serving = Serving::start(&config, &folder.path().join("node.sock"));
    let file = path_in(folder.path(), "file");
    std::fs::write(&file, vec![0x5a; 1 << 20]).expect("a scratch file");
    let volume = |verb: &str, more: &[&str], code| {
        expect(code, &[&["volume", verb, "disk"], more, &["--cluster", &cluster]].concat())
    };
    volume("import", &[&file], 0);
    let (printed, _) = volume("discard", &["--offset", "64KiB", "--length", "256KiB"], 0);
    assert!(printed.contains("262144 bytes discarded"), "{printed}");
    volume("export", &[&file], 0);
    let bytes = std::fs::read(&file).expect("what was exported");
    for (at, byte) in bytes.iter().enumerate() {
        let discarded = (64 << 10..320 << 10).contains(&at);
        assert_eq!(*byte, if discarded { 0 } else { 0x5a }, "byte {at}");
    }
    let (_, said) = volume("discard", &["--offset", "1MiB"], 3);
    assert!(said.contains("there is nothing"), "{said}");

    let (_, said) = volume("fence", &[], 3);
    assert!(said.contains("--epoch"), "{said}");
    volume("fence", &["--epoch", "7"], 0);
    let (_, said) = volume("import", &[&file], 1);
    assert!(said.contains("fenced: the copyset's epoch is 7"), "{said}");
    volume("import", &["--epoch", "7", &file], 0);
    volume("discard", &["--epoch", "8"], 0);
    let (_, said) = volume("fence", &["--epoch", "6"], 1);
    assert!(said.contains("epoch is 7"), "{said}");
}
