//! Sessions: which requests of a client have taken effect, so that a repeated one takes none.
//!
//! A session remembers which of the last [`WINDOW`] request numbers took effect: one bit each, since
//! what was refused took no effect and may come again. A number
//! above the window moves it up. A number below it is refused: nobody knows any more whether it
//! took effect. Worked example: the highest number seen is 5,000; 3,977 to 5,000 are in the window,
//! of which those that never came are still fresh; 3,976 is refused; 5,001 is fresh.
//!
//! Replicated state, except for the time at which a session was last heard from: that is the
//! leader's own, no part of images, and only decides when the leader proposes an expiry.

use crate::ids::{RequestNumber, SessionId};

/// Request numbers that a session remembers.
pub const WINDOW: usize = 1024;

/// Sessions of one copyset.
pub const SESSIONS_MAX: usize = 1024;

/// Sessions of one client in a copyset. It uses one; it may not know of another whose answer was
/// lost, or that still stands after it began anew. One more ends its oldest.
pub const SESSIONS_OF_CLIENT_MAX: usize = 4;

/// Words of a window.
pub(super) const WORDS: usize = WINDOW / u64::BITS as usize;

/// What a window says of a request number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has not taken effect.
    No,
    /// It has.
    Yes,
    /// It lies below the window.
    Unknown,
}

/// One session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    /// The client's UUID.
    pub(super) client: [u8; 16],
    /// The highest number that took effect; zero: none did.
    pub(super) highest: u64,
    /// Whether number `n` took effect: bit `n % WINDOW`.
    pub(super) effects: [u64; WORDS],
    /// When the leader last heard of it, in nanoseconds; `None`: not since it is the leader.
    heard: Option<u64>,
}

impl Session {
    pub(super) fn new(id: SessionId, client: [u8; 16]) -> Session {
        Session { id, client, highest: 0, effects: [0; WORDS], heard: None }
    }

    pub(super) fn look(&self, number: RequestNumber) -> Seen {
        let number = number.0;
        if number > self.highest {
            return Seen::No;
        }
        if self.highest - number >= WINDOW as u64 {
            return Seen::Unknown;
        }
        if self.bit(number) { Seen::Yes } else { Seen::No }
    }

    pub(super) fn bit(&self, number: u64) -> bool {
        let (word, bit) = slot(number);
        self.effects[word] & bit != 0
    }

    /// Notes the effect of a number that [`Session::look`] said had none.
    pub(super) fn note(&mut self, number: RequestNumber) {
        let number = number.0;
        debug_assert_eq!(self.look(RequestNumber(number)), Seen::No);
        if number > self.highest {
            let skipped = number - self.highest - 1;
            if skipped >= WINDOW as u64 {
                self.effects = [0; WORDS];
            } else {
                for unseen in self.highest + 1..number {
                    let (word, bit) = slot(unseen);
                    self.effects[word] &= !bit;
                }
            }
            self.highest = number;
        }
        let (word, bit) = slot(number);
        self.effects[word] |= bit;
    }
}

/// The word of a number, and its bit there.
fn slot(number: u64) -> (usize, u64) {
    let at = number % WINDOW as u64;
    ((at / u64::from(u64::BITS)) as usize, 1 << (at % u64::from(u64::BITS)))
}

/// The sessions of a copyset, in order of id.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    list: Vec<Session>,
}

impl Sessions {
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= SESSIONS_MAX
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Session> {
        self.list.iter()
    }

    fn position(&self, id: SessionId) -> Option<usize> {
        self.list.binary_search_by_key(&id, |session| session.id).ok()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.position(id).map(|at| &self.list[at])
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.position(id).map(|at| &mut self.list[at])
    }

    /// Adds a session; its id is above all others, being the index of its entry. The oldest of the
    /// same client ends if there are too many.
    pub(super) fn open(&mut self, session: Session) {
        assert!(!self.is_full());
        assert!(self.list.last().is_none_or(|last| last.id < session.id));
        let mut same = self.list.iter().filter(|other| other.client == session.client);
        if let Some(oldest) = same.next().map(|oldest| oldest.id)
            && same.count() + 1 >= SESSIONS_OF_CLIENT_MAX
        {
            self.expire(oldest);
        }
        self.list.push(session);
    }

    /// Ends a session that exists.
    pub(super) fn expire(&mut self, id: SessionId) {
        let at = self.position(id).expect("a session");
        self.list.remove(at);
    }

    pub(super) fn touch(&mut self, id: SessionId, now: u64) {
        if let Some(session) = self.get_mut(id) {
            session.heard = session.heard.max(Some(now));
        }
    }

    pub(super) fn forget_times(&mut self) {
        for session in &mut self.list {
            session.heard = None;
        }
    }

    /// The session that was silent longest, if it was for `timeout`. One that was not heard from
    /// yet counts as heard from now.
    pub(super) fn idle(&mut self, now: u64, timeout: u64) -> Option<SessionId> {
        let heard = |session: &mut Session| *session.heard.get_or_insert(now);
        let oldest = self.list.iter_mut().map(|session| (heard(session), session.id)).min()?;
        (now.saturating_sub(oldest.0) >= timeout).then_some(oldest.1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn session() -> Session {
        Session::new(SessionId(1), [0; 16])
    }

    #[test]
    fn the_window_has_the_edges_of_the_example() {
        let mut session = session();
        for number in 1..=5000 {
            if number != 4000 {
                session.note(RequestNumber(number));
            }
        }
        assert_eq!(session.look(RequestNumber(3976)), Seen::Unknown);
        assert_eq!(session.look(RequestNumber(3977)), Seen::Yes);
        assert_eq!(session.look(RequestNumber(4000)), Seen::No);
        assert_eq!(session.look(RequestNumber(5000)), Seen::Yes);
        assert_eq!(session.look(RequestNumber(5001)), Seen::No);
    }

    #[test]
    fn the_highest_number_ends_the_session_and_nothing_else() {
        let mut session = session();
        session.note(RequestNumber(7));
        session.note(RequestNumber(u64::MAX));
        assert_eq!(session.look(RequestNumber(7)), Seen::Unknown);
        assert_eq!(session.look(RequestNumber(u64::MAX - 1)), Seen::No);
        assert_eq!(session.look(RequestNumber(u64::MAX)), Seen::Yes);
    }

    #[test]
    fn silence_counts_from_the_first_look() {
        let mut sessions = Sessions::default();
        sessions.open(Session::new(SessionId(3), [0; 16]));
        sessions.open(Session::new(SessionId(9), [0; 16]));
        assert_eq!(sessions.idle(1000, 100), None);
        sessions.touch(SessionId(3), 1050);
        assert_eq!(sessions.idle(1099, 100), None);
        assert_eq!(sessions.idle(1100, 100), Some(SessionId(9)));
        sessions.expire(SessionId(9));
        assert_eq!(sessions.idle(1100, 100), None);
        assert_eq!(sessions.idle(1150, 100), Some(SessionId(3)));
        sessions.forget_times();
        assert_eq!(sessions.idle(1150, 100), None);
    }

    #[test]
    fn one_session_too_many_ends_the_oldest_of_its_client() {
        let mut sessions = Sessions::default();
        sessions.open(Session::new(SessionId(1), [7; 16]));
        for id in 2..=SESSIONS_OF_CLIENT_MAX as u64 + 1 {
            sessions.open(Session::new(SessionId(id), [9; 16]));
        }
        assert!(sessions.get(SessionId(2)).is_some(), "so many it may have");
        sessions.open(Session::new(SessionId(100), [9; 16]));
        assert!(sessions.get(SessionId(2)).is_none());
        let ids: Vec<u64> = sessions.iter().map(|session| session.id.0).collect();
        assert_eq!(ids, [1, 3, 4, 5, 100], "those of others stand");
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            steps in prop::collection::vec(-1100_i64..1100, 1..400)
        ) {
            let mut session = session();
            let mut seen = BTreeSet::new();
            let mut highest = 0_u64;
            for distance in steps {
                let Some(number) = highest.checked_add_signed(distance).filter(|n| *n > 0) else {
                    continue;
                };
                let expected = if number + WINDOW as u64 <= highest {
                    Seen::Unknown
                } else if seen.contains(&number) {
                    Seen::Yes
                } else {
                    Seen::No
                };
                prop_assert_eq!(session.look(RequestNumber(number)), expected);
                if expected == Seen::No {
                    session.note(RequestNumber(number));
                    seen.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
