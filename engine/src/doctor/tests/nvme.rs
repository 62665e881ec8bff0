//! Controllers, their drivers, and namespaces.

use super::super::nvme::examine;
use super::{Tree, expect_bad, expect_good, expect_unknown, iommu, subjects};

/// The controller's place on PCI.
pub(super) const ADDRESS: &str = "0000:01:00.0";

const PCI: &str = "/sys/bus/pci/devices";

/// A controller on PCI, and who drives it.
pub(super) fn pci(tree: &Tree, driver: Option<&str>) {
    let folder = format!("{PCI}/{ADDRESS}");
    tree.files(&folder, &[("class", "0x010802"), ("numa_node", "1")]);
    if let Some(driver) = driver {
        tree.link(&format!("{folder}/driver"), &format!("../../../../bus/pci/drivers/{driver}"));
    }
}

fn namespace(tree: &Tree, name: &str, cache: &str) {
    let folder = format!("/sys/block/{name}");
    let files =
        [("size", "3750748848"), ("queue/logical_block_size", "512"), ("queue/write_cache", cache)];
    tree.files(&folder, &files);
}

/// A disk with its kernel driver and one namespace.
pub(super) fn disk(tree: &Tree) {
    pci(tree, Some("nvme"));
    let folder = "/sys/class/nvme/nvme0";
    let files = [
        ("model", "MZQL21T9HCJR                            "),
        ("serial", "S64GNE0R"),
        ("firmware_rev", "GDC5602Q"),
        ("transport", "pcie"),
        ("address", ADDRESS),
        ("state", "live"),
    ];
    tree.files(folder, &files);
    tree.link(&format!("{folder}/device"), &format!("../../../bus/pci/devices/{ADDRESS}"));
    namespace(tree, "nvme0n1", "write through");
    tree.link("/sys/block/nvme0n1/device", "../../class/nvme/nvme0");
    tree.file("/sys/block/nvme0n1/metadata_bytes", "0");
}

#[test]
fn a_disk_is_described() {
    let tree = Tree::new();
    tree.numa(&["0-3", "4-7"]);
    disk(&tree);
    iommu::groups(&tree, "identity");
    let findings = examine(&tree.machine());
    let what = "MZQL21T9HCJR, serial S64GNE0R, firmware GDC5602Q, pcie 0000:01:00.0, NUMA node 1 \
                (cores 4-7, distance 21 from node 0), IOMMU group 11";
    expect_good(&findings, "nvme0", what);
    let what = "1.7 TiB, blocks of 512 + 0 bytes, no volatile write cache";
    expect_good(&findings, "nvme0n1", what);
    assert_eq!(findings.list.len(), 2, "{findings:#?}");
}

#[test]
fn a_dead_controller_is_reset() {
    let tree = Tree::new();
    disk(&tree);
    tree.file("/sys/class/nvme/nvme0/state", "dead");
    let findings = examine(&tree.machine());
    let mend = "echo 1 > /sys/class/nvme/nvme0/reset_controller";
    expect_bad(&findings, "nvme0", "\"dead\"", mend);
}

#[test]
fn a_write_cache_is_switched_off_in_the_controller() {
    let tree = Tree::new();
    disk(&tree);
    namespace(&tree, "nvme0n1", "write back");
    let mend = "nvme set-feature /dev/nvme0 --feature-id=6 --value=0 --save";
    expect_bad(&examine(&tree.machine()), "nvme0n1", "volatile write cache", mend);
    // Behind multipath the device is a subsystem, whose number need not be the controller's.
    namespace(&tree, "nvme3n1", "write back");
    tree.folder("/sys/class/nvme-subsystem/nvme-subsys3/nvme7");
    tree.folder("/sys/class/nvme-subsystem/nvme-subsys3/nvme3n1");
    tree.link("/sys/block/nvme3n1/device", "../../class/nvme-subsystem/nvme-subsys3");
    namespace(&tree, "nvme3c7n1", "write back");
    let findings = examine(&tree.machine());
    let mend = "nvme set-feature /dev/nvme7 --feature-id=6 --value=0 --save";
    expect_bad(&findings, "nvme3n1", "volatile write cache", mend);
    assert!(!subjects(&findings).contains(&"nvme3c7n1"), "a path is not for use");
    namespace(&tree, "nvme0n1", "perhaps");
    let findings = examine(&tree.machine());
    expect_unknown(&findings, "nvme0n1", "write cache not told", "says \"perhaps\"");
}

#[test]
fn a_disk_in_use_says_by_whom() {
    let tree = Tree::new();
    disk(&tree);
    let why = |words| expect_unknown(&examine(&tree.machine()), "nvme0n1", "1.7 TiB", words);
    tree.folder("/sys/block/nvme0n1/nvme0n1p1").folder("/sys/block/nvme0n1/nvme0n1p2");
    why("it has 2 partitions");
    tree.folder("/sys/block/nvme0n1/nvme0n1p2/holders/dm-0");
    why("nvme0n1p2 is part of dm-0");
    tree.file("/proc/swaps", "Filename\tType\n/dev/nvme0n1p1 partition 8388604 0 -2");
    why("nvme0n1p1 is swap");
    tree.file("/proc/self/mounts", "proc /proc proc rw 0 0\n/dev/nvme0n1p1 /boot ext4 rw 0 0");
    why("nvme0n1p1 is mounted at /boot");
}

#[test]
fn vfio_without_an_iommu_is_bad() {
    let tree = Tree::new();
    pci(&tree, Some("vfio-pci"));
    tree.file("/proc/cpuinfo", "vendor_id\t: GenuineIntel");
    let mend = "kernel arguments: intel_iommu=on iommu=pt  # and VT-d in the firmware's setup";
    let findings = examine(&tree.machine());
    expect_bad(&findings, ADDRESS, "in the hands of vfio-pci", mend);
    assert_eq!(findings.list.len(), 1, "{findings:#?}");
    // A group that VFIO made up is no IOMMU.
    let folder = format!("{PCI}/{ADDRESS}");
    tree.link(&format!("{folder}/iommu_group"), "../../../../kernel/iommu_groups/0");
    tree.file("/sys/kernel/iommu_groups/0/name", "vfio-noiommu");
    expect_bad(&examine(&tree.machine()), ADDRESS, "all memory", mend);
}

#[test]
fn other_drivers_may_be_meant() {
    let tree = Tree::new();
    pci(&tree, Some("vfio-pci"));
    iommu::groups(&tree, "DMA");
    let findings = examine(&tree.machine());
    expect_good(&findings, ADDRESS, "NVMe in the hands of vfio-pci, IOMMU group 11: for `vfio:`");
    let why = format!("culvert nvme unbind {ADDRESS}");
    let tree = Tree::new();
    pci(&tree, Some("uio_pci_generic"));
    expect_unknown(&examine(&tree.machine()), ADDRESS, "uio_pci_generic", &why);
    let tree = Tree::new();
    pci(&tree, None);
    let mend = format!("modprobe nvme; echo {ADDRESS} > /sys/bus/pci/drivers_probe");
    expect_bad(&examine(&tree.machine()), ADDRESS, "without a driver", &mend);
}

#[test]
fn other_devices_and_nonsense_are_no_disks() {
    let tree = Tree::new();
    tree.file(&format!("{PCI}/0000:00:1f.2/class"), "0x010601");
    tree.folder("/sys/block/nvmexn1").folder("/sys/block/sda").folder("/sys/block/nvme0n");
    expect_unknown(&examine(&tree.machine()), "controllers", "none", "emulated:");
    tree.file("/sys/block/nvme0n1/size", "large");
    expect_unknown(&examine(&tree.machine()), "nvme0n1", "not told", "says \"large\"");
}
