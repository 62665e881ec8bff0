//! What only io_uring can do, and what it refuses.

use std::path::Path;

use culvert_memory::{Pool, PoolOptions};
use culvert_nvme::{
    AnyQueuePair, Lba, OpenError, OpenOptions, Operation, QueuePair, Status, Submission, Tag,
    UringError, open,
};

fn try_open(path: &Path, options: &str) -> Result<AnyQueuePair, UringError> {
    let uri = format!("uring:{}?{options}", path.display()).parse().expect("a good URI");
    open(&uri, &OpenOptions::default()).map_err(|error| match error {
        OpenError::Uring { source, .. } => source,
        other => panic!("{other:?}"),
    })
}

/// Opens a file, or says why this machine cannot.
fn open_file(path: &Path, options: &str) -> Option<AnyQueuePair> {
    match try_open(path, options) {
        Ok(pair) => Some(pair),
        Err(error @ (UringError::Unavailable(_) | UringError::NoDirectIo)) => {
            eprintln!("skipped: {}: {error}", path.display());
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn run(pair: &mut AnyQueuePair, operation: Operation) -> Status {
    pair.submit(Submission { tag: Tag(1), operation }).expect("the queue is empty");
    pair.ring();
    let mut status = None;
    while pair.in_flight() > 0 {
        pair.poll(8, &mut |completion| status = Some(completion.status));
    }
    status.expect("a completion")
}

#[test]
fn a_missing_file_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let error = try_open(&directory.path().join("missing"), "").expect_err("no such file");
    assert!(matches!(error, UringError::NotFound), "{error:?}");
    assert!(error.to_string().contains("size=1GiB"), "{error}");
    assert!(!directory.path().join("missing").exists());
}

#[test]
fn a_size_creates_and_extends() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("device");
    let Some(mut pair) = open_file(&path, "size=1MiB") else { return };
    assert_eq!(pair.namespace().blocks, 256);
    assert!(pair.namespace().volatile_write_cache);
    assert_eq!(pair.namespace().model.as_str(), "file");
    let pool = Pool::new(&PoolOptions::default()).expect("memory");
    pair.register(&pool.regions()[0]).expect("registering");
    let mut buffer = pool.acquire(1).expect("memory");
    buffer.as_mut_slice().fill(9);
    let write = Operation::Write { lba: Lba(255), pages: buffer.freeze(), fua: true };
    assert_eq!(run(&mut pair, write), Status::SUCCESS);
    drop(pair);

    let pair = open_file(&path, "size=2MiB").expect("it opened before");
    assert_eq!(pair.namespace().blocks, 512);
    drop(pair);
    let pair = open_file(&path, "block=512").expect("it opened before");
    assert_eq!(pair.namespace().blocks, 4096);
    drop(pair);
    let bytes = std::fs::read(&path).expect("reading the file");
    assert_eq!(bytes.len(), 2 << 20);
    assert!(bytes[255 * 4096..256 * 4096].iter().all(|byte| *byte == 9));

    let error = try_open(&path, "size=1MiB").expect_err("larger than named");
    assert!(matches!(error, UringError::Larger { .. }), "{error:?}");
}

#[test]
fn what_is_no_disk_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let error = try_open(directory.path(), "").expect_err("a directory");
    assert!(matches!(error, UringError::Kind), "{error:?}");
    let error = try_open(Path::new("/dev/null"), "").expect_err("a character device");
    assert!(matches!(error, UringError::Kind), "{error:?}");
    let path = directory.path().join("empty");
    std::fs::write(&path, b"").expect("writing");
    match try_open(&path, "").expect_err("no block") {
        UringError::Empty { bytes: 0 } | UringError::NoDirectIo => {}
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_file_system_without_direct_io_is_named() {
    // Attributes of the kernel cannot be read directly.
    let refused = Path::new("/proc/sys/kernel/threads-max");
    match try_open(refused, "") {
        Err(error @ UringError::NoDirectIo) => {
            assert!(error.to_string().contains("O_DIRECT"), "{error}");
        }
        Err(UringError::Open(error)) => eprintln!("skipped: {}: {error}", refused.display()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tmpfs_works_or_is_named() {
    let directory = match tempfile::tempdir_in("/dev/shm") {
        Ok(directory) => directory,
        Err(error) => return eprintln!("skipped: /dev/shm: {error}"),
    };
    let path = directory.path().join("device");
    match try_open(&path, "size=1MiB") {
        Ok(pair) => {
            eprintln!("skipped: tmpfs of this kernel accepts O_DIRECT");
            assert_eq!(pair.namespace().blocks, 256);
        }
        Err(UringError::NoDirectIo) => assert!(!path.exists(), "what was created is removed"),
        Err(UringError::Unavailable(error)) => eprintln!("skipped: {error}"),
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_file_that_shrinks_does_not_read_as_success() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("device");
    let Some(mut pair) = open_file(&path, "size=1MiB") else { return };
    let pool = Pool::new(&PoolOptions::default()).expect("memory");
    pair.register(&pool.regions()[0]).expect("registering");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opening");
    file.set_len((1 << 20) - 4096).expect("shrinking");
    let read = |lba, pages| {
        let buffer = pool.acquire(pages).expect("memory");
        Operation::Read { lba: Lba(lba), buffer }
    };
    assert_eq!(run(&mut pair, read(255, 1)), Status::DATA_TRANSFER_ERROR);
    assert_eq!(run(&mut pair, read(254, 2)), Status::DATA_TRANSFER_ERROR);
    assert_eq!(run(&mut pair, read(254, 1)), Status::SUCCESS);
    assert_eq!(pair.counters().errors, 2);
}

#[test]
fn regions_beyond_one_gib_are_split() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(mut pair) = open_file(&directory.path().join("device"), "size=1MiB") else { return };
    let bytes = (1 << 30) + (2 << 20);
    let pool = match Pool::new(&PoolOptions { bytes, lock: false, ..PoolOptions::default() }) {
        Ok(pool) => pool,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    pair.register(&pool.regions()[0]).expect("registering");
    // All pages but one up to the first GiB, so that the next two lie on both sides of its end.
    let below = pool.acquire((1 << 18) - 1).expect("memory");
    let mut across = pool.acquire(2).expect("memory");
    let mut above = pool.acquire(2).expect("memory");
    assert_eq!((below.page(), across.page()), (0, (1 << 18) - 1));
    across.as_mut_slice().fill(1);
    above.as_mut_slice().fill(2);
    for (lba, buffer) in [(0, across), (2, above)] {
        let pages = buffer.freeze();
        assert_eq!(
            run(&mut pair, Operation::Write { lba: Lba(lba), pages, fua: false }),
            Status::SUCCESS
        );
    }
    let mut buffer = pool.acquire(4).expect("memory");
    buffer.as_mut_slice().fill(0);
    let operation = Operation::Read { lba: Lba(0), buffer };
    pair.submit(Submission { tag: Tag(1), operation }).expect("the queue is empty");
    pair.ring();
    let mut read = Vec::new();
    while pair.in_flight() > 0 {
        pair.poll(1, &mut |completion| {
            read = completion.buffer.expect("a buffer").as_slice().to_vec();
        });
    }
    assert!(read[..8192].iter().all(|byte| *byte == 1));
    assert!(read[8192..].iter().all(|byte| *byte == 2));
}
