//! Sessions: which requests of a client have taken effect, so that a repeated one takes none.
//!
//! A session remembers the results of a window of the last [`WINDOW`] request numbers. A number
//! above the window moves it up. A number below it is refused: nobody knows any more whether it
//! took effect. Worked example: the highest number seen is 5,000; 3,977 to 5,000 are in the window,
//! of which those that never came are still fresh; 3,976 is refused; 5,001 is fresh.
//!
//! Replicated state, except for the time at which a session was last heard from: that is the
//! leader's own, no part of images, and only decides when the leader proposes an expiry.

use crate::copyset::ResultCode;
use crate::ids::{RequestNumber, SessionId};

/// Request numbers that a session remembers.
pub const WINDOW: usize = 1024;

/// Sessions of one copyset.
pub const SESSIONS_MAX: usize = 1024;

/// What a window says of a request number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has not taken effect.
    No,
    /// It has, with this result.
    Yes(ResultCode),
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
    /// The result of number `n` at `n % WINDOW`, as a byte; zero: not seen.
    pub(super) results: Box<[u8; WINDOW]>,
    /// When the leader last heard of it, in nanoseconds; `None`: not since it is the leader.
    heard: Option<u64>,
}

impl Session {
    pub(super) fn new(id: SessionId, client: [u8; 16]) -> Session {
        Session { id, client, highest: 0, results: Box::new([0; WINDOW]), heard: None }
    }

    pub(super) fn look(&self, number: RequestNumber) -> Seen {
        let number = number.0;
        if number > self.highest {
            return Seen::No;
        }
        if self.highest - number >= WINDOW as u64 {
            return Seen::Unknown;
        }
        ResultCode::from_byte(self.results[slot(number)]).map_or(Seen::No, Seen::Yes)
    }

    /// Notes the result of a number that [`Session::look`] said had not taken effect.
    pub(super) fn note(&mut self, number: RequestNumber, result: ResultCode) {
        let number = number.0;
        debug_assert_eq!(self.look(RequestNumber(number)), Seen::No);
        if number > self.highest {
            let skipped = number - self.highest - 1;
            if skipped >= WINDOW as u64 {
                self.results.fill(0);
            } else {
                for unseen in self.highest + 1..number {
                    self.results[slot(unseen)] = 0;
                }
            }
            self.highest = number;
        }
        self.results[slot(number)] = result as u8;
    }
}

fn slot(number: u64) -> usize {
    (number % WINDOW as u64) as usize
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

    /// Adds a session; its id is above all others, being the index of its entry.
    pub(super) fn open(&mut self, session: Session) {
        assert!(!self.is_full());
        assert!(self.list.last().is_none_or(|last| last.id < session.id));
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
    use std::collections::BTreeMap;

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
                session.note(RequestNumber(number), ResultCode::Ok);
            }
        }
        assert_eq!(session.look(RequestNumber(3976)), Seen::Unknown);
        assert_eq!(session.look(RequestNumber(3977)), Seen::Yes(ResultCode::Ok));
        assert_eq!(session.look(RequestNumber(4000)), Seen::No);
        assert_eq!(session.look(RequestNumber(5000)), Seen::Yes(ResultCode::Ok));
        assert_eq!(session.look(RequestNumber(5001)), Seen::No);
    }

    #[test]
    fn the_highest_number_ends_the_session_and_nothing_else() {
        let mut session = session();
        session.note(RequestNumber(7), ResultCode::Ok);
        session.note(RequestNumber(u64::MAX), ResultCode::Ok);
        assert_eq!(session.look(RequestNumber(7)), Seen::Unknown);
        assert_eq!(session.look(RequestNumber(u64::MAX - 1)), Seen::No);
        assert_eq!(session.look(RequestNumber(u64::MAX)), Seen::Yes(ResultCode::Ok));
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

    proptest! {
        #[test]
        fn agrees_with_a_map(
            steps in prop::collection::vec((-1100_i64..1100, any::<bool>()), 1..400)
        ) {
            let mut session = session();
            let mut seen = BTreeMap::new();
            let mut highest = 0_u64;
            for (distance, fenced) in steps {
                let Some(number) = highest.checked_add_signed(distance).filter(|n| *n > 0) else {
                    continue;
                };
                let expected = if number + WINDOW as u64 <= highest {
                    Seen::Unknown
                } else {
                    seen.get(&number).map_or(Seen::No, |&result| Seen::Yes(result))
                };
                prop_assert_eq!(session.look(RequestNumber(number)), expected);
                if expected == Seen::No {
                    let result = if fenced { ResultCode::Fenced } else { ResultCode::Ok };
                    session.note(RequestNumber(number), result);
                    seen.insert(number, result);
                    highest = highest.max(number);
                }
            }
        }
    }
}
