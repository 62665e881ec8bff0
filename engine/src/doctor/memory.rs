//! Memory: how much of it a process may pin, and the hugepages of each NUMA node.
//!
//! A reactor prefers memory of the node that its core is on, and takes 2 MiB hugepages where there
//! are any. Pages of 1 GiB are named because they are missing elsewhere; pools do not use them.

use crate::config::{ByteSize, ReactorConfig, TransportConfig};

use super::machine::{Machine, Unread, nonsense};
use super::numa::{self, NumaNode};
use super::{Area, Findings};

const LIMITS: &str = "/proc/self/limits";
const MEMINFO: &str = "/proc/meminfo";
const STATUS: &str = "/proc/self/status";

/// Its place in the masks of `/proc/PID/status`; see capabilities(7).
const CAP_IPC_LOCK: u32 = 14;

const PAGE_BYTES: u64 = 4096;
const HUGEPAGE_BYTES: u64 = 2 << 20;

/// What one reactor pins as configured by default: its pool, and the windows of connections over
/// shared memory. Memory locked, registered with io_uring and registered with RDMA are counted
/// apart, each against the same limit.
fn reactor_bytes() -> u64 {
    let windows = u64::from(TransportConfig::default().window_budget_pages) * PAGE_BYTES;
    ReactorConfig::new(0).pool_bytes.bytes() + windows
}

fn reactors(count: u64) -> String {
    if count == 1 { "1 reactor".to_owned() } else { format!("{count} reactors") }
}

pub(super) fn examine(machine: &Machine) -> Findings {
    let mut findings = Findings::of(Area::Memory);
    examine_locked(machine, &mut findings);
    match numa::nodes(machine) {
        Ok(nodes) => {
            for node in nodes.iter().filter(|node| !node.cores.is_empty()) {
                examine_hugepages_of(machine, node, &mut findings);
            }
        }
        // A kernel without NUMA.
        Err(_) => {
            examine_hugepages(machine, "hugepages", "/sys/kernel/mm/hugepages", &mut findings);
        }
    }
    findings
}

/// A limit in bytes; `None` is no limit.
#[derive(Clone, Copy)]
struct Limits {
    soft: Option<u64>,
    hard: Option<u64>,
}

fn examine_locked(machine: &Machine, findings: &mut Findings) {
    let subject = "locked memory";
    let limits = match limits(machine) {
        Ok(limits) => limits,
        Err(error) => return findings.unknown(subject, "limit not told", error),
    };
    let need = reactor_bytes();
    let Some(soft) = limits.soft else {
        return findings.good(subject, "no limit for this user");
    };
    let shown = ByteSize(soft).approximate();
    if may_exceed(machine) {
        let what = format!(
            "the limit of {shown} does not bind this process, which has CAP_IPC_LOCK; a service \
             without it is bound by its LimitMEMLOCK="
        );
        return findings.good(subject, what);
    }
    let wanted = ByteSize(need).approximate();
    if soft >= need {
        let what = format!("{shown}, enough for {} of {wanted}", reactors(soft / need));
        return findings.good(subject, what);
    }
    let what = format!(
        "{shown}, and a reactor takes {wanted}: its memory may be swapped, and `uring:` and \
         `rdma://` cannot register it"
    );
    findings.bad(subject, what, locked_mend(limits.hard, need));
}

fn locked_mend(hard: Option<u64>, need: u64) -> String {
    let service = "# in a systemd unit: LimitMEMLOCK=infinity";
    match hard {
        None => format!("ulimit -l unlimited  {service}"),
        Some(hard) if hard >= need => format!("ulimit -l {}  {service}", hard >> 10),
        Some(_) => format!("sudo prlimit --memlock=unlimited:unlimited --pid $$  {service}"),
    }
}

/// The line is `Max locked memory  8388608  8388608  bytes`.
fn limits(machine: &Machine) -> Result<Limits, Unread> {
    let text = machine.text(LIMITS)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    let limit = |word: &&str| match *word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    match (words.first().and_then(limit), words.get(1).and_then(limit)) {
        (Some(soft), Some(hard)) => Ok(Limits { soft, hard }),
        _ => Err(nonsense(LIMITS, line.unwrap_or(&text))),
    }
}

/// Bytes that programs may still take without swapping; the line is `MemAvailable:  1843200 kB`.
#[must_use]
pub fn memory_available(machine: &Machine) -> Option<u64> {
    let text = machine.text(MEMINFO).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// Whether the limit binds this process at all.
fn may_exceed(machine: &Machine) -> bool {
    let text = machine.text(STATUS).unwrap_or_default();
    let mask = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

fn examine_hugepages_of(machine: &Machine, node: &NumaNode, findings: &mut Findings) {
    let subject = format!("hugepages of node {}", node.id);
    examine_hugepages(machine, &subject, &format!("{}/hugepages", node.folder()), findings);
}

/// Hugepages of one size.
struct Pages {
    total: u64,
    free: u64,
}

fn pages(machine: &Machine, folder: &str, kib: u64) -> Result<Pages, Unread> {
    let folder = format!("{folder}/hugepages-{kib}kB");
    Ok(Pages {
        total: machine.parsed(&format!("{folder}/nr_hugepages"))?,
        free: machine.parsed(&format!("{folder}/free_hugepages"))?,
    })
}

fn examine_hugepages(machine: &Machine, subject: &str, folder: &str, findings: &mut Findings) {
    let need = reactor_bytes() / HUGEPAGE_BYTES;
    let kib = HUGEPAGE_BYTES >> 10;
    let Pages { total, free } = match pages(machine, folder, kib) {
        Ok(pages) => pages,
        Err(error) => return findings.unknown(subject, "not told", error),
    };
    let gigantic = match pages(machine, folder, 1 << 20) {
        Ok(Pages { total: 0, .. }) => "; none of 1 GiB, nor needed".to_owned(),
        Ok(Pages { total, free }) => format!("; {free} of {total} of 1 GiB free, not used"),
        Err(_) => String::new(),
    };
    let found = match total {
        0 => "none of 2 MiB".to_owned(),
        _ => format!("{free} of {total} of 2 MiB free"),
    };
    if total < need {
        let what = format!(
            "{found}, and a reactor takes {need}: its pool falls back to ordinary pages, with 512 \
             address translations for one{gigantic}"
        );
        let mend = format!("echo {need} > {folder}/hugepages-{kib}kB/nr_hugepages");
        findings.bad(subject, what, format!("{mend}  # for each reactor"));
    } else if free < need {
        let why = format!("in use, perhaps by a node that runs; one more reactor takes {need}");
        findings.unknown(subject, format!("{found}{gigantic}"), why);
    } else {
        let reactors = reactors(free / need);
        let what = format!("{found}, enough for {reactors} of {need}{gigantic}");
        findings.good(subject, what);
    }
}
