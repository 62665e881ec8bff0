//! Who drives a machine's NVMe controllers, and giving one from the kernel to programs and back.
//!
//! A controller belongs to the kernel's `nvme` driver, which makes disks of it, or to `vfio-pci`,
//! which hands it to one program: to `vfio:` devices. [`to_vfio`] and [`to_kernel`] say which steps
//! lead from one to the other, as commands that a person could type; [`Step::take`] takes one. It is
//! all done in sysfs, as the kernel's documentation of `driver_override` has it.
//!
//! **Fault model.** What is said of a controller may be over a moment later: nobody locks sysfs. So
//! whoever took the steps looks afterwards which driver it has.

use std::fmt;
use std::fs;
use std::io;
use std::process::Command;

use culvert_nvme::PciAddress;
use serde::Serialize;

use crate::doctor::{Machine, nvme};

const PCI: &str = "/sys/bus/pci";
const KERNELS: &str = "nvme";
const VFIO: &str = "vfio-pci";

/// PCI class 06: bridges. They may stay with the kernel.
const BRIDGES: &str = "0x06";

/// A namespace that the kernel has made a disk of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Its name below `/dev`.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// Bytes of a block.
    pub block_size: u64,
    /// Who uses it or a part of it, in words; `None` where nobody is known to.
    pub user: Option<String>,
}

/// An NVMe controller on PCI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Controller {
    /// PCI address.
    pub address: String,
    /// As the kernel's driver tells; empty where another has it.
    pub model: String,
    /// The same.
    pub serial: String,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group; `None` where no IOMMU stands between it and memory.
    pub iommu_group: Option<String>,
    /// Other devices of that group which the kernel would have to give away, too.
    pub group_mates: Vec<String>,
    /// Its namespaces, where the kernel has it.
    pub disks: Vec<Disk>,
    /// The process that has it open through VFIO.
    pub process: Option<u32>,
}

impl Controller {
    /// What `--device` and configurations call it, where `vfio-pci` has it.
    #[must_use]
    pub fn uri(&self) -> Option<String> {
        (self.driver.as_deref() == Some(VFIO)).then(|| format!("vfio:{}", self.address))
    }

    /// Who uses it now, in words.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let process = self.process.map(|id| format!("process {id} has it open"));
        self.disks.iter().filter_map(|disk| disk.user.clone()).chain(process).collect()
    }
}

/// The NVMe controllers of a machine, by address.
#[must_use]
pub fn controllers(machine: &Machine) -> Vec<Controller> {
    let addresses = nvme::pci_devices(machine);
    addresses.into_iter().map(|address| controller(machine, address)).collect()
}

fn controller(machine: &Machine, address: String) -> Controller {
    let folder = format!("{PCI}/devices/{address}");
    let group = crate::doctor::iommu::group_of(machine, &folder);
    let name = nvme::kernel_name(machine, &address);
    let said = |file: &str| {
        let name = name.as_ref()?;
        machine.text(&format!("/sys/class/nvme/{name}/{file}")).ok()
    };
    Controller {
        model: said("model").unwrap_or_default(),
        serial: said("serial").unwrap_or_default(),
        driver: machine.link(&format!("{folder}/driver")),
        group_mates: group
            .as_ref()
            .map_or_else(Vec::new, |group| group_mates(machine, &address, group)),
        process: group.as_ref().and_then(|group| process_with(machine, group)),
        disks: name.map(|name| disks(machine, &name)).unwrap_or_default(),
        iommu_group: group,
        address,
    }
}

/// Devices of the same group that neither VFIO has nor may stay with the kernel.
fn group_mates(machine: &Machine, address: &str, group: &str) -> Vec<String> {
    let mates = machine.names(&format!("/sys/kernel/iommu_groups/{group}/devices"));
    let in_the_way = |mate: &String| {
        let folder = format!("{PCI}/devices/{mate}");
        let class = machine.text(&format!("{folder}/class")).unwrap_or_default();
        let driver = machine.link(&format!("{folder}/driver"));
        mate != address && !class.starts_with(BRIDGES) && driver.is_some_and(|d| d != VFIO)
    };
    mates.unwrap_or_default().into_iter().filter(in_the_way).collect()
}

/// The process that has a group open, as far as this user may look.
fn process_with(machine: &Machine, group: &str) -> Option<u32> {
    let processes = machine.names("/proc").unwrap_or_default();
    let mut ids = processes.iter().filter_map(|name| name.parse().ok());
    ids.find(|id: &u32| {
        let folder = format!("/proc/{id}/fd");
        let files = machine.names(&folder).unwrap_or_default();
        let group = format!("/dev/vfio/{group}");
        files.iter().any(|file| machine.target(&format!("{folder}/{file}")) == Some(group.clone()))
    })
}

fn disks(machine: &Machine, controller: &str) -> Vec<Disk> {
    let names = nvme::namespaces(machine).into_iter();
    let own =
        names.filter(|name| nvme::controller_of(machine, name).as_deref() == Some(controller));
    own.map(|name| {
        let number = |file: &str| machine.parsed(&format!("/sys/block/{name}/{file}")).unwrap_or(0);
        let bytes = nvme::bytes_of_sectors(number("size"));
        let block_size = number("queue/logical_block_size");
        Disk { bytes, block_size, user: nvme::user_of(machine, &name), name }
    })
    .collect()
}

/// Finds a controller by its PCI address, or by the kernel's name of it or of a disk of it.
///
/// # Errors
///
/// [`BindingError::Unknown`], with what there is.
pub fn find(machine: &Machine, name: &str) -> Result<Controller, BindingError> {
    let all = controllers(machine);
    let plain = name.strip_prefix("/dev/").or(name.strip_prefix("vfio:")).unwrap_or(name);
    let address = plain.parse().map(|address: PciAddress| address.to_string()).ok();
    let is_it = |one: &Controller| {
        Some(&one.address) == address.as_ref()
            || nvme::kernel_name(machine, &one.address).as_deref() == Some(plain)
            || one.disks.iter().any(|disk| disk.name == plain)
    };
    let known = all.iter().map(|one| one.address.as_str()).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "none".to_owned() } else { known };
    all.into_iter().find(is_it).ok_or(BindingError::Unknown { name: name.to_owned(), known })
}

/// Why a controller does not change hands.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// There is no such controller.
    #[error("{name}: no such NVMe controller; there is {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Addresses of those that are there.
        known: String,
    },
    /// Nothing would keep it out of memory that is not its own.
    #[error("{address} has no IOMMU group: {mend}")]
    NoIommu {
        /// Which.
        address: String,
        /// What switches the IOMMU on.
        mend: String,
    },
    /// Its group cannot be given to a program.
    #[error(
        "{address} shares IOMMU group {group} with {mates}, which the kernel drives: a group changes \
         hands as a whole; name NVMe controllers of it together, or put this one into another slot"
    )]
    Shared {
        /// Which.
        address: String,
        /// Its group.
        group: String,
        /// The others.
        mates: String,
    },
    /// A program has it.
    #[error("{address} is in use: process {process} has it open; stop that first")]
    Open {
        /// Which.
        address: String,
        /// The program.
        process: u32,
    },
    /// A step could not be taken.
    #[error("{step}")]
    Step {
        /// The step, as a command.
        step: String,
        /// What the system said.
        source: io::Error,
    },
}

/// One step, which is printed as the command that a person would type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Loads a module.
    Load(&'static str),
    /// Writes a line to a file.
    Write {
        /// The line; may be empty.
        line: String,
        /// The file.
        path: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Load(module) => write!(f, "modprobe {module}"),
            Step::Write { line, path } if line.is_empty() => write!(f, "echo > {path}"),
            Step::Write { line, path } => write!(f, "echo {line} > {path}"),
        }
    }
}

impl Step {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// [`BindingError::Step`] when the system refuses; nothing is undone.
    pub fn take(&self, machine: &Machine) -> Result<(), BindingError> {
        let taken = match self {
            Step::Load(module) => load(module),
            Step::Write { line, path } => fs::write(machine.place(path), format!("{line}\n")),
        };
        taken.map_err(|source| BindingError::Step { step: self.to_string(), source })
    }
}

fn load(module: &str) -> io::Result<()> {
    let output = Command::new("modprobe").arg(module).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The steps that give a controller to VFIO; none where it has it.
///
/// # Errors
///
/// Where it could not be used then.
pub fn to_vfio(machine: &Machine, controller: &Controller) -> Result<Vec<Step>, BindingError> {
    let address = controller.address.clone();
    let Some(group) = controller.iommu_group.clone() else {
        let mend = crate::doctor::iommu::switch(machine);
        return Err(BindingError::NoIommu { address, mend });
    };
    if !controller.group_mates.is_empty() {
        let mates = controller.group_mates.join(", ");
        return Err(BindingError::Shared { address, group, mates });
    }
    Ok(steps(machine, controller, VFIO, VFIO))
}

/// The steps that give a controller back to the kernel; none where it has it.
///
/// # Errors
///
/// Where a program has it open: the kernel would wait for that.
pub fn to_kernel(machine: &Machine, controller: &Controller) -> Result<Vec<Step>, BindingError> {
    let address = controller.address.clone();
    match controller.process {
        Some(process) => Err(BindingError::Open { address, process }),
        None => Ok(steps(machine, controller, KERNELS, "")),
    }
}

fn steps(
    machine: &Machine,
    controller: &Controller,
    driver: &'static str,
    word: &str,
) -> Vec<Step> {
    if controller.driver.as_deref() == Some(driver) {
        return Vec::new();
    }
    let address = &controller.address;
    let folder = format!("{PCI}/devices/{address}");
    let mut steps = Vec::new();
    if !machine.has(&format!("{PCI}/drivers/{driver}")) {
        steps.push(Step::Load(driver));
    }
    let write = |line: &str, path: String| Step::Write { line: line.to_owned(), path };
    steps.push(write(word, format!("{folder}/driver_override")));
    if controller.driver.is_some() {
        steps.push(write(address, format!("{folder}/driver/unbind")));
    }
    steps.push(write(address, format!("{PCI}/drivers_probe")));
    steps
}

#[cfg(test)]
mod tests;
