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

Exits with 1 when a node does not answer or a copyset has no leader.";

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
    /// Replicas that it runs.
    pub copysets: Vec<ReplicaView>,
    /// Connected clients.
    pub clients: u64,
    /// Free pages of its pool.
    pub pool_pages_free: u64,
    /// Pages of its pool.
    pub pool_pages: u64,
    /// Latencies by stage.
    pub stages: BTreeMap<String, StageFigures>,
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
                        "{}, {} replicas, {} clients, pool {}",
                        paint.good("up"),
                        view.copysets.len(),
                        view.clients,
                        share(used, view.pool_pages)
                    );
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
    }
    out
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
                "out of service" => paint.bad(&format!("{node} out: {}", replica.reason)),
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

    #[test]
    fn nodes_that_do_not_answer_are_left_out() {
        let mut status = status(&[("leader", 1, 1), ("follower", 1, 1)]);
        status.nodes[1] = vec![Err("unreachable".into())];
        assert_eq!(status.reactors().count(), 1);
        assert_eq!(status.values().len(), 1);
        assert_eq!(status.copysets()[&7].len(), 1);
    }
}
