use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn behaves_like_a_bounded_queue(
        capacity in 1u32..9,
        pushes in prop::collection::vec(any::<bool>(), 0..200),
    ) {
        let (mut producer, mut consumer) = spsc(capacity);
        prop_assert_eq!(producer.capacity(), capacity.next_power_of_two());
        let mut model = VecDeque::new();
        for (value, push) in pushes.into_iter().enumerate() {
            if push {
                let full = model.len() == producer.capacity() as usize;
                prop_assert_eq!(producer.push(value), if full { Err(value) } else { Ok(()) });
                if !full {
                    model.push_back(value);
                }
            } else {
                prop_assert_eq!(consumer.pop(), model.pop_front());
            }
            prop_assert_eq!(consumer.available() as usize, model.len());
            prop_assert_eq!(producer.free() + consumer.available(), consumer.capacity());
        }
    }
}

#[test]
fn two_threads() {
    // Interpreted, each takes milliseconds.
    const VALUES: u64 = if cfg!(miri) { 300 } else { 200_000 };
    let (mut producer, mut consumer) = spsc(64);
    let writer = std::thread::spawn(move || {
        for value in 0..VALUES {
            let mut value = Box::new(value);
            while let Err(back) = producer.push(value) {
                value = back;
                std::thread::yield_now();
            }
        }
    });
    let mut expected = 0;
    while expected < VALUES {
        match consumer.pop() {
            Some(value) => {
                assert_eq!(*value, expected);
                expected += 1;
            }
            None => std::thread::yield_now(),
        }
    }
    writer.join().unwrap();
    assert!(consumer.is_abandoned());
    assert_eq!(consumer.pop(), None);
}

#[test]
fn what_is_left_is_dropped() {
    let value = Arc::new(());
    let (mut producer, mut consumer) = spsc(4);
    for _ in 0..6 {
        producer.push(Arc::clone(&value)).unwrap();
        producer.push(Arc::clone(&value)).unwrap();
        drop(consumer.pop());
        drop(consumer.pop());
    }
    producer.push(Arc::clone(&value)).unwrap();
    producer.push(Arc::clone(&value)).unwrap();
    drop(consumer);
    assert!(producer.is_abandoned());
    assert_eq!(Arc::strong_count(&value), 3);
    drop(producer);
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn both_sides_can_move_to_another_thread() {
    fn must_be_send<T: Send>() {}
    must_be_send::<Producer<Vec<u8>>>();
    must_be_send::<Consumer<Vec<u8>>>();
}
