//! The queue pair that a process opens on a disk.
//!
//! It holds what dies with the process: registrations, counters, the wish to be driven. Everything
//! in flight is the disk's. After a crash it is dead: it takes operations, drops them, and has
//! nothing to report.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use culvert_memory::{Region, RegionId};
use culvert_nvme::{
    AsciiField, Completion, Counters, METADATA_BYTES, Namespace, QueuePair, RegisterError,
    Submission, Wake,
};

use super::command::{Command, Limits};
use super::controller::{Controller, Session};

/// A queue pair on a modelled disk.
#[derive(Debug)]
pub struct SimDevice {
    disk: Rc<RefCell<Controller>>,
    session: u64,
    namespace: Namespace,
    regions: BTreeSet<RegionId>,
    regions_max: usize,
    depth: usize,
    counters: Counters,
    driven: bool,
}

impl SimDevice {
    pub(super) fn open(disk: Rc<RefCell<Controller>>) -> SimDevice {
        let session = disk.borrow_mut().open();
        let options = disk.borrow().options.clone();
        let namespace = Namespace {
            block_size: options.block_size,
            blocks: options.blocks,
            volatile_write_cache: options.volatile_write_cache,
            transfer_bytes_max: options.transfer_bytes_max,
            metadata_bytes: if options.metadata { METADATA_BYTES as u32 } else { 0 },
            model: AsciiField::new("Culvert simulated disk"),
            serial: AsciiField::new("SIMULATED"),
            backend: "simulated",
        };
        SimDevice {
            disk,
            session,
            namespace,
            regions: BTreeSet::new(),
            regions_max: options.regions_max,
            depth: options.depth,
            counters: Counters::default(),
            driven: false,
        }
    }

    /// Whether a poll that has nothing to report makes the disk's time go on to its next event:
    /// for code that polls in a loop while nobody else lets time pass. The disk's clock may then
    /// run ahead of the world's.
    pub fn set_driven(&mut self, driven: bool) {
        self.driven = driven;
    }

    /// Acts on the disk's side of this queue pair; `None` once a crash has ended it.
    fn with_session<T>(&self, act: impl FnOnce(&mut Session) -> T) -> Option<T> {
        self.disk.borrow_mut().sessions.get_mut(&self.session).map(act)
    }

    fn take_completed(&self) -> Option<Command> {
        self.with_session(|session| {
            let command = session.completed.pop_front()?;
            session.in_flight -= 1;
            Some(command)
        })?
    }

    /// Lets the disk do what comes next, if that is not for the world to do.
    fn drive(&self) {
        let mut disk = self.disk.borrow_mut();
        let has_completed =
            disk.sessions.get(&self.session).is_none_or(|session| !session.completed.is_empty());
        if let Some(next_ns) = disk.next_ns().filter(|_| !has_completed) {
            disk.advance(next_ns);
        }
    }
}

impl QueuePair for SimDevice {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn register(&mut self, region: &Region) -> Result<(), RegisterError> {
        if !self.regions.contains(&region.id()) && self.regions.len() == self.regions_max {
            return Err(RegisterError::TableFull { regions_max: self.regions_max as u32 });
        }
        self.regions.insert(region.id());
        Ok(())
    }

    fn unregister(&mut self, region: &Region) {
        self.regions.remove(&region.id());
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Submission> {
        let mut disk = self.disk.borrow_mut();
        let Some(session) = disk.sessions.get_mut(&self.session) else { return Ok(()) };
        if session.in_flight == self.depth {
            return Err(submission);
        }
        session.in_flight += 1;
        let limits = Limits { namespace: &self.namespace, regions: &self.regions };
        let command = Command::new(self.session, submission, &limits);
        if session.lost {
            disk.refuse(command);
        } else if command.status.is_success() {
            session.queued.push(command);
        } else {
            session.completed.push_back(command);
        }
        Ok(())
    }

    fn ring(&mut self) {
        let queued = self.with_session(|session| std::mem::take(&mut session.queued));
        let queued = queued.unwrap_or_default();
        self.counters.doorbells += u64::from(!queued.is_empty());
        let mut disk = self.disk.borrow_mut();
        queued.into_iter().for_each(|command| disk.begin(command));
    }

    fn poll(&mut self, budget: usize, complete: &mut dyn FnMut(Completion)) -> usize {
        if self.driven {
            self.drive();
        }
        let mut visited = 0;
        while visited < budget {
            let Some(command) = self.take_completed() else { break };
            complete(command.complete(&mut self.counters));
            visited += 1;
        }
        self.counters.completion_doorbells += u64::from(visited > 0);
        visited
    }

    fn in_flight(&self) -> usize {
        self.with_session(|session| session.in_flight).unwrap_or(0)
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn wake(&self) -> Wake<'_> {
        Wake::Poll
    }

    fn arm(&mut self) -> bool {
        self.in_flight() == 0
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
