//! What a check found.

use std::fmt::Display;

use uuid::Uuid;

use crate::ids::CopysetId;
use crate::shard::RecoveryReport;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Expected after a crash, or harmless.
    Note,
    /// Something is lost or wrong.
    Damage,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Subject {
    /// A copy of the device header.
    Header {
        /// 0: the primary.
        copy: u32,
    },
    /// A superblock slot.
    Superblock {
        /// The shard.
        shard: u32,
        /// The slot.
        slot: u32,
    },
    /// A shard as a whole.
    Shard {
        /// The shard.
        shard: u32,
    },
    /// The newest checkpoint.
    Checkpoint {
        /// The shard.
        shard: u32,
    },
    /// Blocks of the journal.
    Journal {
        /// The shard.
        shard: u32,
        /// The first position.
        position: u64,
    },
    /// A group.
    Group {
        /// The shard.
        shard: u32,
        /// The copyset.
        #[serde(serialize_with = "number")]
        copyset: CopysetId,
    },
    /// The use of the data space.
    Space {
        /// The shard.
        shard: u32,
    },
    /// A block of a chunk.
    Block {
        /// The shard.
        shard: u32,
        /// The copyset.
        copyset: u32,
        /// The chunk.
        chunk: u64,
        /// The block of the chunk.
        block: u32,
        /// Where it lies in the data space.
        granule: u32,
    },
}

fn number<S: serde::Serializer>(copyset: &CopysetId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(copyset.0)
}

/// One thing worth telling.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: Subject,
    /// What is the matter, for people.
    pub detail: String,
}

/// What there is in one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ShardReport {
    /// The shard.
    pub shard: u32,
    /// What recovery sees.
    pub recovery: RecoveryReport,
    /// Groups.
    pub groups: u64,
    /// Chunks.
    pub chunks: u64,
    /// Mapped blocks.
    pub mapped_blocks: u64,
    /// Blocks that are mapped, but whose payload this replica does not hold.
    pub missing_blocks: u64,
    /// Blocks that were read.
    pub checked_blocks: u64,
    /// Blocks among them that cannot be read or fail their checksum.
    pub bad_blocks: u64,
    /// Blocks that are in use and named by nobody.
    pub leaked_blocks: u64,
}

/// What there is on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// The device; `None`: no copy of its header is whole.
    pub uuid: Option<Uuid>,
    /// Its shards, as far as they could be looked at.
    pub shards: Vec<ShardReport>,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Note)
    }

    pub(super) fn note(&mut self, subject: Subject, detail: impl Display) {
        let detail = detail.to_string();
        self.findings.push(Finding { severity: Severity::Note, subject, detail });
    }

    pub(super) fn damage(&mut self, subject: Subject, detail: &impl Display) {
        let detail = detail.to_string();
        self.findings.push(Finding { severity: Severity::Damage, subject, detail });
    }

    pub(super) fn lost(&mut self, subject: Subject, number: u64) {
        let detail = match subject {
            Subject::Group { .. } => format!("lost entries from index {number} on"),
            _ => format!("{number} blocks are lost"),
        };
        self.findings.push(Finding { severity: Severity::Damage, subject, detail });
    }
}
