//! Locked memory and hugepages.

use super::super::memory::{examine, memory_available};
use super::{Tree, expect_bad, expect_good, expect_unknown, subjects};

const SERVICE: &str = "# in a systemd unit: LimitMEMLOCK=infinity";

/// As the kernel lays the table out, between its neighbours.
fn limit(tree: &Tree, soft: &str, hard: &str) {
    let text = format!(
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max resident set          unlimited            unlimited            bytes     \n\
         Max locked memory         {soft:<20} {hard:<20} bytes     \n\
         Max address space         unlimited            unlimited            bytes     "
    );
    tree.file("/proc/self/limits", &text);
}

fn hugepages(tree: &Tree, node: u32, kib: u64, total: u64, free: u64) {
    let folder = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB");
    let (total, free) = (total.to_string(), free.to_string());
    tree.files(&folder, &[("nr_hugepages", &total), ("free_hugepages", &free)]);
}

/// Two nodes with hugepages, and no limit.
pub(super) fn two_nodes(tree: &Tree) {
    tree.numa(&["0-3", "4-7"]);
    limit(tree, "unlimited", "unlimited");
    for node in 0..2 {
        hugepages(tree, node, 2048, 1024, 1000);
        hugepages(tree, node, 1 << 20, 0, 0);
    }
}

#[test]
fn a_limit_is_measured_by_what_a_reactor_takes() {
    let found = |soft: &str, hard: &str| {
        let tree = Tree::new();
        limit(&tree, soft, hard);
        examine(&tree.machine())
    };
    let good = |soft: &str, what: &str| expect_good(&found(soft, soft), "locked memory", what);
    good("unlimited", "no limit for this user");
    good("335544320", "320 MiB, enough for 1 reactor of 320 MiB");
    good("1073741824", "1 GiB, enough for 3 reactors of 320 MiB");
    let bad = |soft: &str, hard: &str, mend: &str| {
        let words = "8 MiB, and a reactor takes 320 MiB";
        expect_bad(&found(soft, hard), "locked memory", words, &format!("{mend}  {SERVICE}"));
    };
    bad("8388608", "unlimited", "ulimit -l unlimited");
    bad("8388608", "536870912", "ulimit -l 524288");
    bad("8388608", "8388608", "sudo prlimit --memlock=unlimited:unlimited --pid $$");
    expect_unknown(&found("much", "more"), "locked memory", "limit not told", "much");
    let findings = examine(&Tree::new().file("/proc/self/limits", "nothing").machine());
    expect_unknown(&findings, "locked memory", "limit not told", "says \"nothing\"");
}

#[test]
fn a_capability_lifts_the_limit() {
    let tree = Tree::new();
    limit(&tree, "8388608", "8388608");
    let status = |mask: &str| {
        tree.file("/proc/self/status", &format!("Name:\tculvert\nCapEff:\t{mask}\nSeccomp:\t0"));
        examine(&tree.machine())
    };
    let findings = status("000001ffffffffff");
    let what = "the limit of 8 MiB does not bind this process, which has CAP_IPC_LOCK; a service \
                without it is bound by its LimitMEMLOCK=";
    expect_good(&findings, "locked memory", what);
    // Every capability but this one, and nonsense.
    for mask in ["000001ffffffbfff", "0", "many"] {
        let mend = format!("sudo prlimit --memlock=unlimited:unlimited --pid $$  {SERVICE}");
        expect_bad(&status(mask), "locked memory", "8 MiB", &mend);
    }
}

#[test]
fn each_node_has_hugepages_of_its_own() {
    let tree = Tree::new();
    two_nodes(&tree);
    hugepages(&tree, 1, 2048, 0, 0);
    let findings = examine(&tree.machine());
    let what =
        "1000 of 1024 of 2 MiB free, enough for 6 reactors of 160; none of 1 GiB, nor needed";
    expect_good(&findings, "hugepages of node 0", what);
    let mend = "echo 160 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages  \
                # for each reactor";
    expect_bad(&findings, "hugepages of node 1", "none of 2 MiB, and a reactor takes 160", mend);

    hugepages(&tree, 1, 2048, 512, 3);
    hugepages(&tree, 1, 1 << 20, 4, 2);
    let findings = examine(&tree.machine());
    let words = "3 of 512 of 2 MiB free; 2 of 4 of 1 GiB free, not used";
    expect_unknown(&findings, "hugepages of node 1", words, "in use");

    tree.file("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "lots");
    let findings = examine(&tree.machine());
    expect_unknown(&findings, "hugepages of node 1", "not told", "nr_hugepages says \"lots\"");
}

#[test]
fn nodes_without_cores_need_no_hugepages() {
    let tree = Tree::new();
    tree.numa(&["0-3", ""]);
    hugepages(&tree, 0, 2048, 160, 160);
    let findings = examine(&tree.machine());
    assert_eq!(subjects(&findings), ["locked memory", "hugepages of node 0"]);
}

#[test]
fn a_kernel_without_numa_has_one_kind_of_memory() {
    let tree = Tree::new();
    let folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    tree.files(folder, &[("nr_hugepages", "64"), ("free_hugepages", "64")]);
    let mend = format!("echo 160 > {folder}/nr_hugepages  # for each reactor");
    expect_bad(&examine(&tree.machine()), "hugepages", "64 of 64 of 2 MiB free", &mend);
}

#[test]
fn available_memory_is_told_in_bytes() {
    let tree = Tree::new();
    assert_eq!(memory_available(&tree.machine()), None);
    tree.file("/proc/meminfo", "MemTotal:  2015000 kB\nMemAvailable:    1843200 kB\nBuffers: 1 kB");
    assert_eq!(memory_available(&tree.machine()), Some(1800 << 20));
    for nonsense in ["MemAvailable: lots", "MemAvailable: 18446744073709551615 kB", ""] {
        tree.file("/proc/meminfo", nonsense);
        assert_eq!(memory_available(&tree.machine()), None, "{nonsense}");
    }
}
