//! Whether packets are lost: flow control (PFC), congestion marks (ECN), and what devices count.
//!
//! ECN is in sysfs with the vendor's driver only (`/sys/class/net/DEV/ecn`), and PFC is nowhere
//! but behind netlink.

use super::super::Findings;
use super::super::machine::Machine;
use super::{Device, NET};

/// Both sides of ECN: who sees marks and says so, and who is told and slows down.
const ECN_SIDES: [&str; 2] = ["roce_np", "roce_rp"];

/// Of the eight priorities of Ethernet, the one that RoCE is usually given.
const ROCE_PRIORITY: u32 = 3;

/// Counters that stand still where nothing is lost, late or refused: of the port, of mlx5, of
/// bnxt_re, and of soft-RoCE.
const TROUBLE: [&str; 28] = [
    "counters/port_rcv_errors",
    "counters/port_xmit_discards",
    "counters/symbol_error",
    "counters/link_downed",
    "hw_counters/out_of_sequence",
    "hw_counters/out_of_buffer",
    "hw_counters/packet_seq_err",
    "hw_counters/implied_nak_seq_err",
    "hw_counters/local_ack_timeout_err",
    "hw_counters/rnr_nak_retry_err",
    "hw_counters/req_transport_retries_exceeded",
    "hw_counters/req_rnr_retries_exceeded",
    "hw_counters/rx_icrc_encapsulated",
    "hw_counters/roce_adp_retrans",
    "hw_counters/roce_slow_restart",
    "hw_counters/np_ecn_marked_roce_packets",
    "hw_counters/np_cnp_sent",
    "hw_counters/rp_cnp_handled",
    "hw_counters/to_retransmits",
    "hw_counters/seq_err_naks_rcvd",
    "hw_counters/rnr_naks_rcvd",
    "hw_counters/max_retry_exceeded",
    "hw_counters/rcvd_seq_err",
    "hw_counters/rcvd_rnr_err",
    "hw_counters/retry_exceeded_err",
    "hw_counters/retry_rnr_exceeded_err",
    "hw_counters/completer_retry_err",
    "hw_counters/send_err",
];

/// Of a network card only: soft-RoCE does neither.
pub(super) fn examine_flow(
    machine: &Machine,
    device: &Device,
    port: &str,
    net: Option<&str>,
    findings: &mut Findings,
) {
    let Some(net) = net.filter(|_| device.driver.is_some()) else { return };
    let look = format!("dcb pfc show dev {net}  or  mlnx_qos -i {net}");
    findings.unknown(format!("{port} PFC"), "not in sysfs", look);
    let subject = format!("{port} ECN");
    let both: Vec<Vec<u32>> = ECN_SIDES.map(|side| marked(machine, net, side)).into();
    let [seen, obeyed] = &both[..] else { return };
    if !machine.has(&format!("{NET}/{net}/ecn")) {
        let look = "not in sysfs with this driver; counters of CNPs show whether it is at work";
        return findings.unknown(subject, "not told", look);
    }
    let whole: Vec<String> =
        seen.iter().filter(|p| obeyed.contains(p)).map(ToString::to_string).collect();
    if whole.is_empty() {
        let mend = format!("echo 1 | tee {NET}/{net}/ecn/roce_{{np,rp}}/enable/{ROCE_PRIORITY}");
        findings.bad(subject, "off: a full switch loses packets instead of slowing senders", mend);
    } else {
        findings.good(subject, format!("on for priority {}", whole.join(", ")));
    }
}

/// Priorities for which one side of ECN is switched on.
fn marked(machine: &Machine, net: &str, side: &str) -> Vec<u32> {
    let folder = format!("{NET}/{net}/ecn/{side}/enable");
    let priorities = machine.numbered(&folder, "").unwrap_or_default();
    let on = |p: &u32| matches!(machine.text(&format!("{folder}/{p}")).as_deref(), Ok("1"));
    priorities.into_iter().filter(on).collect()
}

/// What is not zero is worth a look: whether it grows only the operator can see.
pub(super) fn examine_counters(
    machine: &Machine,
    port: &str,
    folder: &str,
    findings: &mut Findings,
) {
    let read = |name: &&str| {
        let count: u64 = machine.parsed(&format!("{folder}/{name}")).ok()?;
        Some((name.split('/').next_back()?.to_owned(), count))
    };
    let counts: Vec<(String, u64)> = TROUBLE.iter().filter_map(read).collect();
    let subject = format!("{port} counters");
    if counts.is_empty() {
        return findings.unknown(subject, "none to be seen", format!("look into {folder}"));
    }
    let moved: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if moved.is_empty() {
        let what = format!("{} of loss, retries and congestion, all 0", counts.len());
        return findings.good(subject, what);
    }
    let why =
        format!("since the device started; do they grow under load? grep . {folder}/*counters/*");
    findings.unknown(subject, moved.join(", "), why);
}
