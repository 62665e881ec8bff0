//! The leader's lease: until when it may answer reads without asking anybody.
//!
//! A lease is a promise bounded in time. It runs from the *send time* of a message that a majority
//! answered in the leader's term, because each of those replicas has, since a moment no earlier
//! than that, refused its vote to others, and stood for no election itself, for the smallest election
//! timeout, whatever else it heard meanwhile. It therefore lasts for less than that timeout, by the
//! ticks that a follower may run at once and by a margin for clocks that drift
//! ([`GroupOptions::lease_ns`](super::GroupOptions::lease_ns)). Times are nanoseconds of the leader's
//! own clock, one that counts suspend; a follower only hands them back.

use arrayvec::ArrayVec;

use crate::ids::ReplicaId;

/// Voters of a group at most, both halves of a joint configuration together.
pub const VOTERS_MAX: usize = 14;

/// See the module's documentation.
pub struct Lease {
    duration_ns: u64,
    answered: ArrayVec<(ReplicaId, u64), VOTERS_MAX>,
    until_ns: u64,
    /// No lease until the next term: a transfer was started.
    barred: bool,
}

impl Lease {
    /// A lease that nobody has granted yet.
    #[must_use]
    pub fn new(duration_ns: u64) -> Lease {
        Lease { duration_ns, answered: ArrayVec::new(), until_ns: 0, barred: false }
    }

    /// Forgets every answer: the configuration changed.
    pub fn forget_answers(&mut self) {
        self.answered.clear();
        self.until_ns = 0;
    }

    /// Begins afresh: leadership was won or lost.
    pub fn revoke(&mut self) {
        self.forget_answers();
        self.barred = false;
    }

    /// Ends the lease for the rest of the term: a transfer starts. Its order to campaign may
    /// arrive long after the transfer was given up, and the vote it asks for is subject to no
    /// promise.
    pub fn bar(&mut self) {
        self.revoke();
        self.barred = true;
    }

    /// Whether a read may be answered at `now_ns`.
    #[must_use]
    pub fn holds(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns
    }

    /// `from` answered, in this term, a message sent at `sent_ns`. `voters` are the majorities that
    /// must agree, one slice per half of the configuration, this leader included as `own`.
    pub fn answered(
        &mut self,
        from: ReplicaId,
        sent_ns: u64,
        now_ns: u64,
        own: ReplicaId,
        voters: &[&[u64]],
    ) {
        // An answer from the future is a lie or a bug of the peer, and grants nothing.
        if sent_ns == 0 || sent_ns > now_ns || self.barred {
            return;
        }
        match self.answered.iter_mut().find(|(replica, _)| *replica == from) {
            Some((_, latest)) => *latest = (*latest).max(sent_ns),
            None => {
                if self.answered.try_push((from, sent_ns)).is_err() {
                    return;
                }
            }
        }
        let start = voters.iter().map(|half| self.majority_start(half, own, now_ns)).min();
        if let Some(start) = start.filter(|start| *start > 0) {
            self.until_ns = self.until_ns.max(start + self.duration_ns);
        }
    }

    /// The latest time such that a majority of `half` answered something sent then or later.
    fn majority_start(&self, half: &[u64], own: ReplicaId, now_ns: u64) -> u64 {
        let mut times: ArrayVec<u64, VOTERS_MAX> = half
            .iter()
            .take(VOTERS_MAX)
            .map(|voter| {
                if *voter == own.0 {
                    return now_ns;
                }
                let answer = self.answered.iter().find(|(replica, _)| replica.0 == *voter);
                answer.map_or(0, |(_, sent_ns)| *sent_ns)
            })
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(half.len() / 2).copied().unwrap_or(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: ReplicaId = ReplicaId(1);

    #[test]
    fn runs_from_the_send_time_of_what_a_majority_answered() {
        let mut lease = Lease::new(100);
        assert!(!lease.holds(0));
        lease.answered(ReplicaId(2), 1000, 1040, OWN, &[&[1, 2, 3]]);
        assert!(lease.holds(1099));
        assert!(!lease.holds(1100), "counted from the send, not from the answer at 1040");
    }

    #[test]
    fn five_voters_need_two_answers() {
        let mut lease = Lease::new(100);
        let voters: &[u64] = &[1, 2, 3, 4, 5];
        lease.answered(ReplicaId(2), 1000, 1001, OWN, &[voters]);
        assert!(!lease.holds(1002));
        lease.answered(ReplicaId(3), 900, 1003, OWN, &[voters]);
        assert!(!lease.holds(1003), "the older of the two counts, and has run out");
        lease.answered(ReplicaId(3), 990, 1004, OWN, &[voters]);
        assert!(lease.holds(1089));
        assert!(!lease.holds(1090));
    }

    #[test]
    fn both_halves_of_a_joint_configuration_must_answer() {
        let mut lease = Lease::new(100);
        let halves: &[&[u64]] = &[&[1, 2, 3], &[1, 4, 5]];
        lease.answered(ReplicaId(2), 1000, 1001, OWN, halves);
        assert!(!lease.holds(1002));
        lease.answered(ReplicaId(4), 1001, 1002, OWN, halves);
        assert!(lease.holds(1003));
    }

    #[test]
    fn an_answer_from_the_future_grants_nothing() {
        let mut lease = Lease::new(100);
        lease.answered(ReplicaId(2), 2000, 1000, OWN, &[&[1, 2, 3]]);
        assert!(!lease.holds(1000));
    }

    #[test]
    fn a_transfer_ends_it_for_the_term() {
        let mut lease = Lease::new(100);
        lease.bar();
        lease.answered(ReplicaId(2), 1000, 1001, OWN, &[&[1, 2, 3]]);
        assert!(!lease.holds(1002));
        lease.revoke();
        lease.answered(ReplicaId(2), 1000, 1001, OWN, &[&[1, 2, 3]]);
        assert!(lease.holds(1002), "the next term begins afresh");
    }

    #[test]
    fn ends_when_revoked() {
        let mut lease = Lease::new(100);
        lease.answered(ReplicaId(2), 1000, 1001, OWN, &[&[1, 2, 3]]);
        lease.revoke();
        assert!(!lease.holds(1002));
    }
}
