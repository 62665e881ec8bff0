//! Device addresses: which backend, which device, which options.
//!
//! ```text
//! emulated:SIZE[?file=PATH][&block=512|4096][&metadata=0|64][&cache=none|volatile]
//!              [&cache_blocks=N][&thread=0|1][&order=fetched|shuffled][&medium=ram|null][&seed=N]
//! uring:PATH[?block=512|4096][&size=SIZE][&polled=0|1]
//! vfio:DOMAIN:BUS:DEVICE.FUNCTION[?ns=N][&interrupts=0|1]
//! spdk:DOMAIN:BUS:DEVICE.FUNCTION[?ns=N]
//! spdk:TRANSPORT-IDENTIFIER[?ns=N]
//! ```
//!
//! SIZE is a number with `KiB`, `MiB`, `GiB` or `TiB`, and a multiple of 4 KiB. In paths, `%`, `?`
//! and `&` are written as `%25`, `%3f` and `%26`. What a URI does not say has a default, and
//! [`Display`](fmt::Display) writes only what differs from it; parsing that gives the same device.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::{CACHE_BLOCKS_DEFAULT, CACHE_BLOCKS_MAX, METADATA_BYTES};
use crate::emulated::{CommandOrder, EmulatedOptions, MediumKind};
#[cfg(feature = "spdk")]
use crate::spdk::SpdkOptions;
use crate::uring::UringOptions;
use crate::vfio::VfioOptions;

#[cfg(not(feature = "spdk"))]
const SCHEMES: &str = "emulated:, uring:, vfio:";
#[cfg(feature = "spdk")]
const SCHEMES: &str = "emulated:, uring:, vfio:, spdk:";
const EMULATED_OPTIONS: &str =
    "file, block, metadata, cache, cache_blocks, thread, order, medium, seed";
const URING_OPTIONS: &str = "block, size, polled";
const VFIO_OPTIONS: &str = "ns, interrupts";
const BLOCK_SIZES: &str = "512 or 4096";
const SIZES: &str = "a multiple of 4 KiB such as 64MiB or 2GiB, up to 8 EiB";
/// Sizes are multiples of this.
const SIZE_GRANULE: u64 = 4096;
const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Which device to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUri {
    device: Device,
}

/// The device that a [`DeviceUri`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A controller in software.
    Emulated(EmulatedOptions),
    /// A file or block device, through io_uring.
    Uring(UringOptions),
    /// A controller behind VFIO.
    Vfio(VfioOptions),
    /// A controller that SPDK drives.
    #[cfg(feature = "spdk")]
    Spdk(SpdkOptions),
}

/// What is wrong with a device URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No `:` in it.
    #[error("no backend in {uri:?}: it starts with one of {SCHEMES} as in emulated:1GiB")]
    NoScheme {
        /// What was given.
        uri: String,
    },
    /// The part before the `:` is not a backend.
    #[error("unknown backend {scheme:?}: known are {SCHEMES}")]
    UnknownScheme {
        /// The part before the `:`.
        scheme: String,
    },
    /// The backend exists, but is not compiled in.
    #[error("the backend {scheme:?} is not in this build; this build has {SCHEMES}")]
    NotInThisBuild {
        /// The backend.
        scheme: &'static str,
    },
    /// An option without `=`.
    #[error("option {option:?} has no value: options are NAME=VALUE, joined by &")]
    NoValue {
        /// The option.
        option: String,
    },
    /// An option that the backend does not have.
    #[error("unknown option {option:?} of {scheme}: known are {allowed}")]
    UnknownOption {
        /// The backend.
        scheme: &'static str,
        /// The option.
        option: String,
        /// The options it has.
        allowed: &'static str,
    },
    /// An option given twice.
    #[error("option {option:?} is given twice")]
    Repeated {
        /// The option.
        option: String,
    },
    /// A value that the option does not take.
    #[error("{option}={value}: expected {allowed}")]
    InvalidValue {
        /// The option, or `size` for the size of an emulated device.
        option: String,
        /// Its value.
        value: String,
        /// What it takes.
        allowed: &'static str,
    },
    /// Two options that exclude each other.
    #[error("{first} and {second} exclude each other")]
    Contradiction {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// No path where one is needed.
    #[error("no path: uring:PATH, as in uring:/dev/nvme0n1 or uring:/data/disk?size=1GiB")]
    NoPath,
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("{text:?} is not well encoded: write % as %25")]
    Encoding {
        /// The path.
        text: String,
    },
}

impl DeviceUri {
    /// The address of a device.
    pub fn new(device: Device) -> DeviceUri {
        DeviceUri { device }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The backend: `emulated`, `uring`, `vfio` or `spdk`.
    pub fn backend(&self) -> &'static str {
        match self.device {
            Device::Emulated(_) => crate::emulated::BACKEND,
            Device::Uring(_) => crate::uring::BACKEND,
            Device::Vfio(_) => crate::vfio::BACKEND,
            #[cfg(feature = "spdk")]
            Device::Spdk(_) => crate::spdk::BACKEND,
        }
    }
}

impl FromStr for DeviceUri {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<DeviceUri, UriError> {
        let Some((scheme, rest)) = uri.split_once(':') else {
            return Err(UriError::NoScheme { uri: uri.to_owned() });
        };
        let (target, options) = match rest.split_once('?') {
            Some((target, options)) => (target, split_options(options)?),
            None => (rest, Vec::new()),
        };
        let device = match scheme {
            "emulated" => Device::Emulated(parse_emulated(target, &options)?),
            "uring" => Device::Uring(parse_uring(target, &options)?),
            "vfio" => Device::Vfio(parse_vfio(target, &options)?),
            #[cfg(feature = "spdk")]
            "spdk" => Device::Spdk(parse_spdk(target, &options)?),
            #[cfg(not(feature = "spdk"))]
            "spdk" => return Err(UriError::NotInThisBuild { scheme: "spdk" }),
            _ => return Err(UriError::UnknownScheme { scheme: scheme.to_owned() }),
        };
        Ok(DeviceUri { device })
    }
}

fn split_options(options: &str) -> Result<Vec<(&str, &str)>, UriError> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let Some((name, value)) = option.split_once('=') else {
            return Err(UriError::NoValue { option: option.to_owned() });
        };
        if found.iter().any(|(other, _)| *other == name) {
            return Err(UriError::Repeated { option: name.to_owned() });
        }
        found.push((name, value));
    }
    Ok(found)
}

fn parse_emulated(target: &str, options: &[(&str, &str)]) -> Result<EmulatedOptions, UriError> {
    let mut device = EmulatedOptions::new(parse_size("size", target)?);
    let mut cache = false;
    let mut cache_blocks = None;
    let mut null = false;
    for &(name, value) in options {
        match name {
            "file" => device.medium = MediumKind::File(parse_path(value)?),
            "block" => device.block_size = parse_block_size(value)?,
            "metadata" => {
                let beside = parse_choice(name, value, "0", "64")?;
                device.metadata_bytes = if beside { METADATA_BYTES as u32 } else { 0 };
            }
            "cache" => cache = parse_choice(name, value, "none", "volatile")?,
            "cache_blocks" => cache_blocks = Some(parse_cache_blocks(value)?),
            "thread" => device.thread = parse_choice(name, value, "0", "1")?,
            "medium" => null = parse_choice(name, value, "ram", "null")?,
            "seed" => device.seed = parse_number(name, value, "a number below 2^64")?,
            "order" => {
                let shuffled = parse_choice(name, value, "fetched", "shuffled")?;
                device.order =
                    if shuffled { CommandOrder::Shuffled } else { CommandOrder::Fetched };
            }
            _ => return Err(unknown("emulated", name, EMULATED_OPTIONS)),
        }
    }
    if device.metadata_bytes > 0 && device.block_size != 4096 {
        return Err(UriError::Contradiction { first: "metadata=64", second: "block=512" });
    }
    if null {
        if device.medium != MediumKind::Memory {
            return Err(UriError::Contradiction { first: "medium=null", second: "file" });
        }
        if cache {
            return Err(UriError::Contradiction { first: "medium=null", second: "cache=volatile" });
        }
        device.medium = MediumKind::Null;
    }
    if cache {
        device.cache_blocks = cache_blocks.unwrap_or(CACHE_BLOCKS_DEFAULT);
    } else if cache_blocks.is_some() {
        return Err(UriError::Contradiction { first: "cache=none", second: "cache_blocks" });
    }
    Ok(device)
}

fn parse_uring(target: &str, options: &[(&str, &str)]) -> Result<UringOptions, UriError> {
    if target.is_empty() {
        return Err(UriError::NoPath);
    }
    let mut device = UringOptions::new(parse_path(target)?);
    for &(name, value) in options {
        match name {
            "block" => device.block_size = Some(parse_block_size(value)?),
            "polled" => device.polled = parse_choice(name, value, "0", "1")?,
            "size" => device.bytes = Some(parse_size(name, value)?),
            _ => return Err(unknown("uring", name, URING_OPTIONS)),
        }
    }
    Ok(device)
}

fn parse_vfio(target: &str, options: &[(&str, &str)]) -> Result<VfioOptions, UriError> {
    const ADDRESS: &str = "DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, as in 0000:5e:00.0";
    let address = target.parse().map_err(|_| invalid("address", target, ADDRESS))?;
    let mut device = VfioOptions::new(address);
    for &(name, value) in options {
        match name {
            "ns" => device.namespace = Some(parse_namespace(name, value)?),
            "interrupts" => device.interrupts = parse_choice(name, value, "0", "1")?,
            _ => return Err(unknown("vfio", name, VFIO_OPTIONS)),
        }
    }
    Ok(device)
}

#[cfg(feature = "spdk")]
fn parse_spdk(target: &str, options: &[(&str, &str)]) -> Result<SpdkOptions, UriError> {
    let target = parse_path(target)?.into_os_string().into_string();
    let encoding = |text: OsString| UriError::Encoding { text: text.to_string_lossy().into() };
    let mut device = SpdkOptions::new(target.map_err(encoding)?);
    for &(name, value) in options {
        match name {
            "ns" => device.namespace = Some(parse_namespace(name, value)?),
            _ => return Err(unknown("spdk", name, "ns")),
        }
    }
    Ok(device)
}

fn parse_namespace(option: &str, value: &str) -> Result<u32, UriError> {
    const ALLOWED: &str = "the number of a namespace, 1 to 4294967294";
    let number = parse_number(option, value, ALLOWED)?;
    let number = u32::try_from(number).ok().filter(|ns| (1..u32::MAX).contains(ns));
    number.ok_or_else(|| invalid(option, value, ALLOWED))
}

fn unknown(scheme: &'static str, option: &str, allowed: &'static str) -> UriError {
    UriError::UnknownOption { scheme, option: option.to_owned(), allowed }
}

fn invalid(option: &str, value: &str, allowed: &'static str) -> UriError {
    UriError::InvalidValue { option: option.to_owned(), value: value.to_owned(), allowed }
}

fn parse_size(option: &str, value: &str) -> Result<u64, UriError> {
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((value.strip_suffix(unit)?, *shift)))
        .unwrap_or((value, 0));
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0 && *bytes <= i64::MAX as u64 && bytes % SIZE_GRANULE == 0)
        .ok_or_else(|| invalid(option, value, SIZES))
}

fn parse_block_size(value: &str) -> Result<u32, UriError> {
    match value {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err(invalid("block", value, BLOCK_SIZES)),
    }
}

fn parse_cache_blocks(value: &str) -> Result<u32, UriError> {
    const ALLOWED: &str = "a number of blocks from 1 to 1048576";
    const _: () = assert!(CACHE_BLOCKS_MAX == 1_048_576);
    match parse_number("cache_blocks", value, ALLOWED)? {
        blocks @ 1..=1_048_576 => Ok(blocks as u32),
        _ => Err(invalid("cache_blocks", value, ALLOWED)),
    }
}

fn parse_number(option: &str, value: &str, allowed: &'static str) -> Result<u64, UriError> {
    value.parse().map_err(|_| invalid(option, value, allowed))
}

/// Whether the value is the second of two.
fn parse_choice(option: &str, value: &str, no: &str, yes: &str) -> Result<bool, UriError> {
    if value == no {
        return Ok(false);
    }
    if value == yes {
        return Ok(true);
    }
    let allowed = match option {
        "cache" => "none or volatile",
        "medium" => "ram or null (and file=PATH for a file)",
        "order" => "fetched or shuffled",
        _ => "0 or 1",
    };
    Err(invalid(option, value, allowed))
}

/// Decodes `%` and two hexadecimal digits.
fn parse_path(text: &str) -> Result<PathBuf, UriError> {
    let error = || UriError::Encoding { text: text.to_owned() };
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| !digits.starts_with('+')).ok_or_else(error)?;
        decoded.push(u8::from_str_radix(digits, 16).map_err(|_| error())?);
        rest = &rest[2..];
    }
    if decoded.is_empty() || decoded.contains(&0) {
        return Err(error());
    }
    Ok(PathBuf::from(OsString::from_vec(decoded)))
}

/// A size as it is parsed.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0.is_multiple_of(1 << shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A path as it is parsed.
struct Encoded<'a>(&'a Path);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '%' | '?' | '&' => write!(f, "%{:02x}", character as u32)?,
                    _ => write!(f, "{character}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "%{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Writes options with `?` before the first and `&` before every other.
struct OptionWriter<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    separator: char,
}

impl OptionWriter<'_, '_> {
    fn write(&mut self, given: bool, option: fmt::Arguments<'_>) -> fmt::Result {
        if !given {
            return Ok(());
        }
        let separator = std::mem::replace(&mut self.separator, '&');
        write!(self.f, "{separator}{option}")
    }
}

impl fmt::Display for DeviceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Device::Emulated(device) => write_emulated(device, f),
            Device::Uring(device) => {
                write!(f, "uring:{}", Encoded(&device.path))?;
                let mut options = OptionWriter { f, separator: '?' };
                let block_size = device.block_size.unwrap_or(0);
                options.write(block_size != 0, format_args!("block={block_size}"))?;
                let size = Size(device.bytes.unwrap_or(0));
                options.write(device.bytes.is_some(), format_args!("size={size}"))?;
                options.write(device.polled, format_args!("polled=1"))
            }
            Device::Vfio(device) => {
                write!(f, "vfio:{}", device.address)?;
                let mut options = OptionWriter { f, separator: '?' };
                let namespace = device.namespace;
                options
                    .write(namespace.is_some(), format_args!("ns={}", namespace.unwrap_or(0)))?;
                options.write(!device.interrupts, format_args!("interrupts=0"))
            }
            #[cfg(feature = "spdk")]
            Device::Spdk(device) => {
                write!(f, "spdk:{}", Encoded(Path::new(&device.target)))?;
                let mut options = OptionWriter { f, separator: '?' };
                let namespace = device.namespace;
                options.write(namespace.is_some(), format_args!("ns={}", namespace.unwrap_or(0)))
            }
        }
    }
}

fn write_emulated(device: &EmulatedOptions, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "emulated:{}", Size(device.bytes))?;
    let mut options = OptionWriter { f, separator: '?' };
    match &device.medium {
        MediumKind::Memory => {}
        MediumKind::File(path) => options.write(true, format_args!("file={}", Encoded(path)))?,
        MediumKind::Null => options.write(true, format_args!("medium=null"))?,
    }
    let EmulatedOptions { block_size, cache_blocks, thread, order, seed, .. } = device;
    options.write(*block_size != 4096, format_args!("block={block_size}"))?;
    let metadata = device.metadata_bytes;
    options.write(metadata != 0, format_args!("metadata={metadata}"))?;
    options.write(*cache_blocks > 0, format_args!("cache=volatile"))?;
    let unusual = *cache_blocks > 0 && *cache_blocks != CACHE_BLOCKS_DEFAULT;
    options.write(unusual, format_args!("cache_blocks={cache_blocks}"))?;
    options.write(*thread, format_args!("thread=1"))?;
    options.write(*order == CommandOrder::Shuffled, format_args!("order=shuffled"))?;
    options.write(*seed != 0, format_args!("seed={seed}"))
}

#[cfg(test)]
mod tests;
