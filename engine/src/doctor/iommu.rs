//! The IOMMU: whether there is one, what it costs devices of Culvert, and VFIO.
//!
//! `uring:` and `rdma://` need none of it: they go through drivers of the kernel. An IOMMU that
//! translates costs them time. `vfio:` needs both; VFIO without an IOMMU is a hole.

use super::machine::Machine;
use super::{Area, Findings, nvme, rdma};

const GROUPS: &str = "/sys/kernel/iommu_groups";
const VFIO_MODULE: &str = "/sys/module/vfio_pci";
const UNSAFE: &str = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

/// The name of groups that VFIO makes up where there is no IOMMU.
const MADE_UP: &str = "vfio-noiommu";

pub(super) fn examine(machine: &Machine) -> Findings {
    let mut findings = Findings::of(Area::Iommu);
    examine_groups(machine, &mut findings);
    examine_vfio(machine, &mut findings);
    findings
}

/// The IOMMU group of a device, given its folder in sysfs. None where no IOMMU stands between it
/// and memory.
pub(crate) fn group_of(machine: &Machine, device: &str) -> Option<String> {
    let group = machine.link(&format!("{device}/iommu_group"))?;
    let name = machine.text(&format!("{GROUPS}/{group}/name")).unwrap_or_default();
    (name != MADE_UP).then_some(group)
}

/// What switches an IOMMU on: an argument of the kernel, one less of them, or the firmware.
pub(crate) fn switch(machine: &Machine) -> String {
    let arguments = machine.text("/proc/cmdline").unwrap_or_default();
    if let Some(off) = arguments.split_whitespace().find(|word| word.ends_with("iommu=off")) {
        return format!("take the kernel argument {off} away");
    }
    let processors = machine.text("/proc/cpuinfo").unwrap_or_default();
    let switch = if processors.contains("GenuineIntel") {
        "kernel arguments: intel_iommu=on iommu=pt  # and VT-d in the firmware's setup"
    } else if processors.contains("AuthenticAMD") {
        "kernel argument: iommu=pt  # and IOMMU in the firmware's setup"
    } else {
        "switch on the IOMMU (VT-d, AMD-Vi, SMMU) in the firmware's setup"
    };
    switch.to_owned()
}

fn examine_groups(machine: &Machine, findings: &mut Findings) {
    let groups = machine.names(GROUPS).unwrap_or_default();
    let real = |group: &String| {
        let name = machine.text(&format!("{GROUPS}/{group}/name")).unwrap_or_default();
        name != MADE_UP
    };
    let groups: Vec<String> = groups.into_iter().filter(real).collect();
    if groups.is_empty() {
        let why = format!("where `vfio:` is to be used: {}", switch(machine));
        return findings.unknown("IOMMU", "none; only `vfio:` needs one", why);
    }
    // What VFIO has is meant to be translated.
    let by_kernel = |device: &String| nvme::is_the_kernels(machine, device);
    let disks = nvme::pci_devices(machine).into_iter().filter(by_kernel);
    let devices = disks.chain(rdma::pci_devices(machine));
    let translated: Vec<String> = devices
        .filter(|device| {
            let group = group_of(machine, &format!("/sys/bus/pci/devices/{device}"));
            let kind = group.map(|group| machine.text(&format!("{GROUPS}/{group}/type")));
            kind.and_then(Result::ok).is_some_and(|kind| kind.starts_with("DMA"))
        })
        .collect();
    let count = groups.len();
    if translated.is_empty() {
        let what = format!("{count} groups; no NVMe or RDMA device is slowed by translation");
        return findings.good("IOMMU", what);
    }
    let what = format!(
        "{count} groups; every transfer of {} is translated, which costs speed and keeps those \
         devices out of other memory",
        translated.join(", ")
    );
    findings.bad("IOMMU", what, "kernel argument: iommu.passthrough=1");
}

fn examine_vfio(machine: &Machine, findings: &mut Findings) {
    if matches!(machine.text(UNSAFE).as_deref(), Ok("Y" | "1")) {
        let what = "VFIO gives devices away without an IOMMU: they reach all memory";
        return findings.bad("VFIO", what, format!("echo N > {UNSAFE}"));
    }
    let module = machine.has(VFIO_MODULE);
    match (module, machine.may_use("/dev/vfio/vfio")) {
        (false, _) => findings.good("VFIO", "vfio-pci is not loaded, and only `vfio:` needs it"),
        (true, Ok(())) => findings.good("VFIO", "vfio-pci is loaded, /dev/vfio/vfio may be used"),
        (true, Err(error)) => findings.unknown("VFIO", "vfio-pci is loaded", error),
    }
}
