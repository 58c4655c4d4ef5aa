//! One shard: all groups of one partition of `__consumer_offsets`, as a pure machine.

mod call;
mod config;
mod topics;

pub use call::{CallId, Now, Output, ShardCall, WriteId};
pub use config::GroupConfig;
pub use topics::{ClusterTopics, ImageTopics, Patterns};

use std::time::Duration;
use thalweg_core::PartitionId;
use thalweg_core::group::records::RecordError;

/// The groups of one partition. See the [module](self).
#[derive(Debug)]
pub struct Shard {
    at: PartitionId,
    config: GroupConfig,
}

impl Shard {
    /// An empty shard, to be filled by [`replay`](Shard::replay).
    pub fn new(at: PartitionId, config: GroupConfig) -> Shard {
        Shard { at, config }
    }

    /// The partition.
    pub fn at(&self) -> PartitionId {
        self.at
    }

    /// Takes in one record of the log, while loading. Kinds that are not known are passed over.
    ///
    /// Errors: damage.
    pub fn replay(&mut self, _key: &[u8], _value: Option<&[u8]>) -> Result<(), RecordError> {
        Ok(())
    }

    /// Everything is loaded: every member gets a whole session from now.
    pub fn start(&mut self, _now: Now) {}

    /// Takes a call. Its answer may come with this step or with a later one.
    pub fn handle(
        &mut self,
        _id: CallId,
        _call: ShardCall,
        _topics: &dyn ImageTopics,
        _now: Now,
        _out: &mut Output,
    ) {
        let _ = &self.config;
    }

    /// The topics are others than before.
    pub fn topics_changed(&mut self, _topics: &dyn ImageTopics, _now: Now, _out: &mut Output) {}

    /// Does what is due. To be called at [`next_wake`](Shard::next_wake), or later.
    pub fn tick(&mut self, _topics: &dyn ImageTopics, _now: Now, _out: &mut Output) {}

    /// When something is due, by [`Now::mono`]. `None`: nothing ever is.
    pub fn next_wake(&self) -> Option<Duration> {
        None
    }

    /// All writes up to and with this one are durable. Members whose answer waited for them begin their session.
    pub fn durable(&mut self, _upto: WriteId, _now: Now, _out: &mut Output) {}
}
