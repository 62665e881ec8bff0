//! Connections that have ended here, until nothing of them is under way any more.
//!
//! First what was posted is still sent. Then the peer is told that it is over, which puts the queue
//! pair into its error state, and the device gives back what it holds of the receives that all
//! connections share: one that went with its queue pair would be missing for ever. Then the right to
//! write the window goes, then the queue pair, and only then the window's pages. The identifier stays a
//! while longer: with it goes what the kernel has not sent.

use std::rc::Rc;

use super::cm::Id;
use super::device::Device;
use super::link::RdmaLink;
use crate::CloseReason;
use crate::config::{RDMA_DRAIN_NS, RDMA_LINGER_NS};
use crate::window::landing::Landing;

struct Lingering {
    link: RdmaLink,
    /// Its window: nobody else may have these pages while the peer can write them.
    landing: Option<Landing>,
    /// The peer has been told.
    disconnected: bool,
    /// All receives have come back.
    drained: bool,
    until: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Ending {
    lingering: Vec<Lingering>,
    /// Identifiers, and until when they are kept.
    leaving: Vec<(Id, u64)>,
}

impl Ending {
    /// Takes a connection; `drained` when its receives have come back already.
    pub(super) fn push(
        &mut self,
        link: RdmaLink,
        landing: Option<Landing>,
        drained: bool,
        now: u64,
    ) {
        let until = now + RDMA_LINGER_NS;
        self.lingering.push(Lingering { link, landing, disconnected: false, drained, until });
    }

    /// Connections that a device still works for.
    pub(super) fn count_on(&self, device: &Rc<Device>) -> usize {
        self.lingering.iter().filter(|lingering| lingering.link.is_on(device)).count()
    }

    /// A send of one of them has completed, or failed.
    pub(super) fn sent(
        &mut self,
        device: &Rc<Device>,
        number: u32,
        request: u64,
        failed: Option<CloseReason>,
    ) {
        let mut links = self.lingering.iter_mut().map(|lingering| &mut lingering.link);
        if let Some(link) = links.find(|link| link.is_on(device) && link.number() == number) {
            link.sent(request);
            link.ended = link.ended.or(failed);
        }
    }

    /// The receives of one of them have come back, as far as its device says.
    pub(super) fn drained(&mut self, device: &Rc<Device>, serial: u32) {
        let is_it = |one: &&mut Lingering| one.link.is_on(device) && one.link.serial() == serial;
        if let Some(lingering) = self.lingering.iter_mut().find(is_it) {
            lingering.drained = true;
        }
    }

    /// Goes on with all of them; gives the windows back of those that are done. `is_polled` says
    /// whether all completions of a device have been taken, or will never come.
    pub(super) fn advance(
        &mut self,
        now: u64,
        is_gone: impl Fn(&RdmaLink) -> bool,
        is_polled: bool,
        mut retire: impl FnMut(Landing),
    ) {
        let is_over = |lingering: &mut Lingering| {
            let Lingering { link, disconnected, drained, until, .. } = lingering;
            let (late, gone) = (now >= *until, is_gone(link));
            if !*disconnected && (link.is_idle() || link.ended.is_some() || late || gone) {
                link.disconnect();
                *disconnected = true;
                *until = now + RDMA_DRAIN_NS;
                return gone;
            }
            // A queue that is never empty must not hold them up for ever.
            let overdue = now >= *until + RDMA_LINGER_NS;
            *disconnected && (gone || overdue || (is_polled && (*drained || late)))
        };
        for Lingering { link, landing, .. } in self.lingering.extract_if(.., is_over) {
            self.leaving.push((link.end(), now + RDMA_LINGER_NS));
            landing.into_iter().for_each(&mut retire);
        }
        self.leaving.retain(|(_, until)| now < *until);
    }

    /// A peer has heard that the connection of an identifier is over, or never will.
    pub(super) fn forget(&mut self, key: usize) {
        self.leaving.retain(|(id, _)| id.key() != key);
    }

    /// When the first of them is to be looked at.
    pub(super) fn deadline(&self) -> Option<u64> {
        let leaving = self.leaving.iter().map(|(_, until)| *until);
        self.lingering.iter().map(|lingering| lingering.until).chain(leaving).min()
    }

    /// Connections that linger.
    pub(super) fn len(&self) -> usize {
        self.lingering.len()
    }
}
