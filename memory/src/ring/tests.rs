use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push,
    Pop,
    AdvanceTail(u32),
    AdvanceHead(u32),
    AcceptHead(u32),
    AcceptTail(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Push),
        Just(Step::Pop),
        (0u32..12).prop_map(Step::AdvanceTail),
        (0u32..12).prop_map(Step::AdvanceHead),
        any::<u32>().prop_map(Step::AcceptHead),
        (0u32..40).prop_map(Step::AcceptTail),
    ]
}

/// The model: the positions in use, as numbers that never wrap.
struct Model {
    entries: VecDeque<u64>,
    next: u64,
}

impl Model {
    fn produce(&mut self, count: u32) {
        for _ in 0..count {
            self.entries.push_back(self.next);
            self.next += 1;
        }
    }

    fn apply(&mut self, ring: &mut RingCursor, step: &Step) {
        let capacity = u64::from(ring.capacity());
        match *step {
            Step::Push => {
                let expected = (!ring.is_full()).then_some((self.next % capacity) as u32);
                assert_eq!(ring.push(), expected);
                self.produce(expected.is_some() as u32);
            }
            Step::Pop => {
                let expected = self.entries.pop_front().map(|entry| (entry % capacity) as u32);
                assert_eq!(ring.pop(), expected);
            }
            Step::AdvanceTail(count) => {
                let count = count.min(ring.free());
                ring.advance_tail(count);
                self.produce(count);
            }
            Step::AdvanceHead(count) => {
                let count = count.min(ring.used());
                ring.advance_head(count);
                self.entries.drain(..count as usize);
            }
            Step::AcceptHead(head) => {
                let distance = head.wrapping_sub(ring.head());
                let accepted = ring.accept_head(head);
                assert_eq!(accepted.is_ok(), distance as usize <= self.entries.len());
                self.entries.drain(..accepted.unwrap_or(0) as usize);
            }
            Step::AcceptTail(distance) => {
                let free = ring.capacity() - self.entries.len() as u32;
                let accepted = ring.accept_tail(ring.tail().wrapping_add(distance));
                assert_eq!(accepted.is_ok(), distance <= free);
                self.produce(accepted.unwrap_or(0));
            }
        }
    }
}

proptest! {
    #[test]
    fn behaves_like_unbounded_positions(
        capacity_log2 in 0u32..5,
        start in prop_oneof![Just(0), Just(u32::MAX - 9), any::<u32>()],
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut ring = RingCursor::starting_at(1 << capacity_log2, start);
        let mut model = Model { entries: VecDeque::new(), next: u64::from(start) };
        for step in &steps {
            model.apply(&mut ring, step);
            prop_assert_eq!(ring.used() as usize, model.entries.len());
            prop_assert_eq!(ring.used() + ring.free(), ring.capacity());
            prop_assert_eq!(ring.tail(), model.next as u32);
            prop_assert!(ring.contiguous_used() <= ring.used());
            prop_assert!(ring.head_index() + ring.contiguous_used() <= ring.capacity());
            prop_assert!(ring.contiguous_free() <= ring.free());
            prop_assert!(ring.tail_index() + ring.contiguous_free() <= ring.capacity());
        }
    }
}

#[test]
fn the_worked_example() {
    let mut ring = RingCursor::starting_at(8, u32::MAX - 2);
    ring.advance_tail(5);
    assert_eq!(ring.tail(), 2);
    let indices: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
    assert_eq!(indices, [5, 6, 7, 0, 1]);
}

#[test]
fn the_largest_ring() {
    let mut ring = RingCursor::new(1 << 31);
    ring.advance_tail(1 << 31);
    assert!(ring.is_full());
    assert!(ring.accept_tail(ring.tail().wrapping_add(1)).is_err());
}

#[test]
#[should_panic(expected = "power of two")]
fn any_other_capacity_is_a_bug() {
    RingCursor::new(12);
}
