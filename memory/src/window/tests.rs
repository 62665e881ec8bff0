use proptest::prelude::*;

use super::*;
use crate::Pages;
use crate::pool::tests::small_pool;

fn window(pages: u32) -> Window {
    Window::create(&WindowOptions { name: "culvert-test".into(), pages, lock: false }).unwrap()
}

fn released(window: &Window) -> Vec<(u32, u32)> {
    let mut runs = Vec::new();
    window.poll_released(|page, pages| runs.push((page, pages)));
    runs
}

#[test]
fn a_page_goes_round() {
    let window = window(8);
    let pages = window.claim(2, 3).unwrap().freeze();
    let one = window.claim(0, 1).unwrap();
    assert_eq!(window.claim(4, 1).unwrap_err(), ClaimError::AlreadyClaimed { page: 4 });
    assert_eq!(window.claim(0, 0).unwrap_err(), ClaimError::Empty);
    assert!(matches!(window.claim(7, 2), Err(ClaimError::OutOfBounds { .. })));
    assert!(matches!(window.claim(u32::MAX, 2), Err(ClaimError::OutOfBounds { .. })));
    assert_eq!(window.claimed_pages(), 4);
    let part = pages.slice(2, 1);
    drop(pages);
    assert!(!window.has_released());
    drop(part);
    drop(one);
    assert!(window.has_released());
    assert!(window.claim(2, 1).is_err(), "released, but its credit is still here");
    assert_eq!(released(&window), [(2, 3), (0, 1)]);
    assert_eq!(window.claimed_pages(), 0);
    for _ in 0..20 {
        drop(window.claim(2, 1).unwrap());
        assert_eq!(released(&window), [(2, 1)]);
    }
}

#[test]
fn a_carved_window_follows_its_pages_home() {
    let pool = small_pool();
    let _first = pool.acquire(10).unwrap();
    let window = Window::carve(pool.acquire(8).unwrap());
    let buffer = window.claim(3, 2).unwrap();
    assert_eq!(buffer.page(), window.first_page() + 3);
    assert!(buffer.region().same_as(&pool.regions()[0]));
    assert!(!buffer.is_private());
    drop(window);
    assert_eq!(pool.free_pages(), 494);
    drop(buffer);
    assert_eq!(pool.free_pages(), 502);
    let private = Window::carve_private(pool.acquire(1).unwrap());
    private.claim(0, 1).unwrap().as_mut_slice().fill(1);
}

#[test]
#[should_panic(expected = "never a slice")]
fn a_shared_window_is_never_a_slice() {
    window(1).claim(0, 1).unwrap().as_slice();
}

#[test]
fn large_windows_may_be_huge() {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
    assert!(!window(511).region().is_huge());
    let window = window(513);
    assert_eq!(window.pages(), 513);
    assert!(window.region().is_huge() || !is_set("CULVERT_TEST_HUGE"));
    assert!(!window.region().is_huge() || !is_set("CULVERT_TEST_ORDINARY"));
    assert!(window.region().shared_with_peer());
}

#[derive(Clone, Debug)]
enum Step {
    Claim(u32, u32),
    Freeze(prop::sample::Index),
    Thaw(prop::sample::Index),
    Clone(prop::sample::Index),
    Slice(prop::sample::Index, u32, u32),
    DropBuffer(prop::sample::Index),
    DropPages(prop::sample::Index),
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0u32..10, 0u32..5).prop_map(|(page, pages)| Step::Claim(page, pages)),
        3 => index().prop_map(Step::Freeze),
        1 => index().prop_map(Step::Thaw),
        2 => index().prop_map(Step::Clone),
        2 => (index(), 0u32..3, 1u32..3).prop_map(|(i, first, pages)| Step::Slice(i, first, pages)),
        1 => index().prop_map(Step::DropBuffer),
        3 => index().prop_map(Step::DropPages),
        1 => Just(Step::Poll),
    ]
}

/// All handles alive, each run named by its first page.
#[derive(Default)]
struct Handles {
    /// Runs whose credit the peer does not hold: (first page, pages).
    claimed: Vec<(u32, u32)>,
    buffers: Vec<Buffer>,
    pages: Vec<(u32, Pages)>,
}

impl Handles {
    fn apply(&mut self, window: &Window, step: Step) {
        match step {
            Step::Claim(page, pages) => self.claim(window, page, pages),
            Step::Freeze(index) if !self.buffers.is_empty() => {
                let buffer = self.buffers.swap_remove(index.index(self.buffers.len()));
                self.pages.push((buffer.page(), buffer.freeze()));
            }
            Step::Thaw(index) if !self.pages.is_empty() => {
                let (run, pages) = self.pages.swap_remove(index.index(self.pages.len()));
                let alone = self.pages.iter().all(|(other, _)| *other != run);
                let whole = self.claimed.contains(&(pages.page(), pages.pages()));
                match pages.try_into_buffer() {
                    Ok(buffer) => {
                        assert!(alone && whole);
                        self.buffers.push(buffer);
                    }
                    Err(pages) => {
                        assert!(!(alone && whole));
                        self.pages.push((run, pages));
                    }
                }
            }
            Step::Clone(index) if !self.pages.is_empty() => {
                let pair = index.get(&self.pages).clone();
                self.pages.push(pair);
            }
            Step::Slice(index, first, count) if !self.pages.is_empty() => {
                let (run, pages) = index.get(&self.pages);
                if first + count <= pages.pages() {
                    let part = (*run, pages.slice(first, count));
                    self.pages.push(part);
                }
            }
            Step::DropBuffer(index) if !self.buffers.is_empty() => {
                self.buffers.swap_remove(index.index(self.buffers.len()));
            }
            Step::DropPages(index) if !self.pages.is_empty() => {
                self.pages.swap_remove(index.index(self.pages.len()));
            }
            Step::Poll => self.poll(window),
            _ => {}
        }
    }

    fn claim(&mut self, window: &Window, page: u32, pages: u32) {
        let taken = |(first, count): &(u32, u32)| *first < page + pages && page < first + count;
        let expected =
            pages > 0 && page + pages <= window.pages() && !self.claimed.iter().any(taken);
        let claimed = window.claim(page, pages);
        assert_eq!(claimed.is_ok(), expected);
        if let Ok(buffer) = claimed {
            self.claimed.push((page, pages));
            self.buffers.push(buffer);
        }
    }

    fn poll(&mut self, window: &Window) {
        let runs = released(window);
        for run in &runs {
            let position = self.claimed.iter().position(|claimed| claimed == run);
            self.claimed.swap_remove(position.expect("only a claimed run is released, and whole"));
            assert!(self.pages.iter().all(|(head, _)| *head != run.0));
            assert!(self.buffers.iter().all(|buffer| buffer.page() != run.0));
        }
        assert_eq!(self.claimed.len(), self.runs_in_use());
    }

    fn runs_in_use(&self) -> usize {
        let mut heads: Vec<u32> = self.pages.iter().map(|(run, _)| *run).collect();
        heads.extend(self.buffers.iter().map(Buffer::page));
        heads.sort_unstable();
        heads.dedup();
        heads.len()
    }
}

proptest! {
    #[test]
    fn a_run_is_released_once_with_its_last_handle(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let window = window(8);
        let mut handles = Handles::default();
        for step in steps {
            handles.apply(&window, step);
            let claimed: u32 = handles.claimed.iter().map(|(_, pages)| pages).sum();
            prop_assert_eq!(window.claimed_pages(), claimed);
            let waiting = handles.claimed.len() - handles.runs_in_use();
            prop_assert_eq!(window.has_released(), waiting > 0);
        }
        handles.buffers.clear();
        handles.pages.clear();
        handles.poll(&window);
        prop_assert_eq!(window.claimed_pages(), 0);
    }
}
