//! What lies between two hosts: partitions and slowness, each one way.

use std::collections::BTreeMap;

use super::agenda::Due;

/// From one host to another.
pub(super) type Route = (usize, usize);

/// A partition that lasts.
#[derive(Debug)]
struct Partition {
    episode: u64,
    /// What would have arrived, in order.
    held: Vec<Due>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Weather {
    partitions: BTreeMap<Route, Partition>,
    episodes: u64,
    factors: BTreeMap<Route, u64>,
}

impl Weather {
    /// Begins a partition and answers its number; `None` where there is one already.
    pub(super) fn partition(&mut self, route: Route) -> Option<u64> {
        if self.partitions.contains_key(&route) {
            return None;
        }
        self.episodes += 1;
        self.partitions.insert(route, Partition { episode: self.episodes, held: Vec::new() });
        Some(self.episodes)
    }

    /// Ends a partition and answers what it has held up; `None` where there is none.
    pub(super) fn heal(&mut self, route: Route) -> Option<Vec<Due>> {
        self.partitions.remove(&route).map(|partition| partition.held)
    }

    /// Whether that very partition lasts.
    pub(super) fn lasts(&self, route: Route, episode: u64) -> bool {
        self.partitions.get(&route).is_some_and(|partition| partition.episode == episode)
    }

    /// Whether nothing arrives on this route.
    pub(super) fn blocks(&self, route: Route) -> bool {
        self.partitions.contains_key(&route)
    }

    /// Keeps what would arrive on a blocked route.
    pub(super) fn hold(&mut self, route: Route, due: Due) {
        let partition = self.partitions.get_mut(&route).expect("the caller has looked");
        partition.held.push(due);
    }

    /// Everything on this route takes `factor` times as long from now on.
    pub(super) fn slow(&mut self, route: Route, factor: u64) {
        self.factors.insert(route, factor.max(1));
    }

    /// How many times as long everything takes.
    pub(super) fn factor(&self, route: Route) -> u64 {
        self.factors.get(&route).copied().unwrap_or(1)
    }
}
