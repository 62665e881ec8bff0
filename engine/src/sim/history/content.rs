//! The bytes of a block, which say who wrote them.
//!
//! Every sector of a block says which block it is and which value was written, and the rest of it is
//! pseudo-random from both and from its place in the block. So the bytes alone show a block that was
//! torn, misdirected, shifted, damaged, or mixed from two writes. They do not show that a value is
//! too old: that is for the register.

use std::fmt;

use crate::sim::random::Random;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Bytes that a device writes as one.
const SECTOR: usize = 512;
const SECTORS: usize = BLOCK / SECTOR;
const WORD: usize = 8;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// All zeroes: never written, or discarded since.
    Zero,
    /// What the operation of this number wrote.
    Written(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Zero => f.write_str("zero"),
            Value::Written(value) => write!(f, "value {value}"),
        }
    }
}

/// What one sector says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sector {
    /// All zeroes.
    Zero,
    /// As it was written, to this block with this value.
    Whole {
        /// The block.
        block: u64,
        /// The value.
        value: u64,
    },
    /// Bytes that nobody wrote to this place of any block.
    Damaged {
        /// The block that its first bytes name.
        block: u64,
        /// The value that its first bytes name.
        value: u64,
    },
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sector::Zero => f.write_str("zero"),
            Sector::Whole { block, value } => write!(f, "value {value} of block {block}"),
            Sector::Damaged { block, value } => {
                write!(f, "damaged (it names value {value:#x} of block {block:#x})")
            }
        }
    }
}

/// Why bytes are not those of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadBlock {
    /// Its sectors are whole, but not of one write.
    Torn(Box<[Sector; SECTORS]>),
    /// It is another block, whole.
    OtherBlock {
        /// Which one.
        block: u64,
        /// The value written there.
        value: u64,
    },
    /// It is whole, but no operation so far has this number.
    NobodyWrote(u64),
    /// Some of its bytes were never written by anybody.
    Garbage(Box<[Sector; SECTORS]>),
}

impl fmt::Display for BadBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, sectors) = match self {
            BadBlock::OtherBlock { block, value } => {
                return write!(f, "the bytes are value {value} of block {block}");
            }
            BadBlock::NobodyWrote(value) => return write!(f, "nobody wrote value {value}"),
            BadBlock::Torn(sectors) => ("the block is torn", sectors),
            BadBlock::Garbage(sectors) => ("the bytes are damaged", sectors),
        };
        write!(f, "{what}; its sectors:")?;
        for sector in sectors.iter() {
            write!(f, " [{sector}]")?;
        }
        Ok(())
    }
}

/// Fills a block with a value.
///
/// # Panics
///
/// When the bytes are not those of one block.
pub fn fill(block: u64, value: u64, bytes: &mut [u8]) {
    assert_eq!(bytes.len(), BLOCK, "one block is filled");
    for (place, sector) in (0..).zip(bytes.chunks_exact_mut(SECTOR)) {
        for (word, target) in words(block, value, place).zip(sector.chunks_exact_mut(WORD)) {
            target.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// What a block holds, by its bytes.
///
/// # Errors
///
/// What is wrong with the bytes. [`BadBlock::NobodyWrote`] is not among it: the bytes do not say.
///
/// # Panics
///
/// When the bytes are not as many as a block has.
pub fn parse(block: u64, bytes: &[u8]) -> Result<Value, BadBlock> {
    assert_eq!(bytes.len(), BLOCK, "one block is parsed");
    let mut sectors = [Sector::Zero; SECTORS];
    for ((place, bytes), sector) in (0..).zip(bytes.chunks_exact(SECTOR)).zip(&mut sectors) {
        *sector = parse_sector(place, bytes);
    }
    if sectors.iter().any(|sector| matches!(sector, Sector::Damaged { .. })) {
        return Err(BadBlock::Garbage(sectors.into()));
    }
    if sectors.iter().any(|sector| *sector != sectors[0]) {
        return Err(BadBlock::Torn(sectors.into()));
    }
    match sectors[0] {
        Sector::Whole { block: said, value } if said == block => Ok(Value::Written(value)),
        Sector::Whole { block, value } => Err(BadBlock::OtherBlock { block, value }),
        Sector::Zero | Sector::Damaged { .. } => Ok(Value::Zero),
    }
}

fn parse_sector(place: u64, bytes: &[u8]) -> Sector {
    if bytes.iter().all(|byte| *byte == 0) {
        return Sector::Zero;
    }
    let said = |at: usize| {
        u64::from_le_bytes(bytes[at..at + WORD].try_into().expect("a word is as long as a word"))
    };
    let (block, value) = (said(0), said(WORD));
    let expected = words(block, value, place).flat_map(u64::to_le_bytes);
    if expected.eq(bytes.iter().copied()) {
        Sector::Whole { block, value }
    } else {
        Sector::Damaged { block, value }
    }
}

/// The words of a sector: the block, the value, and chance from these and the sector's place.
fn words(block: u64, value: u64, place: u64) -> impl Iterator<Item = u64> {
    let mut random = Random::new(Random::new(block).bits() ^ value.rotate_left(20) ^ place);
    let rest = SECTOR / WORD - 2;
    [block, value].into_iter().chain((0..rest).map(move |_| random.bits()))
}
