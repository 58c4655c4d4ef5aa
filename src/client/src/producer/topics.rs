//! The partitions that a producer knows of, by topic.

use super::error::DeliveryError;
use super::queue::PartitionQueue;
use crate::TopicMetadata;
use arc_swap::{ArcSwap, ArcSwapOption};
use rand::Rng;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_core::{PartitionId, TopicId, TopicName};

/// Partitions that are tried when the sticky one moves, before a leaderless one is taken.
const STICKY_TRIES: u32 = 4;

/// One topic's queues.
#[derive(Debug)]
pub(crate) struct TopicQueues {
    pub(crate) name: TopicName,
    id: TopicId,
    /// By partition; never empty.
    pub(crate) queues: Vec<Arc<PartitionQueue>>,
    /// Where records without key go for now.
    sticky: AtomicU32,
    round_robin: AtomicU32,
}

/// All topics that were sent to. Read on every record, written when a topic is first seen or grows.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    all: ArcSwap<HashMap<TopicName, Arc<TopicQueues>>>,
    /// Most programs send to one topic again and again.
    last: ArcSwapOption<TopicQueues>,
    writing: Mutex<()>,
}

impl Topics {
    /// Runs `with` on the topic's queues, if the topic is known.
    #[inline]
    pub(crate) fn with<R>(&self, name: &str, with: impl FnOnce(Option<&TopicQueues>) -> R) -> R {
        let last = self.last.load();
        if let Some(topic) = &*last
            && topic.name.as_str() == name
        {
            return with(Some(topic));
        }
        drop(last);
        let all = self.all.load();
        let found = all.get(name);
        if let Some(found) = found {
            self.last.store(Some(Arc::clone(found)));
        }
        with(found.map(|found| &**found))
    }

    /// Takes in what metadata says: a new topic, or more partitions of a known one. Partitions are taken away only from a
    /// topic that was created anew: fewer of the same topic come from a broker that lags behind.
    pub(crate) fn grow(&self, metadata: &TopicMetadata) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.all.load_full();
        let known = all.get(&metadata.name);
        if known
            .is_some_and(|known| known.queues.len() >= metadata.partitions.len() && known.id == metadata.id)
        {
            return;
        }
        let mut queues = known.map_or_else(Vec::new, |known| known.queues.clone());
        let recreated = known.is_some_and(|known| known.id != metadata.id);
        let gone = if recreated && queues.len() > metadata.partitions.len() {
            queues.split_off(metadata.partitions.len())
        } else {
            Vec::new()
        };
        for partition in metadata.partitions.iter().skip(queues.len()) {
            let queue = PartitionQueue::new(metadata.name.clone(), partition.partition);
            queue.set_leaderless(partition.leader_id.get() < 0);
            queues.push(queue);
        }
        let first = rand::rng().random_range(0..queues.len().max(1));
        let topic = Arc::new(TopicQueues {
            name: metadata.name.clone(),
            id: metadata.id,
            queues,
            sticky: AtomicU32::new(u32::try_from(first).unwrap_or(0)),
            round_robin: AtomicU32::new(0),
        });
        let mut grown = HashMap::clone(&all);
        grown.insert(topic.name.clone(), topic);
        self.all.store(Arc::new(grown));
        self.last.store(None);
        for queue in gone {
            queue.close(&DeliveryError::TopicRecreated {
                topic: queue.topic.clone(),
                partition: queue.partition,
                partitions: metadata.partitions.len(),
            });
        }
    }

    pub(crate) fn names(&self) -> Vec<TopicName> {
        self.all.load().keys().cloned().collect()
    }

    /// Lets every open batch go at once.
    pub(crate) fn urge_all(&self) {
        for topic in self.all.load().values() {
            for queue in &topic.queues {
                let mut state = queue.lock();
                if state.urge() {
                    state.home.signal();
                }
            }
        }
    }
}

impl TopicQueues {
    /// How many partitions there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.queues.len()).unwrap_or(u32::MAX)
    }

    /// The partition of records without key, for now.
    #[inline]
    pub(crate) fn sticky(&self) -> PartitionId {
        let partition = self.sticky.load(Ordering::Relaxed);
        if self.queues.get(partition as usize).is_some_and(|queue| queue.is_leaderless())
            && self.queues.len() > 1
        {
            return self.move_sticky(partition);
        }
        PartitionId(partition.cast_signed())
    }

    /// Chooses another partition for records without key, at random.
    pub(crate) fn move_sticky(&self, from: u32) -> PartitionId {
        let count = self.count();
        let mut next = from;
        if count > 1 {
            let mut rng = rand::rng();
            for _ in 0..STICKY_TRIES {
                next = (from + rng.random_range(1..count)) % count;
                if !self.queues[next as usize].is_leaderless() {
                    break;
                }
            }
        }
        self.sticky.store(next, Ordering::Relaxed);
        PartitionId(next.cast_signed())
    }

    /// The next partition in turn.
    pub(crate) fn next_in_turn(&self) -> PartitionId {
        PartitionId((self.round_robin.fetch_add(1, Ordering::Relaxed) % self.count().max(1)).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartitionMetadata;
    use thalweg_core::{BrokerId, LeaderEpoch};

    fn metadata(count: i32) -> TopicMetadata {
        let partition = |partition| PartitionMetadata {
            partition: PartitionId(partition),
            leader_id: BrokerId(1),
            leader_epoch: LeaderEpoch(0),
            replicas: Vec::new(),
            isr: Vec::new(),
        };
        TopicMetadata {
            name: TopicName::new("t").unwrap(),
            id: TopicId::default(),
            internal: false,
            partitions: (0..count).map(partition).collect(),
        }
    }

    #[test]
    fn a_topic_grows_and_keeps_its_queues() {
        let topics = Topics::default();
        assert!(topics.with("t", |topic| topic.is_none()));
        topics.grow(&metadata(2));
        let first = topics.with("t", |topic| Arc::clone(&topic.unwrap().queues[1]));
        topics.grow(&metadata(5));
        topics.with("t", |topic| {
            let topic = topic.unwrap();
            assert_eq!(topic.queues.len(), 5);
            assert!(Arc::ptr_eq(&first, &topic.queues[1]));
        });
        topics.grow(&metadata(3));
        assert_eq!(topics.with("t", |topic| topic.unwrap().queues.len()), 5);
    }

    #[test]
    fn a_topic_that_was_created_anew_has_the_new_partitions_only() {
        let topics = Topics::default();
        topics.grow(&metadata(5));
        let queues = topics.with("t", |topic| topic.unwrap().queues.clone());
        topics.grow(&TopicMetadata { id: TopicId([2; 16]), ..metadata(3) });
        assert_eq!(topics.with("t", |topic| topic.unwrap().queues.len()), 3);
        let closed: Vec<bool> = queues.iter().map(|queue| queue.lock().closed().is_some()).collect();
        assert_eq!(closed, [false, false, false, true, true]);
    }

    #[test]
    fn the_sticky_partition_moves_and_avoids_those_without_leader() {
        let topics = Topics::default();
        topics.grow(&metadata(2));
        topics.with("t", |topic| {
            let topic = topic.unwrap();
            let first = topic.sticky();
            assert_eq!(topic.sticky(), first);
            topic.queues[first.get() as usize].set_leaderless(true);
            let second = topic.sticky();
            assert_ne!(second, first);
            assert_eq!(topic.sticky(), second);
        });
    }

    #[test]
    fn turns_go_round() {
        let topics = Topics::default();
        topics.grow(&metadata(3));
        let turns = topics.with("t", |topic| [(); 4].map(|()| topic.unwrap().next_in_turn().get()));
        assert_eq!(turns, [0, 1, 2, 0]);
    }
}
