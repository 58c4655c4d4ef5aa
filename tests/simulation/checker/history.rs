//! What clients did and saw: the only thing that the checker looks at.

use super::groups::GroupHistory;
use std::time::Duration;

/// Simulated time since the start of a run.
pub type At = Duration;

/// One client: a producer or a reader, from its start to its end. A client that is started anew is another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process(pub u32);

/// A partition of the one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u32);

/// What was sent. Each send has a value of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u64);

/// Which send of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SendId(usize);

/// What an acknowledgement promises, by the settings of its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// Acknowledged means: never lost (`acks=all`).
    pub durable: bool,
    /// In the log once at most, and in the order of the sends (an idempotent producer).
    pub once_in_order: bool,
}

impl Promise {
    /// `acks=all` and idempotent.
    pub const FULL: Promise = Promise { durable: true, once_in_order: true };
    /// `acks=1`: may be lost, doubled and reordered.
    pub const NONE: Promise = Promise { durable: false, once_in_order: false };
}

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet, or never: it may have happened or not, and may still happen.
    Unknown,
    /// Acknowledged with this offset.
    Ok {
        /// When.
        at: At,
        /// Where it is, if that was said: a retry can be acknowledged without it.
        offset: Option<i64>,
    },
    /// It certainly did not happen, and will not.
    Fail {
        /// When.
        at: At,
    },
}

/// One record on its way into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send {
    /// Who sent it.
    pub process: Process,
    /// Whereto.
    pub partition: Partition,
    /// What.
    pub value: Value,
    /// What its acknowledgement is worth.
    pub promise: Promise,
    /// When it was handed over.
    pub invoked: At,
    /// How it ended.
    pub outcome: Outcome,
}

/// Records that one reader was given at once, all of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// Who read.
    pub process: Process,
    /// Rises whenever the reader was put elsewhere on purpose (`assign`, `seek`).
    pub session: u32,
    /// Wherefrom.
    pub partition: Partition,
    /// When.
    pub at: At,
    /// Offset and value, as they came.
    pub records: Vec<(i64, Value)>,
}

/// An end of a partition that a client was told: the high watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    /// Who was told.
    pub process: Process,
    /// Of which partition.
    pub partition: Partition,
    /// When the question was put.
    pub asked: At,
    /// When the answer came.
    pub at: At,
    /// The end.
    pub offset: i64,
}

/// The whole content of a partition, read from its start to its end after all faults were healed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Which partition.
    pub partition: Partition,
    /// Offset and value, as they came.
    pub records: Vec<(i64, Value)>,
    /// Whether the end was reached. If not, the cluster did not heal.
    pub complete: bool,
}

/// All that happened, in the order in which it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Every send, in the order in which they were handed over.
    pub sends: Vec<Send>,
    /// Every poll, in the order in which the answers came.
    pub polls: Vec<Poll>,
    /// Every end that a client was told.
    pub watermarks: Vec<Watermark>,
    /// One for each partition.
    pub drains: Vec<Drain>,
    /// What members of groups did and saw.
    pub groups: GroupHistory,
}

impl History {
    /// A send begins.
    pub fn invoke(
        &mut self,
        at: At,
        process: Process,
        partition: Partition,
        value: Value,
        promise: Promise,
    ) -> SendId {
        let outcome = Outcome::Unknown;
        self.sends.push(Send { process, partition, value, promise, invoked: at, outcome });
        SendId(self.sends.len() - 1)
    }

    /// A send was acknowledged.
    pub fn ok(&mut self, send: SendId, at: At, offset: Option<i64>) {
        self.sends[send.0].outcome = Outcome::Ok { at, offset };
    }

    /// A send certainly did not happen. A timeout is not that: then nothing is said, and the send stays a "maybe".
    pub fn fail(&mut self, send: SendId, at: At) {
        self.sends[send.0].outcome = Outcome::Fail { at };
    }
}
