//! Which partitions are read, from where, and what is to be done with what arrives. Pure: no clock of its own, no network.

use super::chunk::{Chunk, ChunkTopic};
use super::error::ReadError;
use crate::proto::partition_data::Data;
use crate::{ClientError, Start, proto};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::batch::{BatchError, BatchIter};
use thalweg_core::{Offset, PartitionId, TopicName};
use thalweg_proto::ApiError;
use tokio::time::Instant;

pub(super) type Key = (TopicName, PartitionId);

/// What a search for a partition's leader has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The cache knows the leader.
    Follow,
    /// Metadata must be fetched.
    Refresh,
    /// The position was outside the log: begin again there.
    Reset(Start),
}

#[derive(Debug)]
enum Stage {
    /// Its leader is being looked for.
    Searching(Fate),
    /// It is read from this endpoint.
    Reading(Arc<str>),
    /// It waits for the caller: paused, or failed for good.
    Parked,
}

#[derive(Debug)]
struct Assignment {
    next: Offset,
    /// Data under another tag is from before a seek, a pause or another leader.
    tag: u64,
    stage: Stage,
    /// Since when nothing but failures came.
    failing_since: Option<Instant>,
    /// What last kept it from being read, until data comes.
    failure: Option<Arc<str>>,
}

/// The partitions of one reader.
#[derive(Debug, Default)]
pub(super) struct Assignments {
    partitions: HashMap<Key, Assignment>,
    last_tag: u64,
}

/// What became of a message.
#[derive(Debug)]
pub(super) enum Accepted {
    /// The caller gets this.
    Chunk(Chunk),
    /// It was stale or empty.
    Nothing,
    /// The leader no longer reads the partition.
    Refused(Key, ApiError),
    /// The message itself is damaged.
    Broken(Key, ReadError),
}

impl Assignments {
    pub(super) fn assign(&mut self, key: Key, next: Offset) {
        let stage = Stage::Searching(Fate::Follow);
        self.partitions.insert(key, Assignment { next, tag: 0, stage, failing_since: None, failure: None });
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.partitions.remove(key);
    }

    pub(super) fn position(&self, key: &Key) -> Option<Offset> {
        self.partitions.get(key).map(|assignment| assignment.next)
    }

    /// Stops reading until [`resume`](Self::resume) or a new assignment.
    pub(super) fn park(&mut self, key: &Key) {
        if let Some(assignment) = self.partitions.get_mut(key) {
            assignment.stage = Stage::Parked;
            assignment.tag = 0;
            assignment.failure = None;
        }
    }

    pub(super) fn pause(&mut self, key: &Key) {
        self.park(key);
    }

    pub(super) fn resume(&mut self, key: &Key) {
        if let Some(assignment) = self.partitions.get_mut(key)
            && matches!(assignment.stage, Stage::Parked)
        {
            assignment.stage = Stage::Searching(Fate::Follow);
        }
    }

    /// Looks for the partition's leader again. A paused one stays paused.
    pub(super) fn search(&mut self, key: &Key, fate: Fate) {
        if let Some(assignment) = self.partitions.get_mut(key)
            && !matches!(assignment.stage, Stage::Parked)
        {
            assignment.stage = Stage::Searching(fate);
            assignment.tag = 0;
        }
    }

    /// How long the partition has done nothing but fail, from the first call after a success on.
    pub(super) fn failing_for(&mut self, key: &Key, now: Instant) -> Duration {
        let Some(assignment) = self.partitions.get_mut(key) else { return Duration::ZERO };
        now.duration_since(*assignment.failing_since.get_or_insert(now))
    }

    /// Remembers why a partition is not read at the moment.
    pub(super) fn failed(&mut self, key: &Key, why: String) {
        if let Some(assignment) = self.partitions.get_mut(key)
            && !matches!(assignment.stage, Stage::Parked)
        {
            assignment.failure = Some(why.into());
        }
    }

    /// A partition that is to be read and is not, the first by name, and why. `open` tells whether an endpoint's stream is
    /// open: what is read over such a stream is well, also while there is no data.
    pub(super) fn failure(&self, open: impl Fn(&Arc<str>) -> bool) -> Option<(&Key, &str)> {
        let down = self.partitions.iter().filter(|(_, assignment)| match &assignment.stage {
            Stage::Searching(_) => true,
            Stage::Reading(endpoint) => !open(endpoint),
            Stage::Parked => false,
        });
        let failed = down.filter_map(|(key, assignment)| Some((key, assignment.failure.as_deref()?)));
        failed.min_by_key(|(key, _)| *key)
    }

    /// The partitions whose leader is to be found.
    pub(super) fn wanted(&self) -> Vec<(Key, Fate)> {
        let searching = self.partitions.iter().filter_map(|(key, assignment)| match assignment.stage {
            Stage::Searching(fate) => Some((key.clone(), fate)),
            Stage::Reading(_) | Stage::Parked => None,
        });
        searching.collect()
    }

    /// The leader was found: where to begin, and under which tag. `None` if nobody looks for it any more.
    pub(super) fn attach(
        &mut self,
        key: &Key,
        endpoint: &Arc<str>,
        reset: Option<Offset>,
    ) -> Option<(Offset, u64)> {
        let assignment = self.partitions.get_mut(key)?;
        let Stage::Searching(fate) = assignment.stage else { return None };
        // A seek that came during the search wins over the reset that the search was for.
        if let (Fate::Reset(_), Some(offset)) = (fate, reset) {
            assignment.next = offset;
        }
        self.last_tag += 1;
        assignment.tag = self.last_tag;
        assignment.stage = Stage::Reading(Arc::clone(endpoint));
        Some((assignment.next, assignment.tag))
    }

    /// Takes the partition from its leader, and names that.
    pub(super) fn detach(&mut self, key: &Key) -> Option<Arc<str>> {
        let assignment = self.partitions.get_mut(key)?;
        assignment.tag = 0;
        match std::mem::replace(&mut assignment.stage, Stage::Searching(Fate::Follow)) {
            Stage::Reading(endpoint) => Some(endpoint),
            Stage::Searching(_) | Stage::Parked => None,
        }
    }

    /// A leader's stream broke: its partitions are looked for again, from where the caller is.
    pub(super) fn lost(&mut self, endpoint: &Arc<str>, why: &str) {
        let why: Arc<str> = Arc::from(format!("broker at {endpoint}: {why}"));
        for assignment in self.partitions.values_mut() {
            if matches!(&assignment.stage, Stage::Reading(at) if at == endpoint) {
                assignment.stage = Stage::Searching(Fate::Refresh);
                assignment.tag = 0;
                assignment.failure = Some(Arc::clone(&why));
            }
        }
    }

    /// Takes a message in and moves the partition on.
    pub(super) fn accept(&mut self, data: &proto::PartitionData, check_crcs: bool) -> Accepted {
        let found = TopicName::new(&data.topic).ok().map(|topic| (topic, PartitionId(data.partition)));
        let Some(key) = found else { return Accepted::Nothing };
        let Some(assignment) = self.partitions.get_mut(&key) else { return Accepted::Nothing };
        if assignment.tag != data.tag || !matches!(assignment.stage, Stage::Reading(_)) {
            return Accepted::Nothing;
        }
        if let Some(error) = &data.error {
            return Accepted::Refused(key, ApiError::from_proto(error));
        }
        let bytes = match &data.data {
            Some(Data::RecordBatches(bytes)) => bytes.clone(),
            None => Bytes::new(),
            Some(Data::Records(_)) => {
                let error = ClientError::Protocol("plain records came where encoded batches were asked for");
                return Accepted::Broken(key, error.into());
            }
        };
        let wanted = assignment.next;
        let next = Offset(data.next_offset);
        if next < wanted {
            let error = ClientError::Protocol("a leader went back behind the offset that was asked for");
            return Accepted::Broken(key, error.into());
        }
        if check_crcs && let Err(error) = verify(&bytes) {
            let error = ReadError::corrupt(&key, wanted, error);
            return Accepted::Broken(key, error);
        }
        assignment.next = next;
        assignment.failing_since = None;
        assignment.failure = None;
        // Compaction, or control batches alone, can move the position without a record.
        if bytes.is_empty() || next == wanted {
            return Accepted::Nothing;
        }
        Accepted::Chunk(Chunk {
            topic: ChunkTopic(key.0),
            partition: key.1,
            data: bytes,
            first_wanted: wanted,
            next_offset: next,
            high_watermark: Offset(data.high_watermark),
        })
    }
}

/// Bytes of record data in a message: what it costs in credit.
pub(super) fn data_len(data: &proto::PartitionData) -> u64 {
    match &data.data {
        Some(Data::RecordBatches(bytes)) => bytes.len() as u64,
        Some(Data::Records(_)) | None => 0,
    }
}

fn verify(batches: &[u8]) -> Result<(), BatchError> {
    BatchIter::new(batches).try_for_each(|batch| batch?.verify())
}

#[cfg(test)]
#[path = "assignments_tests.rs"]
mod tests;
