//! What a reader must know of the machine before quoting a figure.

use culvert::doctor::{Machine, RdmaDevice, emulation, rdma_devices};
use serde::Serialize;

use super::addresses::Addresses;
use super::case::TransportKind;

/// What the machine only pretends to have. The names are those of the JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hardware {
    /// Who emulates the processor; nobody on a real one.
    pub emulated: Option<&'static str>,
    /// The RDMA devices in use; all of the machine where addresses do not say. None without RDMA.
    pub rdma: Vec<RdmaDevice>,
}

impl Hardware {
    /// What `transports` use of a machine.
    #[must_use]
    pub fn of(machine: &Machine, transports: &[TransportKind], addresses: &Addresses) -> Hardware {
        let mut rdma = Vec::new();
        if transports.contains(&TransportKind::Rdma) {
            rdma = rdma_devices(machine);
            if !addresses.list().is_empty() {
                let used = |device: &RdmaDevice| {
                    device.addresses.iter().any(|address| addresses.list().contains(address))
                };
                rdma.retain(used);
            }
        }
        Hardware { emulated: emulation(machine), rdma }
    }

    /// What stands above and below every figure; nothing where all of it is real.
    #[must_use]
    pub fn marks(&self) -> Vec<String> {
        let mut marks = Vec::new();
        if let Some(emulator) = self.emulated {
            marks.push(format!(
                "EMULATED ({emulator}): only counters (copies, bytes, system calls, work requests) \
                 mean anything, no time or ratio"
            ));
        }
        let soft = self.rdma.iter().filter(|device| device.soft);
        let soft: Vec<String> =
            soft.map(|device| format!("{} {}", device.driver, device.device)).collect();
        if !soft.is_empty() {
            marks.push(format!(
                "SOFTWARE RDMA ({}): no time of rdma says anything about a card",
                soft.join(", ")
            ));
        }
        marks
    }

    /// The marks as lines of text.
    #[must_use]
    pub fn banner(&self) -> String {
        self.marks().into_iter().map(|mark| mark + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_real_is_said_and_what_is_real_is_not() {
        assert_eq!(Hardware::default().banner(), "");
        let device = |device: &str, driver: &str, soft| RdmaDevice {
            device: device.to_owned(),
            driver: driver.to_owned(),
            soft,
            addresses: Vec::new(),
        };
        let card = Hardware { emulated: None, rdma: vec![device("mlx5_0", "mlx5_core", false)] };
        assert_eq!(card.banner(), "");
        let rdma = vec![device("rxe1", "rxe", true), device("rxe2", "rxe", true)];
        let pretended = Hardware { emulated: Some("QEMU TCG"), rdma };
        let banner = pretended.banner();
        assert!(banner.starts_with("EMULATED (QEMU TCG)"), "{banner}");
        assert!(banner.contains("\nSOFTWARE RDMA (rxe rxe1, rxe rxe2)"), "{banner}");
        let json = serde_json::to_value(&pretended).expect("plain data");
        assert_eq!(json["emulated"], "QEMU TCG");
        let first = serde_json::json!({ "device": "rxe1", "driver": "rxe", "soft": true });
        assert_eq!(json["rdma"][0], first);
        let json = serde_json::to_value(Hardware::default()).expect("plain data");
        assert_eq!(json, serde_json::json!({ "emulated": null, "rdma": [] }));
    }

    #[test]
    fn devices_count_only_where_rdma_is_measured() {
        let nowhere = Addresses::default();
        let machine = Machine::here();
        let hardware = Hardware::of(&machine, &[TransportKind::Tcp], &nowhere);
        assert!(hardware.rdma.is_empty());
    }
}
