//! NVMe: controllers, who drives them, and their namespaces.
//!
//! `uring:` opens the block devices of the kernel's driver. A controller that another driver holds
//! has none, so PCI is searched as well.

use crate::config::ByteSize;

use super::machine::Machine;
use super::{Area, Findings, iommu, numa};

const PCI: &str = "/sys/bus/pci/devices";
const CONTROLLERS: &str = "/sys/class/nvme";
const BLOCK: &str = "/sys/block";

/// PCI class 01 (mass storage), subclass 08 (non-volatile memory), any interface.
const PCI_CLASS: &str = "0x0108";

/// Sizes in sysfs are in sectors of 512 bytes, whatever the device's blocks are.
const SECTOR_SHIFT: u32 = 9;

pub(super) fn examine(machine: &Machine) -> Findings {
    let mut findings = Findings::of(Area::Nvme);
    let controllers = machine.names(CONTROLLERS).unwrap_or_default();
    for controller in &controllers {
        examine_controller(machine, controller, &mut findings);
    }
    for device in pci_devices(machine) {
        examine_driver(machine, &device, &mut findings);
    }
    for name in namespaces(machine) {
        examine_namespace(machine, &name, &mut findings);
    }
    if findings.list.is_empty() {
        let why = "`uring:` takes other disks and files as well, `emulated:` needs none";
        findings.unknown("controllers", "none", why);
    }
    findings
}

/// PCI addresses of NVMe controllers, whoever drives them.
pub(crate) fn pci_devices(machine: &Machine) -> Vec<String> {
    let devices = machine.names(PCI).unwrap_or_default();
    let is_nvme = |device: &String| {
        let class = machine.text(&format!("{PCI}/{device}/class"));
        class.is_ok_and(|class| class.starts_with(PCI_CLASS))
    };
    devices.into_iter().filter(is_nvme).collect()
}

/// Whether the kernel's NVMe driver has a device of PCI.
pub(super) fn is_the_kernels(machine: &Machine, device: &str) -> bool {
    machine.link(&format!("{PCI}/{device}/driver")).is_some_and(|driver| driver == "nvme")
}

fn examine_controller(machine: &Machine, name: &str, findings: &mut Findings) {
    let folder = format!("{CONTROLLERS}/{name}");
    let said = |file: &str| machine.text(&format!("{folder}/{file}")).ok();
    let mut words: Vec<String> = Vec::new();
    words.extend(said("model"));
    words.extend(said("serial").map(|serial| format!("serial {serial}")));
    words.extend(said("firmware_rev").map(|firmware| format!("firmware {firmware}")));
    let transport = said("transport").unwrap_or_default();
    let address = said("address").unwrap_or_default();
    words.push(format!("{transport} {address}").trim().to_owned());
    words.extend(numa::place_of(machine, &format!("{folder}/device")));
    let group = iommu::group_of(machine, &format!("{folder}/device"));
    words.extend(group.map(|group| format!("IOMMU group {group}")));
    words.retain(|word| !word.is_empty());
    match machine.text(&format!("{folder}/state")).as_deref() {
        Ok("live") => findings.good(name, words.join(", ")),
        Ok(state) => {
            words.push(format!("state {state:?}: its disks do not answer"));
            findings.bad(name, words.join(", "), format!("echo 1 > {folder}/reset_controller"));
        }
        Err(error) => findings.unknown(name, words.join(", "), error),
    }
}

/// A controller on PCI that the kernel's NVMe driver does not have. One that it has is in
/// `/sys/class/nvme`.
fn examine_driver(machine: &Machine, device: &str, findings: &mut Findings) {
    let folder = format!("{PCI}/{device}");
    let driver = machine.link(&format!("{folder}/driver"));
    let Some(driver) = driver else {
        let mend = format!("modprobe nvme; echo {device} > /sys/bus/pci/drivers_probe");
        return findings.bad(device, "NVMe without a driver: `uring:` cannot open it", mend);
    };
    if driver == "nvme" {
        return;
    }
    let what = format!("NVMe in the hands of {driver}: `uring:` cannot open it");
    let by_vfio = driver == "vfio-pci";
    match iommu::group_of(machine, &folder) {
        None if by_vfio => {
            let what = format!("{what}; and without an IOMMU it reaches all memory");
            findings.bad(device, what, iommu::switch(machine));
        }
        Some(group) if by_vfio => {
            let what = format!("NVMe in the hands of {driver}, IOMMU group {group}: for `vfio:`");
            findings.good(device, what);
        }
        _ => {
            let why = format!(
                "perhaps meant for another program; the kernel gets it back by: culvert nvme unbind \
                 {device}"
            );
            findings.unknown(device, what, why);
        }
    }
}

/// Block devices `nvmeXnY`. A path below a multipath device (`nvmeXcZnY`) is not for use.
pub(crate) fn namespaces(machine: &Machine) -> Vec<String> {
    let names = machine.names(BLOCK).unwrap_or_default();
    let is_namespace = |name: &String| {
        let numbers = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n'));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        numbers.is_some_and(|(controller, number)| digits(controller) && digits(number))
    };
    names.into_iter().filter(is_namespace).collect()
}

fn examine_namespace(machine: &Machine, name: &str, findings: &mut Findings) {
    let file = |file: &str| format!("{BLOCK}/{name}/{file}");
    let size = machine.parsed::<u64>(&file("size"));
    let block = machine.parsed::<u64>(&file("queue/logical_block_size"));
    let (size, block) = match (size, block) {
        (Ok(size), Ok(block)) => (ByteSize(bytes_of_sectors(size)), block),
        (Err(error), _) | (_, Err(error)) => {
            return findings.unknown(name, "size and blocks not told", error);
        }
    };
    let mut what = format!("{}, blocks of {block}", size.approximate());
    // Since Linux 6.8.
    if let Ok(metadata) = machine.parsed::<u64>(&file("metadata_bytes")) {
        what += &format!(" + {metadata} bytes");
    }
    if let Some(user) = user_of(machine, name) {
        return findings.unknown(name, what, format!("in use, and so refused: {user}"));
    }
    if ![512, 4096].contains(&block) {
        return findings.unknown(name, what, "Culvert was made for blocks of 512 and 4096 bytes");
    }
    match machine.text(&file("queue/write_cache")).as_deref() {
        Ok("write through") => findings.good(name, format!("{what}, no volatile write cache")),
        Ok("write back") => {
            let what = format!("{what}, volatile write cache: journal writes wait for a flush");
            findings.bad(name, what, cache_mend(machine, name));
        }
        Ok(other) => {
            let why = format!("{} says {other:?}", file("queue/write_cache"));
            findings.unknown(name, format!("{what}, write cache not told"), why);
        }
        Err(error) => findings.unknown(name, format!("{what}, write cache not told"), error),
    }
}

/// Switches the cache of the controller off: feature 06h of the NVMe base specification. Never by
/// writing to `queue/write_cache`: that leaves the cache as it is and has the kernel forget the
/// flushes that make it safe.
fn cache_mend(machine: &Machine, name: &str) -> String {
    let controller = controller_of(machine, name);
    let controller = controller.unwrap_or_else(|| name.to_owned());
    format!("nvme set-feature /dev/{controller} --feature-id=6 --value=0 --save")
}

/// The kernel's name of the controller of a namespace.
pub(crate) fn controller_of(machine: &Machine, name: &str) -> Option<String> {
    let folder = format!("{BLOCK}/{name}/device");
    let is_controller = |name: &String| {
        let number = name.strip_prefix("nvme");
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    // The device of a multipath namespace is its subsystem, which lists its controllers.
    let parent = machine.link(&folder).filter(&is_controller);
    parent.or_else(|| machine.names(&folder).ok()?.into_iter().find(is_controller))
}

/// The kernel's name of a controller on PCI, if the kernel drives it.
pub(crate) fn kernel_name(machine: &Machine, address: &str) -> Option<String> {
    let names = machine.names(CONTROLLERS).unwrap_or_default();
    let has = |name: &String| {
        machine.text(&format!("{CONTROLLERS}/{name}/address")).is_ok_and(|said| said == address)
    };
    names.into_iter().find(has)
}

/// Bytes of so many sectors, as sysfs counts.
pub(crate) fn bytes_of_sectors(sectors: u64) -> u64 {
    sectors.saturating_mul(1 << SECTOR_SHIFT)
}

/// Who uses a disk or a part of it: a file system, swap, a device on top (LVM, RAID, dm-crypt).
pub(crate) fn user_of(machine: &Machine, name: &str) -> Option<String> {
    let folder = format!("{BLOCK}/{name}");
    let inner = machine.names(&folder).unwrap_or_default();
    let is_part = |entry: &String| entry.strip_prefix(name).is_some_and(|r| r.starts_with('p'));
    let parts: Vec<String> = inner.into_iter().filter(is_part).collect();
    let mounts = machine.text("/proc/self/mounts").unwrap_or_default();
    let swaps = machine.text("/proc/swaps").unwrap_or_default();
    for part in parts.iter().map(String::as_str).chain([name]) {
        let device = format!("/dev/{part}");
        let used = |text: &str| {
            let mut lines = text.lines().map(|line| line.split_whitespace());
            lines.find_map(|mut w| (w.next()? == device).then(|| w.next().map(str::to_owned))?)
        };
        if let Some(place) = used(&mounts) {
            return Some(format!("{part} is mounted at {place}"));
        }
        if used(&swaps).is_some() {
            return Some(format!("{part} is swap"));
        }
        let holders = match part == name {
            true => format!("{folder}/holders"),
            false => format!("{folder}/{part}/holders"),
        };
        if let Some(holder) = machine.names(&holders).unwrap_or_default().first() {
            return Some(format!("{part} is part of {holder}"));
        }
    }
    parts.first().map(|_| format!("it has {} partitions", parts.len()))
}
