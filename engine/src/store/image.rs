//! Chunk images: a frozen chunk, or what is known of absent ones, as bytes of a checkpoint.
//!
//! An image is written in pieces of bounded size, all from one frozen image, so that the chunk is
//! captured at one index and "replay skips an entry whose index is not above its chunk's applied
//! index" holds for every block of it. Of each leaf that was ever touched a piece holds which
//! blocks were, as a bitmap or, where they are few, as a list, and their entries. Byte map:
//! `docs/format/chunk-image.md`.
//!
//! Fault model: the checkpoint guards pieces by a CRC; the bytes are still not believed. Whatever
//! they are, `ChunkMap::load` returns or reports, and the store is thrown away after an error.

use arrayvec::ArrayVec;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{ChunkId, CopysetId, LogIndex};
use crate::store::absence::Absence;
use crate::store::chunk_map::{Chunk, ChunkMap};
use crate::store::frozen::FrozenId;
use crate::store::leaf::{ENTRY_BYTES, Entry, LEAF_BLOCKS, LeafId};
use crate::store::{ChunkKey, LOG_INDEX_MAX, Place};

/// "CKIM".
const MAGIC: u32 = u32::from_le_bytes(*b"CKIM");
const VERSION: u16 = 2;
/// The version that had no lists.
const VERSION_MIN: u16 = 1;
const KIND_CHUNK: u8 = 1;
const KIND_ABSENCES: u8 = 2;
const FLAG_FIRST: u8 = 1;
const FLAG_LAST: u8 = 2;
const ABSENCE_LISTED: u16 = 1;
const FORM_BITMAP: u16 = 0;
const FORM_LIST: u16 = 1;

const HEADER_BYTES: usize = size_of::<PieceHeader>();
const SECTION_BYTES: usize = size_of::<SectionHeader>();
const BITMAP_BYTES: usize = LEAF_BLOCKS as usize / 8;
const ABSENCE_BYTES: usize = size_of::<AbsenceItem>();

/// Bytes of the shortest buffer that a piece can be encoded to: one full leaf.
pub const PIECE_BYTES_MIN: usize =
    HEADER_BYTES + SECTION_BYTES + BITMAP_BYTES + LEAF_BLOCKS as usize * ENTRY_BYTES;

const _: () = assert!(HEADER_BYTES == 64);
const _: () = assert!(SECTION_BYTES == 8);
const _: () = assert!(ABSENCE_BYTES == 16);

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PieceHeader {
    magic: U32,
    kind: u8,
    flags: u8,
    version: U16,
    /// Bytes of the piece, header included.
    length: U32,
    copyset: U32,
    /// The chunk; zero for absences.
    chunk: U64,
    /// Its birth; zero for absences.
    birth: U64,
    /// Its applied index; for absences the index of the copyset's last list, or zero.
    applied: U64,
    chunk_blocks: U32,
    /// Sections, or absences, of this piece.
    items: U32,
    /// Mapped blocks of the whole chunk; zero for absences.
    mapped: U32,
    /// Entries above this index only, to be added to the chunk as it was there; zero: all.
    since: U64,
    reserved: [u8; 4],
}

/// What is said of one leaf. Which blocks have an entry follows, then the entries.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SectionHeader {
    /// The leaf: its first block is 512 times this.
    leaf: U32,
    entries: U16,
    /// Bitmap: bit `i % 8` of byte `i / 8` stands for block `i` of the leaf. List: a `u16` for each
    /// block, ascending.
    form: U16,
}

/// Blocks of a leaf that have an entry, ascending.
type Present = ArrayVec<u16, { LEAF_BLOCKS as usize }>;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct AbsenceItem {
    chunk: U64,
    /// 48 bits of the index of its deletion, or zero.
    deleted: [u8; 6],
    flags: U16,
}

/// The result of encoding one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded<N> {
    /// Bytes written to the front of the buffer; zero: there is nothing to say.
    pub bytes: usize,
    /// Where the next piece begins; `None`: this was the last.
    pub next: Option<N>,
}

/// What an image piece brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// A part of a chunk; more pieces follow.
    Part(ChunkKey),
    /// The last piece of a chunk.
    Chunk(ChunkKey),
    /// What is known of chunks that do not exist.
    Absences(CopysetId),
}

/// Why bytes are not a piece of an image that fits what was loaded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Fewer or more bytes than the piece says it has.
    #[error("image piece has the wrong length")]
    Length,
    /// A field holds a value that no writer produces.
    #[error("image field {0} holds an impossible value")]
    Field(&'static str),
    /// The piece does not follow the one before it.
    #[error("image piece is out of order")]
    Order,
}

/// How far loading is.
#[derive(Debug, Default)]
pub(super) struct Loader {
    /// The chunk whose pieces are being loaded.
    current: Option<Loading>,
    /// The chunks that the checkpoint, or the increment to it, has had, ascending.
    loaded: Vec<ChunkKey>,
}

impl Loader {
    /// The chunk that more pieces are needed of.
    pub(super) fn unfinished(&self) -> Option<ChunkKey> {
        self.current.map(|loading| loading.key)
    }

    fn has(&self, key: ChunkKey) -> bool {
        self.loaded.binary_search(&key).is_ok()
    }
}

/// The chunk whose pieces are being loaded.
#[derive(Clone, Copy, Debug)]
struct Loading {
    key: ChunkKey,
    mapped: u32,
    since: LogIndex,
    /// The leaf that the next section is of, or one behind it.
    leaf: u32,
}

impl ChunkMap {
    /// Encodes what is above `since` of the image from block `from` (zero, or what the last call
    /// returned) on.
    pub(super) fn encode_chunk(
        &self,
        id: FrozenId,
        since: LogIndex,
        from: u32,
        out: &mut [u8],
    ) -> Encoded<u32> {
        assert!(out.len() >= PIECE_BYTES_MIN);
        assert_eq!(from % LEAF_BLOCKS, 0);
        let frozen = self.frozen.get(id);
        let summary = frozen.summary;
        let mut header = PieceHeader {
            birth: summary.birth.0.into(),
            applied: summary.applied.0.into(),
            chunk: summary.key.chunk.0.into(),
            mapped: summary.mapped.into(),
            since: since.0.into(),
            ..self.piece_header(KIND_CHUNK, summary.key.copyset)
        };
        let mut bytes = HEADER_BYTES;
        let mut next = None;
        let mut sections = 0;
        for (number, &leaf) in (0..).zip(&*frozen.leaves).skip((from / LEAF_BLOCKS) as usize) {
            if self.leaves.newest(leaf) <= since {
                continue;
            }
            let Some(section) = self.encode_leaf(number, leaf, since, &mut out[bytes..]) else {
                next = Some(number * LEAF_BLOCKS);
                break;
            };
            bytes += section;
            sections += u32::from(section > 0);
        }
        header.items = U32::new(sections);
        header.flags |= if from == 0 { FLAG_FIRST } else { 0 };
        header.flags |= if next.is_none() { FLAG_LAST } else { 0 };
        header.length = U32::new(bytes as u32);
        out[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        Encoded { bytes, next }
    }

    fn piece_header(&self, kind: u8, copyset: CopysetId) -> PieceHeader {
        PieceHeader {
            magic: MAGIC.into(),
            version: VERSION.into(),
            kind,
            copyset: copyset.0.into(),
            chunk_blocks: self.chunk_blocks.into(),
            ..PieceHeader::new_zeroed()
        }
    }

    /// Encodes what is above `since` of a leaf and returns its bytes, none if nothing is; `None` if
    /// it does not fit.
    fn encode_leaf(
        &self,
        number: u32,
        leaf: LeafId,
        since: LogIndex,
        out: &mut [u8],
    ) -> Option<usize> {
        let touched =
            || (0..).zip(self.leaves.entries(leaf)).filter(|(_, entry)| entry.index() > since);
        let entries = touched().count();
        if entries == 0 {
            return Some(0);
        }
        let list_bytes = entries * size_of::<u16>();
        let (form, present_bytes) = match list_bytes < BITMAP_BYTES {
            true => (FORM_LIST, list_bytes),
            false => (FORM_BITMAP, BITMAP_BYTES),
        };
        let section = SectionHeader {
            leaf: number.into(),
            entries: U16::new(entries as u16),
            form: form.into(),
        };
        let bytes = SECTION_BYTES + present_bytes + entries * ENTRY_BYTES;
        let (head, rest) = out.get_mut(..bytes)?.split_at_mut(SECTION_BYTES);
        head.copy_from_slice(section.as_bytes());
        let (present, body) = rest.split_at_mut(present_bytes);
        present.fill(0);
        for (nth, (at, entry)) in touched().enumerate() {
            if form == FORM_LIST {
                present[2 * nth..][..2].copy_from_slice(&u16::to_le_bytes(at));
            } else {
                present[usize::from(at) / 8] |= 1 << (at % 8);
            }
            body[nth * ENTRY_BYTES..][..ENTRY_BYTES].copy_from_slice(entry.as_bytes());
        }
        Some(bytes)
    }

    /// Encodes what is known of the copyset's absent chunks behind `after`.
    pub(super) fn encode_absences(
        &self,
        copyset: CopysetId,
        after: Option<ChunkId>,
        out: &mut [u8],
    ) -> Encoded<ChunkId> {
        assert!(out.len() >= PIECE_BYTES_MIN);
        let list = self.absences.list(copyset);
        let room = (out.len() - HEADER_BYTES) / ABSENCE_BYTES;
        let mut items = 0;
        let mut next = None;
        let mut last = None;
        for (chunk, absence) in self.absences.after(copyset, after) {
            if items == room {
                next = last;
                break;
            }
            let deleted = absence.deleted.0.to_le_bytes();
            let item = AbsenceItem {
                chunk: chunk.0.into(),
                deleted: deleted[..6].try_into().expect("six bytes"),
                flags: U16::new(if absence.listed { ABSENCE_LISTED } else { 0 }),
            };
            let at = HEADER_BYTES + items * ABSENCE_BYTES;
            out[at..at + ABSENCE_BYTES].copy_from_slice(item.as_bytes());
            items += 1;
            last = Some(chunk);
        }
        if items == 0 && list == LogIndex(0) {
            return Encoded { bytes: 0, next: None };
        }
        let bytes = HEADER_BYTES + items * ABSENCE_BYTES;
        let header = PieceHeader {
            applied: list.0.into(),
            items: U32::new(items as u32),
            length: U32::new(bytes as u32),
            ..self.piece_header(KIND_ABSENCES, copyset)
        };
        out[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        Encoded { bytes, next }
    }

    /// Takes in one piece. `loading` is kept between calls.
    pub(super) fn load(
        &mut self,
        piece: &[u8],
        data_blocks: u32,
        loader: &mut Loader,
    ) -> Result<Loaded, ImageError> {
        let (header, body) = PieceHeader::ref_from_prefix(piece).map_err(|_| ImageError::Length)?;
        header.check(piece.len(), self.chunk_blocks)?;
        let copyset = CopysetId(header.copyset.get());
        if header.kind == KIND_ABSENCES {
            if loader.current.is_some() {
                return Err(ImageError::Order);
            }
            self.load_absences(header, body, loader)?;
            return Ok(Loaded::Absences(copyset));
        }
        let key = ChunkKey { copyset, chunk: ChunkId(header.chunk.get()) };
        let mut current = self.continue_loading(header, key, loader)?;
        self.load_sections(header, body, data_blocks, &mut current)?;
        if header.flags & FLAG_LAST == 0 {
            loader.current = Some(current);
            return Ok(Loaded::Part(key));
        }
        if self.chunks[&key].mapped != current.mapped {
            return Err(ImageError::Field("mapped"));
        }
        loader.loaded.push(key);
        Ok(Loaded::Chunk(key))
    }

    pub(super) fn loaded(&mut self, loader: &mut Loader) -> Result<(), ImageError> {
        if loader.current.is_some() {
            return Err(ImageError::Order);
        }
        let gone: Vec<ChunkKey> =
            self.chunks.keys().copied().filter(|key| !loader.has(*key)).collect();
        gone.into_iter().for_each(|key| self.drop_loaded(key));
        loader.loaded.clear();
        Ok(())
    }

    /// Checks that the piece begins a chunk or follows the last one.
    fn continue_loading(
        &mut self,
        header: &PieceHeader,
        key: ChunkKey,
        loader: &mut Loader,
    ) -> Result<Loading, ImageError> {
        let (birth, applied) = (LogIndex(header.birth.get()), LogIndex(header.applied.get()));
        let (mapped, since) = (header.mapped.get(), LogIndex(header.since.get()));
        let first = header.flags & FLAG_FIRST != 0;
        if let Some(loading) = loader.current.take() {
            let chunk = &self.chunks[&loading.key];
            let same = loading.key == key
                && (loading.mapped, loading.since) == (mapped, since)
                && (chunk.birth, chunk.applied) == (birth, applied);
            return if same && !first { Ok(loading) } else { Err(ImageError::Order) };
        }
        let ascends = loader.loaded.last().is_none_or(|last| *last < key);
        if !first || !ascends || self.absences.covers(key, birth) {
            return Err(ImageError::Order);
        }
        if birth == LogIndex(0) || birth > applied || applied > LOG_INDEX_MAX || since > applied {
            return Err(ImageError::Field("applied"));
        }
        if since > LogIndex(0) {
            let chunk = self.chunks.get_mut(&key);
            let before = chunk.filter(|chunk| (chunk.birth, chunk.applied) == (birth, since));
            before.ok_or(ImageError::Field("since"))?.applied = applied;
        } else {
            if self.chunks.contains_key(&key) {
                self.drop_loaded(key);
            }
            let chunk = Chunk { applied, ..Chunk::born(birth, self.chunk_blocks) };
            self.chunks.insert(key, chunk);
        }
        Ok(Loading { key, mapped, since, leaf: 0 })
    }

    fn load_sections(
        &mut self,
        header: &PieceHeader,
        mut body: &[u8],
        data_blocks: u32,
        loading: &mut Loading,
    ) -> Result<(), ImageError> {
        for _ in 0..header.items.get() {
            let (section, rest) =
                SectionHeader::ref_from_prefix(body).map_err(|_| ImageError::Length)?;
            let (present, rest) = section.present(rest)?;
            let (entries, rest) = <[Entry]>::ref_from_prefix_with_elems(rest, present.len())
                .map_err(|_| ImageError::Length)?;
            self.load_section(section.leaf.get(), &present, entries, data_blocks, loading)?;
            body = rest;
        }
        if body.is_empty() { Ok(()) } else { Err(ImageError::Length) }
    }

    fn load_section(
        &mut self,
        leaf: u32,
        present: &[u16],
        entries: &[Entry],
        data_blocks: u32,
        loading: &mut Loading,
    ) -> Result<(), ImageError> {
        use ImageError::Field;
        if leaf < loading.leaf {
            return Err(ImageError::Order);
        }
        if leaf >= self.chunk_blocks.div_ceil(LEAF_BLOCKS) {
            return Err(Field("leaf"));
        }
        loading.leaf = leaf + 1;
        let blocks = present.iter().map(|&at| leaf * LEAF_BLOCKS + u32::from(at));
        let chunk_blocks = self.chunk_blocks;
        let chunk = &self.chunks[&loading.key];
        let lived = chunk.birth.max(loading.since.next())..=chunk.applied;
        let mut swing = self.reopen(loading.key);
        for (block, entry) in blocks.zip(entries) {
            let state = entry.state();
            if block >= chunk_blocks {
                return Err(Field("block"));
            }
            if !lived.contains(&state.index) {
                return Err(Field("index"));
            }
            let placed = match state.place {
                Place::Hole => state.crc == 0,
                Place::At(place) => place < data_blocks,
                Place::Missing => true,
            };
            if !placed {
                return Err(Field("place"));
            }
            swing.set(block, state);
        }
        swing.finish();
        Ok(())
    }

    /// Drops a chunk while a shard recovers: what it names is derived later.
    fn drop_loaded(&mut self, key: ChunkKey) {
        let chunk = self.chunks.remove(&key).expect("a chunk");
        ChunkMap::count(&mut self.mapped, key.copyset, -i64::from(chunk.mapped));
        for &leaf in chunk.leaves.iter().filter(|&&leaf| leaf != LeafId::NONE) {
            assert!(self.leaves.abandon(leaf), "nothing is frozen while a shard recovers");
            self.leaves.reuse(leaf);
        }
    }

    fn load_absences(
        &mut self,
        header: &PieceHeader,
        body: &[u8],
        loader: &mut Loader,
    ) -> Result<(), ImageError> {
        use ImageError::Field;
        let copyset = CopysetId(header.copyset.get());
        let list = LogIndex(header.applied.get());
        if list > LOG_INDEX_MAX || (header.chunk.get(), header.birth.get()) != (0, 0) {
            return Err(Field("applied"));
        }
        let items = <[AbsenceItem]>::ref_from_bytes(body).map_err(|_| ImageError::Length)?;
        if items.len() != header.items.get() as usize {
            return Err(ImageError::Length);
        }
        if !items.is_sorted_by(|one, next| one.chunk.get() < next.chunk.get()) {
            return Err(ImageError::Order);
        }
        self.absences.load_list(copyset, list);
        for item in items {
            let key = ChunkKey { copyset, chunk: ChunkId(item.chunk.get()) };
            let [a, b, c, d, e, f] = item.deleted;
            let deleted = LogIndex(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]));
            let listed = item.flags.get() & ABSENCE_LISTED != 0;
            if item.flags.get() > ABSENCE_LISTED || deleted == LogIndex(0) && !listed {
                return Err(Field("absence"));
            }
            if let Some(chunk) = self.chunks.get(&key)
                && loader.has(key)
                && chunk.birth <= deleted
            {
                // Captured, and deleted before the absences were captured.
                if deleted <= chunk.applied {
                    return Err(Field("deleted"));
                }
                self.drop_loaded(key);
            }
            self.absences.load(key, Absence { deleted, listed });
        }
        Ok(())
    }
}

impl SectionHeader {
    /// The blocks that have an entry, and what follows them.
    fn present<'a>(&self, body: &'a [u8]) -> Result<(Present, &'a [u8]), ImageError> {
        let entries = usize::from(self.entries.get());
        let (present, rest): (Present, _) = match self.form.get() {
            FORM_BITMAP => {
                let (bitmap, rest) =
                    body.split_at_checked(BITMAP_BYTES).ok_or(ImageError::Length)?;
                let blocks = (0..LEAF_BLOCKS as u16)
                    .filter(|&at| bitmap[usize::from(at) / 8] >> (at % 8) & 1 != 0);
                (blocks.collect(), rest)
            }
            FORM_LIST => {
                let (list, rest) = <[U16]>::ref_from_prefix_with_elems(body, entries)
                    .map_err(|_| ImageError::Length)?;
                let ascends = list.is_sorted_by(|one, next| one.get() < next.get());
                let last = list.last().map_or(0, |at| at.get());
                if !ascends || u32::from(last) >= LEAF_BLOCKS {
                    return Err(ImageError::Field("present"));
                }
                (list.iter().map(|at| at.get()).collect(), rest)
            }
            _ => return Err(ImageError::Field("form")),
        };
        if present.len() != entries || entries == 0 {
            return Err(ImageError::Field("present"));
        }
        Ok((present, rest))
    }
}

impl PieceHeader {
    /// Checks all that does not depend on what was loaded before.
    fn check(&self, bytes: usize, chunk_blocks: u32) -> Result<(), ImageError> {
        use ImageError::Field;
        let versions = VERSION_MIN..=VERSION;
        if self.magic.get() != MAGIC || !versions.contains(&self.version.get()) {
            return Err(Field("magic"));
        }
        if self.length.get() as usize != bytes {
            return Err(ImageError::Length);
        }
        let (flags, mapped) = match self.kind {
            KIND_CHUNK => (FLAG_FIRST | FLAG_LAST, chunk_blocks),
            KIND_ABSENCES if self.since.get() == 0 => (0, 0),
            _ => return Err(Field("kind")),
        };
        if self.flags & !flags != 0 || self.reserved != [0; 4] {
            return Err(Field("flags"));
        }
        if self.mapped.get() > mapped {
            return Err(Field("mapped"));
        }
        if self.chunk_blocks.get() != chunk_blocks {
            return Err(Field("chunk_blocks"));
        }
        Ok(())
    }
}
