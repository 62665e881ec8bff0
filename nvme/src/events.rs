//! What a controller says unasked: asynchronous events, and the log pages that explain them.
//!
//! NVM Express Base Specification 2.0, section 5.2 (Asynchronous Event Request), figure 207 (SMART /
//! Health Information log page). Reading the page that an event names is also what lets the
//! controller report the next one of its kind.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Log pages, dword 10, bits 7:0 of Get Log Page.
pub(crate) mod log_page {
    /// SMART / Health Information.
    pub(crate) const HEALTH: u8 = 0x02;
    /// Changed Namespace List.
    pub(crate) const CHANGED_NAMESPACES: u8 = 0x04;
}

/// Asynchronous Event Configuration, dword 11, bits 7:0: all critical warnings.
const ALL_CRITICAL_WARNINGS: u32 = 0xff;
/// The same, and OAES, bit 8: namespace attribute notices.
const NAMESPACE_NOTICES: u32 = 1 << 8;

/// What is asked for, where a controller offers the notices `offered` (OAES).
pub(crate) fn wanted(offered: u32) -> u32 {
    ALL_CRITICAL_WARNINGS | offered & NAMESPACE_NOTICES
}

/// Dword 0 of the completion of an Asynchronous Event Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event(pub(crate) u32);

impl Event {
    /// SMART or health status, of a kind: 0 reliability, 1 temperature, 2 spare.
    pub(crate) fn health(kind: u8) -> Event {
        Event(1 | u32::from(kind) << 8 | u32::from(log_page::HEALTH) << 16)
    }

    /// The log page that says more, and clears the event.
    pub(crate) fn log_page(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// What kind it is.
    pub(crate) fn kind(self) -> &'static str {
        match self.0 & 7 {
            0 => "error",
            1 => "health",
            2 => "notice",
            6 => "command set",
            7 => "vendor",
            _ => "unknown",
        }
    }
}

/// The beginning of SMART / Health Information.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Health {
    /// Critical warnings, byte 0.
    pub(crate) warnings: u8,
    /// Composite temperature in kelvins, bytes 2:1.
    pub(crate) temperature: U16,
    /// Available spare in percent, byte 3.
    pub(crate) spare: u8,
    /// Available spare threshold in percent, byte 4.
    pub(crate) spare_threshold: u8,
    /// Percentage of its life that is used, byte 5; may exceed 100.
    pub(crate) used: u8,
    reserved_6: [u8; 506],
}

const _: () = assert!(size_of::<Health>() == 512);

/// Critical warnings by their bits.
const WARNINGS: [&str; 6] = [
    "its spare space is below the threshold: replace it",
    "its temperature is out of bounds: look at the cooling",
    "its reliability is degraded: replace it",
    "it only reads any more: replace it",
    "the backup of its volatile memory failed: what it acknowledges may be lost; replace it",
    "its persistent memory region only reads, or is unreliable",
];

/// Critical warnings in words.
pub(crate) fn words(warnings: u8) -> impl Iterator<Item = &'static str> {
    WARNINGS
        .into_iter()
        .enumerate()
        .filter_map(move |(bit, word)| (warnings & 1 << bit != 0).then_some(word))
}

impl Health {
    /// What an emulated controller says of itself.
    pub(crate) fn emulated(warnings: u8) -> Health {
        let mut health = <Health as zerocopy::FromZeros>::new_zeroed();
        health.warnings = warnings;
        health.temperature = U16::new(300);
        health.spare = 100;
        health.spare_threshold = 10;
        health
    }

    /// In degrees Celsius.
    pub(crate) fn celsius(&self) -> i32 {
        i32::from(self.temperature.get()) - 273
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_in_words() {
        assert_eq!(words(0).count(), 0);
        assert_eq!(words(1 << 1 | 1 << 3).collect::<Vec<_>>(), [WARNINGS[1], WARNINGS[3]]);
        assert_eq!(Health::emulated(0).celsius(), 27);
        // Bits that have no meaning yet.
        assert_eq!(words(0xc0).count(), 0);
    }

    #[test]
    fn an_event_names_its_log_page() {
        let event = Event::health(2);
        assert_eq!((event.0, event.kind(), event.log_page()), (0x2_02_01, "health", 2));
        assert_eq!(wanted(0x300), 0x1ff);
    }
}
