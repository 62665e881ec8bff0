use proptest::prelude::*;

use super::*;

#[test]
fn singles_exhaust_and_return() {
    let bitmap = PageBitmap::new(130);
    let mut taken: Vec<u32> = (0..130).map(|_| bitmap.acquire(1).unwrap()).collect();
    assert_eq!(bitmap.acquire(1), None);
    assert_eq!(bitmap.free(), 0);
    taken.sort_unstable();
    assert_eq!(taken, (0..130).collect::<Vec<_>>());
    bitmap.release(129, 1);
    assert_eq!(bitmap.acquire(1), Some(129));
}

#[test]
fn runs_cross_words() {
    let bitmap = PageBitmap::new(256);
    assert_eq!(bitmap.acquire(60), Some(0));
    assert_eq!(bitmap.acquire(130), Some(60));
    assert_eq!(bitmap.acquire(67), None);
    assert_eq!(bitmap.acquire(66), Some(190));
    bitmap.release(60, 130);
    assert_eq!(bitmap.acquire(130), Some(60));
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(u32),
    Release(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Acquire(1)),
        (0u32..150).prop_map(Step::Acquire),
        any::<prop::sample::Index>().prop_map(Step::Release),
        any::<prop::sample::Index>().prop_map(Step::Release),
    ]
}

/// The longest run of free pages of the model.
fn longest_free(model: &[bool]) -> usize {
    model.split(|free| !free).map(<[bool]>::len).max().unwrap_or(0)
}

proptest! {
    #[test]
    fn refuses_only_what_does_not_fit(
        pages in 1u32..9000,
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let bitmap = PageBitmap::new(pages);
        let mut model = vec![true; pages as usize];
        let mut held: Vec<(u32, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire(count) => match bitmap.acquire(count) {
                    Some(page) => {
                        let run = &mut model[page as usize..(page + count) as usize];
                        prop_assert!(run.iter().all(|free| *free));
                        run.fill(false);
                        held.push((page, count));
                    }
                    None => prop_assert!(count == 0 || longest_free(&model) < count as usize),
                },
                Step::Release(index) if !held.is_empty() => {
                    let (page, count) = held.swap_remove(index.index(held.len()));
                    model[page as usize..(page + count) as usize].fill(true);
                    bitmap.release(page, count);
                }
                Step::Release(_) => {}
            }
            prop_assert_eq!(bitmap.free() as usize, model.iter().filter(|free| **free).count());
        }
    }
}

#[test]
fn singles_are_found_across_summary_words() {
    let bitmap = PageBitmap::new(64 * 64 * 3);
    let all: Vec<u32> = std::iter::from_fn(|| bitmap.acquire(1)).collect();
    assert_eq!(all.len(), 64 * 64 * 3);
    for page in [64 * 64 * 2 + 5, 3, 64 * 64 + 1] {
        bitmap.release(page, 1);
        bitmap.release(70, 1);
        assert_eq!(bitmap.acquire(1), Some(70));
        assert_eq!(bitmap.acquire(1), Some(page));
    }
}
