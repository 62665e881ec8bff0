//! RDMA: devices, what user space needs to reach them, and each of their ports.

mod congestion;
mod devices;
mod gid;
mod library;
mod port;

pub use devices::{RdmaDevice, rdma_devices};

use super::machine::Machine;
use super::{Area, Findings, iommu, numa};

const DEVICES: &str = "/sys/class/infiniband";
const VERBS: &str = "/sys/class/infiniband_verbs";
const NET: &str = "/sys/class/net";
const PCI: &str = "/sys/bus/pci/devices";

/// Network drivers whose cards all do RDMA, and the modules that make them.
const RDMA_MODULES: [(&str, &str); 2] = [("mlx5_core", "mlx5_ib"), ("mlx4_core", "mlx4_ib")];

/// An RDMA device.
#[derive(Debug)]
struct Device {
    name: String,
    /// That drives it; none where it is software.
    driver: Option<String>,
    /// Whether it speaks iWARP, which knows no GIDs.
    is_iwarp: bool,
}

impl Device {
    fn new(machine: &Machine, name: String) -> Device {
        let folder = format!("{DEVICES}/{name}");
        let is_iwarp =
            machine.text(&format!("{folder}/node_type")).is_ok_and(|t| t.contains("RNIC"));
        let driver = machine.link(&format!("{folder}/device/driver"));
        Device { name, driver, is_iwarp }
    }

    fn folder(&self) -> String {
        format!("{DEVICES}/{}", self.name)
    }
}

pub(super) fn examine(machine: &Machine) -> Findings {
    let mut findings = Findings::of(Area::Rdma);
    let names = machine.names(DEVICES).unwrap_or_default();
    if names.is_empty() {
        examine_absence(machine, &mut findings);
        return findings;
    }
    library::examine(machine, &mut findings);
    examine_manager(machine, &mut findings);
    for name in names {
        let device = Device::new(machine, name);
        examine_device(machine, &device, &mut findings);
        examine_verbs(machine, &device, &mut findings);
        port::examine(machine, &device, &mut findings);
    }
    findings
}

/// PCI addresses of RDMA devices.
pub(super) fn pci_devices(machine: &Machine) -> Vec<String> {
    let names = machine.names(DEVICES).unwrap_or_default();
    let address = |name: String| machine.link(&format!("{DEVICES}/{name}/device"));
    let mut found: Vec<String> = names.into_iter().filter_map(address).collect();
    found.dedup();
    found
}

/// A card may be there whose module is not loaded; otherwise software can stand in for it.
fn examine_absence(machine: &Machine, findings: &mut Findings) {
    for device in machine.names(PCI).unwrap_or_default() {
        let driver = machine.link(&format!("{PCI}/{device}/driver"));
        let module = RDMA_MODULES.iter().find(|(name, _)| driver.as_deref() == Some(name));
        if let Some((driver, module)) = module {
            let what = format!("none, though {device} ({driver}) could be one");
            return findings.bad("devices", what, format!("modprobe {module}"));
        }
    }
    let up = |name: &String| {
        let wired = machine.has(&format!("{NET}/{name}/device"));
        wired && port::is_up(machine, name)
    };
    let net = machine.names(NET).unwrap_or_default().into_iter().find(up);
    let net = net.unwrap_or_else(|| "DEV".to_owned());
    let why = format!(
        "without a card, soft-RoCE shows that it works, not how fast: modprobe rdma_rxe; rdma link \
         add rxe0 type rxe netdev {net}"
    );
    findings.unknown("devices", "none: `rdma://` cannot be used, `tcp://` and `shm://` can", why);
}

/// What librdmacm talks to.
fn examine_manager(machine: &Machine, findings: &mut Findings) {
    let path = "/dev/infiniband/rdma_cm";
    let subject = "connection manager";
    if !machine.has(path) {
        let what = format!("there is no {path}: `rdma://` cannot connect");
        return findings.bad(subject, what, "modprobe rdma_ucm");
    }
    match machine.may_use(path) {
        Ok(()) => findings.good(subject, format!("{path} may be used")),
        Err(error) => findings.bad(subject, error.to_string(), format!("chmod a+rw {path}")),
    }
}

fn examine_device(machine: &Machine, device: &Device, findings: &mut Findings) {
    let folder = device.folder();
    let mut words = Vec::new();
    match &device.driver {
        Some(driver) => words.push(driver.clone()),
        None => {
            let under = machine.text(&format!("{folder}/parent"));
            let under = under.map(|net| format!(" over {net}")).unwrap_or_default();
            words.push(format!("software{under}: shows that it works, not how fast"));
        }
    }
    let firmware = machine.text(&format!("{folder}/fw_ver")).unwrap_or_default();
    if device.driver.is_some() && !firmware.is_empty() {
        words.push(format!("firmware {firmware}"));
    }
    words.extend(numa::place_of(machine, &format!("{folder}/device")));
    let group = iommu::group_of(machine, &format!("{folder}/device"));
    words.extend(group.map(|group| format!("IOMMU group {group}")));
    let what = words.join(", ");
    if device.is_iwarp {
        findings.unknown(&device.name, what, "iWARP: `rdma://` was made for InfiniBand and RoCE");
    } else {
        findings.good(&device.name, what);
    }
}

/// The file through which user space drives the device.
fn examine_verbs(machine: &Machine, device: &Device, findings: &mut Findings) {
    let subject = format!("{} verbs", device.name);
    let numbers = machine.numbered(VERBS, "uverbs").unwrap_or_default();
    let own = |number: &u32| {
        let owner = machine.text(&format!("{VERBS}/uverbs{number}/ibdev"));
        owner.is_ok_and(|owner| owner == device.name)
    };
    let Some(number) = numbers.into_iter().find(own) else {
        let what = "no uverbs device: user space cannot reach it";
        return findings.bad(subject, what, "modprobe ib_uverbs");
    };
    let path = format!("/dev/infiniband/uverbs{number}");
    match (machine.has(&path), machine.may_use(&path)) {
        (true, Ok(())) => findings.good(subject, format!("{path} may be used")),
        (true, Err(error)) => {
            findings.bad(subject, error.to_string(), format!("chmod a+rw {path}"));
        }
        (false, _) => {
            let what = format!("there is no {path}: it may be missing in a container only");
            findings.bad(subject, what, "udevadm trigger --subsystem-match=infiniband_verbs");
        }
    }
}
