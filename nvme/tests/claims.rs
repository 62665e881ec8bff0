//! A device has one user that writes, or several that read.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use culvert_nvme::{
    Access, DeviceClaim, DeviceUri, Holder, OpenError, OpenOptions, QueuePair, UringError, open,
    open_claimed,
};

/// URIs of devices over files, each with its file in a folder; one for each backend that this
/// machine has.
fn devices(folder: &Path) -> Vec<(DeviceUri, std::path::PathBuf)> {
    let mut devices = Vec::new();
    for (name, uri) in [("emulated", "emulated:1MiB?file=FILE"), ("uring", "uring:FILE?size=1MiB")]
    {
        let file = folder.join(name);
        let uri: DeviceUri =
            uri.replace("FILE", &file.display().to_string()).parse().expect("a good URI");
        match open(&uri, &OpenOptions::default()) {
            Ok(_) => devices.push((uri, file)),
            Err(OpenError::Uring {
                source: source @ (UringError::Unavailable(_) | UringError::NoDirectIo),
                ..
            }) => eprintln!("skipped: {uri}: {source}"),
            Err(error) => panic!("{uri}: {error:?}"),
        }
    }
    devices
}

fn holder(result: Result<impl Sized, OpenError>) -> Holder {
    match result {
        Err(OpenError::InUse { holder, .. }) => holder,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it is in use"),
    }
}

#[test]
fn a_second_opening_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (uri, file) in devices(folder.path()) {
        let pair = open(&uri, &OpenOptions::default()).expect("nobody has it");
        let before = std::fs::read(&file).expect("its bytes");
        let again = open(&uri, &OpenOptions::default());
        let text = again.as_ref().expect_err("it is in use").to_string();
        assert_eq!(holder(again), Holder::Us);
        assert!(text.contains("in use") && text.contains("already running?"), "{text}");
        // A larger size would extend it.
        let larger = uri.to_string().replace("1MiB", "2MiB").parse().expect("a good URI");
        holder(open(&larger, &OpenOptions::default()));
        holder(DeviceClaim::take(&uri, Access::Shared));
        assert_eq!(std::fs::read(&file).expect("its bytes"), before, "{uri}");
        drop(pair);
        open(&uri, &OpenOptions::default()).expect("it was let go");
    }
}

#[test]
fn readers_share_and_keep_the_writer_out() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (uri, _) in devices(folder.path()) {
        let readers = [(); 2].map(|()| DeviceClaim::take(&uri, Access::Shared).expect("shared"));
        holder(open(&uri, &OpenOptions::default()));
        drop(readers);
        open(&uri, &OpenOptions::default()).expect("they let go");
    }
}

#[test]
fn queue_pairs_of_one_claim_share_the_device_until_the_last_is_gone() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (uri, _) in devices(folder.path()) {
        let claim = DeviceClaim::take(&uri, Access::Exclusive).expect("nobody has it");
        let first = open_claimed(&claim, &OpenOptions::default()).expect("it is ours");
        let second = open_claimed(&claim, &OpenOptions::default()).expect("it is ours");
        assert_eq!(first.namespace().blocks, second.namespace().blocks);
        drop(claim);
        drop(first);
        holder(open(&uri, &OpenOptions::default()));
        drop(second);
        open(&uri, &OpenOptions::default()).expect("they are gone");
    }
}

#[test]
fn a_child_process_does_not_keep_the_device() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (uri, _) in devices(folder.path()) {
        let pair = open(&uri, &OpenOptions::default()).expect("nobody has it");
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn();
        drop(pair);
        let opened = open(&uri, &OpenOptions::default());
        if let Ok(child) = &mut child {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
        opened.unwrap_or_else(|error| panic!("{uri}: the child inherited it: {error}"));
    }
}

#[test]
fn who_is_just_ending_is_waited_for() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (uri, _) in devices(folder.path()) {
        let claim = DeviceClaim::take(&uri, Access::Exclusive).expect("nobody has it");
        let ending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(claim);
        });
        let since = Instant::now();
        open(&uri, &OpenOptions::default()).expect("it is let go in time");
        assert!(since.elapsed() >= Duration::from_millis(50), "it was in use");
        ending.join().expect("it ends");
    }
}

#[test]
fn devices_in_memory_are_nobody_elses() {
    let uri: DeviceUri = "emulated:1MiB".parse().expect("a good URI");
    let _first = open(&uri, &OpenOptions::default()).expect("memory");
    let _second = open(&uri, &OpenOptions::default()).expect("memory");
}
