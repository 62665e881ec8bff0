//! Pages to read into.
//!
//! A read names a run of this side's window and the server writes there. Usually all of a piece's
//! blocks land in one run, which the caller gets as it is. This file is about the other times:
//! when the window is small, scattered, or held by reads that wait for each other.

use culvert_memory::Buffer;

use super::config::LANDING_PATIENCE_NS;
use super::connection::violation;
use super::core::Core;
use super::endpoint::EndpointId;
use super::piece::{PieceIndex, PieceState};
use crate::network::{ConnectionId, Network};

impl Core {
    /// Pages for the next request of a read: all that it lacks, or less where the window is too
    /// small or too scattered and nothing is under way that would change it.
    pub(super) fn landing_pages<N: Network>(
        &mut self,
        network: &mut N,
        endpoint: EndpointId,
        connection: ConnectionId,
        index: PieceIndex,
    ) -> Option<Buffer> {
        let left = self.pieces[index].blocks_left();
        let landing = network.acquire_named(connection, left);
        if landing.is_some() || self.endpoint(endpoint).reads_in_flight > 0 {
            return landing;
        }
        let now_ns = self.now_ns;
        let since_ns = *self.endpoint(endpoint).landing_short_ns.get_or_insert(now_ns);
        let patient_ns = since_ns + LANDING_PATIENCE_NS;
        if now_ns < patient_ns {
            self.timer.note(patient_ns);
            return None;
        }
        let landing = self.makeshift_pages(network, connection, index);
        if landing.is_none() && self.quarantine.holds(connection) {
            // What the server owes may never come, and the pages only come back without it.
            self.close(connection, violation::QUARANTINE);
        }
        landing
    }

    /// Pages for a read that cannot have all at once: after others were moved out of the way, or
    /// some of them, in which case what it reads is gathered in the pool.
    fn makeshift_pages<N: Network>(
        &mut self,
        network: &mut N,
        connection: ConnectionId,
        index: PieceIndex,
    ) -> Option<Buffer> {
        let left = self.pieces[index].blocks_left();
        if self.relieve(connection)
            && let Some(landing) = network.acquire_named(connection, left)
        {
            return Some(landing);
        }
        if left > 1 && self.pieces[index].gathered.is_none() {
            let whole = self.pool.acquire(self.pieces[index].range.blocks)?;
            self.pieces[index].gathered = Some(whole);
        }
        let halves = std::iter::successors(Some(left / 2), |pages| Some(pages / 2));
        halves.take_while(|pages| *pages > 0).find_map(|n| network.acquire_named(connection, n))
    }

    /// Moves what has landed for operations that are not complete from a connection's window to
    /// the pool; returns whether that has freed pages.
    ///
    /// Only done when no read is under way on the connection: two operations could otherwise hold
    /// the pages that the other one waits for.
    fn relieve(&mut self, connection: ConnectionId) -> bool {
        let mut relieved = false;
        for index in self.pieces.indices() {
            let piece = &mut self.pieces[index];
            let landed = piece.state == PieceState::Done && piece.connection == connection;
            if !landed || piece.gathered.is_some() {
                continue;
            }
            let Some(landing) = piece.landing.take() else { continue };
            let Some(mut gathered) = self.pool.acquire(landing.pages()) else {
                piece.landing = Some(landing);
                break;
            };
            self.statistics.copied_bytes += landing.len() as u64;
            gathered.copy_from(0, &landing.freeze());
            piece.gathered = Some(gathered);
            relieved = true;
        }
        relieved
    }
}
