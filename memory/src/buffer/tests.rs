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
