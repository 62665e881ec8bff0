//! A queue pair that remembers what it overwrites until that is flushed.
//!
//! Before a write reaches the device, the bytes that it replaces go to a side file; what the write
//! becomes durable by - a flush that was submitted after the write's completion was seen, or force
//! unit access - is noted there before the caller learns of it. The side file is written through
//! the page cache, which outlives the process. So after the process was killed, somebody else can
//! [take back](take_back) whatever the device was still free to lose.
//!
//! ```text
//! record = kind u64 | id u64 | offset u64 | length u64 | length bytes
//! kind 1: write `id` replaces these bytes at `offset` of the device
//! kind 2: the bytes are ids of writes, 8 each, that are durable
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use culvert_memory::Region;
use culvert_nvme::{
    Completion, Counters, Namespace, Operation, QueuePair, RegisterError, Submission, Tag, Wake,
};

use crate::rig::random::Random;

const SECTOR: u64 = 512;
const ALIGNMENT: usize = 4096;
const HEAD_BYTES: usize = 32;
const REPLACED: u64 = 1;
const DURABLE: u64 = 2;

/// Bytes of the side file past which it is begun anew, when nothing in it counts any more.
const SIDE_BYTES_MAX: u64 = 64 << 10;

enum Pending {
    Write { id: u64, fua: bool },
    Flush { covers: Vec<u64> },
}

/// See the module's documentation.
pub struct UndoLogged<Q> {
    inner: Q,
    /// The device once more, to look at what will be overwritten.
    device: File,
    side: File,
    side_bytes: u64,
    next_id: u64,
    /// By tag; reads are not in it.
    pending: HashMap<Tag, Pending>,
    /// Writes that are not durable, and whether their completion was seen.
    volatile: BTreeMap<u64, bool>,
}

impl<Q: QueuePair> UndoLogged<Q> {
    /// Logs what `inner` does to the file `device` in the file `side`.
    pub fn new(inner: Q, device: &Path, side: &Path) -> io::Result<UndoLogged<Q>> {
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        Ok(UndoLogged {
            inner,
            device: OpenOptions::new().read(true).custom_flags(direct).open(device)?,
            side: OpenOptions::new().create(true).append(true).open(side)?,
            side_bytes: 0,
            next_id: 1,
            pending: HashMap::new(),
            volatile: BTreeMap::new(),
        })
    }

    fn note_submission(&mut self, submission: &Submission) {
        let block = u64::from(self.inner.namespace().block_size);
        let pending = match &submission.operation {
            Operation::Read { .. } | Operation::ReadWithMetadata { .. } => return,
            // A file refuses the latter.
            Operation::Write { lba, pages, fua }
            | Operation::WriteWithMetadata { lba, pages, fua, .. } => {
                let id = self.keep(&[(lba.0 * block, pages.len() as u64)]);
                Pending::Write { id, fua: *fua }
            }
            Operation::WriteBlocks { lba, blocks, fua, .. } => {
                let id = self.keep(&[(lba.0 * block, u64::from(*blocks) * block)]);
                Pending::Write { id, fua: *fua }
            }
            Operation::WriteZeroes { lba, blocks, .. } => {
                let id = self.keep(&[(lba.0 * block, u64::from(*blocks) * block)]);
                Pending::Write { id, fua: false }
            }
            Operation::Deallocate { ranges } => {
                let bytes = |blocks: u32| u64::from(blocks) * block;
                let ranges =
                    ranges.iter().map(|range| (range.start.0 * block, bytes(range.blocks)));
                let ranges: Vec<_> = ranges.collect();
                Pending::Write { id: self.keep(&ranges), fua: false }
            }
            Operation::Flush => {
                let seen = self.volatile.iter().filter(|(_, seen)| **seen);
                Pending::Flush { covers: seen.map(|(id, _)| *id).collect() }
            }
        };
        let before = self.pending.insert(submission.tag, pending);
        assert!(before.is_none(), "tags in flight differ");
    }

    /// Keeps what a write is about to replace.
    fn keep(&mut self, ranges: &[(u64, u64)]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        for (offset, length) in ranges {
            let mut room = vec![0; *length as usize + ALIGNMENT];
            let start = room.as_ptr().align_offset(ALIGNMENT);
            let old = &mut room[start..start + *length as usize];
            self.device.read_exact_at(old, *offset).expect("the device can be read");
            let record = record(REPLACED, id, *offset, old);
            self.append(&record);
        }
        self.volatile.insert(id, false);
        id
    }

    fn append(&mut self, record: &[u8]) {
        self.side.write_all(record).expect("the side file takes a record");
        self.side_bytes += record.len() as u64;
    }
}

/// Notes what a completion means, before anybody else sees it.
fn note_completion<Q: QueuePair>(log: &mut UndoLogged<Q>, completion: &Completion) {
    let Some(pending) = log.pending.remove(&completion.tag) else { return };
    if !completion.status.is_success() {
        return;
    }
    let durable = match pending {
        Pending::Write { id, fua } => {
            log.volatile.insert(id, true);
            if !fua {
                return;
            }
            vec![id]
        }
        Pending::Flush { covers } => covers,
    };
    for id in &durable {
        log.volatile.remove(id);
    }
    if log.volatile.is_empty() && log.side_bytes > SIDE_BYTES_MAX {
        log.side.set_len(0).expect("the side file can be emptied");
        log.side_bytes = 0;
        return;
    }
    let ids: Vec<u8> = durable.iter().flat_map(|id| id.to_le_bytes()).collect();
    log.append(&record(DURABLE, 0, 0, &ids));
}

fn record(kind: u64, id: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD_BYTES + bytes.len());
    for field in [kind, id, offset, bytes.len() as u64] {
        record.extend_from_slice(&field.to_le_bytes());
    }
    record.extend_from_slice(bytes);
    record
}

impl<Q: QueuePair> QueuePair for UndoLogged<Q> {
    fn namespace(&self) -> &Namespace {
        self.inner.namespace()
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        self.inner.register(region)
    }

    fn unregister(&mut self, region: &Region) {
        self.inner.unregister(region);
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        if self.inner.in_flight() == self.inner.depth() {
            return Err(submission);
        }
        self.note_submission(&submission);
        self.inner.submit(submission)
    }

    fn ring(&mut self) {
        self.inner.ring();
    }

    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        let mut completions = Vec::new();
        let visited = self.inner.poll(budget, &mut |completion| completions.push(completion));
        for completion in completions {
            note_completion(self, &completion);
            complete(completion);
        }
        visited
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn depth(&self) -> usize {
        self.inner.depth()
    }

    fn wake(&self) -> Wake<'_> {
        self.inner.wake()
    }

    fn arm(&mut self) -> bool {
        self.inner.arm()
    }

    fn counters(&self) -> &Counters {
        self.inner.counters()
    }
}

/// What became of the writes that were not durable, in pieces of 4 KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// As if never written.
    pub lost: u64,
    /// Only some of their sectors are there.
    pub torn: u64,
    /// There.
    pub kept: u64,
}

/// What a device does with what was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It loses, tears or keeps each piece of 4 KiB, as chance has it.
    AtRandom,
    /// It loses everything: the image holds what was flushed, and nothing else.
    OnlyFlushed,
}

impl Cut {
    /// Which sectors of a piece are kept, one bit each.
    fn kept_sectors(self, random: &mut Random) -> u64 {
        match (self, random.below(4)) {
            (Cut::OnlyFlushed, _) => 0,
            (Cut::AtRandom, 0) => u64::MAX,
            (Cut::AtRandom, 1) => random.bits(),
            (Cut::AtRandom, _) => 0,
        }
    }
}

/// Does to every write that was not durable when the process was killed what `cut` and `random`
/// say, and empties the side file.
pub fn take_back(device: &Path, side: &Path, cut: Cut, random: &mut Random) -> io::Result<Taken> {
    let file = OpenOptions::new().read(true).write(true).open(device)?;
    // Requests of the dead process may still be on their way to the device. Allocating what is
    // allocated changes nothing and waits for them.
    let bytes = file.metadata()?.len();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    let log = match std::fs::read(side) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Taken::default()),
        Err(error) => return Err(error),
    };
    let (replaced, durable) = parse(&log);
    let mut durable_since: HashMap<u64, u64> = HashMap::new();
    for (id, offset, old) in replaced.iter().filter(|(id, ..)| durable.contains_key(id)) {
        for sector in sectors(*offset, old.len()) {
            let newest = durable_since.entry(sector).or_default();
            *newest = (*newest).max(*id);
        }
    }
    let mut taken = Taken::default();
    for (id, offset, old) in replaced.iter().rev().filter(|(id, ..)| !durable.contains_key(id)) {
        for (piece, old) in (0..).zip(old.chunks(ALIGNMENT)) {
            let kept_sectors = cut.kept_sectors(random);
            match kept_sectors {
                0 => taken.lost += 1,
                u64::MAX => taken.kept += 1,
                _ => taken.torn += 1,
            }
            let at = offset + piece * ALIGNMENT as u64;
            for (number, old) in (0..).zip(old.chunks(SECTOR as usize)) {
                let sector = at + number * SECTOR;
                let replaced_since = durable_since.get(&sector).is_some_and(|since| since > id);
                if kept_sectors >> number & 1 == 0 && !replaced_since {
                    file.write_all_at(old, sector)?;
                }
            }
        }
    }
    // What was written here went through the page cache; the next process reads past it.
    file.sync_all()?;
    File::create(side)?;
    Ok(taken)
}

fn sectors(offset: u64, length: usize) -> impl Iterator<Item = u64> {
    (offset..offset + length as u64).step_by(SECTOR as usize)
}

type Replaced<'a> = (u64, u64, &'a [u8]);

/// The writes in a log, in order, and which ids are durable. A record at the end that is not whole
/// was never acted upon.
fn parse(log: &[u8]) -> (Vec<Replaced<'_>>, HashMap<u64, ()>) {
    let mut replaced = Vec::new();
    let mut durable = HashMap::new();
    let mut rest = log;
    while let Some((head, body)) = rest.split_at_checked(HEAD_BYTES) {
        let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let Some((bytes, behind)) = body.split_at_checked(field(24) as usize) else { break };
        match field(0) {
            REPLACED => replaced.push((field(8), field(16), bytes)),
            DURABLE => durable.extend(
                bytes.chunks(8).map(|id| (u64::from_le_bytes(id.try_into().expect("8 bytes")), ())),
            ),
            kind => panic!("a record of kind {kind}"),
        }
        rest = behind;
    }
    (replaced, durable)
}
