//! The matrix as a table: a row for each pattern, block size and depth, columns for each transport,
//! and the ratio between the first transport and each other.

use std::fmt::Write;

use super::case::{Row, TransportKind};
use super::result::{CaseResult, Nodes};

/// A replica further behind than this is worth a footnote.
const ENTRIES_BEHIND_NOTED: u64 = 4096;

/// Renders cases as text, in the order in which rows and transports first occur.
#[must_use]
pub fn render(cases: &[CaseResult]) -> String {
    let mut out = String::new();
    let transports = transports(cases);
    let Some(base) = transports.first() else { return out };
    let banner = cases[0].conditions.machine.banner();
    out.push_str(&banner);
    let mut head = format!("{:<24}", "");
    let mut names = format!("{:<10} {:>6} {:>6}", "pattern", "block", "depth");
    for transport in &transports {
        let _ = write!(head, " |{:^28}", transport.to_string());
        let _ = write!(names, " |{:>9} {:>8} {:>8} ", "IOPS", "p50", "p99");
    }
    for other in &transports[1..] {
        let _ = write!(head, " |{:^13}", format!("{base} / {other}"));
        let _ = write!(names, " |{:>6} {:>6}", "IOPS", "p50");
    }
    out.push_str(head.trim_end());
    out.push('\n');
    out.push_str(names.trim_end());
    out.push('\n');
    for row in rows(cases) {
        out.push_str(line(cases, &transports, row).trim_end());
        out.push('\n');
    }
    out.push_str(&footnotes(cases));
    out.push_str(&banner);
    out
}

fn line(cases: &[CaseResult], transports: &[TransportKind], row: Row) -> String {
    let find =
        |transport| cases.iter().find(|case| case.transport == transport && case.row() == row);
    let mut out = format!("{:<10} {:>6} {:>6}", row.pattern, row.block_size.to_string(), row.depth);
    for &transport in transports {
        let _ = match find(transport) {
            Some(case) => write!(
                out,
                " |{:>9} {:>8} {:>8} ",
                count(case.iops),
                duration(case.latency_us.p50),
                duration(case.latency_us.p99)
            ),
            None => write!(out, " |{:>9} {:>8} {:>8} ", "-", "-", "-"),
        };
    }
    for &other in &transports[1..] {
        let _ = match (find(transports[0]), find(other)) {
            (Some(a), Some(b)) => write!(
                out,
                " |{:>6} {:>6}",
                ratio(a.iops, b.iops),
                ratio(a.latency_us.p50, b.latency_us.p50)
            ),
            _ => write!(out, " |{:>6} {:>6}", "-", "-"),
        };
    }
    out
}

/// What a reader must know before quoting a figure.
fn footnotes(cases: &[CaseResult]) -> String {
    let mut out = String::new();
    let first = &cases[0];
    if cases.iter().any(|case| case.conditions.nodes == Nodes::OneThread) {
        out.push_str("one-thread: servers and client take turns in one thread; not a deployment\n");
    }
    let dropped: u32 = cases.iter().map(|case| case.rounds_dropped).sum();
    if dropped > 0 {
        let _ = writeln!(out, "{dropped} rounds left out: over 2% of the time was stolen");
    }
    let errors: u64 = cases.iter().map(|case| case.errors).sum();
    if errors > 0 {
        let _ = writeln!(out, "{errors} operations FAILED");
    }
    let behind = cases.iter().map(|case| case.entries_behind_max).max().unwrap_or(0);
    if behind > ENTRIES_BEHIND_NOTED {
        let _ = writeln!(out, "a replica was up to {behind} entries behind its leader");
    }
    let steal = cases.iter().map(|case| case.steal_percent).fold(0.0, f64::max);
    let _ = writeln!(
        out,
        "{}, {} replicas, {} copysets, median of {} rounds; steal up to {steal:.1}%, memory copy \
         {:.1} GB/s",
        first.conditions.device, first.replicas, first.copysets, first.rounds, first.memcpy_gb_s
    );
    out
}

/// Renders what the counters say of each case: costs per operation.
#[must_use]
pub fn render_costs(cases: &[CaseResult]) -> String {
    let mut out = format!(
        "{:<5} {:<10} {:>6} {:>6} |{:>8} {:>8} {:>7} {:>7} {:>7}  {}\n",
        "", "pattern", "block", "depth", "CPU us", "device", "batch", "allocs", "calls", "copies"
    );
    for case in cases {
        let row = case.row();
        let optional =
            |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        let copies: Vec<String> = case
            .payload_copies_per_operation
            .iter()
            .map(|(kind, copies)| format!("{kind} {copies:.2}"))
            .collect();
        let _ = writeln!(
            out,
            "{:<5} {:<10} {:>6} {:>6} |{:>8} {:>8} {:>7} {:>7.3} {:>7.3}  {}",
            case.transport,
            row.pattern,
            row.block_size.to_string(),
            row.depth,
            optional(case.cpu_us_per_operation),
            optional(case.device_bytes_per_user_byte),
            optional(case.batch_mean),
            case.allocations_per_operation,
            case.syscalls_per_operation,
            copies.join(", ")
        );
    }
    out.push_str(
        "per operation: CPU of all processes; device bytes of one replica per user byte; records \
         per journal write;\nallocations and system calls of all servers; payload copies of all \
         processes\n",
    );
    out
}

/// Renders the work requests of each case over RDMA; nothing where there is none.
#[must_use]
pub fn render_work_requests(cases: &[CaseResult]) -> String {
    let mut out = String::new();
    for case in cases {
        let Some(requests) = case.work_requests_per_operation else { continue };
        if out.is_empty() {
            let _ = writeln!(out, "{:<24} |{:^26} |{:^26}", "", "client", "all servers");
            let _ = write!(out, "{:<10} {:>6} {:>6}", "pattern", "block", "depth");
            let names = format!(" |{:>8} {:>8} {:>8}", "requests", "signals", "bells");
            let _ = writeln!(out, "{names}{names}");
        }
        let row = case.row();
        let block_size = row.block_size.to_string();
        let _ = write!(out, "{:<10} {block_size:>6} {:>6}", row.pattern, row.depth);
        for side in [requests.client, requests.servers] {
            let (posted, signalled, doorbells) = (side.posted, side.signalled, side.doorbells);
            let _ = write!(out, " |{posted:>8.2} {signalled:>8.2} {doorbells:>8.2}");
        }
        out.push('\n');
    }
    if !out.is_empty() {
        out.push_str(
            "rdma, per operation: work requests posted, those that asked for a completion, doorbells\n",
        );
    }
    out
}

/// The transports, in the order of their first case.
#[must_use]
pub fn transports(cases: &[CaseResult]) -> Vec<TransportKind> {
    let mut found = Vec::new();
    for case in cases {
        if !found.contains(&case.transport) {
            found.push(case.transport);
        }
    }
    found
}

/// The rows, in the order of their first case.
#[must_use]
pub fn rows(cases: &[CaseResult]) -> Vec<Row> {
    let mut found = Vec::new();
    for case in cases {
        if !found.contains(&case.row()) {
            found.push(case.row());
        }
    }
    found
}

/// `4423`, `88.9k`, `1.20M`.
#[must_use]
pub fn count(value: f64) -> String {
    match value {
        v if v >= 999_500.0 => format!("{:.2}M", v / 1e6),
        v if v >= 9_999.5 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// Microseconds as `15.2us`, `151us`, `2.31ms`.
#[must_use]
pub fn duration(us: f64) -> String {
    match us {
        v if v >= 999_500.0 => format!("{:.2}s", v / 1e6),
        v if v >= 999.5 => format!("{:.2}ms", v / 1e3),
        v if v >= 99.95 => format!("{v:.0}us"),
        v => format!("{v:.1}us"),
    }
}

fn ratio(a: f64, b: f64) -> String {
    if b > 0.0 { format!("{:.2}x", a / b) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::super::case::Pattern;
    use super::super::result::tests::sample;
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([4423.0, 88_900.0, 1.2e6].map(count), ["4423", "88.9k", "1.20M"]);
        let durations = [15.23, 151.2, 2310.0, 1.5e6].map(duration);
        assert_eq!(durations, ["15.2us", "151us", "2.31ms", "1.50s"]);
    }

    #[test]
    fn the_table_has_a_ratio_between_transports() {
        let cases = [
            sample(TransportKind::Shm, Pattern::Randwrite, 1, 50_000.0),
            sample(TransportKind::Shm, Pattern::Randwrite, 128, 250_000.0),
            sample(TransportKind::Tcp, Pattern::Randwrite, 1, 12_500.0),
        ];
        let table = render(&cases);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("shm / tcp"), "{table}");
        assert!(lines[2].starts_with("randwrite    4KiB      1 |    50.0k   20.0us   60.0us"));
        assert!(lines[2].ends_with("4.00x  0.25x"), "{table}");
        assert!(lines[3].ends_with('-'), "the tcp case is missing: {table}");
        assert!(table.contains("steal up to 0.1%"), "{table}");
        assert_eq!(render(&[]), "");
        assert!(render_costs(&cases).contains("wire 3.00"));
    }
    #[test]
    fn what_is_emulated_is_said_above_and_below() {
        let mut cases = [
            sample(TransportKind::Rdma, Pattern::Randwrite, 1, 50_000.0),
            sample(TransportKind::Tcp, Pattern::Randwrite, 1, 12_500.0),
        ];
        for case in &mut cases {
            case.conditions.machine.emulated = Some("QEMU TCG");
        }
        let table = render(&cases);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("EMULATED (QEMU TCG)"), "{table}");
        assert_eq!(lines.last(), lines.first());
        assert!(lines[1].contains("rdma / tcp"), "{table}");
        let requests = render_work_requests(&cases);
        assert!(requests.contains("     1 |    2.00     0.50     1.00 |    7.00"), "{requests}");
        assert_eq!(render_work_requests(&cases[1..]), "");
    }
}
