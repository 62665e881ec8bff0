//! The kernel: its version, and whether it lets io_uring be used.

use super::machine::{Machine, nonsense};
use super::{Area, Findings};

const RELEASE: &str = "/proc/sys/kernel/osrelease";
const URING: &str = "/proc/sys/kernel/io_uring_disabled";

/// io_uring has tables of fixed buffers that can be filled one by one from here on.
const VERSION_MIN: (u32, u32) = (5, 19);

/// io_uring can be switched off from here on.
const VERSION_OF_SWITCH: (u32, u32) = (6, 6);

pub(super) fn examine(machine: &Machine) -> Findings {
    let mut findings = Findings::of(Area::Kernel);
    let version = examine_version(machine, &mut findings);
    examine_uring(machine, version, &mut findings);
    findings
}

fn examine_version(machine: &Machine, findings: &mut Findings) -> Option<(u32, u32)> {
    let release = match machine.text(RELEASE) {
        Ok(release) => release,
        Err(error) => {
            findings.unknown("version", "not told", error);
            return None;
        }
    };
    let version = version(&release);
    match version {
        None => findings.unknown("version", "not told", nonsense(RELEASE, &release)),
        Some(known) if known < VERSION_MIN => findings.bad(
            "version",
            format!("Linux {release}: too old for `uring:`"),
            "install Linux 5.19 or newer, and start it",
        ),
        Some(_) => findings.good("version", format!("Linux {release}")),
    }
    version
}

/// `6.1.0-18-amd64` is 6.1.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn examine_uring(machine: &Machine, version: Option<(u32, u32)>, findings: &mut Findings) {
    let mend = "sysctl -w kernel.io_uring_disabled=0";
    match machine.text(URING).as_deref() {
        Ok("0") => findings.good("io_uring", "allowed"),
        Ok("1") => findings.bad("io_uring", "allowed to the privileged only", mend),
        Ok("2") => findings.bad("io_uring", "forbidden: `uring:` cannot be used", mend),
        Ok(text) => findings.unknown("io_uring", "not told", nonsense(URING, text)),
        Err(_) if version.is_some_and(|version| version < VERSION_OF_SWITCH) => {
            findings.good("io_uring", "this kernel has no switch that forbids it");
        }
        Err(error) => findings.unknown("io_uring", "not told", error),
    }
}
