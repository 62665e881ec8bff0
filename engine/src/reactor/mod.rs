//! The reactor: one thread that carries a request from the network to the device and back.
//!
//! A [turn](Reactor::turn) polls the network, polls the devices, lets the state machines run, and
//! then submits once per device and posts once per connection. Each step has a budget. Time is
//! read twice a turn and is an argument everywhere else. The reactor owns the drivers; what they
//! carry is the chunkserver's business.

mod idle;

use std::ops::Range;

use culvert_memory::Region;
use culvert_nvme::QueuePair;

pub use idle::{DESCRIPTORS_MAX, Idle, IdleOptions};

use crate::chunkserver::Chunkserver;
use crate::counters::DriverCounters;
use crate::network::{ConnectionId, Event, Network, RegionEvent, RegionRefused};

/// A monotonic clock that counts suspend, in nanoseconds.
pub trait Clock {
    /// Now; never less than before.
    fn now_ns(&mut self) -> u64;
}

/// What one turn may do at most.
#[derive(Clone, Copy, Debug)]
pub struct TurnBudget {
    /// Events of the network.
    pub events: usize,
    /// Completions of each device.
    pub completions: usize,
}

/// One device and the shards on it that this reactor runs.
pub struct Device<D> {
    /// The queue pair of this reactor on the device.
    pub queue_pair: D,
    /// Positions of the device's shards in the chunkserver. They are the prefixes of the shards'
    /// tags as well ([`ShardConfig::tag_prefix`](crate::shard::ShardConfig::tag_prefix)).
    pub shards: Range<usize>,
}

/// Between two looks at what no completion of a device tells.
const TEND_NS: u64 = 100_000_000;

/// Where the shard's position stands in a tag.
const TAG_PREFIX_SHIFT: u32 = 48;

/// See the module's documentation.
pub struct Reactor<D, N> {
    chunkserver: Chunkserver,
    network: N,
    devices: Vec<Device<D>>,
    budget: TurnBudget,
    /// Landing windows that the devices know.
    windows: Vec<Region>,
    offenders: Vec<(ConnectionId, &'static str)>,
    /// Bytes of pages that were copied in turns; the thread's own count is not only this one's.
    page_bytes_copied: u64,
    /// When the devices are looked after next.
    tend_at_ns: u64,
}

impl<D: QueuePair, N: Network> Reactor<D, N> {
    /// Joins a chunkserver with the drivers it runs over.
    pub fn new(
        chunkserver: Chunkserver,
        network: N,
        devices: Vec<Device<D>>,
        budget: TurnBudget,
    ) -> Reactor<D, N> {
        Reactor {
            chunkserver,
            network,
            devices,
            budget,
            windows: Vec::new(),
            offenders: Vec::new(),
            page_bytes_copied: 0,
            tend_at_ns: 0,
        }
    }

    /// The chunkserver.
    pub fn chunkserver(&self) -> &Chunkserver {
        &self.chunkserver
    }

    /// The chunkserver.
    pub fn chunkserver_mut(&mut self) -> &mut Chunkserver {
        &mut self.chunkserver
    }

    /// The network.
    pub fn network_mut(&mut self) -> &mut N {
        &mut self.network
    }

    /// The devices.
    pub fn devices(&self) -> &[Device<D>] {
        &self.devices
    }

    /// The devices; for tests that make them fail.
    pub fn devices_mut(&mut self) -> &mut [Device<D>] {
        &mut self.devices
    }

    /// One turn. Returns whether anything happened.
    pub fn turn(&mut self, clock: &mut impl Clock) -> bool {
        let now_ns = clock.now_ns();
        let copied = culvert_memory::page_bytes_copied();
        self.chunkserver.begin(now_ns);
        self.chunkserver.set_drivers(self.driver_counters());
        self.register_windows();
        self.tend_devices(now_ns);
        let events = self.poll_network(now_ns);
        let completions = self.poll_devices(now_ns);
        let now_ns = clock.now_ns();
        let worked = self.chunkserver.has_work();
        self.chunkserver.run(now_ns, &mut self.network);
        let submitted = self.submit(now_ns);
        self.network.post(now_ns);
        self.page_bytes_copied += culvert_memory::page_bytes_copied() - copied;
        let busy = events + completions + submitted > 0 || worked;
        self.chunkserver.count_turn(busy);
        busy
    }

    fn driver_counters(&self) -> DriverCounters {
        let mut counters = DriverCounters::of_network(&self.network.counters());
        for device in &self.devices {
            counters.add_device(device.queue_pair.counters());
        }
        // A turn's copies for the wire are among its copies.
        counters.payload_bytes_copied =
            self.page_bytes_copied.saturating_sub(counters.wire_bytes_copied);
        counters
    }

    /// Devices must know a landing window before a command points into it: no peer is told of one
    /// that a device refuses, and its connection ends.
    fn register_windows(&mut self) {
        let (devices, windows) = (&mut self.devices, &mut self.windows);
        self.network.regions(&mut |event| match event {
            RegionEvent::Added(region) => {
                register(devices, &region)?;
                windows.push(region);
                Ok(())
            }
            RegionEvent::Retired(id) => {
                let Some(at) = windows.iter().position(|region| region.id() == id) else {
                    return Ok(());
                };
                let region = windows.swap_remove(at);
                for device in devices.iter_mut() {
                    device.queue_pair.unregister(&region);
                }
                Ok(())
            }
        });
    }

    fn poll_network(&mut self, now_ns: u64) -> usize {
        let (chunkserver, offenders) = (&mut self.chunkserver, &mut self.offenders);
        let events = self.network.poll(now_ns, self.budget.events, &mut |event| {
            if let Event::Frame { connection, .. } = event
                && offenders.iter().any(|(offender, _)| *offender == connection)
            {
                return;
            }
            if let Err((connection, offence)) = chunkserver.event(event) {
                let reason = offence.reason();
                tracing::warn!(%connection, %offence, "connection closed: {reason}");
                offenders.push((connection, reason));
            }
        });
        for (connection, reason) in self.offenders.drain(..) {
            self.network.close(connection, reason);
        }
        events
    }

    fn poll_devices(&mut self, now_ns: u64) -> usize {
        let mut count = 0;
        for device in &mut self.devices {
            let chunkserver = &mut self.chunkserver;
            count += device.queue_pair.poll(self.budget.completions, &mut |completion| {
                let position = (completion.tag.0 >> TAG_PREFIX_SHIFT) as usize;
                chunkserver.completed(position, now_ns, completion);
            });
        }
        count
    }

    /// Looks after the devices now and then.
    fn tend_devices(&mut self, now_ns: u64) {
        if now_ns < self.tend_at_ns {
            return;
        }
        self.tend_at_ns = now_ns + TEND_NS;
        self.devices.iter_mut().for_each(|device| device.queue_pair.tend(now_ns));
    }

    fn submit(&mut self, now_ns: u64) -> usize {
        let mut count = 0;
        for device in &mut self.devices {
            let before = count;
            for position in device.shards.clone() {
                let shard = self.chunkserver.shard_mut(position);
                shard.seal(now_ns);
                while let Some(submission) = shard.poll_submission() {
                    if let Err(refused) = device.queue_pair.submit(submission) {
                        shard.give_back(refused);
                        break;
                    }
                    count += 1;
                }
            }
            if count > before {
                device.queue_pair.ring();
            }
        }
        count
    }
}

/// Makes a landing window known to all devices, or to none.
fn register<D: QueuePair>(devices: &mut [Device<D>], region: &Region) -> Result<(), RegionRefused> {
    for at in 0..devices.len() {
        if let Err(error) = devices[at].queue_pair.register(region) {
            tracing::error!(
                device = at,
                %error,
                "a landing window cannot be registered: its connection is closed; or lower \
                 transport.window_max_pages, transport.window_budget_pages or \
                 transport.connections_max"
            );
            for device in &mut devices[..at] {
                device.queue_pair.unregister(region);
            }
            return Err(RegionRefused);
        }
    }
    Ok(())
}
