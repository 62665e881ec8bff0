//! A table of operations in flight.
//!
//! A [`SlotTable`] has a fixed number of slots and hands out a [`SlotId`] for each value put in.
//! The id travels through a device or over a wire as a plain number and comes back in the
//! completion. It carries the slot's generation, so that a completion that comes twice, or after
//! its operation was given up, finds nothing instead of somebody else's operation. A full table
//! is a normal answer: the value goes back to its owner. All operations take constant time and
//! allocate nothing.

/// Name of a value in a [`SlotTable`]. Never zero as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId {
    /// Which slot.
    pub index: u32,
    /// Which of the values that have been in that slot; never zero.
    pub generation: u32,
}

impl SlotId {
    /// The id as a number for a device or a wire: generation in the upper half, index in the lower.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The id that [`SlotId::to_u64`] made a number of. Any number is safe to try.
    #[inline]
    pub const fn from_u64(number: u64) -> SlotId {
        SlotId { index: number as u32, generation: (number >> 32) as u32 }
    }
}

/// End of the list of vacant slots.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<T> {
    /// Generation of the value in the slot, or of the next one.
    generation: u32,
    entry: Entry<T>,
}

#[derive(Debug)]
enum Entry<T> {
    Occupied(T),
    /// The next vacant slot, or [`NONE`].
    Vacant(u32),
}

/// A table of a fixed number of slots.
#[derive(Debug)]
pub struct SlotTable<T> {
    slots: Box<[Slot<T>]>,
    first_vacant: u32,
    len: u32,
}

impl<T> SlotTable<T> {
    /// A table of `capacity` vacant slots.
    ///
    /// # Panics
    ///
    /// When the capacity is 2^32 - 1.
    pub fn new(capacity: u32) -> SlotTable<T> {
        assert!(capacity < NONE, "an index fits 32 bits");
        let slots = (0..capacity)
            .map(|index| {
                let next = if index + 1 < capacity { index + 1 } else { NONE };
                Slot { generation: 1, entry: Entry::Vacant(next) }
            })
            .collect();
        let first_vacant = if capacity > 0 { 0 } else { NONE };
        SlotTable { slots, first_vacant, len: 0 }
    }

    /// Number of slots.
    pub fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Number of values.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no vacant slot.
    pub fn is_full(&self) -> bool {
        self.first_vacant == NONE
    }

    /// Puts a value in and answers its name.
    ///
    /// # Errors
    ///
    /// The value itself, when the table is full.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<SlotId, T> {
        let index = self.first_vacant;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Err(value);
        };
        let Entry::Vacant(next) = slot.entry else {
            unreachable!("the list of vacant slots names only vacant slots");
        };
        slot.entry = Entry::Occupied(value);
        self.first_vacant = next;
        self.len += 1;
        Ok(SlotId { index, generation: slot.generation })
    }

    /// The name that the next value put in will get; `None` when the table is full.
    #[inline]
    pub fn next_id(&self) -> Option<SlotId> {
        let index = self.first_vacant;
        let slot = self.slots.get(index as usize)?;
        Some(SlotId { index, generation: slot.generation })
    }

    /// The value of that name.
    #[inline]
    pub fn get(&self, id: SlotId) -> Option<&T> {
        match self.slots.get(id.index as usize)? {
            Slot { generation, entry: Entry::Occupied(value) } if *generation == id.generation => {
                Some(value)
            }
            _ => None,
        }
    }

    /// The value of that name, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        match self.slots.get_mut(id.index as usize)? {
            Slot { generation, entry: Entry::Occupied(value) } if *generation == id.generation => {
                Some(value)
            }
            _ => None,
        }
    }

    /// Takes the value of that name out; the name is never valid again (short of 2^32 values
    /// having been in the same slot).
    #[inline]
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        self.get(id)?;
        let slot = &mut self.slots[id.index as usize];
        let entry = std::mem::replace(&mut slot.entry, Entry::Vacant(self.first_vacant));
        slot.generation = next_generation(slot.generation);
        self.first_vacant = id.index;
        self.len -= 1;
        match entry {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant(_) => unreachable!("looked up above"),
        }
    }

    /// All values with their names, by index.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| match &slot.entry {
            Entry::Occupied(value) => Some((SlotId { index, generation: slot.generation }, value)),
            Entry::Vacant(_) => None,
        })
    }

    /// All values with their names, by index, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SlotId, &mut T)> {
        (0..).zip(&mut self.slots).filter_map(|(index, slot)| match &mut slot.entry {
            Entry::Occupied(value) => Some((SlotId { index, generation: slot.generation }, value)),
            Entry::Vacant(_) => None,
        })
    }
}

/// The generation after this one; zero is left out, so that no id is zero as a number.
const fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

#[cfg(test)]
mod tests;
