//! Brings the partitions on this broker in line with each new image of the metadata.
//!
//! ```text
//!   image ──► reconcile (one at a time, blocking) ──► table (swapped as a whole) ──► lookups
//!                │ create, open, delete logs
//! ```
//! Changes are found from the difference of two images, so an image that touches one topic costs one topic.

use super::partition::{Partition, Role};
use crate::refusal;
use crate::settings::{TopicSettings, log_config};
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_core::metadata::{MetadataImage, TopicImage};
use thalweg_core::{BrokerId, Clock, MetadataVersion, PartitionId, TopicId, TopicName, TopicPartition};
use thalweg_log::{LogConfig, LogManager};
use thalweg_proto::ApiError;
use tokio::sync::watch;

/// The partitions on this broker.
#[derive(Debug)]
pub struct ReplicaManager {
    me: BrokerId,
    logs: Arc<LogManager>,
    table: ArcSwap<Table>,
    // The image that the table stands for; held while it is changed.
    applied: Mutex<Arc<MetadataImage>>,
    version: watch::Sender<MetadataVersion>,
}

/// What is here under a name.
#[derive(Debug)]
pub enum Lookup {
    /// A replica.
    Here(Arc<Partition>),
    /// It should be here, but its log could not be opened.
    Failed(ApiError),
    /// Nothing.
    Nowhere,
}

type Table = HashMap<TopicName, Arc<TopicReplicas>>;

#[derive(Debug)]
struct TopicReplicas {
    id: TopicId,
    // By index; `None` where another broker has it.
    partitions: Vec<Option<Replica>>,
}

#[derive(Debug, Clone)]
enum Replica {
    Serving(Arc<Partition>),
    Failed(ApiError),
}

impl ReplicaManager {
    /// A manager of nothing yet.
    pub fn new(me: BrokerId, logs: Arc<LogManager>) -> ReplicaManager {
        let empty = Arc::new(MetadataImage::new());
        ReplicaManager {
            me,
            logs,
            table: ArcSwap::from_pointee(Table::new()),
            version: watch::Sender::new(empty.version()),
            applied: Mutex::new(empty),
        }
    }

    /// The logs.
    pub fn logs(&self) -> &Arc<LogManager> {
        &self.logs
    }

    /// What is here under that name.
    pub fn find(&self, topic: &str, partition: PartitionId) -> Lookup {
        let table = self.table.load();
        let replica = table
            .get(topic)
            .zip(usize::try_from(partition.get()).ok())
            .and_then(|(topic, index)| topic.partitions.get(index)?.as_ref());
        match replica {
            Some(Replica::Serving(partition)) => Lookup::Here(Arc::clone(partition)),
            Some(Replica::Failed(error)) => Lookup::Failed(error.clone()),
            None => Lookup::Nowhere,
        }
    }

    /// The partitions that this broker leads now.
    pub fn led(&self) -> Vec<Arc<Partition>> {
        let table = self.table.load();
        let served = table.values().flat_map(|topic| topic.partitions.iter().flatten());
        served
            .filter_map(|replica| match replica {
                Replica::Serving(partition) if partition.leading().is_some() => Some(Arc::clone(partition)),
                _ => None,
            })
            .collect()
    }

    /// How many partitions are served here.
    pub fn len(&self) -> usize {
        let serving = |replica: &&Option<Replica>| matches!(replica, Some(Replica::Serving(_)));
        self.table.load().values().map(|topic| topic.partitions.iter().filter(serving).count()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the version of the metadata that the partitions here stand for.
    pub fn watch(&self) -> watch::Receiver<MetadataVersion> {
        self.version.subscribe()
    }

    /// Makes the partitions here what `image` says. Blocks for file I/O. A log that cannot be opened is reported by
    /// [`find`](ReplicaManager::find), and tried again with the next image or by [`retry_failed`](ReplicaManager::retry_failed).
    pub fn reconcile(&self, image: &Arc<MetadataImage>, clock: &dyn Clock) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if image.version() < applied.version() {
            return;
        }
        let changes = image.changes_since(&applied);
        let mut table = Table::clone(&self.table.load());
        let mut gone = Vec::new();
        for topic in &changes.removed {
            if table.get(&topic.name).is_some_and(|here| here.id == topic.id) {
                gone.extend(table.remove(&topic.name));
            }
        }
        // First nobody finds them, then they go.
        self.table.store(Arc::new(table.clone()));
        gone.iter().for_each(|topic| self.delete(topic));
        let retried = failed(&table, image);
        for topic in changes.changed.iter().chain(&retried) {
            self.take_in(&mut table, topic, clock);
        }
        self.table.store(Arc::new(table));
        *applied = Arc::clone(image);
        self.version.send_replace(image.version());
    }

    /// Tries once more to open the logs that could not be opened: the disk may have room again. Blocks for file I/O; does
    /// nothing when there are none.
    pub fn retry_failed(&self, clock: &dyn Clock) {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let retried = failed(&self.table.load(), &applied);
        if retried.is_empty() {
            return;
        }
        let mut table = Table::clone(&self.table.load());
        for topic in &retried {
            self.take_in(&mut table, topic, clock);
        }
        self.table.store(Arc::new(table));
    }

    fn take_in(&self, table: &mut Table, topic: &TopicImage, clock: &dyn Clock) {
        let before = table.get(&topic.name).cloned();
        match self.topic(topic, before.as_deref(), clock) {
            Some(replicas) => table.insert(topic.name.clone(), Arc::new(replicas)),
            None => table.remove(&topic.name),
        };
    }

    /// Deletes the logs whose topic is gone, or is another one of the same name: what happened while the broker was down.
    pub fn delete_strays(&self, image: &MetadataImage) {
        for log in self.logs.logs() {
            let tp = log.topic_partition();
            let stray = match image.topic(tp.topic.as_str()) {
                None => true,
                Some(topic) => {
                    log.topic_id().is_some_and(|id| id != topic.id)
                        || topic
                            .partition(tp.partition)
                            .is_none_or(|state| !state.replicas.contains(&self.me))
                }
            };
            if stray {
                tracing::info!(partition = %tp, "log of a deleted partition removed");
                if let Err(error) = self.logs.delete(tp) {
                    tracing::warn!(partition = %tp, %error, "log could not be removed");
                }
            }
        }
    }

    fn topic(
        &self,
        topic: &TopicImage,
        before: Option<&TopicReplicas>,
        clock: &dyn Clock,
    ) -> Option<TopicReplicas> {
        let settings = TopicSettings::from(&*topic.config);
        let config = log_config(&topic.config);
        let partitions: Vec<_> = topic
            .partitions()
            .map(|(index, state)| {
                let known = before.and_then(|before| before.partitions.get(index.get() as usize)?.clone());
                if !state.replicas.contains(&self.me) {
                    if let Some(Replica::Serving(partition)) = known {
                        self.remove(&partition);
                    }
                    return None;
                }
                let role = Role::of(state, &settings);
                Some(match known {
                    Some(Replica::Serving(partition)) => {
                        partition.log().update_config(config.clone());
                        if **partition.role() != role {
                            partition.set_role(role);
                        }
                        Replica::Serving(partition)
                    }
                    known => {
                        let opened = self.open(topic, index, role, config.clone(), clock);
                        // Once is enough while the same error stays.
                        match (&opened, &known) {
                            (Replica::Failed(now), Some(Replica::Failed(before))) if now == before => {}
                            (Replica::Failed(error), _) => {
                                tracing::error!(topic = %topic.name, partition = %index, %error, "partition could not be opened");
                            }
                            _ => {}
                        }
                        opened
                    }
                })
            })
            .collect();
        partitions.iter().any(Option::is_some).then_some(TopicReplicas { id: topic.id, partitions })
    }

    fn open(
        &self,
        topic: &TopicImage,
        index: PartitionId,
        role: Role,
        config: LogConfig,
        clock: &dyn Clock,
    ) -> Replica {
        let tp = TopicPartition::new(topic.name.clone(), index);
        match self.logs.get_or_create(&tp, Some(topic.id), config.clone(), clock.now()) {
            Ok(log) => {
                // A log that was found on disk was opened before this topic's configuration was known for sure.
                log.update_config(config);
                tracing::debug!(partition = %tp, end = %log.log_end_offset(), "partition opened");
                Replica::Serving(Partition::new(tp, topic.id, self.me, log, role))
            }
            Err(error) => Replica::Failed(refusal::open(&error)),
        }
    }

    fn delete(&self, topic: &TopicReplicas) {
        for replica in topic.partitions.iter().flatten() {
            if let Replica::Serving(partition) = replica {
                self.remove(partition);
            }
        }
    }

    fn remove(&self, partition: &Partition) {
        // First the handlers let go, then the files.
        partition.retire();
        let tp = partition.topic_partition();
        match self.logs.delete(tp) {
            Ok(_) => tracing::info!(partition = %tp, "partition removed"),
            Err(error) => tracing::warn!(partition = %tp, %error, "partition could not be removed"),
        }
    }
}

/// The topics of which a log could not be opened.
fn failed(table: &Table, image: &MetadataImage) -> Vec<Arc<TopicImage>> {
    let failed = table.iter().filter(|(_, topic)| topic.has_failed());
    failed.filter_map(|(name, _)| image.topic(name.as_str()).cloned()).collect()
}

impl TopicReplicas {
    fn has_failed(&self) -> bool {
        self.partitions.iter().any(|replica| matches!(replica, Some(Replica::Failed(_))))
    }
}
