//! Addresses where nobody is reached, so that it is told once and not with every attempt.

use std::collections::VecDeque;

use crate::Address;

/// Addresses that are remembered; the oldest is forgotten, and told again when it fails again.
const ADDRESSES_MAX: usize = 256;

/// Those at which the last handshake that this side began has failed.
#[derive(Debug, Default)]
pub(super) struct FailingAddresses(VecDeque<Address>);

impl FailingAddresses {
    /// A handshake has failed there. Returns whether that is news.
    pub(super) fn failed(&mut self, address: &Address) -> bool {
        if self.0.contains(address) {
            return false;
        }
        if self.0.len() == ADDRESSES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(address.clone());
        true
    }

    /// One has succeeded there.
    pub(super) fn reached(&mut self, address: &Address) {
        self.0.retain(|failing| failing != address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_news_once_until_the_address_is_reached() {
        let address = |port: u16| Address::Tcp(([127, 0, 0, 1], port).into());
        let mut failing = FailingAddresses::default();
        assert!(failing.failed(&address(1)));
        assert!(failing.failed(&address(2)));
        assert!(!failing.failed(&address(1)));
        failing.reached(&address(1));
        assert!(failing.failed(&address(1)));
        assert!(!failing.failed(&address(2)));
        for port in 3..3 + ADDRESSES_MAX as u16 {
            assert!(failing.failed(&address(port)));
        }
        assert_eq!(failing.0.len(), ADDRESSES_MAX);
        assert!(failing.failed(&address(2)), "forgotten");
    }
}
