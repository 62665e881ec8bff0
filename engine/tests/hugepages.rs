//! What kind of pages whole servers run on, as the kernel tells it.
//!
//! `scripts/test` runs everything once with `CULVERT_TEST_HUGE=1` and once with
//! `CULVERT_TEST_ORDINARY=1`; this is what shows that the two differ.

mod rig;

use tempfile::TempDir;

use rig::load::Load;
use rig::nodes::Nodes;
use rig::plan::{VOLUME, Wishes, emulated};

/// Names of a node's memory: its pool, and the windows of its connections.
const POOL: &str = "/memfd:culvert-pool";
const WINDOW: &str = "/memfd:culvert-window";

/// A mapping of this process.
struct Mapped {
    name: String,
    bytes: u64,
    page_kib: u64,
}

/// Every mapping with a file behind it.
fn mappings() -> Vec<Mapped> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
    let mut found: Vec<Mapped> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [range, _, _, _, _, name, ..] if range.contains('-') => {
                let (from, to) = range.split_once('-').expect("just seen");
                let address = |text| u64::from_str_radix(text, 16).expect("an address");
                let bytes = address(to) - address(from);
                found.push(Mapped { name: name.to_owned(), bytes, page_kib: 0 });
            }
            // Of a mapping without a name it lands with the one before, which has had its own.
            ["KernelPageSize:", kib, "kB"] => {
                let last = found.last_mut().filter(|mapped| mapped.page_kib == 0);
                if let Some(last) = last {
                    last.page_kib = kib.parse().expect("a number");
                }
            }
            _ => {}
        }
    }
    found
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value == "1")
}

#[test]
fn servers_run_on_the_pages_that_were_asked_for() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let wishes = Wishes::new(folder.path(), emulated(folder.path(), "96MiB", ""));
    let mut nodes = Nodes::start(&wishes);
    let mut load = Load::new(nodes.client(1), VOLUME, 32, 1);
    // Windows grow under load, from pages that are no hugepage to segments that are.
    let large = |mapped: &&Mapped| mapped.name == WINDOW && mapped.bytes >= 2 << 20;
    nodes.run_until("a window has grown", |nodes| {
        for _ in 0..100 {
            nodes.turn();
            load.turn();
        }
        mappings().iter().filter(large).count() > 0
    });
    load.settle(|| nodes.turn());
    let all = mappings();
    let pools: Vec<_> = all.iter().filter(|mapped| mapped.name == POOL).collect();
    assert_eq!(pools.len(), 3, "a pool for each node");
    let pages: Vec<u64> =
        pools.into_iter().chain(all.iter().filter(large)).map(|mapped| mapped.page_kib).collect();
    if is_set("CULVERT_TEST_HUGE") {
        assert!(pages.iter().all(|kib| *kib == 2048), "{pages:?}");
    } else if is_set("CULVERT_TEST_ORDINARY") {
        assert!(pages.iter().all(|kib| *kib == 4), "{pages:?}");
    } else {
        println!("pages of {pages:?} KiB");
    }
}
