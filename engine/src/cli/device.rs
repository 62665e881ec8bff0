//! Devices opened by commands: one at a time, nothing else in flight.

use anyhow::Context;
use culvert::config::ByteSize;
use culvert_memory::{Pool, PoolOptions};
use culvert_nvme::{Access, AnyQueuePair, DeviceClaim, DeviceUri, OpenOptions, QueuePair};

use super::exit::{Outcome, Refuse};

/// A device and memory that it knows.
pub struct OpenDevice {
    /// Its queue pair.
    pub queue: AnyQueuePair,
    /// Registered memory.
    pub pool: Pool,
}

/// Opens the device that a URI names, with `pool_bytes` of memory. A device that a server or another
/// command uses is refused; those that only read it share it.
pub fn open_device(uri: &str, access: Access, pool_bytes: ByteSize) -> Outcome<OpenDevice> {
    let parsed: DeviceUri = uri.parse().with_context(|| format!("device {uri}")).refuse()?;
    let claim = DeviceClaim::take(&parsed, access);
    let claim = claim.with_context(|| format!("device {uri}")).refuse()?;
    let queue = culvert_nvme::open_claimed(&claim, &OpenOptions::default());
    let mut queue = queue.with_context(|| format!("device {uri}")).refuse()?;
    let pool = Pool::new(&PoolOptions {
        name: "culvert-device".into(),
        bytes: pool_bytes.bytes() as usize,
        lock: false,
        ..PoolOptions::default()
    })?;
    for region in pool.regions() {
        queue.register(region).with_context(|| format!("device {uri}"))?;
    }
    Ok(OpenDevice { queue, pool })
}
