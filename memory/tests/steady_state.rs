//! Once everything is set up, the handles of the data plane allocate nothing.

use culvert_memory::{
    CountingAllocator, Pages, Pool, PoolOptions, SlotTable, Window, WindowOptions, allocated_bytes,
    allocations, spsc,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

#[test]
fn the_data_plane_allocates_nothing() {
    let pool = Pool::new(&PoolOptions::default()).unwrap();
    let options = WindowOptions { name: "culvert-test".into(), pages: 8, lock: false };
    let window = Window::create(&options).unwrap();
    let mut table: SlotTable<Pages> = SlotTable::new(16);
    let (mut producer, mut consumer) = spsc(16);

    let before = allocations();
    for turn in 0..1000u32 {
        let landed = window.claim(turn % 4, 4).unwrap().freeze();
        let id = table.insert(landed.slice(1, 2)).unwrap();
        let mut merged = pool.acquire(4).unwrap();
        merged.copy_from(0, &landed);
        producer.push(merged.crc32c(0, merged.len())).unwrap();
        drop((landed, merged));
        table.remove(id).unwrap();
        consumer.pop().unwrap();
        window.poll_released(|page, pages| assert_eq!((page, pages), (turn % 4, 4)));
    }
    assert_eq!(allocations(), before);
}

#[test]
fn allocations_are_counted() {
    let (count, bytes) = (allocations(), allocated_bytes());
    let mut values: Vec<u8> = Vec::with_capacity(100);
    values.resize(1000, 0);
    drop(values);
    assert_eq!(allocations() - count, 2);
    assert_eq!(allocated_bytes() - bytes, 1100);

    let elsewhere = allocations();
    std::thread::spawn(|| drop(vec![0u8; 10])).join().unwrap();
    let own = allocations() - elsewhere;
    assert!(own < 20, "spawning allocates a little, on this thread");
}
