//! Controllers of made-up machines, and what would be done with them.

use super::{BindingError, Machine, controllers, find, to_kernel, to_vfio};
use crate::doctor::tests::Tree;

const FIRST: &str = "0000:5e:00.0";
const SECOND: &str = "0000:5f:00.0";

/// Two controllers of the kernel's, with a disk each; the first one's is mounted.
fn tree() -> Tree {
    let tree = Tree::new();
    for (number, address) in [FIRST, SECOND].iter().enumerate() {
        let folder = format!("/sys/bus/pci/devices/{address}");
        tree.file(&format!("{folder}/class"), "0x010802");
        tree.link(&format!("{folder}/driver"), "../../../bus/pci/drivers/nvme");
        tree.link(
            &format!("{folder}/iommu_group"),
            &format!("../../../kernel/iommu_groups/{number}"),
        );
        tree.folder(&format!("/sys/kernel/iommu_groups/{number}/devices/{address}"));
        tree.files(
            &format!("/sys/class/nvme/nvme{number}"),
            &[("address", address), ("model", "Fast 9000"), ("serial", "S1")],
        );
        let block = format!("/sys/block/nvme{number}n1");
        tree.files(&block, &[("size", "2048"), ("queue/logical_block_size", "4096")]);
        tree.link(&format!("{block}/device"), &format!("../../class/nvme/nvme{number}"));
    }
    tree.folder("/sys/bus/pci/drivers/nvme");
    tree.file("/proc/self/mounts", "/dev/nvme0n1 /data ext4 rw 0 0");
    tree
}

fn words(steps: &[super::Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

fn one(machine: &Machine, name: &str) -> super::Controller {
    find(machine, name).expect("it is there")
}

#[test]
fn controllers_are_listed_with_their_disks_and_users() {
    let tree = tree();
    let machine = tree.machine();
    let all = controllers(&machine);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].address, FIRST);
    assert_eq!(all[0].driver.as_deref(), Some("nvme"));
    assert_eq!(all[0].disks[0].bytes, 1 << 20);
    assert_eq!(all[0].users(), ["nvme0n1 is mounted at /data"]);
    assert!(all[1].users().is_empty() && all[1].uri().is_none());
    assert_eq!((all[1].model.as_str(), all[1].disks[0].block_size), ("Fast 9000", 4096));
}

#[test]
fn a_controller_has_several_names() {
    let tree = tree();
    let machine = tree.machine();
    for name in [SECOND, "5f:00.0", "nvme1", "nvme1n1", "/dev/nvme1n1", "vfio:0000:5f:00.0"] {
        assert_eq!(one(&machine, name).address, SECOND, "{name}");
    }
    let error = find(&machine, "nvme7").expect_err("there are two").to_string();
    assert_eq!(error, format!("nvme7: no such NVMe controller; there is {FIRST}, {SECOND}"));
}

#[test]
fn the_steps_are_those_of_a_person() {
    let tree = tree();
    let machine = tree.machine();
    let folder = format!("/sys/bus/pci/devices/{SECOND}");
    let steps = to_vfio(&machine, &one(&machine, "nvme1")).expect("it has a group of its own");
    let expected = [
        "modprobe vfio-pci".to_owned(),
        format!("echo vfio-pci > {folder}/driver_override"),
        format!("echo {SECOND} > {folder}/driver/unbind"),
        format!("echo {SECOND} > /sys/bus/pci/drivers_probe"),
    ];
    assert_eq!(words(&steps), expected);
    // The kernel has it: nothing is to be done.
    assert!(to_kernel(&machine, &one(&machine, "nvme1")).expect("nobody has it").is_empty());

    // VFIO has it, and a process.
    tree.link_again(&format!("{folder}/driver"), "../../../bus/pci/drivers/vfio-pci");
    tree.link("/proc/77/fd/5", "/dev/vfio/1");
    let controller = one(&machine, SECOND);
    assert_eq!(controller.uri().as_deref(), Some("vfio:0000:5f:00.0"));
    assert!(to_vfio(&machine, &controller).expect("it has it").is_empty());
    let error = to_kernel(&machine, &controller).expect_err("it is open");
    assert!(matches!(error, BindingError::Open { process: 77, .. }), "{error}");
    let free = super::Controller { process: None, ..controller };
    let expected = [
        format!("echo > {folder}/driver_override"),
        format!("echo {SECOND} > {folder}/driver/unbind"),
        format!("echo {SECOND} > /sys/bus/pci/drivers_probe"),
    ];
    assert_eq!(words(&to_kernel(&machine, &free).expect("nobody has it")), expected);
}

#[test]
fn steps_write_what_they_say() {
    let tree = tree();
    let machine = tree.machine();
    let path = format!("/sys/bus/pci/devices/{SECOND}/driver_override");
    tree.file(&path, "(null)");
    let step = super::Step::Write { line: "vfio-pci".into(), path: path.clone() };
    step.take(&machine).expect("it can be written");
    assert_eq!(machine.text(&path).expect("it is there"), "vfio-pci");
    let nowhere = super::Step::Write { line: String::new(), path: "/sys/nowhere/file".into() };
    let error = nowhere.take(&machine).expect_err("there is no such folder").to_string();
    assert_eq!(error, "echo > /sys/nowhere/file");
}

#[test]
fn what_could_not_be_used_is_not_bound() {
    let tree = tree();
    let machine = tree.machine();
    let folder = format!("/sys/bus/pci/devices/{SECOND}");
    // A bridge in the group may stay; a network card may not.
    for (mate, class) in [("0000:00:01.0", "0x060400"), ("0000:5f:00.1", "0x020000")] {
        let place = format!("/sys/bus/pci/devices/{mate}");
        tree.file(&format!("{place}/class"), class);
        tree.link(&format!("{place}/driver"), "../../../bus/pci/drivers/some");
        tree.folder(&format!("/sys/kernel/iommu_groups/1/devices/{mate}"));
    }
    let error = to_vfio(&machine, &one(&machine, "nvme1")).expect_err("a card is in the way");
    let BindingError::Shared { mates, .. } = &error else { panic!("{error}") };
    assert_eq!(mates, "0000:5f:00.1");
    tree.remove(&format!("{folder}/iommu_group"));
    let error = to_vfio(&machine, &one(&machine, "nvme1")).expect_err("no IOMMU");
    assert!(matches!(error, BindingError::NoIommu { .. }), "{error}");
}
