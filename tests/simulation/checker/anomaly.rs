//! What can go wrong, each with a name and a sentence that tells where to look.

use super::history::Partition;
use std::fmt;

/// The kinds of anomalies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A record is gone that was acknowledged as durable, or that some reader was given.
    LostWrite,
    /// A durable record was acknowledged and nobody ever saw it, though nothing behind it was seen either.
    Unseen,
    /// An idempotent producer's record is in the log twice.
    Duplicate,
    /// One offset held two different records.
    InconsistentOffsets,
    /// A reader was given an offset again, or one below the last, without having asked for it.
    NonmonotonicPoll,
    /// A reader was not given a record that lies between two others that it was given.
    PollSkip,
    /// A record was read whose send had certainly failed (G1a).
    AbortedRead,
    /// The records of one idempotent producer are not in the order in which it sent them.
    Reordered,
    /// A record was read that nobody sent there.
    Phantom,
    /// A client was told an end of a partition that lay before one that it was told earlier.
    WatermarkWentBack,
    /// Replicas differ below the high watermark after healing.
    ReplicasDiffer,
    /// Two members of a group had a partition at the same time, though both looked at their clocks.
    DoubleOwnership,
    /// A commit was accepted though a later owner of the partition had committed.
    ZombieCommit,
    /// A committed offset was read that an acknowledged commit had replaced, or that nobody had committed.
    LostCommit,
    /// A committed offset was read that lies before one that was read earlier.
    CommitWentBack,
    /// A group stood behind a record that none of its members had been given.
    GroupSkip,
    /// A record was never given to any member of a group.
    Undelivered,
    /// Some time after healing, a partition could still not be written or read to its end.
    NotHealed,
}

impl Kind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::LostWrite => "lost-write",
            Kind::Unseen => "unseen",
            Kind::Duplicate => "duplicate",
            Kind::InconsistentOffsets => "inconsistent-offsets",
            Kind::NonmonotonicPoll => "nonmonotonic-poll",
            Kind::PollSkip => "poll-skip",
            Kind::AbortedRead => "aborted-read",
            Kind::Reordered => "reordered",
            Kind::Phantom => "phantom",
            Kind::WatermarkWentBack => "watermark-went-back",
            Kind::ReplicasDiffer => "replicas-differ",
            Kind::DoubleOwnership => "double-ownership",
            Kind::ZombieCommit => "zombie-commit",
            Kind::LostCommit => "lost-commit",
            Kind::CommitWentBack => "commit-went-back",
            Kind::GroupSkip => "group-skip",
            Kind::Undelivered => "undelivered",
            Kind::NotHealed => "not-healed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that must never happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    /// Which.
    pub kind: Kind,
    /// Where.
    pub partition: Partition,
    /// What exactly, with offsets and values.
    pub detail: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in partition {}: {}", self.kind, self.partition.0, self.detail)
    }
}
