use super::*;
use crate::PAGE_SIZE;

pub(crate) fn small_pool() -> Pool {
    Pool::new(&PoolOptions { backing: Backing::HugeOrOrdinary, ..PoolOptions::default() }).unwrap()
}

#[test]
fn pages_come_and_go() {
    let pool = small_pool();
    assert_eq!(pool.total_pages(), 512);
    let one = pool.acquire(1).unwrap();
    let run = pool.acquire(100).unwrap();
    assert_eq!(pool.free_pages(), 411);
    assert_eq!(run.len(), 100 * PAGE_SIZE);
    assert_eq!(run.as_ptr().as_ptr() as usize % PAGE_SIZE, 0);
    assert!(pool.acquire(0).is_none());
    assert!(pool.acquire(412).is_none());
    drop(one);
    drop(run);
    assert_eq!(pool.free_pages(), 512);
}

#[test]
fn memory_outlives_the_pool() {
    let pool = small_pool();
    let mut buffer = pool.acquire(2).unwrap();
    drop(pool);
    buffer.as_mut_slice().fill(7);
    assert_eq!(buffer.crc32c(0, buffer.len()), crc32c::crc32c(buffer.as_slice()));
}
