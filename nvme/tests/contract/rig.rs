//! A queue pair, some registered memory, and short ways to use both.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use culvert_memory::{Buffer, Pages, Pool, PoolOptions};
use culvert_nvme::{
    AnyQueuePair, Completion, DeviceUri, Lba, OpenError, OpenOptions, Operation, QueuePair, Status,
    Submission, Tag, UringError, open,
};

/// Size of the device that every backend is opened with.
pub const DEVICE_BYTES: u64 = 64 << 20;
/// Names a block device of [`DEVICE_BYTES`] bytes whose contents may be destroyed, for example a
/// loop device: then the suite runs on it, too.
const BLOCK_DEVICE: &str = "CULVERT_TEST_BLOCK_DEVICE";
/// There is one block device for all tests.
static BLOCK_DEVICE_IN_USE: Mutex<()> = Mutex::new(());
/// Depth of the queue pair.
pub const DEPTH: usize = 16;

/// What a test works with. `open_again` makes further queue pairs on devices of the same kind.
pub struct Rig<Q = AnyQueuePair> {
    pub pair: Q,
    pub pool: Pool,
    uri: String,
    directory: tempfile::TempDir,
    files: u32,
    _block_device: Option<MutexGuard<'static, ()>>,
}

pub fn pool() -> Pool {
    Pool::new(&PoolOptions { bytes: 16 << 20, ..PoolOptions::default() }).expect("memory")
}

impl Rig {
    /// Opens a device; `None`, with a message, where this machine has no such backend.
    pub fn open(uri: &str) -> Option<Rig> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let block_device = match uri.contains("DEVICE") {
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
            _block_device: block_device,
        };
        rig.register_pool();
        Some(rig)
    }

    /// Opens another device of the same kind.
    pub fn open_again(&mut self, options: &OpenOptions) -> AnyQueuePair {
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

    pub fn block_size(&self) -> usize {
        self.pair.namespace().block_size as usize
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

    pub fn write(&mut self, lba: u64, buffer: Buffer) -> Pages {
        let write = Operation::Write { lba: Lba(lba), pages: buffer.freeze(), fua: false };
        self.run_well(write).pages.expect("a write hands its pages back")
    }

    pub fn read(&mut self, lba: u64, pages: u32) -> Buffer {
        // Old bytes are not to be mistaken for what was read.
        let buffer = self.filled(pages, 0xdead);
        let read = Operation::Read { lba: Lba(lba), buffer };
        self.run_well(read).buffer.expect("a read hands its buffer back")
    }
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
