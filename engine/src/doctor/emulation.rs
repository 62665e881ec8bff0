//! Whether the processor is a program.
//!
//! What is timed on an emulated processor says nothing of a real one, so whoever measures must know.
//! A hypervisor that runs code on the real processor (KVM) is no emulation.

use super::machine::Machine;

const CPUINFO: &str = "/proc/cpuinfo";
const CLOCKS: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

/// QEMU without a hypervisor below it: the Tiny Code Generator.
const QEMU: &str = "QEMU TCG";

/// Who emulates the processor, if anybody is known to.
#[must_use]
pub fn emulation(machine: &Machine) -> Option<&'static str> {
    let text = machine.text(CPUINFO).unwrap_or_default();
    let model = value(&text, "model name").unwrap_or_default();
    // Its `-cpu max` on x86-64, and on AArch64, where no maker has the number 0.
    if model.contains(QEMU) || value(&text, "CPU implementer") == Some("0x00") {
        return Some(QEMU);
    }
    // Its older models are called so under KVM as well, which offers a clock of its own.
    let clocks = machine.text(CLOCKS).unwrap_or_default();
    let by_kvm = clocks.split_whitespace().any(|clock| clock == "kvm-clock");
    (model.starts_with("QEMU Virtual CPU") && !by_kvm).then_some(QEMU)
}

/// What the first processor says behind `name` and a colon.
fn value<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let said = |line: &'t str| line.split_once(':').filter(|(key, _)| key.trim() == name);
    text.lines().find_map(said).map(|(_, value)| value.trim())
}
