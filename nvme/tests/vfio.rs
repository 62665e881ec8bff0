//! What only a controller behind VFIO can do: several queue pairs on one, and what its IOMMU group
//! keeps away. `scripts/softroce test` has some; elsewhere these tests say that they were skipped.

use std::sync::{Arc, Barrier};

use culvert_memory::{Pool, PoolOptions};
use culvert_nvme::{
    Access, AnyQueuePair, Completion, ControllerError, DeviceClaim, DeviceUri, Lba, OpenError,
    OpenOptions, Operation, QueuePair, Status, Submission, Tag, VfioError, open_claimed,
};

/// I/O queue pairs of each controller of the virtual machine.
const QUEUES: usize = 4;

/// What is written there are commands to the machine's monitor.
const MONITOR: &str = "CULVERT_TEST_MONITOR";

/// A controller by its number in `CULVERT_TEST_VFIO`.
fn uri(number: usize, options: &str) -> Option<DeviceUri> {
    let addresses = std::env::var("CULVERT_TEST_VFIO").unwrap_or_default();
    let Some(address) = addresses.split_whitespace().nth(number) else {
        eprintln!("skipped: CULVERT_TEST_VFIO names no controller {number}");
        return None;
    };
    Some(format!("vfio:{address}{options}").parse().expect("a good URI"))
}

fn claim(number: usize) -> Option<DeviceClaim> {
    Some(DeviceClaim::take(&uri(number, "")?, Access::Exclusive).expect("bound to vfio-pci"))
}

fn pool() -> Pool {
    Pool::new(&PoolOptions { bytes: 4 << 20, ..PoolOptions::default() }).expect("memory")
}

fn pair(claim: &DeviceClaim, pool: &Pool) -> AnyQueuePair {
    let mut pair = open_claimed(claim, &OpenOptions::default()).expect("a queue pair");
    pool.regions().iter().for_each(|region| pair.register(region).expect("mapping the pool"));
    pair
}

fn submit(pair: &mut AnyQueuePair, tag: u64, operation: Operation) {
    pair.submit(Submission { tag: Tag(tag), operation }).expect("the queue has room");
    pair.ring();
}

fn finish(pair: &mut AnyQueuePair) -> Vec<Completion> {
    let mut completions = Vec::new();
    let since = std::time::Instant::now();
    while pair.in_flight() > 0 {
        pair.poll(64, &mut |completion| completions.push(completion));
        assert!(since.elapsed().as_secs() < 30, "{} commands never completed", pair.in_flight());
    }
    completions
}

fn write(pair: &mut AnyQueuePair, pool: &Pool, lba: u64, byte: u8) -> Status {
    let mut page = pool.acquire(1).expect("memory");
    page.as_mut_slice().fill(byte);
    submit(pair, 1, Operation::Write { lba: Lba(lba), pages: page.freeze(), fua: false });
    finish(pair)[0].status
}

fn read(pair: &mut AnyQueuePair, pool: &Pool, lba: u64) -> u8 {
    let buffer = pool.acquire(1).expect("memory");
    submit(pair, 2, Operation::Read { lba: Lba(lba), buffer });
    let completion = finish(pair).pop().expect("one");
    assert!(completion.status.is_success(), "{}", completion.status);
    completion.buffer.expect("a read hands its buffer back").as_slice()[4095]
}

#[test]
fn a_controller_is_one_process_s() {
    let (Some(first), Some(device)) = (claim(0), uri(0, "")) else { return };
    let error = DeviceClaim::take(&device, Access::Shared).expect_err("it is claimed");
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    drop(first);
    DeviceClaim::take(&device, Access::Shared).expect("it is free again");
}

#[test]
fn threads_have_queues_of_their_own() {
    let Some(claim) = claim(1) else { return };
    let threads: Vec<_> = (0..QUEUES as u64)
        .map(|thread| {
            let claim = claim.clone();
            std::thread::spawn(move || {
                let pool = pool();
                let mut pair = pair(&claim, &pool);
                for round in 0..50 {
                    let (lba, byte) = (1024 * thread + 8 * round, (thread * 50 + round) as u8);
                    assert!(write(&mut pair, &pool, lba, byte).is_success());
                    assert_eq!(read(&mut pair, &pool, lba), byte);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread that works"));
}

#[test]
fn queues_come_back_and_there_are_so_many() {
    let Some(claim) = claim(2) else { return };
    let pool = pool();
    for _ in 0..3 {
        let mut pairs: Vec<_> = (0..QUEUES).map(|_| pair(&claim, &pool)).collect();
        let error = open_claimed(&claim, &OpenOptions::default()).expect_err("no more queues");
        let expected = ControllerError::NoQueue { queues: QUEUES as u16 };
        assert!(matches!(error, OpenError::Controller(error) if error == expected), "{error:?}");
        pairs.swap_remove(1);
        pairs.push(pair(&claim, &pool));
        for (lba, pair) in pairs.iter_mut().enumerate() {
            assert!(write(pair, &pool, lba as u64, 7).is_success());
        }
    }
}

#[test]
fn a_reset_ends_the_commands_of_all() {
    let Some(claim) = claim(0) else { return };
    let pool = pool();
    let (mut one, mut other) = (pair(&claim, &pool), pair(&claim, &pool));
    let unaware = pair(&claim, &pool);
    assert!(write(&mut other, &pool, 9, 1).is_success());
    // Not rung: QEMU 7.2 itself dies when it is reset while it executes commands. What they end with
    // where the controller knows them is tried on the emulated one.
    for tag in 0..20 {
        let operation = Operation::Read { lba: Lba(tag), buffer: pool.acquire(1).expect("memory") };
        other.submit(Submission { tag: Tag(tag), operation }).expect("the queue has room");
    }
    let AnyQueuePair::Vfio(resetting) = &mut one else { unreachable!("a vfio: URI") };
    resetting.reset().expect("a reset");
    let completions = finish(&mut other);
    assert_eq!(completions.len(), 20);
    for completion in &completions {
        assert_eq!(completion.status, Status::ABORTED_BY_HOST);
        assert!(completion.buffer.is_some());
    }
    drop(completions);
    assert_eq!(pool.free_pages(), pool.total_pages());
    // One that has not heard of it leaves its queues to others.
    drop(unaware);
    let _further: Vec<_> = (2..QUEUES).map(|_| pair(&claim, &pool)).collect();
    // Both go on.
    assert!(write(&mut one, &pool, 10, 2).is_success());
    assert_eq!(read(&mut other, &pool, 10), 2);
    assert_eq!(read(&mut one, &pool, 9), 1);
}

#[test]
fn a_namespace_that_is_not_there_is_named() {
    let Some(device) = uri(0, "?ns=7") else { return };
    let claim = DeviceClaim::take(&device, Access::Exclusive).expect("bound to vfio-pci");
    let error = open_claimed(&claim, &OpenOptions::default()).expect_err("one namespace");
    let expected = ControllerError::NoSuchNamespace { namespace: 7 };
    assert!(matches!(error, OpenError::Controller(error) if error == expected), "{error:?}");
}

#[test]
fn namespaces_are_as_they_were_formatted() {
    for (number, block_size, transfer_bytes_max) in
        [(0, 4096, 1 << 20), (1, 512, 128 << 10), (2, 4096, 128 << 10), (3, 4096, 16 << 10)]
    {
        let Some(claim) = claim(number) else { return };
        let pair = open_claimed(&claim, &OpenOptions::default()).expect("a queue pair");
        let namespace = pair.namespace();
        assert_eq!(namespace.block_size, block_size);
        assert_eq!(namespace.transfer_bytes_max, transfer_bytes_max);
        assert_eq!(namespace.serial.as_str(), format!("CULVERT{number}"));
        assert_eq!(namespace.model.as_str(), "QEMU NVMe Ctrl");
        assert!(namespace.volatile_write_cache);
    }
}

#[test]
fn what_a_device_reports_is_looked_at() {
    let (Some(claim), Ok(monitor)) = (claim(2), std::env::var(MONITOR)) else {
        eprintln!("skipped: {MONITOR} names no monitor that lets a controller warn");
        return;
    };
    let mut pair = pair(&claim, &pool());
    let since = std::time::Instant::now();
    for (event, warnings) in [(1, 1), (2, 5)] {
        let command =
            format!("qom-set /machine/peripheral/nvme2 smart_critical_warning {warnings}\n");
        std::fs::write(&monitor, command).expect("the monitor listens");
        while pair.counters().events < event {
            assert!(since.elapsed().as_secs() < 30, "{} events", pair.counters().events);
            pair.tend(since.elapsed().as_nanos() as u64);
        }
    }
}

/// The last one: nobody finds this controller afterwards.
#[test]
fn zz_a_device_that_is_taken_gives_everything_back() {
    let (Some(claim), Ok(monitor)) = (claim(3), std::env::var(MONITOR)) else {
        eprintln!("skipped: {MONITOR} names no monitor that removes a controller");
        return;
    };
    let device = uri(3, "").expect("it was claimed").to_string();
    let folder = format!("/sys/bus/pci/devices/{}", device.trim_start_matches("vfio:"));
    assert!(std::fs::exists(&folder).expect("sysfs"), "{folder}");
    let busy = Arc::new(Barrier::new(3));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (claim, busy) = (claim.clone(), busy.clone());
            std::thread::spawn(move || until_it_is_taken(&claim, &busy))
        })
        .collect();
    let mut idle = pair(&claim, &pool());
    busy.wait();
    std::fs::write(&monitor, "device_del nvme3\n").expect("the monitor listens");
    for thread in threads {
        let succeeded = thread.join().expect("everything came back");
        println!("{succeeded} commands succeeded until it was taken");
    }
    // The kernel waits for the last one.
    idle.poll(1, &mut |_| panic!("nothing is in flight"));
    let since = std::time::Instant::now();
    while std::fs::exists(&folder).expect("sysfs") {
        assert!(since.elapsed().as_secs() < 30, "the device is still there");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let error = open_claimed(&claim, &OpenOptions::default()).expect_err("it is gone");
    assert!(matches!(error, OpenError::Vfio { source: VfioError::Gone, .. }), "{error:?}");
}

/// Keeps a queue pair busy until its device is taken; returns how many commands succeeded.
fn until_it_is_taken(claim: &DeviceClaim, busy: &Barrier) -> u64 {
    let pool = pool();
    let mut pair = pair(claim, &pool);
    assert!(write(&mut pair, &pool, 1, 1).is_success());
    busy.wait();
    let since = std::time::Instant::now();
    let (mut succeeded, mut taken) = (0, 0);
    while taken < 100 {
        assert!(since.elapsed().as_secs() < 40, "nobody took it: {succeeded} commands");
        while pair.in_flight() < 32 {
            let buffer = pool.acquire(1).expect("buffers come back");
            submit(&mut pair, 1, Operation::Read { lba: Lba(succeeded % 64), buffer });
        }
        pair.tend(since.elapsed().as_nanos() as u64);
        pair.poll(64, &mut |completion| {
            assert!(completion.buffer.is_some());
            match completion.status {
                status if status.is_success() && taken == 0 => succeeded += 1,
                Status::HOST_PATHING_ERROR => taken += 1,
                status => panic!("{status}"),
            }
        });
    }
    finish(&mut pair);
    assert_eq!(pool.free_pages(), pool.total_pages());
    succeeded
}
