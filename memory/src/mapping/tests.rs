use super::*;

fn options(bytes: usize, backing: Backing, seal: bool) -> MappingOptions {
    MappingOptions { name: "culvert-test".into(), bytes, backing, seal, ..Default::default() }
}

#[test]
fn ordinary_pages_round_to_4_kib() {
    let mapping = Mapping::create(&options(5000, Backing::Ordinary, false)).unwrap();
    assert_eq!(mapping.len(), 8192);
    assert!(!mapping.is_huge());
}

/// Whether `scripts/test` says what kind of pages there are.
fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value == "1")
}

#[test]
fn falls_back_or_is_huge() {
    let mapping = Mapping::create(&options(1, Backing::HugeOrOrdinary, false)).unwrap();
    assert_eq!(mapping.len(), if mapping.is_huge() { HUGE_PAGE_SIZE } else { PAGE_SIZE });
    assert!(mapping.is_huge() || !is_set("CULVERT_TEST_HUGE"));
    assert!(!mapping.is_huge() || !is_set("CULVERT_TEST_ORDINARY"));
}

#[test]
fn more_hugepages_than_the_machine_has() {
    let bytes = 1 << 42;
    if std::env::var_os("CULVERT_TEST_ORDINARY").is_none() {
        let error = Mapping::create(&options(bytes, Backing::Huge2M, false)).unwrap_err();
        assert!(matches!(error, MappingError::NoHugePages { .. }), "{error:?}");
    }
}

#[test]
fn a_peer_must_seal_and_agree_on_the_size() {
    let unsealed = Mapping::create(&options(8192, Backing::Ordinary, false)).unwrap();
    let fd = unsealed.fd().try_clone_to_owned().unwrap();
    assert!(matches!(Mapping::from_fd(fd, 8192), Err(MappingError::Unsealed)));

    let sealed = Mapping::create(&options(8192, Backing::Ordinary, true)).unwrap();
    let fd = sealed.fd().try_clone_to_owned().unwrap();
    let error = Mapping::from_fd(fd, 4096).unwrap_err();
    assert!(matches!(error, MappingError::SizeMismatch { expected: 4096, actual: 8192 }));
    let fd = sealed.fd().try_clone_to_owned().unwrap();
    let peer = Mapping::from_fd(fd, 8192).unwrap();
    assert!(rustix::fs::ftruncate(peer.fd(), 0).is_err());
}

#[test]
fn a_huge_memfd_can_be_shared() {
    let sealed = Mapping::create(&options(1, Backing::HugeOrOrdinary, true)).unwrap();
    let fd = sealed.fd().try_clone_to_owned().unwrap();
    let peer = Mapping::from_fd(fd, sealed.len()).unwrap();
    assert_eq!(peer.is_huge(), sealed.is_huge());
}

#[test]
fn hugepages_run_out_at_the_mapping() {
    let options =
        MappingOptions { populate: false, ..options(1 << 42, Backing::HugeOrOrdinary, false) };
    let mapping = Mapping::create(&options);
    if is_set("CULVERT_TEST_HUGE") {
        assert!(matches!(mapping, Err(MappingError::NoHugePages { .. })), "{mapping:?}");
    } else {
        assert!(!mapping.unwrap().is_huge());
    }
}

#[test]
fn the_environment_forces_ordinary_pages() {
    if is_set("CULVERT_TEST_ORDINARY") {
        assert!(!Mapping::create(&options(1, Backing::Huge2M, false)).unwrap().is_huge());
    }
}

#[test]
fn sizes_that_are_none() {
    for bytes in [0, usize::MAX, isize::MAX as usize] {
        for backing in [Backing::Ordinary, Backing::HugeOrOrdinary] {
            let error = Mapping::create(&options(bytes, backing, false)).unwrap_err();
            assert!(matches!(error, MappingError::InvalidSize { .. }), "{error:?}");
        }
    }
}

#[test]
fn a_file_and_its_mapping_are_the_same_bytes() {
    let memfd = rustix::fs::memfd_create("culvert-test", MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(memfd);
    file.set_len(8192).unwrap();
    assert!(matches!(
        Mapping::from_file(&file, 8193),
        Err(MappingError::SizeMismatch { expected: 8193, actual: 8192 })
    ));
    let view = crate::SharedBytes::of_mapping(Mapping::from_file(&file, 8192).unwrap().into());
    view.write_bytes(4096, b"medium");
    let mut bytes = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 4096).unwrap();
    assert_eq!(&bytes, b"medium");
    let second = Mapping::from_device(file.as_fd(), 4096, 4096).unwrap();
    assert_eq!(
        crate::SharedBytes::of_mapping(second.into()).read_u32(0),
        u32::from_le_bytes(*b"medi")
    );
}

#[test]
fn a_pipe_is_no_memory_file() {
    let (reader, _writer) = std::io::pipe().unwrap();
    assert!(Mapping::from_fd(reader.into(), 4096).is_err());
}
