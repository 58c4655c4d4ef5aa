//! Who leads what, and where they are.

use crate::proto;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::{BrokerId, LeaderEpoch, PartitionId, TopicId, TopicName};
use tokio::time::Instant;

/// A topic as the cluster last described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMetadata {
    /// The topic's name.
    pub name: TopicName,
    /// The topic's id.
    pub id: TopicId,
    /// Whether it is the system's own.
    pub internal: bool,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition as the cluster last described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Its index.
    pub partition: PartitionId,
    /// Who leads it; [`BrokerId::NONE`] if nobody does.
    pub leader_id: BrokerId,
    /// How often the leader was chosen.
    pub leader_epoch: LeaderEpoch,
    /// Who holds it, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Who is in sync.
    pub isr: Vec<BrokerId>,
}

/// A leader and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) id: BrokerId,
    pub(crate) endpoint: Arc<str>,
}

/// What the client knows of the cluster. Bounded by the topics that the program uses.
#[derive(Default)]
pub(crate) struct MetadataCache {
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    brokers: HashMap<BrokerId, Arc<str>>,
    topics: HashMap<TopicName, Entry>,
}

struct Entry {
    topic: Arc<TopicMetadata>,
    fetched: Instant,
}

impl TopicMetadata {
    /// Reads a topic off the wire.
    pub(crate) fn from_proto(topic: &proto::Topic) -> Result<TopicMetadata, &'static str> {
        let brokers = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect();
        let partitions: Vec<PartitionMetadata> = topic
            .partitions
            .iter()
            .map(|partition| PartitionMetadata {
                partition: PartitionId(partition.partition),
                leader_id: BrokerId(partition.leader_id),
                leader_epoch: LeaderEpoch(partition.leader_epoch),
                replicas: brokers(&partition.replicas),
                isr: brokers(&partition.isr),
            })
            .collect();
        let in_order =
            partitions.iter().zip(0..).all(|(partition, index)| partition.partition.get() == index);
        if partitions.is_empty() || !in_order {
            return Err("a topic's partitions are not numbered from 0");
        }
        Ok(TopicMetadata {
            name: TopicName::new(&topic.name).map_err(|_| "a topic's name is not allowed")?,
            id: topic.topic_id.parse().unwrap_or_default(),
            internal: topic.internal,
            partitions,
        })
    }

    /// One partition, if there is such.
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionMetadata> {
        self.partitions.get(usize::try_from(partition.get()).ok()?)
    }
}

impl MetadataCache {
    /// The topic, if it is known and not older than `max_age`.
    pub(crate) fn topic(&self, name: &str, max_age: Duration) -> Option<Arc<TopicMetadata>> {
        let known = self.lock();
        let entry = known.topics.get(name)?;
        (entry.fetched.elapsed() <= max_age).then(|| Arc::clone(&entry.topic))
    }

    /// Who leads the partition, as far as known.
    pub(crate) fn leader(&self, topic: &str, partition: PartitionId) -> Option<Leader> {
        let known = self.lock();
        let id = known.topics.get(topic)?.topic.partition(partition)?.leader_id;
        known.brokers.get(&id).map(|endpoint| Leader { id, endpoint: Arc::clone(endpoint) })
    }

    /// Whether the topic is known, and has no such partition.
    pub(crate) fn lacks(&self, topic: &str, partition: PartitionId) -> bool {
        self.lock().topics.get(topic).is_some_and(|entry| entry.topic.partition(partition).is_none())
    }

    /// The endpoints of all known brokers, in the order of their ids.
    pub(crate) fn endpoints(&self) -> Vec<Arc<str>> {
        let mut brokers: Vec<_> = self.lock().brokers.iter().map(|(id, at)| (*id, Arc::clone(at))).collect();
        brokers.sort_unstable();
        brokers.into_iter().map(|(_, endpoint)| endpoint).collect()
    }

    pub(crate) fn set_brokers(&self, brokers: &[proto::Broker]) {
        let brokers = brokers.iter().filter(|broker| !broker.fenced && !broker.endpoint.is_empty());
        let brokers =
            brokers.map(|broker| (BrokerId(broker.id), Arc::from(broker.endpoint.as_str()))).collect();
        self.lock().brokers = brokers;
    }

    /// Takes a topic in. A partition whose known leader epoch is newer keeps its leader: the answer came from a broker
    /// that lags behind the one that named it.
    pub(crate) fn set_topic(&self, mut topic: TopicMetadata) -> Arc<TopicMetadata> {
        let mut known = self.lock();
        if let Some(old) = known.topics.get(topic.name.as_str()).filter(|old| old.topic.id == topic.id) {
            for (new, old) in topic.partitions.iter_mut().zip(&old.topic.partitions) {
                if old.leader_epoch > new.leader_epoch {
                    new.leader_id = old.leader_id;
                    new.leader_epoch = old.leader_epoch;
                }
            }
        }
        let topic = Arc::new(topic);
        known.topics.insert(topic.name.clone(), Entry { topic: Arc::clone(&topic), fetched: Instant::now() });
        topic
    }

    pub(crate) fn forget_topic(&self, name: &str) {
        self.lock().topics.remove(name);
    }

    /// Follows a broker's hint, if it is not older than what is known. Says whether it was followed.
    pub(crate) fn follow(
        &self,
        topic: &str,
        partition: PartitionId,
        leader: BrokerId,
        endpoint: &str,
        epoch: LeaderEpoch,
    ) -> bool {
        let mut known = self.lock();
        let Some(entry) = known.topics.get_mut(topic) else { return false };
        let index = usize::try_from(partition.get()).unwrap_or(usize::MAX);
        let topic = Arc::make_mut(&mut entry.topic);
        let Some(partition) = topic.partitions.get_mut(index) else { return false };
        if leader == BrokerId::NONE || endpoint.is_empty() || epoch < partition.leader_epoch {
            return false;
        }
        partition.leader_id = leader;
        partition.leader_epoch = epoch;
        known.brokers.insert(leader, Arc::from(endpoint));
        true
    }

    /// The newest leader epoch that is known of a partition.
    pub(crate) fn leader_epoch(&self, topic: &str, partition: PartitionId) -> Option<LeaderEpoch> {
        self.lock().topics.get(topic)?.topic.partition(partition).map(|known| known.leader_epoch)
    }

    /// An answer came from a leader of that epoch. If it is newer than what is known, the known leader leads no more.
    pub(crate) fn saw_epoch(&self, topic: &str, partition: PartitionId, epoch: LeaderEpoch) {
        let mut known = self.lock();
        let Some(entry) = known.topics.get_mut(topic) else { return };
        let newer = entry.topic.partition(partition).is_some_and(|known| known.leader_epoch < epoch);
        let index = usize::try_from(partition.get()).unwrap_or(usize::MAX);
        if newer && let Some(partition) = Arc::make_mut(&mut entry.topic).partitions.get_mut(index) {
            partition.leader_epoch = epoch;
            partition.leader_id = BrokerId::NONE;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(epoch: i32, leader: i32) -> TopicMetadata {
        let partition =
            proto::Partition { partition: 0, leader_id: leader, leader_epoch: epoch, ..Default::default() };
        let topic = proto::Topic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        TopicMetadata::from_proto(&topic).unwrap()
    }

    fn leader(cache: &MetadataCache) -> Option<i32> {
        cache.leader("t", PartitionId(0)).map(|leader| leader.id.get())
    }

    #[test]
    fn a_hint_is_followed_unless_it_is_older_and_outlives_an_older_answer() {
        let cache = MetadataCache::default();
        let brokers =
            [1, 2].map(|id| proto::Broker { id, endpoint: format!("b{id}:1"), ..Default::default() });
        cache.set_brokers(&brokers);
        cache.set_topic(topic(5, 1));
        assert_eq!(leader(&cache), Some(1));
        let follow = |id, at, epoch| cache.follow("t", PartitionId(0), BrokerId(id), at, LeaderEpoch(epoch));
        assert!(!follow(2, "b2:1", 4));
        assert!(!follow(-1, "", 9));
        assert!(follow(3, "b3:1", 6));
        assert_eq!(leader(&cache), Some(3));
        cache.set_topic(topic(5, 1));
        assert_eq!(leader(&cache), Some(3));
        cache.set_topic(topic(7, 2));
        assert_eq!(leader(&cache), Some(2));
    }

    #[test]
    fn partitions_that_are_not_numbered_from_zero_are_refused() {
        let partition = proto::Partition { partition: 1, ..Default::default() };
        let odd = proto::Topic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        assert!(TopicMetadata::from_proto(&odd).is_err());
        assert!(TopicMetadata::from_proto(&proto::Topic { name: "t".into(), ..Default::default() }).is_err());
    }

    #[test]
    fn a_newer_epoch_in_an_answer_outdates_the_leader_and_older_metadata() {
        let cache = MetadataCache::default();
        cache.set_brokers(&[proto::Broker { id: 1, endpoint: "b1:1".into(), ..Default::default() }]);
        cache.set_topic(topic(5, 1));
        let epoch = || cache.leader_epoch("t", PartitionId(0)).unwrap().get();
        cache.saw_epoch("t", PartitionId(0), LeaderEpoch(4));
        assert_eq!((leader(&cache), epoch()), (Some(1), 5));
        cache.saw_epoch("t", PartitionId(0), LeaderEpoch(6));
        assert_eq!((leader(&cache), epoch()), (None, 6));
        cache.set_topic(topic(5, 1));
        assert_eq!((leader(&cache), epoch()), (None, 6));
        cache.set_topic(topic(6, 1));
        assert_eq!((leader(&cache), epoch()), (Some(1), 6));
    }
}
