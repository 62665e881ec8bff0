//! The rings of frames between two processes.
//!
//! One file per direction, owned by the receiver: a header page, the control ring, the data ring.
//! Byte map: `docs/format/transport.md`. The producer's and the consumer's words lie in cache lines
//! of their own.
//!
//! **Fault model.** The other side may write any byte at any time. An index is taken over only
//! within what an honest peer could have reached; a record is copied out before it is looked at;
//! its length is checked against what the ring holds. So a lying peer gets its connection closed
//! and nothing else.

use std::rc::Rc;

use culvert_memory::{
    Backing, Mapping, MappingError, MappingOptions, PAGE_SIZE, RingCursor, SharedBytes,
};
use zerocopy::IntoBytes;

use crate::Violation;
use crate::envelope::{HEADER_BYTES, Header, PLACEMENT_BYTES, WireRun, padded};

/// Where the data ring's tail lies. The producer writes this line.
const DATA_TAIL: usize = 0;
const CONTROL_TAIL: usize = 4;
/// Set by a producer that waits for room.
const WAITING: usize = 8;
/// Where the data ring's head lies. The consumer writes this line.
const DATA_HEAD: usize = 128;
const CONTROL_HEAD: usize = 132;
/// Set by a consumer that sleeps, cleared by whoever wakes it.
const SLEEPING: usize = 136;
/// Where the control ring begins.
const RINGS: usize = PAGE_SIZE;

/// The sizes of the two rings of one direction, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingSizes {
    pub(crate) data: u32,
    pub(crate) control: u32,
}

impl RingSizes {
    /// Bytes of the file.
    pub(crate) fn file_bytes(self) -> usize {
        RINGS + self.control as usize + self.data as usize
    }

    fn control_ring(self, memory: &SharedBytes) -> SharedBytes {
        memory.slice(RINGS, self.control as usize)
    }

    fn data_ring(self, memory: &SharedBytes) -> SharedBytes {
        memory.slice(RINGS + self.control as usize, self.data as usize)
    }
}

/// The bytes of one ring and our positions in it.
#[derive(Debug)]
struct Ring {
    bytes: SharedBytes,
    cursor: RingCursor,
}

impl Ring {
    fn new(bytes: SharedBytes) -> Self {
        let cursor = RingCursor::new(bytes.len() as u32);
        Self { bytes, cursor }
    }

    fn write(&self, position: u32, source: &[u8]) {
        let index = self.cursor.index(position) as usize;
        let here = source.len().min(self.bytes.len() - index);
        self.bytes.write_bytes(index, &source[..here]);
        if here < source.len() {
            self.bytes.write_bytes(0, &source[here..]);
        }
    }

    fn read(&self, position: u32, target: &mut [u8]) {
        let index = self.cursor.index(position) as usize;
        let here = target.len().min(self.bytes.len() - index);
        let (first, rest) = target.split_at_mut(here);
        self.bytes.read_bytes(index, first);
        if !rest.is_empty() {
            self.bytes.read_bytes(0, rest);
        }
    }
}

/// Which ring of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Data,
    Control,
}

/// The rings that the peer fills and we empty, in our memory.
#[derive(Debug)]
pub(crate) struct Inbound {
    header: SharedBytes,
    mapping: Rc<Mapping>,
    data: Ring,
    control: Ring,
}

/// The rings that we fill, in the peer's memory.
#[derive(Debug)]
pub(crate) struct Outbound {
    header: SharedBytes,
    data: Ring,
    control: Ring,
    /// Whether something was pushed since the last publication.
    pushed: bool,
}

impl Inbound {
    /// Creates our rings.
    pub(crate) fn create(sizes: RingSizes) -> Result<Self, MappingError> {
        let mapping = Rc::new(Mapping::create(&MappingOptions {
            name: String::from("culvert-rings"),
            bytes: sizes.file_bytes(),
            backing: Backing::Ordinary,
            numa_node: None,
            lock: false,
            populate: true,
            seal: true,
        })?);
        let memory = SharedBytes::of_mapping(Rc::clone(&mapping));
        Ok(Self {
            header: memory.slice(0, RINGS),
            data: Ring::new(sizes.data_ring(&memory)),
            control: Ring::new(sizes.control_ring(&memory)),
            mapping,
        })
    }

    /// The file, for the peer.
    pub(crate) fn file(&self) -> &Mapping {
        &self.mapping
    }

    /// Whether there is anything that has not been consumed.
    pub(crate) fn is_ready(&self) -> bool {
        self.header.load_acquire_u32(CONTROL_TAIL) != self.control.cursor.head()
            || self.header.load_acquire_u32(DATA_TAIL) != self.data.cursor.head()
    }

    /// Copies the oldest record of a ring to `record`, whose allocation is large enough for any;
    /// false when the ring is empty. A record may have at most `bytes_max` bytes.
    pub(crate) fn pop(
        &mut self,
        lane: Lane,
        bytes_max: usize,
        record: &mut Vec<u8>,
    ) -> Result<bool, Violation> {
        let (ring, tail_at) = match lane {
            Lane::Data => (&mut self.data, DATA_TAIL),
            Lane::Control => (&mut self.control, CONTROL_TAIL),
        };
        if ring.cursor.is_empty() {
            ring.cursor.accept_tail(self.header.load_acquire_u32(tail_at))?;
            if ring.cursor.is_empty() {
                return Ok(false);
            }
        }
        if ring.cursor.used() < HEADER_BYTES as u32 {
            return Err(Violation::FrameLength { bytes: ring.cursor.used() });
        }
        let position = ring.cursor.head();
        let mut head = [0; HEADER_BYTES];
        ring.read(position, &mut head);
        let header = Header::parse(head, bytes_max)?;
        let bytes = header.padded();
        if bytes > ring.cursor.used() as usize {
            return Err(Violation::FrameLength { bytes: header.length() });
        }
        record.clear();
        record.extend_from_slice(&head);
        record.resize(bytes, 0);
        ring.read(position.wrapping_add(HEADER_BYTES as u32), &mut record[HEADER_BYTES..]);
        ring.cursor.advance_head(bytes as u32);
        Ok(true)
    }

    /// Tells the producer how far we are.
    pub(crate) fn publish(&self) {
        self.header.store_release_u32(CONTROL_HEAD, self.control.cursor.head());
        self.header.store_release_u32(DATA_HEAD, self.data.cursor.head());
    }

    /// Whether the producer waits for room. Meaningful behind a full barrier.
    pub(crate) fn producer_waits(&self) -> bool {
        self.header.load_acquire_u32(WAITING) != 0
    }

    /// Says whether we sleep. A full barrier and a last look at the rings follow before we do.
    pub(crate) fn set_sleeping(&self, sleeping: bool) {
        self.header.store_release_u32(SLEEPING, u32::from(sleeping));
    }
}

impl Outbound {
    /// Takes the peer's rings, of the sizes that its Hello named.
    pub(crate) fn new(mapping: Mapping, sizes: RingSizes) -> Self {
        debug_assert_eq!(mapping.len(), sizes.file_bytes());
        let memory = SharedBytes::of_mapping(Rc::new(mapping));
        Self {
            header: memory.slice(0, RINGS),
            data: Ring::new(sizes.data_ring(&memory)),
            control: Ring::new(sizes.control_ring(&memory)),
            pushed: false,
        }
    }

    /// Whether `bytes` bytes fit a ring, after a look at the consumer's head where they seem not
    /// to.
    pub(crate) fn has_room(&mut self, lane: Lane, bytes: usize) -> Result<bool, Violation> {
        let (ring, head_at) = match lane {
            Lane::Data => (&mut self.data, DATA_HEAD),
            Lane::Control => (&mut self.control, CONTROL_HEAD),
        };
        if ring.cursor.free() as usize >= bytes {
            return Ok(true);
        }
        ring.cursor.accept_head(self.header.load_acquire_u32(head_at))?;
        Ok(ring.cursor.free() as usize >= bytes)
    }

    /// Appends a record for which there is room. Nobody sees it before [`Outbound::publish`].
    pub(crate) fn push(
        &mut self,
        lane: Lane,
        header: Header,
        runs: impl Iterator<Item = WireRun>,
        body: &[u8],
    ) {
        let ring = match lane {
            Lane::Data => &mut self.data,
            Lane::Control => &mut self.control,
        };
        let mut position = ring.cursor.tail();
        let end = position.wrapping_add(header.padded() as u32);
        ring.write(position, header.as_bytes());
        position = position.wrapping_add(HEADER_BYTES as u32);
        for run in runs {
            ring.write(position, run.as_bytes());
            position = position.wrapping_add(PLACEMENT_BYTES as u32);
        }
        ring.write(position, body);
        debug_assert_eq!(position.wrapping_add(padded(body.len()) as u32), end);
        ring.cursor.advance_tail(header.padded() as u32);
        self.pushed = true;
    }

    /// Shows the peer everything pushed so far.
    pub(crate) fn publish(&mut self) {
        if self.pushed {
            self.header.store_release_u32(DATA_TAIL, self.data.cursor.tail());
            self.header.store_release_u32(CONTROL_TAIL, self.control.cursor.tail());
            self.pushed = false;
        }
    }

    /// Whether something was pushed and not published.
    pub(crate) fn is_pushed(&self) -> bool {
        self.pushed
    }

    /// Whether the consumer says that it sleeps; if so, whoever asked has to wake it. Meaningful
    /// behind a full barrier. The mark is cleared before the wake-up is sent, so that one is enough
    /// and none is lost.
    pub(crate) fn take_sleeping(&self) -> bool {
        let sleeping = self.header.load_acquire_u32(SLEEPING) != 0;
        if sleeping {
            self.header.store_release_u32(SLEEPING, 0);
        }
        sleeping
    }

    /// Says whether we wait for room.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.header.store_release_u32(WAITING, u32::from(waiting));
    }

    /// Whether half of a ring is free.
    pub(crate) fn is_half_free(&mut self, lane: Lane) -> Result<bool, Violation> {
        let half = match lane {
            Lane::Data => self.data.bytes.len() / 2,
            Lane::Control => self.control.bytes.len() / 2,
        };
        self.has_room(lane, half)
    }
}
