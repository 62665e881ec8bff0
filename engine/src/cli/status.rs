//! `culvert status`: what every node of a cluster says about itself.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use culvert::cluster::{Cluster, Copyset, EndpointIndex};
use culvert::config::ByteSize;
use culvert::ids::BLOCK_SIZE;
use culvert::stages::{Stage, StageFigures};
use serde::Deserialize;
use serde_json::{Value, json};

use super::connect::{CliClient, ClusterArgs, ConnectArgs};
use super::exit::{Code, Failure, Outcome};
use super::terminal::{Paint, print, say};

const EXAMPLES: &str = "\
Examples:
  culvert status --cluster cluster.toml
  culvert status --cluster cluster.toml --stages
  culvert status --cluster cluster.toml --json | jq '.nodes[].reactors[].counters'

Exits with 1 when a node does not answer, a copyset has no leader, a replica is out of service or
in doubt, or a shard has failed, refuses writes because its journal is full, or cannot write a checkpoint.";

/// The role of a replica that serves nothing.
const OUT_OF_SERVICE: &str = "out of service";

/// The role of one that promises nothing before it is readmitted.
const IN_DOUBT: &str = "in doubt";

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Shows nodes, shards and copysets, and who lags behind
///
/// Asks every reactor of every node in the cluster file. With --json, everything that the nodes
/// say, counters and latencies by stage included, as one object.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show where the time of writes and reads goes on each reactor: latencies by stage since it
    /// started
    #[arg(long, conflicts_with = "json")]
    stages: bool,
}

/// What one reactor says: the parts that are shown. Names are those of the JSON.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReactorView {
    /// Shards that it runs.
    pub shards: Vec<ShardView>,
    /// Replicas that it runs.
    pub copysets: Vec<ReplicaView>,
    /// Connections to other nodes' reactors.
    pub peers: Vec<PeerView>,
    /// Connected clients, by what they are connected over.
    pub clients: BTreeMap<String, u64>,
    /// Free pages of its pool.
    pub pool_pages_free: u64,
    /// Pages of its pool.
    pub pool_pages: u64,
    /// Blocks that are being repaired.
    pub repairs: u64,
    /// Blocks that no replica has whole.
    pub repairs_given_up: u64,
    /// What it counted.
    pub counters: BlockCounts,
    /// Latencies by stage.
    pub stages: BTreeMap<String, StageFigures>,
}

/// A connection to another node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PeerView {
    /// The node.
    pub node: String,
    /// Over what it goes; nothing where there is no connection.
    pub over: Option<String>,
}

/// What a reactor counted of bad blocks since it started.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BlockCounts {
    /// Found bad or missing.
    pub bad_blocks: u64,
    /// Repaired from a peer.
    pub blocks_repaired: u64,
}

/// What a node says of one shard.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ShardView {
    /// Its device.
    pub device: DeviceView,
    /// Its number there.
    pub shard: u32,
    /// Why it is out of service; empty otherwise.
    pub failure: String,
    /// Blocks of the journal's ring in use.
    pub ring_blocks_used: u64,
    /// Blocks of the ring.
    pub ring_blocks: u64,
    /// Whether the ring is so full that writes are refused.
    pub ring_full: bool,
    /// Whether a checkpoint is being written.
    pub checkpointing: bool,
    /// Whether the last checkpoint did not fit.
    pub checkpoint_too_large: bool,
    /// Blocks of the data space.
    pub data_blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// The walk over everything stored.
    pub scrub: ScrubView,
}

/// What a node says of the scrub of a shard.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ScrubView {
    /// Counted from 1; 0: none was begun.
    pub pass: u32,
    /// Whether it is under way.
    pub running: bool,
    /// How much of it is done.
    pub percent: u32,
}

/// What a node says of a device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceView {
    /// As configured.
    pub uri: String,
    /// Its name.
    pub uuid: String,
    /// What it is opened through.
    pub backend: String,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Whether entries of the journal stand in metadata.
    pub metadata: bool,
    /// Whether it has a volatile write cache.
    pub volatile_write_cache: bool,
}

/// What a leader says of a replica that it brings up to date.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CatchUpView {
    /// Raft id of the replica.
    pub receiver: u64,
    /// What it is at.
    pub phase: String,
    /// The round, counted from 1.
    pub round: u32,
    /// Chunks of this round that were dealt with.
    pub chunks_done: u64,
    /// Chunks of this round in which the receiver differs, as far as that is known.
    pub chunks_known: u64,
    /// Bytes of blocks sent in all rounds.
    pub bytes_sent: u64,
    /// ... in a second, on average.
    pub bytes_per_second: u64,
}

/// What a node says of one replica.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplicaView {
    /// The copyset.
    pub id: u32,
    /// Raft id of the replica.
    pub replica: u64,
    /// `leader`, `follower`, `candidate` or `out of service`.
    pub role: String,
    /// Why it is out of service.
    pub reason: String,
    /// Raft term.
    pub term: u64,
    /// Commit index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// Blocks mapped.
    pub mapped_blocks: u64,
    /// Blocks that it may map.
    pub quota_blocks: u64,
    /// Replicas that it brings up to date, where it leads.
    pub catch_ups: Vec<CatchUpView>,
}

impl ReplicaView {
    fn is_out(&self) -> bool {
        [OUT_OF_SERVICE, IN_DOUBT].contains(&self.role.as_str())
    }
}

impl ShardView {
    /// What is not as it should be.
    fn trouble(&self) -> Option<String> {
        if !self.failure.is_empty() {
            return Some(format!("has failed: {}", self.failure));
        }
        match (self.checkpoint_too_large, self.ring_full) {
            (true, _) => Some(
                "cannot write a checkpoint, because it does not fit: delete or discard what is not \
                 needed"
                    .into(),
            ),
            (false, true) => Some("refuses writes: its journal ring is full".into()),
            (false, false) => None,
        }
    }
}

/// Everything that was learned of a cluster.
pub struct ClusterStatus {
    /// For each node of the file, for each of its reactors: its status, or why there is none.
    pub nodes: Vec<Vec<Result<Value, String>>>,
}

/// Asks every reactor of every node.
pub fn fetch(client: &mut CliClient) -> ClusterStatus {
    let reactors: Vec<usize> =
        client.client().cluster().nodes().iter().map(|node| node.reactors.len()).collect();
    let nodes = reactors.into_iter().enumerate().map(|(node, reactors)| {
        let fetch = |reactor| {
            let text = client.fetch_status(EndpointIndex { node, reactor });
            let text = text.map_err(|error| error.to_string())?;
            serde_json::from_str(&text).map_err(|error| error.to_string())
        };
        (0..reactors).map(fetch).collect()
    });
    ClusterStatus { nodes: nodes.collect() }
}

impl ClusterStatus {
    /// What the reactors say, with the node's position; those that do not answer are left out.
    pub fn reactors(&self) -> impl Iterator<Item = (usize, ReactorView)> + '_ {
        let view = |value: &Value| ReactorView::deserialize(value).unwrap_or_default();
        self.nodes.iter().enumerate().flat_map(move |(node, reactors)| {
            reactors.iter().filter_map(move |reactor| Some((node, view(reactor.as_ref().ok()?))))
        })
    }

    /// The statuses of all reactors that answered.
    pub fn values(&self) -> Vec<Value> {
        self.nodes.iter().flatten().filter_map(|reactor| reactor.as_ref().ok().cloned()).collect()
    }

    /// What each replica says, by copyset: node and view.
    pub fn copysets(&self) -> BTreeMap<u32, Vec<(usize, ReplicaView)>> {
        let mut copysets: BTreeMap<u32, Vec<(usize, ReplicaView)>> = BTreeMap::new();
        for (node, reactor) in self.reactors() {
            for replica in reactor.copysets {
                copysets.entry(replica.id).or_default().push((node, replica));
            }
        }
        copysets
    }

    /// The node that leads a copyset, in the newest term that any replica knows of.
    pub fn leader_of(&self, copyset: u32) -> Option<usize> {
        let replicas = self.copysets().remove(&copyset)?;
        let leaders = replicas.into_iter().filter(|(_, replica)| replica.role == "leader");
        leaders.max_by_key(|(_, replica)| replica.term).map(|(node, _)| node)
    }
}

/// Runs the command.
pub fn run(arguments: &StatusArgs) -> Outcome {
    let cluster = arguments.cluster.load()?;
    let mut client = arguments.connect.connect(cluster.clone(), PATIENCE)?;
    let status = fetch(&mut client);
    if arguments.json {
        say!("{}", to_json(&cluster, &status));
    } else {
        print(format_args!("{}", render(&cluster, &status, Paint::of_stdout())))?;
        if arguments.stages {
            print(format_args!("{}", render_stages(&status, Paint::of_stdout())))?;
        }
    }
    match complaints(&cluster, &status) {
        complaints if complaints.is_empty() => Ok(()),
        complaints => {
            let error = anyhow::anyhow!(complaints.join("; "));
            Err(Failure { code: Code::Failed, error })
        }
    }
}

fn to_json(cluster: &Cluster, status: &ClusterStatus) -> Value {
    let nodes = cluster.nodes().iter().zip(&status.nodes).map(|(node, reactors)| {
        let reactors = reactors.iter().map(|reactor| match reactor {
            Ok(value) => value.clone(),
            Err(error) => json!({ "error": error }),
        });
        json!({ "node": node.uuid, "reactors": reactors.collect::<Vec<_>>() })
    });
    json!({ "cluster": cluster.uuid(), "nodes": nodes.collect::<Vec<_>>() })
}

/// What is not as it should be.
fn complaints(cluster: &Cluster, status: &ClusterStatus) -> Vec<String> {
    let silent = status.nodes.iter().filter(|node| node.iter().any(Result::is_err)).count();
    let leaderless = cluster
        .copysets()
        .iter()
        .filter(|copyset| status.leader_of(copyset.id.0).is_none())
        .count();
    let mut complaints = Vec::new();
    if silent > 0 {
        complaints.push(format!("{silent} of {} nodes do not answer", cluster.nodes().len()));
    }
    if leaderless > 0 {
        complaints.push(format!("{leaderless} copysets have no leader"));
    }
    let copysets = status.copysets();
    let out = copysets.values().flatten().filter(|(_, replica)| replica.is_out()).count();
    if out > 0 {
        complaints.push(format!("{out} replicas are out of service"));
    }
    for (node, reactor) in status.reactors() {
        let of_shard = |shard: &ShardView| {
            let trouble = shard.trouble()?;
            Some(format!("shard {} of {} on node {node} {trouble}", shard.shard, shard.device.uri))
        };
        complaints.extend(reactor.shards.iter().filter_map(of_shard));
        if reactor.repairs_given_up > 0 {
            let blocks = reactor.repairs_given_up;
            complaints
                .push(format!("{blocks} bad blocks on node {node} that no replica has whole"));
        }
    }
    complaints
}

/// The status as text.
pub fn render(cluster: &Cluster, status: &ClusterStatus, paint: Paint) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", paint.strong(&format!("cluster {}", cluster.uuid())));
    for (node, reactors) in cluster.nodes().iter().zip(&status.nodes) {
        for (number, reactor) in reactors.iter().enumerate() {
            let _ = write!(out, "node {} reactor {number}: ", node.uuid);
            match reactor {
                Ok(value) => {
                    let view = ReactorView::deserialize(value).unwrap_or_default();
                    let used = view.pool_pages - view.pool_pages_free.min(view.pool_pages);
                    let _ = writeln!(
                        out,
                        "{}, {} replicas, {}, pool {}",
                        paint.good("up"),
                        view.copysets.len(),
                        clients(&view.clients),
                        share(used, view.pool_pages)
                    );
                    if !view.peers.is_empty() {
                        let _ = writeln!(out, "  {}", peers_line(cluster, &view.peers, paint));
                    }
                    for shard in &view.shards {
                        let _ = writeln!(out, "  {}", shard_line(shard, paint));
                    }
                    if let Some(line) = blocks_line(&view, paint) {
                        let _ = writeln!(out, "  {line}");
                    }
                }
                Err(error) => {
                    let _ = writeln!(out, "{}", paint.bad(error));
                }
            }
        }
    }
    let heading = format!(
        "{:>8} {:>4} {:>10} {:>12} {:>20}  {}",
        "copyset", "node", "term", "commit", "space", "replicas: node, state, entries behind"
    );
    let _ = writeln!(out, "{}", paint.strong(&heading));
    let replicas = status.copysets();
    for copyset in cluster.copysets() {
        let none = Vec::new();
        let replicas = replicas.get(&copyset.id.0).unwrap_or(&none);
        let _ = writeln!(out, "{}", copyset_line(copyset, replicas, status, paint));
        for catch_up in replicas.iter().flat_map(|(_, replica)| &replica.catch_ups) {
            let _ = writeln!(out, "{:>8} {}", "", catch_up_line(cluster, copyset, catch_up));
        }
    }
    out
}

/// How many clients there are, and over what.
fn clients(by_scheme: &BTreeMap<String, u64>) -> String {
    let all: u64 = by_scheme.values().sum();
    let each: Vec<_> =
        by_scheme.iter().map(|(scheme, count)| format!("{count} {scheme}")).collect();
    if each.is_empty() {
        format!("{all} clients")
    } else {
        format!("{all} clients ({})", each.join(", "))
    }
}

/// Over what each other node is reached, by its number.
fn peers_line(cluster: &Cluster, peers: &[PeerView], paint: Paint) -> String {
    let number = |peer: &PeerView| {
        cluster.nodes().iter().position(|node| node.uuid.to_string() == peer.node)
    };
    let each = peers.iter().map(|peer| {
        let name = number(peer).map_or_else(|| peer.node.clone(), |number| number.to_string());
        match &peer.over {
            Some(over) => format!("{name} over {over}"),
            None => format!("{name} {}", paint.bad("not connected")),
        }
    });
    format!("nodes: {}", each.collect::<Vec<_>>().join(", "))
}

/// What became of bad blocks, where there were any.
fn blocks_line(view: &ReactorView, paint: Paint) -> Option<String> {
    let BlockCounts { bad_blocks, blocks_repaired } = view.counters;
    let (under_way, given_up) = (view.repairs, view.repairs_given_up);
    if bad_blocks + under_way + given_up == 0 {
        return None;
    }
    let line =
        format!("{bad_blocks} blocks found bad, {blocks_repaired} repaired, {under_way} under way");
    let lost = format!("{given_up} that no replica has whole");
    Some(if given_up > 0 { format!("{line}, {}", paint.bad(&lost)) } else { line })
}

fn shard_line(shard: &ShardView, paint: Paint) -> String {
    let device = &shard.device;
    let cache = if device.volatile_write_cache { "volatile cache" } else { "no volatile cache" };
    let metadata = if device.metadata { "entries in metadata, " } else { "" };
    let used = shard.data_blocks - shard.free_blocks.min(shard.data_blocks);
    let mut line = format!(
        "shard {} of {} ({}; blocks of {}, {metadata}{cache}): ring {}, data {}",
        shard.shard,
        device.uri,
        device.uuid,
        device.block_size,
        share(shard.ring_blocks_used, shard.ring_blocks),
        share(used, shard.data_blocks)
    );
    if shard.checkpointing {
        line.push_str(", writing a checkpoint");
    }
    match shard.scrub {
        ScrubView { pass: 0, .. } => {}
        ScrubView { pass, running: true, percent } => {
            let _ = write!(line, ", scrub {pass} at {percent}%");
        }
        ScrubView { pass, .. } => {
            let _ = write!(line, ", scrub {pass} done");
        }
    }
    if let Some(trouble) = shard.trouble() {
        line = format!("{line}; {}", paint.bad(&trouble));
    }
    line
}

fn catch_up_line(cluster: &Cluster, copyset: &Copyset, catch_up: &CatchUpView) -> String {
    let receiver = copyset.replicas.iter().find(|replica| replica.id.0 == catch_up.receiver);
    let node = receiver.map_or_else(
        || format!("replica {}", catch_up.receiver),
        |replica| cluster.endpoint_of(replica).node.to_string(),
    );
    format!(
        "{node} catches up: {}, round {}, {} of {} chunks, {} sent, {}/s",
        catch_up.phase,
        catch_up.round,
        catch_up.chunks_done,
        catch_up.chunks_known,
        ByteSize(catch_up.bytes_sent).approximate(),
        ByteSize(catch_up.bytes_per_second).approximate()
    )
}

fn copyset_line(
    copyset: &Copyset,
    replicas: &[(usize, ReplicaView)],
    status: &ClusterStatus,
    paint: Paint,
) -> String {
    let leader = status.leader_of(copyset.id.0);
    let commit = replicas.iter().map(|(_, replica)| replica.commit).max().unwrap_or(0);
    let newest = replicas.iter().max_by_key(|(_, replica)| replica.commit);
    let (term, mapped) = newest.map_or((0, 0), |(_, r)| (r.term, r.mapped_blocks));
    let bytes = |blocks: u64| ByteSize(blocks * BLOCK_SIZE as u64).approximate();
    let space = format!("{} of {}", bytes(mapped), bytes(copyset.quota_blocks));
    let states: Vec<String> = replicas
        .iter()
        .map(|(node, replica)| {
            let behind = commit - replica.applied.min(commit);
            match replica.role.as_str() {
                OUT_OF_SERVICE => paint.bad(&format!("{node} out: {}", replica.reason)),
                IN_DOUBT => paint.bad(&format!("{node} in doubt: {}", replica.reason)),
                "leader" => paint.good(&format!("{node} leads {behind}")),
                role => format!("{node} {role} {behind}"),
            }
        })
        .collect();
    let node = leader.map_or_else(|| "none".to_owned(), |node| node.to_string());
    let id = copyset.id;
    format!("{id:>8} {node:>4} {term:>10} {commit:>12} {space:>20}  {}", states.join(", "))
}

/// The latencies of each reactor's stages that anything passed, as text.
fn render_stages(status: &ClusterStatus, paint: Paint) -> String {
    let mut out = String::new();
    let heading = format!(
        "{:>4}  {:<14} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "node", "stage", "count", "p50 us", "p99 us", "p99.9 us", "max us"
    );
    let _ = writeln!(out, "{}", paint.strong(&heading));
    for (node, reactor) in status.reactors() {
        for stage in Stage::ALL {
            let Some(figures) = reactor.stages.get(stage.name()) else { continue };
            let StageFigures { count, p50_us, p99_us, p999_us, max_us } = figures;
            if *count > 0 {
                let _ = writeln!(
                    out,
                    "{node:>4}  {:<14} {count:>12} {p50_us:>10.1} {p99_us:>10.1} {p999_us:>10.1} \
                     {max_us:>10.1}",
                    stage.name()
                );
            }
        }
    }
    out
}

fn share(part: u64, whole: u64) -> String {
    (part * 100).checked_div(whole).map_or("-".into(), |percent| format!("{percent}% used"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(replicas: &[(&str, u64, u64)]) -> ClusterStatus {
        let reactor = |(role, term, applied): &(&str, u64, u64)| {
            let replica = json!({ "id": 7, "role": role, "term": term, "applied": applied });
            vec![Ok(json!({ "copysets": [replica], "pool_pages": 10, "unknown": {} }))]
        };
        ClusterStatus { nodes: replicas.iter().map(reactor).collect() }
    }

    #[test]
    fn the_leader_is_that_of_the_newest_term() {
        let stale = status(&[("leader", 3, 9), ("leader", 4, 10), ("follower", 4, 8)]);
        assert_eq!(stale.leader_of(7), Some(1));
        assert_eq!(stale.leader_of(8), None);
        assert_eq!(status(&[("candidate", 5, 1)]).leader_of(7), None);
    }

    #[test]
    fn stages_stand_in_the_order_of_the_way() {
        let figures = json!({
            "count": 7, "p50_us": 1.25, "p99_us": 2.0, "p999_us": 3.0, "max_us": 4.0,
            "buckets": { "1250": 7 },
        });
        let stages = json!({ "write_submit": figures, "write_reply": figures, "later": figures });
        let status = ClusterStatus { nodes: vec![vec![Ok(json!({ "stages": stages }))]] };
        let text = render_stages(&status, Paint::of_stdout());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].starts_with("   0  write_submit              7        1.2"), "{text}");
        assert!(lines[2].contains("write_reply"));
    }

    /// One node whose status, but for `changes`, is that of a healthy one.
    fn of_one_node(changes: Value) -> (Cluster, ClusterStatus) {
        use culvert::cluster::{Device, Node, PlanOptions, Reactor};
        let uuid = uuid::Uuid::from_u128;
        let addresses = vec!["shm:///tmp/socket".parse().expect("an address")];
        let nodes = vec![Node { uuid: uuid(1), reactors: vec![Reactor { addresses }] }];
        let devices = vec![Device { uuid: uuid(2), node: uuid(1), shards: 1 }];
        let chunk_size = 1 << 20;
        let options = PlanOptions { chunk_size, copysets: 1, replicas: 1, quota_blocks: 1024 };
        let cluster = Cluster::plan(nodes, devices, &options).expect("a possible plan");
        let mut shard = json!({
            "device": {
                "uri": "uring:/dev/nvme0n1", "uuid": "u-u-i-d", "backend": "uring",
                "block_size": 512, "volatile_write_cache": true,
            },
            "shard": 0, "failure": "", "ring_blocks_used": 25, "ring_blocks": 100,
            "data_blocks": 1000, "free_blocks": 600,
        });
        let mut replica = json!({ "id": cluster.copysets()[0].id.0, "role": "leader" });
        for (key, value) in changes.as_object().expect("an object") {
            let target =
                if key == "role" || key == "catch_ups" { &mut replica } else { &mut shard };
            target[key] = value.clone();
        }
        let mut reactor = json!({ "shards": [shard], "copysets": [replica] });
        for key in ["repairs", "repairs_given_up", "counters"] {
            if let Some(value) = changes.get(key) {
                reactor[key] = value.clone();
            }
        }
        (cluster, ClusterStatus { nodes: vec![vec![Ok(reactor)]] })
    }

    #[test]
    fn a_shard_has_a_line() {
        let (cluster, status) = of_one_node(json!({}));
        assert_eq!(complaints(&cluster, &status), Vec::<String>::new());
        let text = render(&cluster, &status, Paint::plain());
        let line = "  shard 0 of uring:/dev/nvme0n1 (u-u-i-d; blocks of 512, volatile cache): ring \
                    25% used, data 40% used\n";
        assert!(text.contains(line), "{text}");
        let (cluster, status) = of_one_node(json!({ "checkpointing": true }));
        assert!(render(&cluster, &status, Paint::plain()).contains("writing a checkpoint"));
    }

    #[test]
    fn what_is_wrong_is_shown_and_complained_about() {
        for (changes, words) in [
            (json!({ "failure": "a write failed" }), "has failed: a write failed"),
            (json!({ "ring_full": true }), "refuses writes"),
            (json!({ "checkpoint_too_large": true }), "cannot write a checkpoint"),
        ] {
            let (cluster, status) = of_one_node(changes);
            assert!(render(&cluster, &status, Paint::plain()).contains(words));
            let said = complaints(&cluster, &status);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].contains(words) && said[0].contains("nvme0n1"), "{said:?}");
        }
        let (cluster, status) = of_one_node(json!({ "role": "out of service" }));
        let said = complaints(&cluster, &status).join("; ");
        assert!(said.contains("1 replicas are out of service"), "{said}");
    }

    #[test]
    fn scrub_and_repairs_are_shown() {
        let text = |changes| {
            let (cluster, status) = of_one_node(changes);
            render(&cluster, &status, Paint::plain())
        };
        let scrub = json!({ "pass": 3, "running": true, "percent": 40 });
        assert!(text(json!({ "scrub": scrub })).contains(", scrub 3 at 40%\n"));
        let scrub = json!({ "pass": 3, "running": false, "percent": 100 });
        assert!(text(json!({ "scrub": scrub })).contains(", scrub 3 done\n"));
        let counters = json!({ "bad_blocks": 5, "blocks_repaired": 3 });
        let changes = json!({ "counters": counters, "repairs": 1, "repairs_given_up": 1 });
        let words = "  5 blocks found bad, 3 repaired, 1 under way, 1 that no replica has whole\n";
        assert!(text(changes.clone()).contains(words));
        let (cluster, status) = of_one_node(changes);
        let said = complaints(&cluster, &status);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("1 bad blocks on node 0"), "{said:?}");
    }

    #[test]
    fn a_catch_up_shows_how_far_it_is() {
        let receiver = |cluster: &Cluster| cluster.copysets()[0].replicas[0].id.0;
        let (cluster, _) = of_one_node(json!({}));
        let catch_up = json!({
            "receiver": receiver(&cluster), "phase": "sending", "round": 2, "chunks_done": 3,
            "chunks_known": 40, "bytes_sent": 5 << 20, "bytes_per_second": 1 << 20,
        });
        let (_, status) = of_one_node(json!({ "catch_ups": [catch_up] }));
        let text = render(&cluster, &status, Paint::plain());
        assert!(text.contains("0 catches up: sending, round 2, 3 of 40 chunks"), "{text}");
    }

    #[test]
    fn nodes_that_do_not_answer_are_left_out() {
        let mut status = status(&[("leader", 1, 1), ("follower", 1, 1)]);
        status.nodes[1] = vec![Err("unreachable".into())];
        assert_eq!(status.reactors().count(), 1);
        assert_eq!(status.values().len(), 1);
        assert_eq!(status.copysets()[&7].len(), 1);
    }
}
