//! What happens to devices of nodes in the world: damage while they are down, harm while they run,
//! failures; and how the wounded node becomes whole.

use super::{World, format_disk};
use crate::sim::damage::{self, Damage};
use crate::sim::device::{Disk, DiskFaults};
use crate::sim::faults::Fault;
use crate::sim::process::Process;
use crate::sim::random::Random;
use crate::sim::wound::{FAILURES, Failing, Ripe, Wound};

impl World {
    /// Puts an empty device in the place of a node's own.
    pub(super) fn wipe(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        host.disk.set_faults(DiskFaults::default());
        format_disk(node, &host.disk, &host.pool, self.now_ns);
    }

    /// The wound of a node that may be damaged: no other is.
    pub(super) fn wound(&mut self, node: usize) -> Option<&mut Wound> {
        let wound = self.wound.get_or_insert_with(|| Wound::new(node));
        self.hosts[node].damaged |= wound.node == node;
        (wound.node == node).then_some(wound)
    }

    /// Damages the device of a node that is down.
    pub(super) fn damage(&mut self, node: usize, damage: Damage) {
        let Some(wound) = self.wound(node) else { return };
        wound.rejoins = true;
        let host = &self.hosts[node];
        let hit = damage::inflict(damage, &host.disk, &host.pool, &mut self.random);
        self.say(|| format!("node {node}: {hit} goes bad"));
        if damage == Damage::Wipe {
            self.wipe(node);
        }
    }

    /// Harms the device of a node that runs.
    pub(super) fn harm(
        &mut self,
        node: usize,
        harm: impl FnOnce(&mut Wound, &mut Process, &Disk, &mut Random),
    ) {
        let mut random = self.random.fork("harm");
        // One that fails takes no more writes: what was damaged last would never be below the mark.
        let fails = self.hosts[node].disk.faults().fails();
        if !self.is_up(node) || fails || self.wound(node).is_none() {
            return;
        }
        let host = &mut self.hosts[node];
        if let (Some(process), Some(wound)) = (&mut host.process, &mut self.wound) {
            harm(wound, process, &host.disk, &mut random);
        }
    }

    pub(super) fn fail_device(&mut self, node: usize, how: Failing) {
        let mut faults = self.hosts[node].disk.faults();
        match how {
            Failing::Write => {
                (faults.blocks, faults.failed_write) = (DiskFaults::default().blocks, FAILURES);
            }
            Failing::Flush => faults.failed_flush = FAILURES,
            Failing::Gone => faults.gone = true,
        }
        self.hosts[node].disk.set_faults(faults);
    }

    /// Lets a wound go on, until its node is whole.
    pub(super) fn nurse(&mut self) {
        let Some(wound) = &mut self.wound else { return };
        let node = wound.node;
        let host = &mut self.hosts[node];
        let Some(process) = &mut host.process else { return };
        if let Some(Ripe { blocks, crash }) = wound.go_on(process, &host.disk, self.now_ns) {
            if let Some((kind, down_ns)) = crash {
                self.take_down(node, kind, down_ns);
            }
            for block in &blocks {
                damage::spoil(&self.hosts[node].disk, *block, &mut self.random);
            }
            self.say(|| format!("node {node}: blocks {blocks:?} go bad"));
        } else if wound.is_healed(process, &host.disk, self.now_ns) {
            self.wound = None;
            self.say(|| format!("node {node} is whole again"));
        }
    }

    /// Whether a fault of a device would do anything now.
    pub(super) fn takes_effect(&self, fault: &Fault) -> bool {
        let free = |node: usize| self.wound.as_ref().is_none_or(|wound| wound.node == node);
        match *fault {
            Fault::Damage { node, .. } => free(node) && self.may_die(node),
            Fault::Rot { node, .. }
            | Fault::BadWrite { node, .. }
            | Fault::BadReads { node, .. } => {
                free(node) && self.is_up(node) && !self.hosts[node].disk.faults().fails()
            }
            Fault::FailDevice { node, .. } => self.may_die(node),
            _ => true,
        }
    }
}
