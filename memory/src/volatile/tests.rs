use super::*;
use crate::pool::tests::small_pool;
use crate::{Backing, MappingOptions, Window, WindowOptions};

fn view() -> SharedBytes {
    let options = MappingOptions {
        name: "culvert-test".into(),
        bytes: 8192,
        backing: Backing::Ordinary,
        ..MappingOptions::default()
    };
    SharedBytes::of_mapping(Rc::new(Mapping::create(&options).unwrap()))
}

#[test]
fn words_are_little_endian() {
    let view = view();
    view.write_u32(4, 0x0403_0201);
    view.store_release_u64(8, 0x0807_0605_0403_0201);
    let mut bytes = [0; 12];
    view.read_bytes(4, &mut bytes);
    assert_eq!(bytes, [1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(view.load_acquire_u32(4), view.read_u32(4));
    assert_eq!(view.load_acquire_u64(8), view.read_u64(8));
    view.store_release_u32(4, 9);
    view.write_u64(8, 10);
    assert_eq!((view.read_u32(4), view.read_u64(8)), (9, 10));
}

#[test]
fn a_part_of_a_view_keeps_it_mapped() {
    let part = view().slice(4096, 4096);
    part.write_bytes(0, b"culvert");
    assert_eq!(part.crc32c(0, 7), crc32c::crc32c(b"culvert"));
    part.fill_zero(0, 7);
    assert_eq!(part.read_u32(0), 0);
    assert!(part.slice(4096, 0).is_empty());
}

#[test]
#[should_panic(expected = "bytes at")]
fn outside_is_a_bug() {
    view().slice(4096, 4).read_u32(4);
}

#[test]
#[should_panic(expected = "misaligned")]
fn misaligned_is_a_bug() {
    view().slice(2, 8).read_u32(0);
}

#[test]
fn a_peer_sees_what_is_written() {
    let options = WindowOptions { name: "culvert-test".into(), pages: 4, lock: false };
    let window = Window::create(&options).unwrap();
    let fd = window.region().fd().try_clone_to_owned().unwrap();
    let peer = Mapping::from_fd(fd, window.region().len()).unwrap();
    let peer = SharedBytes::of_mapping(Rc::new(peer));

    let pool = small_pool();
    let mut buffer = pool.acquire(2).unwrap();
    buffer.as_mut_slice().fill(3);
    peer.copy_from_pages(4096, &buffer.freeze());
    let landed = window.claim(1, 2).unwrap();
    let mut back = pool.acquire(2).unwrap();
    peer.copy_to_buffer(4096, &mut back, 0..8192);
    assert!(back.as_slice().iter().all(|byte| *byte == 3));
    assert_eq!(landed.crc32c(0, 8192), back.crc32c(0, 8192));

    let own = SharedBytes::of_region(window.region());
    own.copy_from(0, &peer, 4096..4100);
    assert_eq!(own.read_u32(0), 0x0303_0303);
    own.copy_from(2, &own, 0..4096);
    own.copy_from_buffer(0, &landed, 0..4);
}

#[test]
#[should_panic(expected = "private region")]
fn a_pool_is_not_a_view() {
    SharedBytes::of_region(&small_pool().regions()[0]);
}
