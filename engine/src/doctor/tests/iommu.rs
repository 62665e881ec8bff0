//! Translation, and VFIO.

use super::super::iommu::examine;
use super::{Tree, expect_bad, expect_good, expect_unknown, nvme, rdma};

const GROUPS: &str = "/sys/kernel/iommu_groups";

/// Groups 11 and 12 of the devices that [`nvme::disk`] and [`rdma::mlx5`] make.
pub(super) fn groups(tree: &Tree, kind: &str) {
    for (group, device) in [("11", nvme::ADDRESS), ("12", rdma::ADDRESS)] {
        tree.file(&format!("{GROUPS}/{group}/type"), kind);
        let folder = format!("/sys/bus/pci/devices/{device}");
        tree.link(
            &format!("{folder}/iommu_group"),
            &format!("../../../../kernel/iommu_groups/{group}"),
        );
    }
}

#[test]
fn translation_is_said_of_devices_that_matter() {
    for (kind, slow) in [("identity", false), ("DMA", true), ("DMA-FQ", true), ("blocked", false)] {
        let tree = Tree::new();
        nvme::disk(&tree);
        rdma::mlx5(&tree);
        groups(&tree, kind);
        let findings = examine(&tree.machine());
        if slow {
            let words = "2 groups; every transfer of 0000:01:00.0, 0000:81:00.0 is translated";
            expect_bad(&findings, "IOMMU", words, "kernel argument: iommu.passthrough=1");
        } else {
            let what = "2 groups; no NVMe or RDMA device is slowed by translation";
            expect_good(&findings, "IOMMU", what);
        }
    }
}

#[test]
fn what_vfio_has_may_be_translated() {
    let tree = Tree::new();
    nvme::pci(&tree, Some("vfio-pci"));
    groups(&tree, "DMA");
    let what = "2 groups; no NVMe or RDMA device is slowed by translation";
    expect_good(&examine(&tree.machine()), "IOMMU", what);
}

#[test]
fn without_an_iommu_only_vfio_is_out_of_reach() {
    let tree = Tree::new();
    tree.file("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel");
    let findings = examine(&tree.machine());
    expect_unknown(&findings, "IOMMU", "none", "intel_iommu=on iommu=pt");
    expect_good(&findings, "VFIO", "vfio-pci is not loaded, and only `vfio:` needs it");
    tree.file("/proc/cmdline", "root=/dev/sda1 intel_iommu=off quiet");
    let why = "take the kernel argument intel_iommu=off away";
    expect_unknown(&examine(&tree.machine()), "IOMMU", "none", why);
    // Groups that VFIO makes up are none.
    tree.file(&format!("{GROUPS}/0/name"), "vfio-noiommu");
    expect_unknown(&examine(&tree.machine()), "IOMMU", "none", why);
}

#[test]
fn vfio_is_ready_or_unsafe() {
    let tree = Tree::new();
    tree.folder("/sys/module/vfio_pci");
    expect_unknown(&examine(&tree.machine()), "VFIO", "loaded", "there is no /dev/vfio/vfio");
    tree.file("/dev/vfio/vfio", "");
    let what = "vfio-pci is loaded, /dev/vfio/vfio may be used";
    expect_good(&examine(&tree.machine()), "VFIO", what);
    let switch = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    expect_good(&examine(&tree.file(switch, "N").machine()), "VFIO", what);
    let findings = examine(&tree.file(switch, "Y").machine());
    expect_bad(&findings, "VFIO", "all memory", &format!("echo N > {switch}"));
}
