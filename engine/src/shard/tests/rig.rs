//! A device, a pool, and the loop between a shard and them.

use culvert_memory::{Buffer, Pool, PoolOptions};
use culvert_nvme::{
    Completion, Emulated, EmulatedOptions, Lba, Loss, METADATA_BYTES, OpenOptions, QueuePair,
    Submission,
};
use uuid::Uuid;

use crate::device::{DeviceHeader, FormatOptions, LayoutOptions, format};
use crate::ids::BLOCK_SIZE;
use crate::shard::{
    Event, Inspection, OpenError, Opened, Opening, OpeningMode, Recovered, Shard, ShardConfig,
};

/// A small deterministic generator (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// What a rig is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct RigOptions {
    pub(super) bytes: u64,
    pub(super) block_size: u32,
    pub(super) volatile: bool,
    pub(super) seed: u64,
    pub(super) layout: LayoutOptions,
}

impl Default for RigOptions {
    fn default() -> RigOptions {
        let layout = LayoutOptions { chunk_blocks: 64, ..LayoutOptions::default() };
        RigOptions { bytes: 16 << 20, block_size: 4096, volatile: true, seed: 1, layout }
    }
}

/// A configuration with small buffers.
pub(super) fn config() -> ShardConfig {
    ShardConfig {
        batch_bytes: 64 << 10,
        commands_max: 512,
        checkpoint_buffer_pages: 4,
        checkpoint_pages_per_turn: 4,
        checkpoint_bytes_min: 2 << 20,
        open_read_bytes: 64 << 10,
        tag_prefix: 7,
        ..ShardConfig::default()
    }
}

pub(super) struct Rig {
    pub(super) pair: Emulated,
    pub(super) pool: Pool,
    pub(super) header: DeviceHeader,
    pub(super) config: ShardConfig,
    pub(super) now: u64,
    pub(super) events: Vec<Event>,
    held: Option<Submission>,
}

impl Rig {
    /// A formatted device.
    pub(super) fn new(options: &RigOptions) -> Rig {
        let device = EmulatedOptions {
            block_size: options.block_size,
            metadata_bytes: if options.layout.metadata { METADATA_BYTES as u32 } else { 0 },
            cache_blocks: if options.volatile { 1 << 14 } else { 0 },
            order: culvert_nvme::CommandOrder::Shuffled,
            seed: options.seed,
            ..EmulatedOptions::new(options.bytes)
        };
        let open = OpenOptions { depth: 64, ..OpenOptions::default() };
        let mut pair = Emulated::open(&device, &open).expect("memory");
        let pool =
            Pool::new(&PoolOptions { bytes: 4 << 20, lock: false, ..PoolOptions::default() })
                .expect("memory");
        for region in pool.regions() {
            pair.register(region).expect("a place for a region");
        }
        let format_options = FormatOptions {
            uuid: Uuid::from_u128(u128::from(options.seed) + 1),
            now_ns: 5,
            layout: options.layout,
            force: false,
        };
        let header = format(&mut pair, &pool, &format_options).expect("a fresh device");
        Rig { pair, pool, header, config: config(), now: 0, events: Vec::new(), held: None }
    }

    /// Opens shard 0.
    pub(super) fn open(&mut self) -> Recovered {
        match self.try_open(OpeningMode::Run) {
            Ok(Opened::Running(recovered)) => *recovered,
            Ok(Opened::Inspected(_)) => panic!("asked to run"),
            Err(error) => panic!("opening failed: {error:?}"),
        }
    }

    /// Looks at shard 0.
    pub(super) fn inspect(&mut self) -> Inspection {
        match self.try_open(OpeningMode::Inspect) {
            Ok(Opened::Inspected(inspection)) => *inspection,
            Ok(Opened::Running(_)) => panic!("asked to inspect"),
            Err(error) => panic!("inspection failed: {error:?}"),
        }
    }

    pub(super) fn try_open(&mut self, mode: OpeningMode) -> Result<Opened, OpenError> {
        self.open_shard(0, mode)
    }

    pub(super) fn open_shard(
        &mut self,
        shard: u32,
        mode: OpeningMode,
    ) -> Result<Opened, OpenError> {
        let namespace = self.pair.namespace().clone();
        let mut opening =
            Opening::new(self.config, &namespace, &self.header, shard, mode, &self.pool)?;
        for _ in 0..1_000_000 {
            if let Some(result) = opening.poll() {
                return result;
            }
            while let Some(submission) = opening.poll_submission() {
                if let Err(refused) = self.pair.submit(submission) {
                    opening.give_back(refused);
                    break;
                }
            }
            self.pair.ring();
            self.pair.poll(64, &mut |completion| opening.complete(completion));
        }
        panic!("the opening makes no progress");
    }

    /// Crashes in the middle of an opening: after so many completions.
    pub(super) fn open_and_crash(&mut self, after: u64) {
        let namespace = self.pair.namespace().clone();
        let mode = OpeningMode::Run;
        let mut opening = Opening::new(self.config, &namespace, &self.header, 0, mode, &self.pool)
            .expect("the shard exists");
        let mut seen = 0;
        while seen < after && opening.poll().is_none() {
            while let Some(submission) = opening.poll_submission() {
                if let Err(refused) = self.pair.submit(submission) {
                    opening.give_back(refused);
                    break;
                }
            }
            self.pair.ring();
            self.pair.poll(1, &mut |completion| {
                opening.complete(completion);
                seen += 1;
            });
        }
        self.crash();
    }

    /// Hands the shard's commands to the device.
    pub(super) fn submit(&mut self, shard: &mut Shard) {
        loop {
            let Some(submission) = self.held.take().or_else(|| shard.poll_submission()) else {
                break;
            };
            if let Err(refused) = self.pair.submit(submission) {
                shard.give_back(refused);
                break;
            }
        }
        self.pair.ring();
    }

    /// Passes up to `budget` completions to the shard; events gather in `self.events`.
    pub(super) fn poll(&mut self, shard: &mut Shard, budget: usize) {
        let (now, events) = (self.now, &mut self.events);
        self.pair.poll(budget, &mut |completion: Completion| {
            assert!(shard.owns(completion.tag), "nobody else uses the queue pair");
            shard.complete(now, completion, events);
        });
    }

    /// Turns until everything up to the open batch is durable.
    pub(super) fn settle(&mut self, shard: &mut Shard) {
        let target = shard.open_batch().0;
        for _ in 0..10_000 {
            shard.seal(self.now);
            self.submit(shard);
            self.poll(shard, 64);
            if shard.durable().0 + 1 >= target.max(shard.open_batch().0)
                && shard.commands_in_flight() == 0
            {
                return;
            }
        }
        panic!("the shard makes no progress");
    }

    /// The power fails: commands in flight are gone, the cache is lost as the seed says.
    pub(super) fn crash(&mut self) {
        self.restart();
        self.pair.lose_power();
    }

    /// The power fails, and of the cache only what lies below a byte of the device survives.
    pub(super) fn crash_losing_from(&mut self, byte: u64) {
        self.restart();
        let from = Lba(byte / u64::from(self.pair.namespace().block_size));
        let decide = &mut |lba: Lba| if lba < from { Loss::Keep } else { Loss::Lose };
        self.pair.drop_unflushed(decide);
    }

    /// The process dies: commands in flight are gone, the cache stays.
    pub(super) fn restart(&mut self) {
        self.held = None;
        self.pair.reset().expect("the controller comes back");
        while self.pair.in_flight() > 0 {
            self.pair.poll(64, &mut |_| {});
        }
        self.events.clear();
    }

    /// A buffer of blocks whose bytes follow from a number.
    pub(super) fn payload(&self, blocks: u32, number: u64) -> (Buffer, Vec<u32>) {
        let mut buffer = self.pool.acquire(blocks).expect("a page");
        for (at, word) in buffer.as_mut_slice().chunks_exact_mut(8).enumerate() {
            let value = number.wrapping_mul(0x9e37_79b9).wrapping_add(at as u64 / 64);
            word.copy_from_slice(&value.to_le_bytes());
        }
        let crcs = (0..blocks as usize)
            .map(|block| buffer.crc32c(block * BLOCK_SIZE, BLOCK_SIZE))
            .collect();
        (buffer, crcs)
    }

    /// The bytes at a place of the device, past everything.
    pub(super) fn read(&mut self, byte: u64) -> Buffer {
        let buffer = self.pool.acquire(1).expect("a page");
        let mut blocking = crate::device::Blocking::new(&mut self.pair);
        blocking.read(byte, buffer).expect("a read succeeds")
    }

    /// Overwrites a page of the device, durably.
    pub(super) fn overwrite(&mut self, byte: u64, change: impl FnOnce(&mut [u8])) {
        let mut buffer = self.read(byte);
        change(buffer.as_mut_slice());
        let mut blocking = crate::device::Blocking::new(&mut self.pair);
        blocking.write(byte, buffer.freeze()).expect("a write succeeds");
    }
}
