//! Processors that are programs, and those that are not.

use super::super::emulation;
use super::Tree;

const CLOCKS: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

fn said(model: &str) -> Tree {
    let tree = Tree::new();
    let text =
        format!("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: {model}\nflags\t\t: fpu");
    tree.file("/proc/cpuinfo", &text);
    tree
}

#[test]
fn qemu_without_a_hypervisor_is_emulation() {
    for model in ["QEMU TCG CPU version 2.5+", "QEMU Virtual CPU version 2.5+"] {
        let tree = said(model);
        assert_eq!(emulation(&tree.machine()), Some("QEMU TCG"), "{model}");
        tree.file(CLOCKS, "tsc hpet acpi_pm");
        assert_eq!(emulation(&tree.machine()), Some("QEMU TCG"), "{model}");
    }
    let tree = Tree::new();
    tree.file("/proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x00\nCPU part\t: 0x051");
    assert_eq!(emulation(&tree.machine()), Some("QEMU TCG"));
}

#[test]
fn real_processors_are_not_emulated_under_kvm_either() {
    for model in ["AMD EPYC 9004", "Intel(R) Xeon(R) Processor @ 2.60GHz", "", "QEMU"] {
        assert_eq!(emulation(&said(model).machine()), None, "{model}");
    }
    let tree = said("QEMU Virtual CPU version 2.5+");
    tree.file(CLOCKS, "kvm-clock tsc acpi_pm");
    assert_eq!(emulation(&tree.machine()), None);
    let tree = Tree::new();
    tree.file("/proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41");
    assert_eq!(emulation(&tree.machine()), None);
    assert_eq!(emulation(&Tree::new().machine()), None);
}
