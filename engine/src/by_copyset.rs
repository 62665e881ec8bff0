//! Something for each copyset, in order of their names, found without a search.
//!
//! The data plane looks these up several times for each write, and with hundreds of copysets every
//! step of a search is a line of memory that nothing else needs. The names that live on one shard
//! or one reactor mostly lie evenly, because whoever lays out a cluster counts; so the place of one
//! is guessed between the first and the last, and searched for only where the guess is wrong.

use crate::ids::CopysetId;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct ByCopyset<T> {
    /// In order of the names, each once.
    entries: Vec<(CopysetId, T)>,
}

impl<T> Default for ByCopyset<T> {
    fn default() -> ByCopyset<T> {
        ByCopyset { entries: Vec::new() }
    }
}

impl<T> ByCopyset<T> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where `copyset` stands, or where it would have to be put.
    fn place(&self, copyset: CopysetId) -> Result<usize, usize> {
        let [(first, _), .., (last, _)] = self.entries[..] else {
            return self.entries.binary_search_by_key(&copyset, |(copyset, _)| *copyset);
        };
        if (first..=last).contains(&copyset) {
            let (offset, span) = (u64::from(copyset.0 - first.0), u64::from(last.0 - first.0));
            let guess = (offset * (self.entries.len() as u64 - 1) / span) as usize;
            if self.entries[guess].0 == copyset {
                return Ok(guess);
            }
        }
        self.entries.binary_search_by_key(&copyset, |(copyset, _)| *copyset)
    }

    /// What there is for `copyset`.
    #[must_use]
    pub fn get(&self, copyset: CopysetId) -> Option<&T> {
        let at = self.place(copyset).ok()?;
        Some(&self.entries[at].1)
    }

    /// What there is for `copyset`.
    #[must_use]
    pub fn get_mut(&mut self, copyset: CopysetId) -> Option<&mut T> {
        let at = self.place(copyset).ok()?;
        Some(&mut self.entries[at].1)
    }

    /// Puts something in, in place of what there was.
    pub fn insert(&mut self, copyset: CopysetId, value: T) {
        match self.place(copyset) {
            Ok(at) => self.entries[at].1 = value,
            Err(at) => self.entries.insert(at, (copyset, value)),
        }
    }

    /// Takes out what there is for `copyset`.
    pub fn remove(&mut self, copyset: CopysetId) -> Option<T> {
        let at = self.place(copyset).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (CopysetId, &T)> {
        self.entries.iter().map(|(copyset, value)| (*copyset, value))
    }

    /// Those behind `after`, in order; all where it is `None`.
    pub fn iter_after(&self, after: Option<CopysetId>) -> impl Iterator<Item = (CopysetId, &T)> {
        let from = after.map_or(0, |after| match self.place(after) {
            Ok(at) => at + 1,
            Err(at) => at,
        });
        self.entries[from..].iter().map(|(copyset, value)| (*copyset, value))
    }

    /// All values, in order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = u32> {
        // Evenly laid out, and not at all.
        prop_oneof![(0..40u32).prop_map(|at| 7 + 3 * at), any::<u32>(), 0..20u32]
    }

    proptest! {
        #[test]
        fn it_is_an_ordered_map(
            steps in prop::collection::vec((name(), prop::option::weighted(0.8, any::<u8>())), 0..200),
            after in prop::option::of(name()),
        ) {
            let (mut map, mut model) = (ByCopyset::default(), BTreeMap::new());
            for (name, value) in steps {
                let copyset = CopysetId(name);
                match value {
                    Some(value) => {
                        map.insert(copyset, value);
                        model.insert(copyset, value);
                    }
                    None => prop_assert_eq!(map.remove(copyset), model.remove(&copyset)),
                }
                prop_assert_eq!(map.get(copyset), model.get(&copyset));
                prop_assert_eq!(map.get_mut(copyset), model.get_mut(&copyset));
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter().map(|(copyset, value)| (*copyset, value))));
                for copyset in model.keys() {
                    prop_assert!(map.get(*copyset).is_some());
                }
            }
            let after = after.map(CopysetId);
            let behind = model.iter().filter(|(copyset, _)| after.is_none_or(|after| **copyset > after));
            prop_assert!(map.iter_after(after).eq(behind.map(|(copyset, value)| (*copyset, value))));
            prop_assert!(map.values_mut().eq(model.values_mut()));
        }
    }
}
