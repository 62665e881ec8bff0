//! Isolation, frequency, idle states.

use super::super::cpu::examine;
use super::{Tree, expect_bad, expect_good, expect_unknown, subjects};

const CPU: &str = "/sys/devices/system/cpu";

fn governors(tree: &Tree, names: &[&str]) {
    for (policy, name) in names.iter().enumerate() {
        tree.file(&format!("{CPU}/cpufreq/policy{policy}/scaling_governor"), name);
    }
}

/// States as `(name, latency, disable)`, the same for all cores.
fn idle(tree: &Tree, cores: u32, states: &[(&str, &str, &str)]) {
    for core in 0..cores {
        for (number, (name, latency, disable)) in states.iter().enumerate() {
            let folder = format!("{CPU}/cpu{core}/cpuidle/state{number}");
            tree.files(&folder, &[("name", name), ("latency", latency), ("disable", disable)]);
        }
    }
}

fn cores(tree: &Tree, online: &str, isolated: &str, quiet: &str) {
    tree.files(CPU, &[("online", online), ("isolated", isolated), ("nohz_full", quiet)]);
}

/// Eight cores at their best, on two nodes that [`super::memory::two_nodes`] makes.
pub(super) fn quiet(tree: &Tree) {
    cores(tree, "0-7", "2-3,6-7", "2-3,6-7");
    governors(tree, &["performance"; 8]);
    idle(tree, 8, &[("POLL", "0", "0"), ("C1", "2", "0"), ("C6", "133", "1")]);
}

#[test]
fn a_quiet_machine_is_good() {
    let tree = Tree::new();
    tree.numa(&["0-3", "4-7"]);
    quiet(&tree);
    let findings = examine(&tree.machine());
    expect_good(&findings, "NUMA node 0", "cores 0-3, distance 21 from node 1");
    expect_good(&findings, "NUMA node 1", "cores 4-7, distance 21 from node 0");
    let what = "2-3,6-7: for reactors, with idle.yields = false";
    expect_good(&findings, "isolated cores", what);
    let what = "none on isolated cores while one thread runs there";
    expect_good(&findings, "timer tick", what);
    expect_good(&findings, "governor", "performance on all 8 policies");
    expect_good(&findings, "idle states", "at most C1, which isolated cores leave in 2 us");
}

#[test]
fn half_of_each_node_is_proposed_with_all_threads() {
    let tree = Tree::new();
    tree.numa(&["0-3,8-11", "4-7,12-15"]);
    for core in 0..16 {
        let path = format!("{CPU}/cpu{core}/topology/thread_siblings_list");
        tree.file(&path, &format!("{},{}", core % 8, core % 8 + 8));
    }
    cores(&tree, "0-15", "", "(null)");
    let cores = "2-3,6-7,10-11,14-15";
    let mend = format!(
        "kernel arguments: isolcpus=managed_irq,domain,{cores} nohz_full={cores} rcu_nocbs={cores}"
    );
    let findings = examine(&tree.machine());
    expect_bad(&findings, "isolated cores", "none", &mend);
    assert!(!subjects(&findings).contains(&"timer tick"), "the same arguments mend it");
}

#[test]
fn one_core_cannot_be_isolated() {
    let tree = Tree::new();
    tree.numa(&["0"]).files(CPU, &[("online", "0"), ("isolated", "")]);
    let findings = examine(&tree.machine());
    expect_good(&findings, "NUMA", "one node, cores 0");
    expect_unknown(&findings, "isolated cores", "none", "one core");
    // Without NUMA, and without topology, every core counts for itself.
    let tree = Tree::new();
    tree.files(CPU, &[("online", "0-3"), ("isolated", "")]);
    let mend = "kernel arguments: isolcpus=managed_irq,domain,2-3";
    expect_bad(&examine(&tree.machine()), "isolated cores", "none", mend);
}

#[test]
fn isolated_cores_that_tick_are_bad() {
    let tree = Tree::new();
    cores(&tree, "0-3", "2-3", "(null)");
    let findings = examine(&tree.machine());
    expect_bad(
        &findings,
        "timer tick",
        "interrupts",
        "kernel arguments: nohz_full=2-3 rcu_nocbs=2-3",
    );
    cores(&tree, "0-3", "2-3", "everything");
    expect_unknown(&examine(&tree.machine()), "timer tick", "not told", "\"everything\"");
    cores(&tree, "0-3", "3-2", "");
    expect_unknown(&examine(&tree.machine()), "isolated cores", "not told", "says \"3-2\"");
}

#[test]
fn governors_are_summed_up() {
    let mend = "echo performance | tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor";
    let tree = Tree::new();
    governors(&tree, &["powersave"; 4]);
    expect_bad(&examine(&tree.machine()), "governor", "powersave on 4 of 4 policies", mend);
    governors(&tree, &["performance"]);
    let words = "performance on 1, powersave on 3 of 4 policies";
    expect_bad(&examine(&tree.machine()), "governor", words, mend);
    tree.folder(&format!("{CPU}/cpufreq/policy4"));
    expect_unknown(&examine(&tree.machine()), "governor", "not told", "policy4/scaling_governor");
    expect_unknown(&examine(&Tree::new().machine()), "governor", "no frequency", "virtual machine");
}

#[test]
fn deep_idle_states_are_named_with_what_they_cost() {
    let states = [("POLL", "0", "0"), ("C1E", "10", "0"), ("C3", "33", "0"), ("C6", "133", "0")];
    let tree = Tree::new();
    cores(&tree, "0-3", "", "");
    idle(&tree, 4, &states);
    tree.file(&format!("{CPU}/cpu0/cpuidle/state3/disable"), "1");
    let words = "C6, which takes 133 us to leave, on 3 of 4 cores";
    let mend = "echo 1 | tee /sys/devices/system/cpu/cpu*/cpuidle/state[23]/disable";
    expect_bad(&examine(&tree.machine()), "idle states", words, mend);
    for core in 0..4 {
        tree.file(&format!("{CPU}/cpu{core}/cpuidle/state3/disable"), "1");
    }
    let mend = "echo 1 | tee /sys/devices/system/cpu/cpu*/cpuidle/state2/disable";
    expect_bad(&examine(&tree.machine()), "idle states", "C3, which takes 33 us", mend);
    // Where cores are isolated, the others may sleep.
    cores(&tree, "0-3", "3", "3");
    tree.file(&format!("{CPU}/cpu3/cpuidle/state2/disable"), "1");
    let what = "at most C1E, which isolated cores leave in 10 us";
    expect_good(&examine(&tree.machine()), "idle states", what);
    let tree = Tree::new();
    cores(&tree, "0-3", "", "");
    expect_unknown(&examine(&tree.machine()), "idle states", "none to be seen", "virtual machine");
}
