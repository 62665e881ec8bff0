use loom::thread;

use super::spsc;

#[test]
fn every_value_arrives_once_and_in_order() {
    loom::model(|| {
        let (mut producer, mut consumer) = spsc::<Box<u32>>(2);
        let writer = thread::spawn(move || {
            let mut refused = 0;
            for value in 0..4 {
                let mut value = Box::new(value);
                while let Err(back) = producer.push(value) {
                    value = back;
                    refused += 1;
                    if refused == 2 {
                        return;
                    }
                    thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        for _ in 0..3 {
            match consumer.pop() {
                Some(value) => {
                    assert_eq!(*value, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
        // What is left is dropped with the last side, whichever that is.
        drop(consumer);
        writer.join().unwrap();
    });
}

#[test]
fn the_sides_notice_each_other_going() {
    loom::model(|| {
        let (mut producer, mut consumer) = spsc::<u32>(1);
        let writer = thread::spawn(move || {
            producer.push(7).unwrap();
        });
        let abandoned = consumer.is_abandoned();
        let value = consumer.pop();
        assert!(!abandoned || value == Some(7));
        writer.join().unwrap();
    });
}
