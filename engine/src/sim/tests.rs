use super::faults::Profile;
use super::run::{RunOptions, run};

/// The seeds that the test suite runs twice; `culvert sim` runs others.
const SEEDS: std::ops::Range<u64> = 0..50;

/// Operations of each.
const OPERATIONS: u64 = 60;

/// Seeds that once found something: of what is not said otherwise, each breaks a promise when the
/// bug that is named is put in.
const FOUND: &str = include_str!("../../tests/seeds.txt");

fn options(profile: Profile, operations: u64) -> RunOptions {
    RunOptions { profile, operations, without: Vec::new(), traced: false }
}

#[test]
fn equal_seeds_give_equal_runs_and_no_promise_is_broken() {
    let profiles = [Profile::Crash, Profile::Network, Profile::Disk, Profile::All];
    for seed in SEEDS {
        let profile = profiles[seed as usize % profiles.len()];
        let [one, two] = [(); 2].map(|()| run(seed, &options(profile, OPERATIONS)));
        assert_eq!(one.violation, None, "seed {seed} {profile:?}");
        assert_eq!(one.hash, two.hash, "seed {seed} {profile:?}");
        assert!(one.faults > 0 && one.operations >= OPERATIONS, "{one:?}");
    }
}

#[test]
fn other_seeds_give_other_runs() {
    let hashes = (0..4).map(|seed| run(seed, &options(Profile::All, OPERATIONS)).hash);
    let mut hashes: Vec<u64> = hashes.collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 4);
}

#[test]
fn faults_that_are_left_out_do_not_come() {
    let all = run(1, &options(Profile::All, OPERATIONS));
    let without = (0..all.planned).collect();
    let calm = run(1, &RunOptions { without, ..options(Profile::All, OPERATIONS) });
    assert_eq!(calm.violation, None);
    assert!(calm.faults < all.faults, "{} of {}", calm.faults, all.faults);
}

#[test]
fn seeds_that_found_something_find_nothing() {
    let lines = FOUND.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in lines {
        let mut words = line.split_whitespace();
        let seed = words.next().and_then(|word| word.parse().ok()).expect("a seed comes first");
        let profile = match words.next() {
            Some("disk") => Profile::Disk,
            Some("crash") => Profile::Crash,
            Some("network") => Profile::Network,
            _ => Profile::All,
        };
        let outcome = run(seed, &options(profile, 2000));
        assert_eq!(outcome.violation, None, "{line}");
    }
}
