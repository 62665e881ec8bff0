use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u16),
    /// Remove the id at this position of all ids ever handed out.
    Remove(prop::sample::Index),
    Change(prop::sample::Index, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u16>().prop_map(Step::Insert),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
        1 => (any::<prop::sample::Index>(), any::<u16>()).prop_map(|(i, v)| Step::Change(i, v)),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_map_with_fresh_names(
        capacity in 0u32..9,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut table = SlotTable::new(capacity);
        let mut model = BTreeMap::new();
        let mut all_ids: Vec<SlotId> = Vec::new();
        for step in steps {
            match step {
                Step::Insert(value) => {
                    let announced = table.next_id();
                    match table.insert(value) {
                        Ok(id) => {
                            prop_assert_eq!(announced, Some(id));
                            prop_assert!(!all_ids.contains(&id));
                            all_ids.push(id);
                            model.insert(id, value);
                        }
                        Err(back) => {
                            prop_assert_eq!(announced, None);
                            prop_assert_eq!(back, value);
                            prop_assert_eq!(model.len(), capacity as usize);
                        }
                    }
                }
                Step::Remove(index) if !all_ids.is_empty() => {
                    let id = *index.get(&all_ids);
                    prop_assert_eq!(table.remove(id), model.remove(&id));
                }
                Step::Change(index, value) if !all_ids.is_empty() => {
                    let id = *index.get(&all_ids);
                    prop_assert_eq!(table.get_mut(id).is_some(), model.contains_key(&id));
                    if let Some(held) = table.get_mut(id) {
                        *held = value;
                        model.insert(id, value);
                    }
                }
                _ => {}
            }
            prop_assert_eq!(table.len() as usize, model.len());
            prop_assert_eq!(table.is_full(), table.len() == table.capacity());
            let held: Vec<_> = table.iter().map(|(id, value)| (id, *value)).collect();
            let expected: Vec<_> = model.iter().map(|(id, value)| (*id, *value)).collect();
            prop_assert_eq!(held, expected);
            for id in &all_ids {
                prop_assert_eq!(table.get(*id), model.get(id));
            }
        }
    }

    #[test]
    fn any_number_is_safe_to_try(number in any::<u64>()) {
        let id = SlotId::from_u64(number);
        prop_assert_eq!(id.to_u64(), number);
        let mut table = SlotTable::new(4);
        let held = table.insert(()).unwrap();
        prop_assert_eq!(table.remove(id).is_some(), id == held);
    }
}

#[test]
fn a_generation_is_never_zero() {
    assert_eq!(next_generation(u32::MAX), 1);
    assert_ne!(SlotTable::new(1).insert(0).unwrap().to_u64(), 0);
}

#[test]
fn iter_mut_reaches_every_value() {
    let mut table = SlotTable::new(3);
    let id = table.insert(1).unwrap();
    table.insert(2).unwrap();
    table.iter_mut().for_each(|(_, value)| *value += 10);
    assert_eq!(table.remove(id), Some(11));
    assert_eq!(table.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [12]);
}
