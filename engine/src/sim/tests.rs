use super::faults::Profile;
use super::run::{RunOptions, run};

/// The seeds that the test suite runs; `culvert sim` runs others.
const SEEDS: std::ops::Range<u64> = 0..4;

fn options(profile: Profile) -> RunOptions {
    RunOptions { profile, operations: 300, without: Vec::new(), traced: false }
}

#[test]
fn equal_seeds_give_equal_runs_and_no_promise_is_broken() {
    for profile in [Profile::Crash, Profile::Network, Profile::All] {
        for seed in SEEDS {
            let [one, two] = [(); 2].map(|()| run(seed, &options(profile)));
            assert_eq!(one.violation, None, "seed {seed} {profile:?}");
            assert_eq!(one.hash, two.hash, "seed {seed} {profile:?}");
            assert!(one.faults > 0 && one.operations >= 300, "{one:?}");
        }
    }
}

#[test]
fn other_seeds_give_other_runs() {
    let hashes = SEEDS.map(|seed| run(seed, &options(Profile::All)).hash);
    let mut hashes: Vec<u64> = hashes.collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len() as u64, SEEDS.end - SEEDS.start);
}
