//! Raft's own promises, watched from outside after every turn of a node.
//!
//! - A term has one leader, and comes after the leases of all earlier ones.
//! - *Log matching*: what one replica holds to be committed at an index, every other one that does
//!   holds to be so too: the same term, the same record, for ever.
//! - *Leader completeness*: who leads a term holds every entry that was committed in earlier ones.
//! - What a replica acknowledged to a leader it still has after its next start, unless a later
//!   leader replaced it, or it is in doubt.
//! - Nothing is applied that is not committed.
//!
//! It reads the groups through their public accessors, and only what is new since the last look.

use std::collections::BTreeMap;

use culvert::ids::{CopysetId, LogIndex, ReplicaId, Term};
use culvert::raft_group::Group;

/// A committed entry: its term, its record's checksum, and the term in which somebody first held it
/// to be committed.
#[derive(Clone, Copy, Debug)]
struct Entry {
    term: Term,
    crc: u32,
    seen_in: Term,
}

/// What was last seen of a replica's process.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    commit: u64,
    led: u64,
}

/// A replica acknowledged the log up to an index to the leader of a term.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    term: Term,
    index: LogIndex,
}

/// A copyset has another leader.
#[derive(Clone, Copy, Debug)]
pub struct Elected {
    pub copyset: CopysetId,
    pub node: usize,
    pub term: Term,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Watch {
    leaders: BTreeMap<(CopysetId, Term), ReplicaId>,
    /// By copyset, from index 1 on.
    committed: BTreeMap<CopysetId, Vec<Option<Entry>>>,
    seen: BTreeMap<(usize, CopysetId), Seen>,
    acknowledged: BTreeMap<ReplicaId, Acknowledged>,
}

impl Watch {
    /// The process of a node has died: what comes next is another.
    pub fn died(&mut self, node: usize) {
        self.seen.retain(|(of, _), _| *of != node);
    }

    /// Looks at a replica after a turn of its node. `elected` takes a new leader.
    ///
    /// # Errors
    ///
    /// A promise that does not hold.
    pub fn look(
        &mut self,
        node: usize,
        copyset: CopysetId,
        group: &Group,
        elected: &mut Vec<Elected>,
    ) -> Result<(), String> {
        let said = |what: String| format!("copyset {copyset} on node {node}: {what}");
        if group.applied() > group.commit() {
            return Err(said(format!(
                "applied up to {}, committed up to {}",
                group.applied(),
                group.commit()
            )));
        }
        self.keeps_what_it_acknowledged(node, copyset, group).map_err(said)?;
        let seen = self.seen.entry((node, copyset)).or_default();
        let from = std::mem::replace(&mut seen.commit, group.commit().0);
        if group.commit().0 > from {
            self.match_logs(copyset, group, from).map_err(said)?;
        }
        if group.is_leader() {
            self.note_answers(group);
            if std::mem::replace(
                &mut self.seen.entry((node, copyset)).or_default().led,
                group.term().0,
            ) != group.term().0
            {
                self.leads(copyset, group).map_err(said)?;
                elected.push(Elected { copyset, node, term: group.term() });
            }
        }
        Ok(())
    }

    fn keeps_what_it_acknowledged(
        &mut self,
        node: usize,
        copyset: CopysetId,
        group: &Group,
    ) -> Result<(), String> {
        if group.doubt_stage().is_some() {
            // It knows that it may have forgotten.
            self.acknowledged.remove(&group.replica());
        }
        let Some(acknowledged) = self.acknowledged.get(&group.replica()).copied() else {
            return Ok(());
        };
        if group.log().last() >= acknowledged.index {
            return Ok(());
        }
        if group.doubt_stage().is_some() {
            // It lost them to damage, and knows.
            self.acknowledged.remove(&group.replica());
            return Ok(());
        }
        let has_just_started = !self.seen.contains_key(&(node, copyset));
        if has_just_started || group.term() <= acknowledged.term {
            return Err(format!(
                "its log ends with {}, but it acknowledged {} to the leader of term {}",
                group.log().last(),
                acknowledged.index,
                acknowledged.term
            ));
        }
        self.acknowledged.remove(&group.replica());
        Ok(())
    }

    fn match_logs(&mut self, copyset: CopysetId, group: &Group, from: u64) -> Result<(), String> {
        let committed = self.committed.entry(copyset).or_default();
        let from = from.max(group.log().base().0.0);
        for index in from + 1..=group.commit().0 {
            let Some(entry) = group.log().get(LogIndex(index)) else { break };
            let own = Entry {
                term: entry.record.term(),
                crc: crc32c::crc32c(entry.record.bytes()),
                seen_in: group.term(),
            };
            let at = index as usize - 1;
            if committed.len() <= at {
                committed.resize(at + 1, None);
            }
            let known = *committed[at].get_or_insert(own);
            if (known.term, known.crc) != (own.term, own.crc) {
                return Err(format!("entry {index} is {own:?}, and elsewhere {known:?}"));
            }
        }
        Ok(())
    }

    fn note_answers(&mut self, group: &Group) {
        let others = group.voters().iter().map(|voter| ReplicaId(*voter));
        for replica in others.filter(|replica| *replica != group.replica()) {
            let Some(index) = group.matched(replica) else { continue };
            let (term, new) = (group.term(), Acknowledged { term: group.term(), index });
            let known = self.acknowledged.entry(replica).or_insert(new);
            if known.term < term || (known.term == term && known.index < index) {
                *known = new;
            }
        }
    }

    fn leads(&mut self, copyset: CopysetId, group: &Group) -> Result<(), String> {
        let (term, replica) = (group.term(), group.replica());
        let first = *self.leaders.entry((copyset, term)).or_insert(replica);
        if first != replica {
            return Err(format!("replicas {first} and {replica} both led in term {term}"));
        }
        let committed = self.committed.entry(copyset).or_default();
        let from = group.log().base().0.0 as usize;
        for (at, entry) in committed.iter().enumerate().skip(from) {
            let Some(entry) = entry.filter(|entry| entry.seen_in < term) else { continue };
            let index = LogIndex(at as u64 + 1);
            if group.log().term_at(index) != Some(entry.term) {
                return Err(format!("it leads term {term} without committed entry {index}"));
            }
        }
        Ok(())
    }
}
