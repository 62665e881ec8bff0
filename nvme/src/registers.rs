//! Controller registers: the first page of a controller's memory.
//!
//! NVM Express Base Specification 2.0, section 3.1.3 (properties) and the PCIe Transport
//! Specification 1.0, section 3.1.2 (doorbells). Only what the driver half and the emulated
//! controller both need.

/// Offset of a register in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u32);

/// CAP, controller capabilities, 64 bits.
pub const CAPABILITIES: Register = Register(0x00);
/// VS, version, 32 bits.
pub const VERSION: Register = Register(0x08);
/// CC, controller configuration, 32 bits.
pub const CONFIGURATION: Register = Register(0x14);
/// CSTS, controller status, 32 bits.
pub const STATUS: Register = Register(0x1c);
/// AQA, admin queue attributes, 32 bits.
pub const ADMIN_QUEUE_ATTRIBUTES: Register = Register(0x24);
/// ASQ, admin submission queue base address, 64 bits.
pub const ADMIN_SUBMISSION_QUEUE: Register = Register(0x28);
/// ACQ, admin completion queue base address, 64 bits.
pub const ADMIN_COMPLETION_QUEUE: Register = Register(0x30);
/// Offset of the first doorbell.
pub const DOORBELLS: u32 = 0x1000;

/// What a read of any 32-bit register answers once the device has gone away.
pub const ALL_ONES: u32 = u32::MAX;

/// Tail doorbell of submission queue `queue` where doorbells lie `stride` bytes apart.
pub const fn submission_doorbell(queue: u16, stride: u32) -> Register {
    Register(DOORBELLS + 2 * queue as u32 * stride)
}

/// Head doorbell of completion queue `queue` where doorbells lie `stride` bytes apart.
pub const fn completion_doorbell(queue: u16, stride: u32) -> Register {
    Register(DOORBELLS + (2 * queue as u32 + 1) * stride)
}

/// CAP (figure 36).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Capabilities of a controller with the NVM command set and contiguous queues.
    /// `timeout_500ms` is in units of 500 ms, `doorbell_stride` is `4 << DSTRD` bytes.
    pub const fn new(queue_entries_max: u32, timeout_500ms: u8, doorbell_stride: u32) -> Self {
        let mqes = (queue_entries_max - 1) as u64;
        let contiguous = 1 << 16;
        let timeout = (timeout_500ms as u64) << 24;
        let dstrd = ((doorbell_stride / 4).trailing_zeros() as u64) << 32;
        let nvm_command_set = 1 << 37;
        Capabilities(mqes | contiguous | timeout | dstrd | nvm_command_set)
    }

    /// MQES, bits 15:0, zero-based: most entries of an I/O queue, here 1 to 65,536.
    pub const fn queue_entries_max(self) -> u32 {
        (self.0 & 0xffff) as u32 + 1
    }

    /// TO, bits 31:24: how long enabling and disabling may take, in milliseconds.
    pub const fn timeout_ms(self) -> u64 {
        ((self.0 >> 24) & 0xff) * 500
    }

    /// DSTRD, bits 35:32: distance of doorbells in bytes.
    pub const fn doorbell_stride(self) -> u32 {
        4 << ((self.0 >> 32) & 0xf)
    }

    /// CSS, bit 37: whether the NVM command set is offered.
    pub const fn has_nvm_command_set(self) -> bool {
        self.0 & (1 << 37) != 0
    }

    /// MPSMIN, bits 51:48: smallest memory page in bytes.
    pub const fn page_size_min(self) -> u64 {
        1 << (12 + ((self.0 >> 48) & 0xf))
    }
}

/// CC (figure 41).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration(pub u32);

impl Configuration {
    /// EN, bit 0.
    const ENABLE: u32 = 1;
    /// SHN, bits 15:14: 01b is a normal shutdown.
    const SHUTDOWN_NORMAL: u32 = 1 << 14;
    /// IOSQES, bits 19:16: submission entries of 2^6 bytes.
    const SUBMISSION_ENTRY_SIZE: u32 = 6 << 16;
    /// IOCQES, bits 23:20: completion entries of 2^4 bytes.
    const COMPLETION_ENTRY_SIZE: u32 = 4 << 20;

    /// Disabled.
    pub const DISABLED: Configuration = Configuration(0);

    /// Enabled: NVM command set, pages of 4 KiB (MPS 0), round robin, entries of 64 and 16 bytes.
    pub const ENABLED: Configuration =
        Configuration(Self::ENABLE | Self::SUBMISSION_ENTRY_SIZE | Self::COMPLETION_ENTRY_SIZE);

    /// Enabled, with the notification of a normal shutdown.
    pub const SHUTTING_DOWN: Configuration = Configuration(Self::ENABLED.0 | Self::SHUTDOWN_NORMAL);

    /// Whether the controller is to be enabled.
    pub const fn is_enabled(self) -> bool {
        self.0 & Self::ENABLE != 0
    }

    /// Whether a shutdown, normal or abrupt, is notified.
    pub const fn is_shutting_down(self) -> bool {
        self.0 & (3 << 14) != 0
    }

    /// Whether entry sizes, page size and command set are those this crate speaks.
    pub const fn is_supported(self) -> bool {
        let entry_sizes = Self::SUBMISSION_ENTRY_SIZE | Self::COMPLETION_ENTRY_SIZE;
        let page_size_and_command_set = (0xf << 7) | (0x7 << 4);
        self.0 & (0xff << 16) == entry_sizes && self.0 & page_size_and_command_set == 0
    }
}

/// CSTS (figure 42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerStatus(pub u32);

impl ControllerStatus {
    /// Not ready, no shutdown.
    pub const IDLE: ControllerStatus = ControllerStatus(0);
    /// RDY, bit 0.
    pub const READY: ControllerStatus = ControllerStatus(1);
    /// CFS, bit 1: the controller gave up.
    pub const FATAL: ControllerStatus = ControllerStatus(2);
    /// RDY, and SHST, bits 3:2, 10b: shutdown complete.
    pub const SHUT_DOWN: ControllerStatus = ControllerStatus(1 | 2 << 2);

    /// Whether commands are processed.
    pub const fn is_ready(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether only a reset helps.
    pub const fn is_fatal(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether a shutdown has finished.
    pub const fn is_shut_down(self) -> bool {
        (self.0 >> 2) & 3 == 2
    }

    /// Whether the register, and with it the device, has gone away.
    pub const fn is_gone(self) -> bool {
        self.0 == ALL_ONES
    }
}

/// AQA (figure 45): sizes of the admin queues, zero-based on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminQueueAttributes(pub u32);

impl AdminQueueAttributes {
    /// Both queues with `entries` entries, 2 to 4096.
    pub const fn new(entries: u16) -> Self {
        let size = (entries - 1) as u32;
        AdminQueueAttributes(size << 16 | size)
    }

    /// ASQS, bits 11:0: entries of the admin submission queue.
    pub const fn submission_entries(self) -> u16 {
        (self.0 & 0xfff) as u16 + 1
    }

    /// ACQS, bits 27:16: entries of the admin completion queue.
    pub const fn completion_entries(self) -> u16 {
        ((self.0 >> 16) & 0xfff) as u16 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_decode_a_known_device() {
        // QEMU's controller: MQES 2047, CQR, TO 15 (7.5 s), DSTRD 0, NVM command set.
        let capabilities = Capabilities(0x0000_0020_0f01_07ff);
        assert_eq!(capabilities.queue_entries_max(), 2048);
        assert_eq!(capabilities.timeout_ms(), 7_500);
        assert_eq!(capabilities.doorbell_stride(), 4);
        assert_eq!(capabilities.page_size_min(), 4096);
        assert!(capabilities.has_nvm_command_set());
        assert_eq!(Capabilities::new(2048, 15, 4), capabilities);
    }

    #[test]
    fn doorbells_lie_a_stride_apart() {
        assert_eq!(submission_doorbell(0, 4), Register(0x1000));
        assert_eq!(completion_doorbell(0, 4), Register(0x1004));
        assert_eq!(submission_doorbell(1, 4), Register(0x1008));
        assert_eq!(completion_doorbell(1, 64), Register(0x10c0));
        assert_eq!(Capabilities::new(2, 1, 64).doorbell_stride(), 64);
    }

    #[test]
    fn configuration_is_what_the_figure_says() {
        assert_eq!(Configuration::ENABLED.0, 0x0046_0001);
        assert_eq!(Configuration::SHUTTING_DOWN.0, 0x0046_4001);
        assert!(Configuration::ENABLED.is_supported());
        assert!(!Configuration(0x0046_0081).is_supported());
        assert!(Configuration::SHUTTING_DOWN.is_shutting_down());
    }

    #[test]
    fn admin_queue_sizes_are_zero_based() {
        let attributes = AdminQueueAttributes::new(32);
        assert_eq!(attributes.0, 0x001f_001f);
        assert_eq!(attributes.submission_entries(), 32);
        assert_eq!(attributes.completion_entries(), 32);
    }
}
