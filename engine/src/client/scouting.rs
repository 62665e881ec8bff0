//! Who is sent first to a replica that may not lead.
//!
//! Which replica leads a copyset is a guess at first, and again after every redirection. If all
//! that waits were sent after a guess, all of it would come back: payload and all. So one request
//! goes ahead, and the others wait until it is answered as by a leader.

use super::core::Core;
use super::piece::PieceIndex;
use super::route::{LANES, RouteIndex};
use crate::wire::ReplyStatus;

impl Core {
    /// Whether a piece has to wait for the one that was sent ahead.
    pub(super) fn is_held_back(&self, index: PieceIndex, route: RouteIndex) -> bool {
        let route = &self.routes[route.0 as usize];
        !route.known && route.scout.is_some_and(|scout| scout != index)
    }

    /// Notes that a piece is on its way or pauses, ahead of others perhaps.
    pub(super) fn go_ahead(&mut self, index: PieceIndex) {
        let route = self.pieces[index].route;
        let route = self.route(route);
        if !route.known {
            route.scout.get_or_insert(index);
        }
    }

    /// A piece is neither on its way nor pausing any more: another one may go ahead.
    pub(super) fn stand_down(&mut self, index: PieceIndex) {
        let route = self.pieces[index].route;
        if self.route(route).scout == Some(index) {
            self.route(route).scout = None;
            LANES.into_iter().for_each(|lane| self.list(route, lane));
        }
    }

    /// Concludes from an answer whether the replica that is asked leads.
    pub(super) fn note_leader(&mut self, index: PieceIndex, status: ReplyStatus) {
        let (route, replica) = (self.pieces[index].route, self.pieces[index].replica);
        // One that has just been elected is busy for a moment.
        let leads = !matches!(
            status,
            ReplyStatus::NotLeader
                | ReplyStatus::Deposed
                | ReplyStatus::NoCopyset
                | ReplyStatus::DeviceFailed
                | ReplyStatus::Busy
        );
        if leads && !self.route(route).known && self.route(route).current() == replica {
            self.route(route).known = true;
            self.route(route).scout = None;
            LANES.into_iter().for_each(|lane| self.list(route, lane));
        }
    }
}
