//! What an application can hook in: rebalances, records, commits.

use super::records::ConsumerRecord;
use thalweg_core::group::Positions;
use thalweg_core::{LeaderEpoch, Offset, TopicPartition};

/// An offset to commit, or a committed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next record to read.
    pub offset: Offset,
    /// The leader epoch of the last record that was read; `NONE` if it is not known.
    pub leader_epoch: LeaderEpoch,
    /// The application's own text. At most 4,096 bytes.
    pub metadata: String,
}

impl From<Offset> for OffsetAndMetadata {
    fn from(offset: Offset) -> OffsetAndMetadata {
        OffsetAndMetadata { offset, leader_epoch: LeaderEpoch::NONE, metadata: String::new() }
    }
}

/// Told when partitions come and go. Called while the application waits for records (in [`poll`](super::Consumer::poll) and its
/// like) and when the consumer closes, never at another time and never two at once; only what moves is named.
///
/// A revocation waits for the application to come back, at most `max_poll_interval`; then the partitions are gone, and
/// `on_lost` is called instead.
pub trait RebalanceListener: Send + Sync + 'static {
    /// These are read from now on, before their first record. A [`seek`](Rebalance::seek) says where they begin; the others go on
    /// where the group was.
    fn on_assigned(&self, rebalance: &mut Rebalance<'_>) {
        let _ = rebalance;
    }

    /// These must be given back; no record of them follows. With automatic commits everything that was given is committed by now;
    /// what [`commit`](Rebalance::commit) names is committed before another gets them.
    fn on_revoked(&self, rebalance: &mut Rebalance<'_>) {
        let _ = rebalance;
    }

    /// These are gone already, and another may read them: they cannot be committed any more.
    fn on_lost(&self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }
}

/// Partitions that come or go.
#[derive(Debug)]
pub struct Rebalance<'a> {
    pub(super) partitions: &'a [TopicPartition],
    pub(super) positions: &'a Positions<TopicPartition>,
    pub(super) commits: Vec<(TopicPartition, OffsetAndMetadata)>,
    pub(super) seeks: Vec<(TopicPartition, Offset)>,
}

impl Rebalance<'_> {
    /// Which.
    pub fn partitions(&self) -> &[TopicPartition] {
        self.partitions
    }

    /// Where the application is in a partition that the consumer has.
    pub fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.positions.get(at).map(|places| places.given.offset).filter(|offset| *offset >= Offset::ZERO)
    }

    /// Commits an offset of a partition before it is given back. Passed over in `on_assigned`.
    pub fn commit(&mut self, at: &TopicPartition, offset: OffsetAndMetadata) {
        if self.partitions.contains(at) {
            self.commits.push((at.clone(), offset));
        }
    }

    /// Begins with a partition at this offset. Passed over in `on_revoked`.
    pub fn seek(&mut self, at: &TopicPartition, to: Offset) {
        if self.partitions.contains(at) {
            self.seeks.push((at.clone(), to));
        }
    }
}

/// Sees what is consumed and committed (Kafka's `ConsumerInterceptor`). It must be quick and must not block.
pub trait ConsumerInterceptor: Send + Sync + 'static {
    /// May change records before the application gets them. Raw chunks are not seen. The default gives them back as they are.
    fn on_consume(&self, records: Vec<ConsumerRecord>) -> Vec<ConsumerRecord> {
        records
    }

    /// Told what was committed.
    fn on_commit(&self, offsets: &[(TopicPartition, OffsetAndMetadata)]) {
        let _ = offsets;
    }
}
