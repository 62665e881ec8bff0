//! What a machine offers to Culvert, read from sysfs and procfs: memory, processors, RDMA, NVMe,
//! IOMMU, kernel.
//!
//! [`examine`] reads and judges; [`emulation`], [`memory_available`] and [`rdma_devices`] are for those
//! who measure. It writes nothing, runs nothing and opens no device, so that it
//! may be run beside a node at work. It sees what the kernel shows in files; what only a system
//! call on a device or a netlink socket tells (PFC, the MTU of InfiniBand) is *unknown*, with the
//! command that shows it.
//!
//! **Fault model.** Any file may be missing, unreadable or nonsense, and what depends on it is then
//! unknown, with the file and the reason. Nothing here panics because of what a machine says.

mod cores;
mod cpu;
mod emulation;
pub(crate) mod iommu;
mod kernel;
mod machine;
mod memory;
mod numa;
pub(crate) mod nvme;
mod rdma;

use std::fmt;

use serde::Serialize;

pub use emulation::emulation;
pub use machine::Machine;
pub use memory::memory_available;
pub use rdma::{RdmaDevice, rdma_devices};

/// What a finding is about. The order is that of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// Version of the kernel, io_uring.
    Kernel,
    /// Locked memory, hugepages.
    Memory,
    /// NUMA nodes, isolation, frequency, idle states.
    Cpu,
    /// Devices, ports, addresses, libraries.
    Rdma,
    /// Controllers, their drivers and namespaces.
    Nvme,
    /// Translation of what devices read and write, and VFIO.
    Iommu,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Area::Kernel => "kernel",
            Area::Memory => "memory",
            Area::Cpu => "cpu",
            Area::Rdma => "rdma",
            Area::Nvme => "nvme",
            Area::Iommu => "iommu",
        })
    }
}

/// What is to be thought of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// As Culvert wants it.
    Good,
    /// It costs speed or a feature.
    Bad {
        /// What mends it: one line for a shell, or an argument of the kernel's command line.
        mend: String,
    },
    /// It cannot be seen from here, or only the operator can judge it.
    Unknown {
        /// Why, or how to find out.
        why: String,
    },
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where it belongs.
    pub area: Area,
    /// Which device, port or setting.
    pub subject: String,
    /// What is to be thought of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was found, and what that means for Culvert.
    pub what: String,
}

/// Findings by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// [`Verdict::Good`].
    pub good: usize,
    /// [`Verdict::Bad`].
    pub bad: usize,
    /// [`Verdict::Unknown`].
    pub unknown: usize,
}

impl Counts {
    /// How many there are of each.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Counts {
        let mut counts = Counts::default();
        for finding in findings {
            match finding.verdict {
                Verdict::Good => counts.good += 1,
                Verdict::Bad { .. } => counts.bad += 1,
                Verdict::Unknown { .. } => counts.unknown += 1,
            }
        }
        counts
    }
}

/// Reads a machine and judges it, area after area.
#[must_use]
pub fn examine(machine: &Machine) -> Vec<Finding> {
    let areas = [
        kernel::examine(machine),
        memory::examine(machine),
        cpu::examine(machine),
        rdma::examine(machine),
        nvme::examine(machine),
        iommu::examine(machine),
    ];
    areas.into_iter().flat_map(|findings| findings.list).collect()
}

/// The findings of one area, in the making.
#[derive(Debug)]
struct Findings {
    area: Area,
    list: Vec<Finding>,
}

impl Findings {
    fn of(area: Area) -> Findings {
        Findings { area, list: Vec::new() }
    }

    fn good(&mut self, subject: impl Into<String>, what: impl Into<String>) {
        self.push(subject.into(), what.into(), Verdict::Good);
    }

    fn bad(
        &mut self,
        subject: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.push(subject.into(), what.into(), Verdict::Bad { mend: mend.into() });
    }

    fn unknown(&mut self, subject: impl Into<String>, what: impl Into<String>, why: impl ToString) {
        self.push(subject.into(), what.into(), Verdict::Unknown { why: why.to_string() });
    }

    fn push(&mut self, subject: String, what: String, verdict: Verdict) {
        self.list.push(Finding { area: self.area, subject, verdict, what });
    }
}

#[cfg(test)]
pub(crate) mod tests;
