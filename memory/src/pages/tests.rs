use crate::pool::tests::small_pool;

#[test]
fn released_with_the_last_clone() {
    let pool = small_pool();
    let pages = pool.acquire(4).unwrap().freeze();
    let part = pages.slice(1, 2);
    assert_eq!((part.page(), part.pages()), (pages.page() + 1, 2));
    let inner = part.slice(1, 1);
    let clone = pages.clone();
    drop(pages);
    drop(clone);
    assert_eq!(pool.free_pages(), 508);
    let part = part.try_into_buffer().unwrap_err();
    drop(inner);
    let part = part.try_into_buffer().unwrap_err();
    assert_eq!(part.users(), 1);
    drop(part);
    assert_eq!(pool.free_pages(), 512);
}

#[test]
fn thaws_when_alone() {
    let pool = small_pool();
    let pages = pool.acquire(2).unwrap().freeze();
    let clone = pages.clone();
    let pages = pages.try_into_buffer().unwrap_err();
    drop(clone);
    let buffer = pages.try_into_buffer().unwrap();
    drop(buffer.freeze());
    assert_eq!(pool.free_pages(), 512);
}
