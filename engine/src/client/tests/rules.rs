//! Single rules, one test each.

use std::time::Duration;

use super::world::{Faults, OwnedEvent};
use super::*;
use crate::ids::Epoch;
use crate::network::{Address, CloseReason, ConnectionId};
use crate::wire::{ReplyStatus, RequestKind};

fn write_lengths(bench: &Bench) -> Vec<u32> {
    let world = bench.world();
    let writes = world.servers.arrivals.iter().filter(|(kind, _)| *kind == RequestKind::Write);
    writes.map(|(_, blocks)| *blocks).collect()
}

#[test]
fn what_is_written_is_read() {
    let mut bench = Bench::plain();
    bench.write(1, 71, 5, 100).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    let mut lengths = write_lengths(&bench);
    lengths.sort_unstable();
    assert_eq!(lengths, [9, 27, 32, 32], "split where stripes end");
    bench.read(2, 0, 128).expect("room");
    let expected: Vec<u64> =
        (0..128).map(|block| 71 * u64::from((5..105).contains(&block))).collect();
    assert_eq!(bench.outcome(), Ok(expected));
    assert_eq!(bench.client.statistics().copied_bytes, 0);
    bench.check_idle();
}

#[test]
fn submissions_are_refused_with_what_was_submitted() {
    let mut bench = Bench::plain();
    assert_eq!(bench.read(1, 2048, 1), Err(Refusal::OutOfRange));
    assert_eq!(bench.read(1, 2047, 2), Err(Refusal::OutOfRange));
    assert_eq!(bench.read(1, u64::MAX, 1), Err(Refusal::OutOfRange));
    assert_eq!(bench.read(1, 0, 0), Err(Refusal::OutOfRange));
    assert_eq!(bench.read(1, 0, 257), Err(Refusal::TooLarge));
    assert_eq!(bench.discard(1, 0, bench.volume.discard_blocks_max() + 1), Err(Refusal::TooLarge));
    for token in 0..256 {
        bench.read(token, token, 1).expect("256 slots");
    }
    assert_eq!(bench.read(256, 0, 1), Err(Refusal::Full));
    let pages = bench.client.pool().acquire(1).expect("a page").freeze();
    let operation = Operation::Write { volume: bench.volume, offset_blocks: 3, pages };
    let refused = bench.client.submit(operation, 256).expect_err("full");
    assert_eq!((refused.reason, refused.operation.range()), (Refusal::Full, (3, 1)));
    drop(refused);
    assert_eq!(bench.finish().len(), 256);
    bench.check_idle();
}

#[test]
fn volumes_are_opened_by_name_and_reach() {
    let mut bench = Bench::plain();
    assert_eq!(bench.client.open_volume("disk"), Ok(bench.volume));
    assert_eq!(bench.client.open_volume("disc"), Err(OpenError::Unknown("disc".into())));
    let mut document = cluster(32).document().clone();
    let shm = |address: &Address| matches!(address, Address::Shm(_));
    for reactor in document.nodes.iter_mut().flat_map(|node| &mut node.reactors) {
        reactor.addresses.retain(shm);
    }
    let cluster = Cluster::check(document).expect("one address is enough");
    let options = ClientOptions { transports: Transports::Tcp, ..ClientOptions::default() };
    let network = ModelNetwork::new(cluster.clone(), 1);
    let mut client = Client::new(cluster, network, pool(2 << 20), options).expect("good options");
    assert_eq!(client.open_volume("disk"), Err(OpenError::NoAddress));
}

#[test]
fn options_are_checked() {
    let refused = |options: ClientOptions| options.check().expect_err("no sense");
    let options = ClientOptions::default();
    let none = ClientOptions { in_flight_max: 0, ..options.clone() };
    assert_eq!(refused(none), OptionsError::InFlight(0));
    let never = ClientOptions { attempts_max: 0, ..options.clone() };
    assert_eq!(refused(never), OptionsError::NoAttempts);
    let hasty = ClientOptions { attempt_timeout: Duration::ZERO, ..options };
    assert_eq!(refused(hasty), OptionsError::ZeroTime("attempt_timeout"));
}

#[test]
fn a_request_takes_half_of_a_small_window() {
    let mut bench = Bench::plain();
    bench.world().window_pages = (8, 8);
    bench.write(1, 71, 0, 30).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    assert_eq!(write_lengths(&bench), [4, 4, 4, 4, 4, 4, 4, 2]);
    bench.read(2, 0, 30).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![71; 30]));
    assert_eq!(bench.client.statistics().copied_bytes, 30 * BLOCK_SIZE as u64, "gathered");
    bench.check_idle();
}

#[test]
fn windows_grow_when_they_are_too_small() {
    let mut bench = Bench::plain();
    bench.world().window_pages = (8, 264);
    bench.write(1, 71, 0, 32).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    bench.write(2, 72, 0, 32).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    assert_eq!(write_lengths(&bench).last(), Some(&32));
    bench.read(3, 0, 32).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![72; 32]));
    assert_eq!(bench.client.statistics().copied_bytes, 0, "it waits for the growth");
}

#[test]
fn a_discard_is_one_request_per_chunk() {
    let mut bench = Bench::new(1, 4, ClientOptions::default());
    for (token, offset) in (0..).zip((0..512).step_by(256)) {
        bench.write(token, 71, offset, 256).expect("room");
    }
    assert_eq!(bench.finish().len(), 2);
    bench.world().servers.arrivals.clear();
    bench.discard(2, 2, 300).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    let mut lengths: Vec<u32> = bench.world().servers.arrivals.iter().map(|(_, n)| *n).collect();
    lengths.sort_unstable();
    // A set has 4 chunks of 64 blocks: two blocks short of one set, and 46 blocks of the next.
    assert_eq!(lengths, [10, 12, 12, 12, 62, 64, 64, 64]);
    for block in 0..512 {
        let expected = if (2..302).contains(&block) { 0 } else { 71 };
        assert_eq!(bench.stored(block), expected, "block {block}");
    }
}

#[test]
fn chunks_are_deleted_by_whole_sets() {
    let mut bench = Bench::plain();
    let set_blocks = bench.volume.set_blocks();
    assert_eq!(set_blocks, 256, "4 chunks of 64 blocks");
    bench.write(1, 7, 200, 200).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    let volume = bench.volume;
    let mut delete = |offset_blocks, blocks| {
        let operation = Operation::Delete { volume, offset_blocks, blocks };
        bench.client.submit(operation, 2).map_err(|refused| refused.reason)
    };
    assert_eq!(delete(1, 256), Err(Refusal::NotWholeSets));
    assert_eq!(delete(0, 255), Err(Refusal::NotWholeSets));
    assert_eq!(delete(0, 3 * 256), Err(Refusal::TooLarge));
    assert_eq!(delete(0, 256), Ok(()));
    assert_eq!(bench.outcome(), Ok(vec![]));
    bench.read(3, 200, 200).expect("room");
    let expected: Vec<u64> = (200..400).map(|block| 7 * u64::from(block >= 256)).collect();
    assert_eq!(bench.outcome(), Ok(expected));
    let arrivals = bench.world().servers.arrivals.clone();
    let deletes = arrivals.iter().filter(|(kind, _)| *kind == RequestKind::Delete).count();
    assert_eq!(deletes, 4, "one for each chunk");
    bench.check_idle();
}

#[test]
fn a_fence_keeps_older_clients_out() {
    let mut bench = Bench::plain();
    bench.write(1, 7, 0, 128).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    let volume = bench.volume;
    let fence = |bench: &mut Bench, epoch| {
        for copyset in 0..volume.copysets() {
            let operation = Operation::Fence { volume, copyset, epoch: Epoch(epoch) };
            bench.client.submit(operation, copyset.into()).expect("room");
        }
        let reports = bench.finish();
        assert_eq!(reports.len(), volume.copysets() as usize);
        reports[0].result
    };
    assert_eq!(fence(&mut bench, 5), Ok(()));
    assert_eq!(fence(&mut bench, 5), Ok(()), "again is no harm");
    bench.write(1, 8, 0, 128).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]), "it holds the new epoch");
    assert_eq!(fence(&mut bench, 4), Err(ClientError::Fenced(Epoch(5))));
    let operation = Operation::Fence { volume, copyset: 4, epoch: Epoch(9) };
    let refused = bench.client.submit(operation, 1).expect_err("4 copysets");
    assert_eq!(refused.reason, Refusal::OutOfRange);
    let cluster = bench.client.cluster().clone();
    let network = bench.network.clone();
    let mut late = Client::new(cluster, network, pool(1 << 20), ClientOptions::default())
        .expect("good options");
    let handle = late.open_volume("disk").expect("it exists");
    std::mem::swap(&mut bench.client, &mut late);
    let operation = Operation::Read { volume: handle, offset_blocks: 0, blocks: 1 };
    bench.client.submit(operation, 1).expect("room");
    assert_eq!(bench.outcome(), Err(ClientError::Fenced(Epoch(5))));
}

/// What waits for a leader that is stopped, its connections open, goes where the others say.
#[test]
fn a_leader_that_is_stopped_is_left() {
    let mut bench = Bench::plain();
    let volume = bench.client.cluster().volume("disk").expect("it exists").clone();
    bench.write(1, 7, 0, 128).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    // Copyset 1 lies behind the volume's second stripe.
    let copyset = bench.client.cluster().copyset(volume.copysets[1]).expect("it exists").clone();
    let node = bench.client.cluster().endpoint_of(&copyset.replicas[0]).node;
    bench.world().stopped.push(node);
    let requests = bench.client.statistics().requests;
    bench.write(2, 8, 32, 32).expect("room");
    bench.read(3, 40, 8).expect("room");
    let begun_ns = bench.now_ns;
    let mut reports = Vec::new();
    while bench.now_ns < begun_ns + 500_000_000 {
        bench.turn(&mut reports);
    }
    assert_eq!(reports, [], "nobody else leads yet");
    let statistics = *bench.client.statistics();
    assert_eq!(statistics.deserted, 0, "and nothing is sent elsewhere");
    assert!((2..=8).contains(&statistics.leaders_asked), "{statistics:?}");
    assert_eq!(statistics.requests, requests + 2 + statistics.leaders_asked);
    let index = bench.client.cluster().copysets().iter().position(|c| c.id == copyset.id);
    bench.world().servers.set_leader(index.expect("its own"), 1);
    let elected_ns = bench.now_ns;
    while reports.len() < 2 {
        bench.turn(&mut reports);
    }
    let waited_ns = bench.now_ns - elected_ns;
    assert!(waited_ns < 150_000_000, "{waited_ns} ns after the election");
    assert!(reports.iter().all(|report| report.result.is_ok()), "{reports:?}");
    let statistics = *bench.client.statistics();
    assert_eq!((statistics.deserted, statistics.timeouts), (2, 0));
    // It comes back, and finds that it is deposed; what it got is not executed again.
    bench.world().stopped.clear();
    while !bench.world().is_quiet() {
        bench.turn(&mut reports);
    }
    assert!(bench.world().servers.executions.values().all(|count| *count == 1));
    bench.check_idle();
}

/// The window of a leader that is stopped may be full of what belongs to other copysets.
#[test]
fn who_has_no_room_asks_who_leads() {
    let mut bench = Bench::plain();
    bench.world().window_pages = (8, 8);
    let cluster = bench.client.cluster().clone();
    let volume = cluster.volume("disk").expect("it exists").clone();
    let endpoint = |of: usize, replica: usize| {
        let copyset = cluster.copyset(volume.copysets[of]).expect("it exists");
        cluster.endpoint_of(&copyset.replicas[replica])
    };
    // Two copysets led by one reactor.
    let ways = (1..4).flat_map(|of| (0..3).map(move |replica| (of, replica)));
    let (other, replica) = ways
        .into_iter()
        .find(|(of, replica)| endpoint(*of, *replica) == endpoint(0, 0))
        .expect("some");
    let position = |of: usize| {
        let id = volume.copysets[of];
        cluster.copysets().iter().position(|copyset| copyset.id == id).expect("it exists")
    };
    bench.world().servers.set_leader(position(other), replica);
    let at = other as u64 * 32;
    for (token, offset) in [(0, 0), (1, at)] {
        bench.write(token, 7, offset, 4).expect("room");
    }
    assert_eq!(bench.finish().len(), 2);
    bench.world().stopped.push(endpoint(0, 0).node);
    for token in 2..4 {
        bench.write(token, 8, 4 * (token - 2), 4).expect("room");
    }
    let mut reports = Vec::new();
    bench.turn(&mut reports);
    bench.write(4, 9, at, 4).expect("it waits for room");
    let begun_ns = bench.now_ns;
    bench.world().servers.set_leader(position(0), 1);
    bench.world().servers.set_leader(position(other), (replica + 1) % 3);
    while reports.len() < 3 {
        bench.turn(&mut reports);
    }
    let waited_ns = bench.now_ns - begun_ns;
    assert!(waited_ns < 500_000_000, "{waited_ns} ns");
    assert!(reports.iter().all(|report| report.result.is_ok()), "{reports:?}");
    bench.world().stopped.clear();
    while !bench.world().is_quiet() {
        bench.turn(&mut reports);
    }
    assert!(bench.world().servers.executions.values().all(|count| *count == 1));
    bench.check_idle();
}

#[test]
fn one_request_goes_ahead_of_the_others() {
    let mut bench = Bench::plain();
    for copyset in 0..4 {
        bench.world().servers.set_leader(copyset, 2);
    }
    for token in 0..100 {
        if token % 2 == 0 {
            bench.read(token, token * 16, 16).expect("room");
        } else {
            bench.write(token, token, token * 16, 16).expect("room");
        }
    }
    assert!(bench.finish().iter().all(|report| report.result.is_ok()));
    let statistics = *bench.client.statistics();
    assert_eq!(statistics.redirects, 4, "one for each copyset");
    assert_eq!(statistics.retries, 4);
    // Nobody leads for a while: it is one request that asks, with pauses, and not all.
    for copyset in 0..4 {
        bench.world().servers.set_leader(copyset, 0);
    }
    bench.world().faults.no_leader = true;
    for token in 0..100 {
        bench.read(token, token * 16, 16).expect("room");
    }
    let mut reports = Vec::new();
    let until_ns = bench.now_ns + 500_000_000;
    while bench.now_ns < until_ns {
        bench.turn(&mut reports);
    }
    let asked = bench.client.statistics().requests - statistics.requests;
    // 100 were sent to those who led before.
    assert!(asked < 200, "{asked} requests to find leaders");
    bench.world().faults.no_leader = false;
    bench.finish();
    let statistics = *bench.client.statistics();
    // They move under load.
    for token in 0..100 {
        bench.read(token, token * 16, 16).expect("room");
    }
    bench.turn(&mut reports);
    for copyset in 0..4 {
        bench.world().servers.set_leader(copyset, 1);
    }
    bench.finish();
    let retries = bench.client.statistics().retries - statistics.retries;
    assert!(retries <= 100, "each at most once, as it was on its way: {retries}");
    bench.check_idle();
}

#[test]
fn a_client_that_is_closed_leaves_no_session() {
    let mut bench = Bench::plain();
    bench.write(1, 7, 0, 128).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    assert_eq!(bench.world().servers.sessions(), 4);
    // One leader has gone elsewhere since, and something is still on its way.
    bench.world().servers.set_leader(2, 1);
    bench.write(2, 8, 0, 128).expect("room");
    let now_ns = bench.now_ns;
    bench.client.begin_close(now_ns, Duration::from_secs(1));
    assert_eq!(bench.read(3, 0, 1), Err(Refusal::Closed));
    let mut reports = Vec::new();
    while !bench.client.is_closed() {
        bench.turn(&mut reports);
        assert!(bench.now_ns < now_ns + 1_000_000_000, "well before the patience ends");
    }
    assert!(reports.iter().all(|report| report.result.is_ok()));
    assert_eq!(reports.len(), 1);
    assert_eq!(bench.world().servers.sessions(), 0);
    bench.check_idle();
}

#[test]
fn closing_takes_no_longer_than_it_may() {
    let mut bench = Bench::plain();
    bench.write(1, 7, 0, 32).expect("room");
    bench.client.begin_close(bench.now_ns, Duration::from_secs(1));
    assert_eq!(bench.outcome(), Ok(vec![]), "what was taken is done, session and all");
    let mut reports = Vec::new();
    while !bench.client.is_closed() {
        bench.turn(&mut reports);
    }
    assert_eq!(bench.world().servers.sessions(), 0);

    let mut bench = Bench::plain();
    bench.write(1, 7, 0, 128).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    bench.world().faults.lose_request = 1000;
    let now_ns = bench.now_ns;
    bench.client.begin_close(now_ns, Duration::from_millis(300));
    while !bench.client.is_closed() {
        bench.turn(&mut reports);
    }
    assert!(bench.now_ns - now_ns < 450_000_000, "{} ns", bench.now_ns - now_ns);
    assert_eq!(bench.world().servers.sessions(), 4, "they expire");
    bench.check_idle();
}

#[test]
fn a_client_that_is_dropped_tells_the_servers() {
    let mut bench = Bench::plain();
    bench.write(1, 7, 0, 128).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    let cluster = bench.client.cluster().clone();
    let spare =
        Client::new(cluster, bench.network.clone(), pool(1 << 20), ClientOptions::default());
    drop(std::mem::replace(&mut bench.client, spare.expect("good options")));
    let mut reports = Vec::new();
    while !bench.world().is_quiet() {
        bench.turn(&mut reports);
    }
    assert_eq!(bench.world().servers.sessions(), 0);
}

#[test]
fn a_hint_is_followed_at_once() {
    let mut bench = Bench::plain();
    (0..4).for_each(|copyset| bench.world().servers.set_leader(copyset, 2));
    let started_ns = bench.now_ns;
    bench.read(1, 0, 1).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![0]));
    let statistics = bench.client.statistics();
    assert_eq!((statistics.redirects, statistics.retries, statistics.connects), (1, 1, 2));
    assert!(bench.turned_ns - started_ns < 500_000, "no pause");
    bench.read(2, 0, 1).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![0]));
    assert_eq!(bench.client.statistics().redirects, 1, "the leader is remembered");
}

#[test]
fn without_hints_the_replicas_are_asked_in_turn() {
    let mut bench = Bench::plain();
    bench.world().faults.bad_hint = 1000;
    (0..4).for_each(|copyset| bench.world().servers.set_leader(copyset, 1));
    bench.write(1, 71, 0, 256).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
}

#[test]
fn a_node_that_is_down_is_left() {
    let mut bench = Bench::plain();
    bench.write(1, 71, 0, 256).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    bench.world().take_down(0);
    let started_ns = bench.now_ns;
    bench.write(2, 72, 0, 256).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    assert!(bench.turned_ns - started_ns < 1_000_000_000, "two nodes are enough");
    bench.check_idle();
}

#[test]
fn when_nobody_is_there_time_runs_out() {
    let mut bench = Bench::plain();
    bench.world().down = vec![0, 1, 2];
    let started_ns = bench.now_ns;
    bench.write(1, 71, 0, 8).expect("room");
    bench.read(2, 0, 8).expect("room");
    let reports = bench.finish();
    let timed_out = Err(ClientError::TimedOut(Obstacle::Connection));
    assert!(reports.iter().all(|report| report.result == timed_out), "{reports:?}");
    let took = Duration::from_nanos(bench.turned_ns - started_ns);
    assert!((30..32).contains(&took.as_secs()), "{took:?}");
    let attempts = bench.world().asked.len();
    assert!((100..2000).contains(&attempts), "{attempts} attempts to connect");
    bench.world().down.clear();
    bench.read(3, 0, 8).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![0; 8]), "and it goes on when somebody is");
    bench.check_idle();
}

#[test]
fn addresses_are_tried_in_order() {
    let mut bench = Bench::plain();
    bench.world().faults.connect_fails = 1000;
    bench.read(1, 0, 1).expect("room");
    let mut reports = Vec::new();
    while bench.world().asked.len() < 2 {
        bench.turn(&mut reports);
    }
    let shm: Vec<bool> =
        bench.world().asked.iter().map(|asked| matches!(asked, Address::Shm(_))).collect();
    assert_eq!(shm, [true, false]);
    bench.world().faults = Faults::default();
    assert_eq!(bench.outcome(), Ok(vec![0]));

    let options = ClientOptions { transports: Transports::Tcp, ..ClientOptions::default() };
    let mut bench = Bench::new(1, 32, options);
    bench.read(1, 0, 256).expect("room");
    bench.outcome().expect("it works");
    assert!(bench.world().asked.iter().all(|asked| matches!(asked, Address::Tcp(_))));
}

#[test]
fn where_a_way_has_died_the_next_address_is_tried_at_once() {
    for (reason, is_shm) in [(CloseReason::PortDown, false), (CloseReason::PeerClosed, true)] {
        let mut bench = Bench::plain();
        bench.read(1, 0, 1).expect("room");
        bench.outcome().expect("it works");
        let connection = bench.world().links[0].id;
        let before = bench.world().asked.len();
        bench.world().drop_connection(connection, reason);
        bench.turn(&mut Vec::new());
        bench.read(2, 0, 1).expect("room");
        assert_eq!(bench.outcome(), Ok(vec![0]));
        assert_eq!(matches!(bench.world().asked[before], Address::Shm(_)), is_shm, "{reason}");
        bench.check_idle();
    }
}

/// Under load: nothing is repeated, and nothing fails.
#[test]
fn the_preferred_address_is_tried_again() {
    let mut bench = Bench::plain();
    bench.world().faults.no_shm = true;
    let (mut token, mut reports) = (0, Vec::new());
    let mut run = |bench: &mut Bench, seconds: u64| {
        let until_ns = bench.now_ns + seconds * 1_000_000_000;
        while bench.now_ns < until_ns {
            while bench.client.in_flight() < 16 {
                token += 1;
                let offset = token * 37 % 2000;
                if token % 2 == 0 {
                    bench.read(token, offset, 8).expect("room");
                } else {
                    bench.write(token, token, offset, 8).expect("room");
                }
            }
            bench.world().delay_ns = 200_000;
            bench.turn(&mut reports);
        }
        assert!(reports.drain(..).all(|report| report.result.is_ok()));
    };
    run(&mut bench, 4);
    let before = *bench.client.statistics();
    assert_eq!(before.returns, 0);
    let tried = |bench: &Bench| {
        let asked = bench.world().asked.clone();
        asked.iter().filter(|asked| matches!(asked, Address::Shm(_))).count()
    };
    let endpoints = before.connects as usize;
    assert_eq!(tried(&bench), 3 * endpoints, "at first, after 1 s, and 2 s later");
    bench.world().faults.no_shm = false;
    run(&mut bench, 5);
    let after = *bench.client.statistics();
    assert_eq!(after.returns as usize, endpoints, "all have moved back");
    assert_eq!((after.retries, after.timeouts), (before.retries, before.timeouts));
    let moved = tried(&bench);
    run(&mut bench, 5);
    assert_eq!(tried(&bench), moved, "and are left alone");
    bench.finish();
    bench.check_idle();
}

#[test]
fn strangers_are_not_trusted() {
    let mut bench = Bench::plain();
    bench.world().impostor = true;
    bench.write(1, 71, 0, 1).expect("room");
    assert_eq!(bench.outcome(), Err(ClientError::TimedOut(Obstacle::Connection)));
    assert_eq!((bench.world().requests_seen, bench.client.statistics().connects), (0, 0));
    bench.check_idle();
}

#[test]
fn who_sends_nonsense_is_left() {
    for nonsense in [&b"nonsense"[..], &[2, 0, 1, 0, 8, 0, 0, 0]] {
        let mut bench = Bench::plain();
        bench.read(1, 0, 1).expect("room");
        bench.outcome().expect("it works");
        let connection = bench.world().links[0].id;
        bench.world().inject(OwnedEvent::Frame(connection, nonsense.to_vec()));
        bench.read(2, 0, 1).expect("room");
        assert_eq!(bench.outcome(), Ok(vec![0]));
        let statistics = bench.client.statistics();
        assert_eq!((statistics.bad_frames, statistics.disconnects), (1, 1));
        bench.check_idle();
    }
}

#[test]
fn a_session_that_expired_in_peace_is_opened_again() {
    let mut bench = Bench::plain();
    bench.write(1, 71, 0, 32).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    bench.world().servers.expire_all_sessions();
    bench.write(2, 72, 0, 32).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    assert_eq!(bench.stored(0), 72);
    assert_eq!(bench.client.statistics().sessions, 2);
}

#[test]
fn a_session_lost_with_a_change_on_its_way_is_told() {
    let mut bench = Bench::plain();
    bench.write(1, 71, 0, 8).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    bench.world().faults.lose_reply = 1000;
    bench.write(2, 72, 0, 8).expect("room");
    let mut reports = Vec::new();
    while bench.stored(0) != 72 {
        bench.turn(&mut reports);
    }
    bench.world().servers.expire_all_sessions();
    bench.world().faults.lose_reply = 0;
    assert_eq!(bench.outcome(), Err(ClientError::OutcomeUnknown));
    bench.check_idle();
}

#[test]
fn a_refusal_of_a_repetition_says_nothing_of_the_first_attempt() {
    let mut bench = Bench::plain();
    bench.write(1, 71, 0, 8).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    bench.world().faults.lose_reply = 1000;
    bench.write(2, 72, 0, 8).expect("room");
    let mut reports = Vec::new();
    while bench.stored(0) != 72 {
        bench.turn(&mut reports);
    }
    bench.world().servers.verdict = Some((ReplyStatus::NoSpace, 0));
    bench.world().faults.lose_reply = 0;
    assert_eq!(bench.outcome(), Err(ClientError::OutcomeUnknown));
    bench.check_idle();
}

#[test]
fn a_lost_answer_is_asked_for_again() {
    let mut bench = Bench::plain();
    bench.write(1, 71, 0, 8).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    bench.world().faults.lose_reply = 1000;
    bench.write(2, 72, 0, 8).expect("room");
    let mut reports = Vec::new();
    while bench.stored(0) != 72 {
        bench.turn(&mut reports);
    }
    bench.world().faults.lose_reply = 0;
    assert_eq!(bench.outcome(), Ok(vec![]));
    assert_eq!(bench.world().servers.executions[&(72, 0)], 1);
    assert!(bench.client.statistics().retries > 0);
}

#[test]
fn a_silent_connection_is_closed_and_its_pages_come_back() {
    let mut bench = Bench::plain();
    bench.world().faults.lose_request = 1000;
    bench.read(1, 0, 32).expect("room");
    let mut reports = Vec::new();
    while bench.client.statistics().disconnects == 0 {
        bench.turn(&mut reports);
    }
    assert_eq!(bench.client.reads_in_quarantine(), 0);
    assert_eq!(bench.world().links[0].pages_out(), 0);
    bench.world().faults.lose_request = 0;
    assert_eq!(bench.outcome(), Ok(vec![0; 32]));
}

#[test]
fn verdicts_are_final() {
    for (verdict, error) in [
        ((ReplyStatus::NoSpace, 0), ClientError::NoSpace),
        ((ReplyStatus::Fenced, 7), ClientError::Fenced(Epoch(7))),
        ((ReplyStatus::Malformed, 0), ClientError::Refused),
        ((ReplyStatus::OutOfRange, 0), ClientError::Refused),
        ((ReplyStatus::BelowWindow, 0), ClientError::OutcomeUnknown),
    ] {
        for session_first in [false, true] {
            let mut bench = Bench::plain();
            if session_first {
                bench.write(1, 71, 0, 8).expect("room");
                assert_eq!(bench.outcome(), Ok(vec![]));
            }
            bench.world().servers.verdict = Some(verdict);
            bench.write(2, 72, 0, 256).expect("room");
            assert_eq!(bench.outcome(), Err(error));
            bench.check_idle();
        }
    }
}

#[test]
fn attempts_are_bounded() {
    let options = ClientOptions { attempts_max: 3, ..ClientOptions::default() };
    let mut bench = Bench::new(1, 32, options);
    bench.write(1, 71, 0, 1).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    let before = bench.world().requests_seen;
    bench.world().servers.verdict = Some((ReplyStatus::Busy, 0));
    bench.write(2, 72, 0, 1).expect("room");
    assert_eq!(bench.outcome(), Err(ClientError::TimedOut(Obstacle::Busy)));
    assert_eq!(bench.world().requests_seen - before, 3);
}

#[test]
fn bad_blocks_and_bad_transfers_are_told_apart() {
    let mut bench = Bench::plain();
    bench.world().faults.media = 1000;
    bench.read(1, 0, 1).expect("room");
    assert_eq!(bench.outcome(), Err(ClientError::Media));
    bench.world().faults = Faults { corrupt_read: 1000, ..Faults::default() };
    bench.read(2, 0, 1).expect("room");
    assert_eq!(bench.outcome(), Err(ClientError::Corrupt));
    bench.check_idle();
}

#[test]
fn reads_wait_for_pages_that_the_caller_keeps() {
    let mut bench = Bench::new(1, 64, ClientOptions::default());
    bench.world().window_pages = (32, 32);
    let mut kept = Vec::new();
    bench.read(1, 0, 32).expect("room");
    while bench.client.in_flight() > 0 {
        bench.now_ns += 10_000;
        bench.client.poll(bench.now_ns, &mut |done| kept.extend(done.data.take()));
    }
    bench.read(2, 0, 32).expect("room");
    let error = bench.outcome().expect_err("no pages");
    assert_eq!(error, ClientError::TimedOut(Obstacle::LandingPages));
    bench.read(3, 0, 32).expect("room");
    kept.clear();
    assert_eq!(bench.outcome(), Ok(vec![0; 32]));
    bench.check_idle();
}

#[test]
fn reads_do_not_wait_for_each_other_for_ever() {
    let mut bench = Bench::new(1, 4, ClientOptions::default());
    // Each of these reads needs more pages than there are, of every connection.
    bench.world().window_pages = (16, 16);
    for token in 0..8 {
        bench.read(token, token * 256, 256).expect("room");
    }
    let started_ns = bench.now_ns;
    let reports = bench.finish();
    assert!(reports.iter().all(|report| report.result.is_ok()), "{reports:?}");
    assert!(bench.turned_ns - started_ns < 10_000_000_000);
    assert!(bench.client.statistics().copied_bytes > 0);
    bench.check_idle();
}

#[test]
fn a_status_comes_in_pieces() {
    let mut bench = Bench::plain();
    let status = format!("{{\"long\": \"{}\"}}", "x".repeat(10_000));
    bench.world().servers.status.clone_from(&status);
    let endpoint = EndpointIndex { node: 1, reactor: 1 };
    let fetch = |bench: &mut Bench| {
        bench.client.request_status(endpoint).expect("none under way");
        loop {
            bench.turn(&mut Vec::new());
            if let Some(result) = bench.client.take_status() {
                return result;
            }
        }
    };
    assert_eq!(fetch(&mut bench), Ok(status));
    bench.world().servers.status.clear();
    assert_eq!(fetch(&mut bench), Ok(String::new()));
    bench.world().down = vec![1];
    let links = bench.world().links[0].id;
    bench.world().drop_connection(links, crate::network::CloseReason::PeerVanished);
    assert_eq!(fetch(&mut bench), Err(StatusError::Unreachable));
    let nowhere = EndpointIndex { node: 1, reactor: 2 };
    assert_eq!(bench.client.request_status(nowhere), Err(StatusError::UnknownEndpoint));
    bench.client.request_status(endpoint).expect("none under way");
    assert_eq!(bench.client.request_status(endpoint), Err(StatusError::InProgress));
}

#[test]
fn the_epoch_goes_along() {
    let options = ClientOptions { epoch: Epoch(9), ..ClientOptions::default() };
    let mut bench = Bench::new(1, 32, options);
    bench.write(1, 71, 0, 1).expect("room");
    assert_eq!(bench.outcome(), Ok(vec![]));
    assert_eq!(bench.world().servers.epochs, [9, 9], "of the session and of the write");
}

#[test]
fn a_connection_is_known_until_its_end_is_told_although_another_has_its_slot() {
    let mut bench = Bench::plain();
    let core = &mut bench.client.core;
    let [closed, opened] = [7, 8].map(|generation| ConnectionId::new(0, generation));
    let [one, other] = [0, 1].map(EndpointId);
    core.note_connection(closed, one);
    core.note_connection(opened, other);
    assert_eq!((core.endpoint_of(closed), core.endpoint_of(opened)), (Some(one), Some(other)));
    core.on_closed(closed, CloseReason::PeerClosed);
    assert_eq!((core.endpoint_of(closed), core.endpoint_of(opened)), (None, Some(other)));
    core.on_closed(opened, CloseReason::PeerClosed);
    assert_eq!(core.endpoint_of(opened), None);
}
