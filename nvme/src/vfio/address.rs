//! Addresses of PCI devices, and what sysfs says of them.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the kernel lists PCI devices.
const DEVICES: &str = "/sys/bus/pci/devices";
/// Class code of an NVMe controller: mass storage, non-volatile memory, NVM Express.
const NVME_CLASS: u32 = 0x01_08_02;

/// Address of a PCI function, as in `0000:5e:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// The text is no PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a PCI address is DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, as in 0000:5e:00.0")]
pub struct NoPciAddress;

impl FromStr for PciAddress {
    type Err = NoPciAddress;

    /// Parses `DOMAIN:BUS:DEVICE.FUNCTION`; without a domain it is 0.
    fn from_str(text: &str) -> Result<PciAddress, NoPciAddress> {
        let (slot, function) = text.rsplit_once('.').ok_or(NoPciAddress)?;
        let parts: Vec<&str> = slot.split(':').collect();
        let (domain, bus, device) = match parts[..] {
            [bus, device] => ("0", bus, device),
            [domain, bus, device] => (domain, bus, device),
            _ => return Err(NoPciAddress),
        };
        let number = |text: &str, digits_max: usize, max: u32| {
            let plain =
                text.len() <= digits_max && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = u32::from_str_radix(text, 16).ok().filter(|number| *number <= max);
            number.filter(|_| plain).ok_or(NoPciAddress)
        };
        Ok(PciAddress {
            domain: number(domain, 8, u32::MAX)?,
            bus: number(bus, 2, 0xff)? as u8,
            device: number(device, 2, 0x1f)? as u8,
            function: number(function, 1, 7)? as u8,
        })
    }
}

impl PciAddress {
    /// Its folder in sysfs.
    pub(super) fn folder(self) -> PathBuf {
        PathBuf::from(DEVICES).join(self.to_string())
    }

    /// Its name for VFIO.
    pub(super) fn name(self) -> CString {
        CString::new(self.to_string()).expect("digits and punctuation")
    }

    /// Whether there is such a device.
    pub(super) fn exists(self) -> bool {
        self.folder().exists()
    }

    /// Whether it is an NVMe controller.
    pub(super) fn is_nvme(self) -> bool {
        let class = fs::read_to_string(self.folder().join("class")).unwrap_or_default();
        let digits = class.trim().trim_start_matches("0x");
        u32::from_str_radix(digits, 16) == Ok(NVME_CLASS)
    }

    /// The driver that it is bound to.
    pub(super) fn driver(self) -> Option<String> {
        self.link("driver")
    }

    /// The group of devices that the IOMMU cannot tell apart from it.
    pub(super) fn iommu_group(self) -> Option<u32> {
        self.link("iommu_group")?.parse().ok()
    }

    /// Last part of what a symbolic link in its folder points to.
    fn link(self, name: &str) -> Option<String> {
        let target = fs::read_link(self.folder().join(name)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_printed() {
        for (text, printed) in [
            ("0000:5e:00.0", "0000:5e:00.0"),
            ("5e:1f.7", "0000:5e:1f.7"),
            ("10000:01:00.0", "10000:01:00.0"),
            ("0:1:2.3", "0000:01:02.3"),
        ] {
            assert_eq!(
                text.parse().map(|address: PciAddress| address.to_string()),
                Ok(printed.into())
            );
        }
        for text in
            ["", "5e:00", "5e.0", "5e:00.8", "5e:20.0", "g:0.0", "1:2:3:4.5", "+1:0.0", "100:0.0"]
        {
            assert_eq!(text.parse::<PciAddress>(), Err(NoPciAddress), "{text}");
        }
    }
}
