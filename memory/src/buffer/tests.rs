use crate::pool::tests::small_pool;

#[test]
fn copies_and_checksums() {
    let pool = small_pool();
    let mut buffer = pool.acquire(3).unwrap();
    let bytes: Vec<u8> = (0..buffer.len()).map(|i| (i * 31 % 251) as u8).collect();
    buffer.copy_from_slice(0, &bytes);
    for (offset, len) in [(0, 0), (0, 4096), (1, 7), (13, 9000), (12287, 1), (0, 12288)] {
        assert_eq!(buffer.crc32c(offset, len), crc32c::crc32c(&bytes[offset..offset + len]));
    }
    let frozen = buffer.freeze();
    let mut target = pool.acquire(4).unwrap();
    target.fill_zero(0..16384);
    target.copy_from(4096, &frozen);
    assert_eq!(&target.as_slice()[4096..], &bytes[..]);
    assert!(target.as_slice()[..4096].iter().all(|byte| *byte == 0));
    target.copy_range_from(0, &frozen, 100..200);
    let mut part = [0; 100];
    target.copy_to_slice(0, &mut part);
    assert_eq!(part, bytes[100..200]);
}

#[test]
#[should_panic(expected = "bytes at")]
fn out_of_bounds_is_a_bug() {
    small_pool().acquire(1).unwrap().copy_from_slice(4000, &[0; 97]);
}

#[test]
fn every_copy_is_counted() {
    let pool = small_pool();
    let mut buffer = pool.acquire(2).unwrap();
    let frozen = pool.acquire(2).unwrap().freeze();
    let view = crate::SharedBytes::of_buffer(pool.acquire(4).unwrap());
    let counted = |copy: &mut dyn FnMut()| {
        let before = crate::page_bytes_copied();
        copy();
        crate::page_bytes_copied() - before
    };
    assert_eq!(counted(&mut || buffer.copy_from_slice(1, &[7; 100])), 100);
    assert_eq!(counted(&mut || buffer.copy_to_slice(1, &mut [0; 101])), 101);
    assert_eq!(counted(&mut || buffer.copy_from(0, &frozen)), 8192);
    assert_eq!(counted(&mut || buffer.copy_range_from(0, &frozen, 0..102)), 102);
    assert_eq!(counted(&mut || frozen.copy_to_slice(1, &mut [0; 103])), 103);
    assert_eq!(counted(&mut || view.copy_from_pages(0, &frozen)), 8192);
    assert_eq!(counted(&mut || view.copy_range_from_pages(0, &frozen, 0..104)), 104);
    assert_eq!(counted(&mut || view.copy_from_buffer(0, &buffer, 0..105)), 105);
    assert_eq!(counted(&mut || view.copy_to_buffer(0, &mut buffer, 0..106)), 106);
    assert_eq!(counted(&mut || view.copy_from(0, &view.clone(), 0..107)), 107);
    // Frames and ring entries are no payload.
    assert_eq!(counted(&mut || view.write_bytes(0, &[0; 108])), 0);
    assert_eq!(counted(&mut || view.read_bytes(0, &mut [0; 108])), 0);
}
