//! Physical region pages: how a command says where its data lie.
//!
//! NVM Express Base Specification 2.0, section 4.1.1. A transfer touches one or more memory pages
//! of [`PAGE_SIZE`]. PRP entry 1 points at its first byte, which need not be the first of its
//! page. PRP entry 2 is
//!
//! - reserved (zero) when the transfer touches one page,
//! - the second page when it touches *exactly* two,
//! - the address of a *list* of the second and all further pages when it touches more.
//!
//! Example: 12,288 bytes from 0x1000 are the pages 0x1000, 0x2000 and 0x3000: PRP1 = 0x1000, PRP2
//! is the address of a list that holds 0x2000 and 0x3000. The same bytes from 0x1200 touch four
//! pages, and the list holds 0x2000, 0x3000 and 0x4000.
//!
//! The driver half builds lists that fit one page, so its lists never chain; the emulated
//! controller follows chains all the same.

use culvert_memory::PAGE_SIZE;

/// Entries that one list page holds.
pub const LIST_ENTRIES_MAX: usize = PAGE_SIZE / size_of::<u64>();

const PAGE: u64 = PAGE_SIZE as u64;

/// The two PRP entries of a command, as device addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrpPair {
    /// PRP entry 1: the first byte of the data.
    pub prp1: u64,
    /// PRP entry 2: nothing, the second page, or the list of further pages.
    pub prp2: u64,
}

/// What a transfer needs besides PRP entry 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Further {
    /// It touches one page.
    Nothing,
    /// It touches two: this is the second.
    Page(u64),
    /// It touches more: a list of `entries` pages that starts with `first`.
    List {
        /// The second page of the transfer.
        first: u64,
        /// Number of list entries.
        entries: usize,
    },
}

/// What a transfer of `bytes` bytes, not zero, from `address` on needs besides PRP entry 1. The
/// data are contiguous for the device.
#[inline]
pub fn further_pages(address: u64, bytes: usize) -> Further {
    debug_assert!(bytes > 0, "a transfer without data has no PRPs");
    let offset = address & (PAGE - 1);
    let touched = (offset + bytes as u64).div_ceil(PAGE);
    let second = address - offset + PAGE;
    match touched {
        1 => Further::Nothing,
        2 => Further::Page(second),
        more => Further::List { first: second, entries: (more - 1) as usize },
    }
}

/// Entry `index` of the list that starts with page `first`, in memory order.
#[inline]
pub fn list_entry(first: u64, index: usize) -> u64 {
    (first + index as u64 * PAGE).to_le()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The pages that a transfer touches, byte by byte.
    fn touched_pages(address: u64, bytes: usize) -> Vec<u64> {
        let mut pages: Vec<u64> =
            (address..address + bytes as u64).step_by(4).map(|byte| byte / PAGE * PAGE).collect();
        pages.dedup();
        pages
    }

    #[test]
    fn one_page_needs_nothing() {
        assert_eq!(further_pages(0x1000, 4096), Further::Nothing);
        assert_eq!(further_pages(0x1e00, 512), Further::Nothing);
    }

    #[test]
    fn exactly_two_pages_need_no_list() {
        assert_eq!(further_pages(0x1000, 8192), Further::Page(0x2000));
        assert_eq!(further_pages(0x1e00, 1024), Further::Page(0x2000));
    }

    #[test]
    fn three_pages_need_a_list() {
        let list = Further::List { first: 0x2000, entries: 2 };
        assert_eq!(further_pages(0x1000, 3 * 4096), list);
        assert_eq!(further_pages(0x1ffc, 8192), list);
    }

    proptest! {
        #[test]
        fn agrees_with_the_touched_pages(
            dword in 0u64..1 << 20,
            dwords in 1usize..(1 << 20) / 4,
        ) {
            let (address, bytes) = (dword * 4, dwords * 4);
            let pages = touched_pages(address, bytes);
            let further: Vec<u64> = match further_pages(address, bytes) {
                Further::Nothing => vec![],
                Further::Page(page) => vec![page],
                Further::List { first, entries } => {
                    prop_assert!(entries >= 2, "a list of one is PRP2 itself");
                    (0..entries).map(|index| u64::from_le(list_entry(first, index))).collect()
                }
            };
            prop_assert_eq!(&pages[1..], &further[..]);
        }
    }
}
