//! What members of consumer groups did and saw. Their records are polls like all others, tied to a hold by process and session.

use super::history::{At, Partition, Process};

/// A consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group(pub u32);

/// Which hold of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldId(usize);

/// Which commit of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitId(usize);

/// A partition in the hands of one member, from when it was told that it is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The group.
    pub group: Group,
    /// The member, from one start of its process to its end.
    pub process: Process,
    /// The session of its polls: no other hold of the process has it.
    pub session: u32,
    /// What it has.
    pub partition: Partition,
    /// The member's epoch when it was told, as far as that is known. Whoever has the partition later was told of a later one.
    pub epoch: Option<i32>,
    /// The first offset that it reads, once that is known.
    pub start: Option<i64>,
    /// When it was told.
    pub from: At,
    /// When it knew, or said, that the partition is not its own any more; `None`: never.
    pub until: Option<At>,
    /// Whether the member always looked at its clock in time. One that was frozen, or hears of its losses over a network, may by
    /// rights take for its own what another has.
    pub punctual: bool,
}

/// One partition of a member's commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Under which hold.
    pub hold: HoldId,
    /// The next record.
    pub offset: i64,
    /// When it was sent.
    pub asked: At,
    /// When it was acknowledged. `None`: it may have happened or not, and may still happen; also when it was refused, because
    /// a broker tries more than once and tells of the last.
    pub acked: Option<At>,
}

/// A committed offset as somebody was told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRead {
    /// Whose.
    pub group: Group,
    /// Of which partition.
    pub partition: Partition,
    /// When the question was put.
    pub asked: At,
    /// When the answer came.
    pub at: At,
    /// The offset; `None`: nothing is committed.
    pub offset: Option<i64>,
}

/// What happened in groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupHistory {
    /// The groups that read everything, and whether each of their commits is in the history.
    pub groups: Vec<(Group, bool)>,
    /// Every hold, in the order in which members were told.
    pub holds: Vec<Hold>,
    /// Every commit, in the order in which they were sent.
    pub commits: Vec<Commit>,
    /// Every offset that was read back, in the order of the answers.
    pub reads: Vec<OffsetRead>,
}

impl GroupHistory {
    /// A member was told that a partition is its own.
    pub fn hold(&mut self, hold: Hold) -> HoldId {
        self.holds.push(hold);
        HoldId(self.holds.len() - 1)
    }

    /// One of the holds.
    pub fn of(&self, hold: HoldId) -> &Hold {
        &self.holds[hold.0]
    }

    /// Where the member begins.
    pub fn begins(&mut self, hold: HoldId, start: i64) {
        self.holds[hold.0].start = Some(start);
    }

    /// The member has it no more. The first word counts.
    pub fn ends(&mut self, hold: HoldId, at: At) {
        self.holds[hold.0].until.get_or_insert(at);
    }

    /// The member did not look at its clock while it had this.
    pub fn was_late(&mut self, hold: HoldId) {
        self.holds[hold.0].punctual = false;
    }

    /// A commit is sent.
    pub fn commit(&mut self, hold: HoldId, offset: i64, asked: At) -> CommitId {
        self.commits.push(Commit { hold, offset, asked, acked: None });
        CommitId(self.commits.len() - 1)
    }

    /// A commit was acknowledged.
    pub fn committed(&mut self, commit: CommitId, at: At) {
        self.commits[commit.0].acked = Some(at);
    }
}
