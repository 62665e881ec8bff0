//! A queue pair, some registered memory, and short ways to use both.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use culvert_memory::{Buffer, Pages, Pool, PoolOptions};
use culvert_nvme::{
    Access, AnyQueuePair, Completion, DeviceClaim, DeviceUri, Lba, OpenError, OpenOptions,
    Operation, QueuePair, Status, Submission, Tag, UringError, WRITE_ZEROES_BLOCKS_MAX, open,
    open_claimed,
};

/// Size of the device that every backend is opened with.
pub const DEVICE_BYTES: u64 = 64 << 20;
/// Names a block device of [`DEVICE_BYTES`] bytes whose contents may be destroyed, for example a
/// loop device: then the suite runs on it, too.
const BLOCK_DEVICE: &str = "CULVERT_TEST_BLOCK_DEVICE";
/// There is one block device for all tests.
static BLOCK_DEVICE_IN_USE: Mutex<()> = Mutex::new(());
/// Names NVMe controllers that are bound to vfio-pci, by their PCI addresses with spaces between
/// them: `CONTROLLER0` is the first. Each has a namespace of [`DEVICE_BYTES`] bytes whose contents
/// may be destroyed: 1 with blocks of 512 bytes, the others with 4096, 2 with metadata beside them, 3
/// with small transfers.
const CONTROLLERS: &str = "CULVERT_TEST_VFIO";
/// Names namespaces of the same kinds while the kernel drives them, as character devices: `NAMESPACE0`
/// is the first.
const NAMESPACES: &str = "CULVERT_TEST_NAMESPACES";
/// Names what SPDK is to connect to, with `%20` for spaces, and spaces between several: `TARGET0` is the
/// first.
const TARGETS: &str = "CULVERT_TEST_SPDK";
static CONTROLLERS_IN_USE: Mutex<()> = Mutex::new(());
/// Depth of the queue pair.
pub const DEPTH: usize = 16;

/// What a test works with. `open_again` makes further queue pairs on devices of the same kind.
pub struct Rig<Q = AnyQueuePair> {
    pub pair: Q,
    pub pool: Pool,
    uri: String,
    directory: tempfile::TempDir,
    files: u32,
    /// A device that is one of its kind: further queue pairs are on the same.
    claim: Option<DeviceClaim>,
    _in_use: Option<MutexGuard<'static, ()>>,
}

pub fn pool() -> Pool {
    Pool::new(&PoolOptions { bytes: 16 << 20, ..PoolOptions::default() }).expect("memory")
}

impl Rig {
    /// Opens a device; `None`, with a message, where this machine has no such backend.
    pub fn open(uri: &str) -> Option<Rig> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let kinds = [("CONTROLLER", CONTROLLERS), ("NAMESPACE", NAMESPACES), ("TARGET", TARGETS)];
        for (kind, variable) in kinds {
            if uri.contains(kind) {
                return Rig::open_one_of_its_kind(uri, directory, (kind, variable));
            }
        }
        let in_use = match uri.contains("DEVICE") {
            true => Some(zeroed_block_device(uri)?),
            false => None,
        };
        let options = OpenOptions { depth: DEPTH as u32, ..OpenOptions::default() };
        let pair = match open(&in_directory(uri, &directory, 0), &options) {
            Ok(pair) => pair,
            Err(OpenError::Uring {
                source: source @ (UringError::Unavailable(_) | UringError::NoDirectIo),
                ..
            }) => {
                eprintln!("skipped: {uri}: {source}");
                return None;
            }
            Err(error) => panic!("{uri}: {error:?}"),
        };
        let mut rig = Rig {
            pair,
            pool: pool(),
            uri: uri.to_owned(),
            directory,
            files: 0,
            claim: None,
            _in_use: in_use,
        };
        rig.register_pool();
        Some(rig)
    }

    /// Opens and clears a controller, or a namespace that the kernel drives.
    fn open_one_of_its_kind(
        uri: &str,
        directory: tempfile::TempDir,
        (kind, variable): (&str, &str),
    ) -> Option<Rig> {
        let stands_in = kind == "TARGET" && !cfg!(has_spdk);
        let names = match std::env::var(variable) {
            _ if stands_in => String::from("stand-in"),
            names => names.unwrap_or_default(),
        };
        let named = names.split_whitespace().enumerate().find_map(|(number, name)| {
            let place = format!("{kind}{number}");
            uri.contains(&place).then(|| uri.replace(&place, name))
        });
        let Some(named) = named else {
            eprintln!("skipped: {uri}: {variable} names no such device");
            return None;
        };
        let in_use = CONTROLLERS_IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let device = named.parse().expect("a good URI");
        let claim = match DeviceClaim::take(&device, Access::Exclusive) {
            Err(OpenError::Uring { source: source @ UringError::PolledKernel, .. }) => {
                eprintln!("skipped: {named}: {source}");
                return None;
            }
            claim => claim.expect("a device of ours"),
        };
        let options = OpenOptions { depth: DEPTH as u32, ..OpenOptions::default() };
        let pair = open_claimed(&claim, &options).expect("a controller that works");
        assert_eq!(pair.namespace().bytes(), DEVICE_BYTES);
        let mut rig = Rig {
            pair,
            pool: pool(),
            uri: named,
            directory,
            files: 0,
            claim: Some(claim),
            _in_use: Some(in_use),
        };
        rig.register_pool();
        rig.clear();
        Some(rig)
    }

    /// Makes every block zero, and begins to count anew.
    fn clear(&mut self) {
        let blocks = self.pair.namespace().blocks;
        for (tag, first) in (0..blocks).step_by(WRITE_ZEROES_BLOCKS_MAX as usize).enumerate() {
            let count = (blocks - first).min(u64::from(WRITE_ZEROES_BLOCKS_MAX)) as u32;
            let zeroes =
                Operation::WriteZeroes { lba: Lba(first), blocks: count, deallocate: false };
            self.submit(tag as u64, zeroes);
        }
        for (_, completion) in self.finish() {
            assert!(completion.status.is_success(), "{}", completion.status);
        }
        let claim = self.claim.as_ref().expect("a controller is claimed");
        let options = OpenOptions { depth: DEPTH as u32, ..OpenOptions::default() };
        self.pair = open_claimed(claim, &options).expect("another queue pair");
        self.register_pool();
    }

    /// Opens another device of the same kind.
    pub fn open_again(&mut self, options: &OpenOptions) -> AnyQueuePair {
        if let Some(claim) = &self.claim {
            return open_claimed(claim, options).expect("it has more queues");
        }
        self.files += 1;
        let uri = in_directory(&self.uri, &self.directory, self.files);
        open(&uri, options).expect("it was opened before")
    }
}

/// Waits for the block device and clears it; `None`, with a message, when there is none.
fn zeroed_block_device(uri: &str) -> Option<MutexGuard<'static, ()>> {
    let Some(path) = std::env::var_os(BLOCK_DEVICE) else {
        eprintln!("skipped: {uri}: {BLOCK_DEVICE} names no block device");
        return None;
    };
    let guard = BLOCK_DEVICE_IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut device = std::fs::OpenOptions::new().write(true).open(path).expect("opening");
    device.write_all(&vec![0; DEVICE_BYTES as usize]).expect("clearing the block device");
    device.sync_all().expect("clearing the block device");
    Some(guard)
}

/// Puts a path in the place of `FILE` or `DEVICE`.
fn in_directory(uri: &str, directory: &tempfile::TempDir, file: u32) -> DeviceUri {
    let path = directory.path().join(format!("device-{file}"));
    let uri = uri.replace("FILE", path.to_str().expect("a path in ASCII"));
    let uri = uri.replace("DEVICE", &std::env::var(BLOCK_DEVICE).unwrap_or_default());
    uri.parse().expect("a good URI")
}

impl<Q: QueuePair> Rig<Q> {
    pub fn register_pool(&mut self) {
        for region in self.pool.regions() {
            self.pair.register(region).expect("registering the pool");
        }
    }

    /// Whether the device is not made for the test: it has limits of its own.
    pub fn is_one_of_its_kind(&self) -> bool {
        self.claim.is_some()
    }

    pub fn block_size(&self) -> usize {
        self.pair.namespace().block_size as usize
    }

    /// Metadata that go to the device with a write of so many bytes.
    pub fn metadata_bytes(&self, bytes: u64) -> u64 {
        let namespace = self.pair.namespace();
        bytes / u64::from(namespace.block_size) * u64::from(namespace.metadata_bytes)
    }

    /// Blocks of a page.
    pub fn per_page(&self) -> u64 {
        u64::from(self.pair.namespace().blocks_per_page())
    }

    /// Pages whose bytes are made from a seed.
    pub fn filled(&self, pages: u32, seed: u64) -> Buffer {
        let mut buffer = self.pool.acquire(pages).expect("the pool is large enough");
        let bytes = pattern(seed, buffer.len());
        buffer.copy_from_slice(0, &bytes);
        buffer
    }

    #[allow(clippy::result_large_err, reason = "the operation goes back, unboxed")]
    pub fn try_submit(&mut self, tag: u64, operation: Operation) -> Result<(), Submission> {
        self.pair.submit(Submission { tag: Tag(tag), operation })
    }

    pub fn submit(&mut self, tag: u64, operation: Operation) {
        self.try_submit(tag, operation).expect("the queue has room");
    }

    /// Rings, and polls until nothing is in flight.
    pub fn finish(&mut self) -> HashMap<u64, Completion> {
        self.pair.ring();
        finish(&mut self.pair)
    }

    /// One operation from its submission to its completion.
    pub fn run(&mut self, operation: Operation) -> Completion {
        self.submit(7, operation);
        self.finish().remove(&7).expect("the completion has the tag of its submission")
    }

    /// Runs an operation that succeeds.
    pub fn run_well(&mut self, operation: Operation) -> Completion {
        let completion = self.run(operation);
        assert!(completion.status.is_success(), "{}", completion.status);
        completion
    }

    /// Runs an operation that fails.
    pub fn run_badly(&mut self, operation: Operation, expected: Status) -> Completion {
        let completion = self.run(operation);
        assert!(completion.status.same_code(expected), "{} for {expected}", completion.status);
        completion
    }

    /// Pages of the largest transfer.
    pub fn transfer_pages_max(&self) -> u32 {
        self.pair.namespace().transfer_bytes_max / 4096
    }

    /// Writes as many pages as there are, in parts where the device's transfers are smaller.
    pub fn write(&mut self, lba: u64, buffer: Buffer) -> Pages {
        let pages = buffer.freeze();
        for (first, count) in parts(pages.pages(), self.transfer_pages_max()) {
            let lba = Lba(lba + u64::from(first) * self.per_page());
            let part = pages.slice(first, count);
            let written = self.run_well(Operation::Write { lba, pages: part, fua: false });
            assert!(written.pages.is_some(), "a write hands its pages back");
        }
        pages
    }

    /// Reads, likewise.
    pub fn read(&mut self, lba: u64, pages: u32) -> Buffer {
        let mut whole = self.pool.acquire(pages).expect("the pool is large enough");
        for (first, count) in parts(pages, self.transfer_pages_max()) {
            let lba = Lba(lba + u64::from(first) * self.per_page());
            // Old bytes are not to be mistaken for what was read.
            let buffer = self.filled(count, 0xdead);
            let read = self.run_well(Operation::Read { lba, buffer });
            let part = read.buffer.expect("a read hands its buffer back");
            whole.copy_from_slice(first as usize * 4096, part.as_slice());
        }
        whole
    }
}

/// Cuts a number of pages into parts: where each begins, and how long it is.
fn parts(pages: u32, part_max: u32) -> impl Iterator<Item = (u32, u32)> {
    let firsts = (0..pages).step_by(part_max as usize);
    firsts.map(move |first| (first, (pages - first).min(part_max)))
}

/// Polls until nothing is in flight, and gives the completions by tag.
pub fn finish(pair: &mut impl QueuePair) -> HashMap<u64, Completion> {
    let mut completions = HashMap::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while pair.in_flight() > 0 {
        pair.poll(64, &mut |completion| {
            let tag = completion.tag.0;
            assert!(completions.insert(tag, completion).is_none(), "tag {tag} completed twice");
        });
        assert!(Instant::now() < deadline, "{} commands never completed", pair.in_flight());
    }
    completions
}

/// Bytes made from a seed, different for each seed and 8-byte word.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64 / 8)
        .flat_map(|word| {
            let mixed = (seed << 32 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ (mixed >> 29)).to_le_bytes()
        })
        .collect()
}
