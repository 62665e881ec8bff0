use super::*;
use proptest::prelude::*;

fn parse(uri: &str) -> Result<DeviceUri, UriError> {
    uri.parse()
}

fn message(uri: &str) -> String {
    parse(uri).expect_err("a bad URI").to_string()
}

#[test]
fn defaults_are_not_written() {
    for uri in [
        "emulated:2GiB",
        "emulated:4KiB?file=/dev/shm/disk",
        "emulated:1536MiB?medium=null&block=512",
        "emulated:2GiB?metadata=64",
        "emulated:1TiB?cache=volatile&thread=1&order=shuffled&seed=7",
        "emulated:8KiB?cache=volatile&cache_blocks=2",
        "uring:/dev/nvme0n1",
        "uring:relative/file?block=512&size=1GiB",
        "uring:/a%26b%3fc%25d",
        "uring:/dev/ng0n1?polled=1",
        "vfio:0000:5e:00.0",
        "vfio:0001:5e:00.1?ns=2&interrupts=0",
    ] {
        assert_eq!(parse(uri).map(|uri| uri.to_string()), Ok(uri.to_owned()));
    }
    let spelled_out = "emulated:1048576?medium=ram&block=4096&cache=none&thread=0&order=fetched";
    assert_eq!(parse(spelled_out).map(|uri| uri.to_string()), Ok("emulated:1MiB".to_owned()));
}

#[test]
fn errors_say_what_is_wrong_and_what_is_allowed() {
    assert_eq!(
        message("/dev/nvme0n1"),
        "no backend in \"/dev/nvme0n1\": it starts with one of emulated:, uring:, vfio: as in \
         emulated:1GiB"
    );
    assert_eq!(
        message("nvme:/dev/nvme0n1"),
        "unknown backend \"nvme\": known are emulated:, uring:, vfio:"
    );
    assert_eq!(
        message("spdk:0000:5e:00.0"),
        "the backend \"spdk\" is not in this build; this build has emulated:, uring:, vfio:"
    );
    assert_eq!(
        message("vfio:nvme0"),
        "address=nvme0: expected DOMAIN:BUS:DEVICE.FUNCTION in hexadecimal, as in 0000:5e:00.0"
    );
    assert_eq!(
        message("vfio:5e:00.0?ns=0"),
        "ns=0: expected the number of a namespace, 1 to 4294967294"
    );
    assert_eq!(parse("spdk:0000:5e:00.0"), Err(UriError::NotInThisBuild { scheme: "spdk" }));
    assert_eq!(
        message("emulated:1GB"),
        "size=1GB: expected a multiple of 4 KiB such as 64MiB or 2GiB, up to 8 EiB"
    );
    assert_eq!(message("emulated:1GiB?block=1024"), "block=1024: expected 512 or 4096");
    assert_eq!(
        message("emulated:1GiB?cahce=volatile"),
        "unknown option \"cahce\" of emulated: known are file, block, metadata, cache, cache_blocks, \
         thread, order, medium, seed"
    );
    assert_eq!(
        message("uring:/x?seed=1"),
        "unknown option \"seed\" of uring: known are block, size, polled"
    );
    assert_eq!(
        message("emulated:1GiB?thread"),
        "option \"thread\" has no value: options are NAME=VALUE, joined by &"
    );
    assert_eq!(message("emulated:1GiB?seed=1&seed=1"), "option \"seed\" is given twice");
    assert_eq!(
        message("emulated:1GiB?medium=null&file=/x"),
        "medium=null and file exclude each other"
    );
    assert_eq!(
        message("emulated:1GiB?metadata=64&block=512"),
        "metadata=64 and block=512 exclude each other"
    );
    assert_eq!(
        message("emulated:1GiB?cache_blocks=5"),
        "cache=none and cache_blocks exclude each other"
    );
    assert_eq!(parse("uring:"), Err(UriError::NoPath));
    assert_eq!(message("uring:/50%"), "\"/50%\" is not well encoded: write % as %25");
}

#[test]
fn sizes_are_bounded() {
    for uri in ["emulated:", "emulated:0KiB", "emulated:1KiB", "emulated:99999999TiB"] {
        assert!(matches!(parse(uri), Err(UriError::InvalidValue { .. })), "{uri}");
    }
}

proptest! {
    #[test]
    fn display_round_trips(
        pages in 1u64..1 << 40,
        kind in 0u8..3,
        path in proptest::collection::vec(1u8.., 1..20),
        large_blocks: bool,
        cache_blocks in prop_oneof![Just(0), 1..=CACHE_BLOCKS_MAX],
        thread: bool,
        shuffled: bool,
        seed: u64,
    ) {
        let path = PathBuf::from(OsString::from_vec(path));
        let block_size = if large_blocks { 4096 } else { 512 };
        let mut device = EmulatedOptions::new(pages * 4096);
        device.block_size = block_size;
        device.thread = thread;
        device.seed = seed;
        device.order = if shuffled { CommandOrder::Shuffled } else { CommandOrder::Fetched };
        device.medium = match kind {
            0 => MediumKind::Memory,
            1 => MediumKind::Null,
            _ => MediumKind::File(path.clone()),
        };
        device.cache_blocks = if kind == 1 { 0 } else { cache_blocks };
        let uri = DeviceUri::new(Device::Emulated(device));
        prop_assert_eq!(parse(&uri.to_string()), Ok(uri));

        let mut device = UringOptions::new(path);
        device.block_size = thread.then_some(block_size);
        device.polled = seed.is_multiple_of(2);
        device.bytes = shuffled.then_some(pages * 4096);
        let uri = DeviceUri::new(Device::Uring(device));
        prop_assert_eq!(parse(&uri.to_string()), Ok(uri));
    }

    #[test]
    fn parsing_never_panics(text in ".{0,60}") {
        let _ = parse(&text);
        let _ = parse(&format!("emulated:{text}"));
        let _ = parse(&format!("uring:{text}"));
    }
}
