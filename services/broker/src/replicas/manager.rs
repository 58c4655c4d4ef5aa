//! Brings the partitions on this broker in line with each new image of the metadata.
//!
//! ```text
//!   image ──► reconcile (one at a time, blocking) ──► table (swapped as a whole) ──► lookups
//!                │ 1. what is gone: nobody finds it, then its log is deleted
//!                │ 2. roles: fence the log for the new epoch, then tell the partition, then the follower side
//!                │ 3. what is new: logs created many at a time, then as 2
//! ```
//! Changes are found from the difference of two images, so an image that touches one partition costs one partition.

use super::partition::Partition;
use super::role::Role;
use super::table::{Replica, Table, TopicReplicas};
use crate::refusal;
use crate::replication::follower::{Assignment, Assignments, PaceCounts};
use crate::settings::{TopicSettings, log_config};
use crate::trace::Tracing;
use arc_swap::ArcSwap;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_core::metadata::{MetadataImage, TopicImage};
use thalweg_core::planted::{Bug, planted};
use thalweg_core::{BrokerId, Clock, MetadataVersion, PartitionId, TopicPartition};
use thalweg_log::{AppendError, Log, LogManager, LogMode, NewLog};
use thalweg_proto::ApiError;
use tokio::sync::watch;

/// New logs that are created before the partitions among them are served: large enough that a sync is shared by many, small
/// enough that the first need not wait for the last.
const CREATE_AT_ONCE: usize = 2_000;

/// The partitions on this broker.
#[derive(Debug)]
pub struct ReplicaManager {
    me: BrokerId,
    logs: Arc<LogManager>,
    table: ArcSwap<Table>,
    // The image that the table stands for; held while it is changed.
    applied: Mutex<Arc<MetadataImage>>,
    version: watch::Sender<MetadataVersion>,
    assignments: Arc<Assignments>,
    tracing: Tracing,
    catch_up: Arc<PaceCounts>,
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

/// A partition whose log is to be opened.
struct Missing {
    topic: Arc<TopicImage>,
    index: PartitionId,
    // Why it could not be opened the last time.
    failed: Option<ApiError>,
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
            assignments: Arc::default(),
            tracing: Tracing::of_process(env!("CARGO_PKG_NAME")),
            catch_up: Arc::default(),
        }
    }

    /// The logs.
    pub fn logs(&self) -> &Arc<LogManager> {
        &self.logs
    }

    /// The tracer that the process had when this manager was made.
    pub fn tracing(&self) -> &Tracing {
        &self.tracing
    }

    /// What is to be followed where, as it changes: for the follower side.
    pub fn assignments(&self) -> &Arc<Assignments> {
        &self.assignments
    }

    /// What catching up was let have.
    pub fn catch_up(&self) -> &Arc<PaceCounts> {
        &self.catch_up
    }

    /// What is here under that name.
    pub fn find(&self, topic: &str, partition: PartitionId) -> Lookup {
        let table = self.table.load();
        match table.get(topic).and_then(|topic| topic.get(partition)) {
            Some(Replica::Serving(partition)) => Lookup::Here(Arc::clone(partition)),
            Some(Replica::Failed(error)) => Lookup::Failed(error.clone()),
            Some(Replica::Opening) | None => Lookup::Nowhere,
        }
    }

    /// The partitions that this broker leads now.
    pub fn led(&self) -> Vec<Arc<Partition>> {
        let table = self.table.load();
        let served = table.values().flat_map(|topic| topic.serving());
        served.filter(|partition| partition.leading().is_some()).map(Arc::clone).collect()
    }

    /// The partitions that are served here.
    pub fn served(&self) -> Vec<Arc<Partition>> {
        self.table.load().values().flat_map(|topic| topic.serving()).map(Arc::clone).collect()
    }

    /// How many partitions are served here.
    pub fn len(&self) -> usize {
        self.table.load().values().map(|topic| topic.serving().count()).sum()
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
            if table.get(&topic.name).is_some_and(|here| here.image.id == topic.id)
                && let Some(here) = table.remove(&topic.name)
            {
                gone.extend(here.serving().map(Arc::clone));
            }
        }
        let changed: HashSet<_> = changes.changed.iter().map(|topic| topic.id).collect();
        let mut retried = failed(&table, image);
        retried.retain(|topic| !changed.contains(&topic.id));
        let mut missing = Vec::new();
        for topic in changes.changed.iter().chain(&retried) {
            self.take_in(&mut table, topic, &mut gone, &mut missing);
        }
        // First nobody finds them, then they go.
        self.table.store(Arc::new(table.clone()));
        self.remove(&gone);
        self.open_missing(table, &missing, clock);
        *applied = Arc::clone(image);
        self.version.send_replace(image.version());
    }

    /// Tries once more to open the logs that could not be opened: the disk may have room again. Blocks for file I/O; does
    /// nothing when there are none.
    pub fn retry_failed(&self, clock: &dyn Clock) {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.table.load());
        let retried = failed(&table, &applied);
        let (mut gone, mut missing) = (Vec::new(), Vec::new());
        for topic in &retried {
            self.take_in(&mut table, topic, &mut gone, &mut missing);
        }
        if !missing.is_empty() {
            self.open_missing(table, &missing, clock);
        }
    }

    /// Deletes the logs whose topic is gone, or is another one of the same name, or whose replica moved away: what happened while
    /// the broker was down.
    pub fn delete_strays(&self, image: &MetadataImage) {
        let is_stray = |log: &Arc<Log>| {
            let tp = log.topic_partition();
            let Some(topic) = image.topic(tp.topic.as_str()) else { return true };
            let replica = topic.partition(tp.partition);
            log.topic_id().is_some_and(|id| id != topic.id)
                || replica.is_none_or(|state| !state.replicas.contains(&self.me))
        };
        let logs = self.logs.logs();
        let strays: Vec<_> =
            logs.iter().filter(|log| is_stray(log)).map(|log| log.topic_partition().clone()).collect();
        self.delete_logs(&strays);
    }

    /// Brings the partitions of a topic whose logs are open in line. What is to be opened is left to the caller, and so is what
    /// is to go.
    fn take_in(
        &self,
        table: &mut Table,
        topic: &Arc<TopicImage>,
        gone: &mut Vec<Arc<Partition>>,
        missing: &mut Vec<Missing>,
    ) {
        let mut before = table.get(&topic.name).cloned();
        if let Some(other) = before.take_if(|before| before.image.id != topic.id) {
            gone.extend(other.serving().map(Arc::clone));
        }
        let config = match &before {
            Some(before) if before.image.config == topic.config => None,
            _ => Some(log_config(&topic.config)),
        };
        let settings = TopicSettings::from(&*topic.config);
        let partitions: Vec<_> = topic
            .partitions()
            .map(|(index, state)| {
                let known = before.as_ref().and_then(|before| before.get(index).cloned());
                if !state.replicas.contains(&self.me) {
                    if let Some(Replica::Serving(partition)) = known {
                        gone.push(partition);
                    }
                    return None;
                }
                let failed = match known {
                    Some(Replica::Serving(partition)) => {
                        if let Some(config) = &config {
                            partition.log().update_config(config.clone());
                        }
                        let old = before.as_ref().and_then(|before| before.image.partition(index));
                        let same = config.is_none() && old.is_some_and(|old| Arc::ptr_eq(old, state));
                        return Some(if same {
                            Replica::Serving(partition)
                        } else {
                            self.with_role(partition, Role::of(state, &settings))
                        });
                    }
                    Some(Replica::Failed(error)) => Some(error),
                    Some(Replica::Opening) | None => None,
                };
                let opening = failed.clone().map_or(Replica::Opening, Replica::Failed);
                missing.push(Missing { topic: Arc::clone(topic), index, failed });
                Some(opening)
            })
            .collect();
        if partitions.iter().any(Option::is_some) {
            table
                .insert(topic.name.clone(), Arc::new(TopicReplicas { image: Arc::clone(topic), partitions }));
        } else {
            table.remove(&topic.name);
        }
    }

    /// A partition with another role, or why it cannot take it; then its log stays, and is asked for again with the next image.
    fn with_role(&self, partition: Arc<Partition>, role: Role) -> Replica {
        match self.change_role(&partition, role) {
            Ok(()) => Replica::Serving(partition),
            Err(error) => {
                tracing::error!(partition = %partition.topic_partition(), %error, "the role could not be taken");
                partition.retire();
                self.assignments.post(Assignment::none(&partition));
                Replica::Failed(refusal::append(&error))
            }
        }
    }

    /// Gives a partition another role. Appends of the old one have ended, and later ones are refused, before anyone sees it.
    fn change_role(&self, partition: &Arc<Partition>, role: Role) -> Result<(), AppendError> {
        let before = Arc::clone(&partition.role());
        if *before == role {
            return Ok(());
        }
        self.fence(partition.log(), &role)?;
        let follows = |role: &Role| (role.leader, role.leader_epoch, role.adding.contains(&self.me));
        let moved = follows(&before) != follows(&role);
        partition.set_role(role);
        if moved {
            self.assignments.post(Assignment::of(partition, self.me));
        }
        Ok(())
    }

    fn fence(&self, log: &Log, role: &Role) -> Result<(), AppendError> {
        let mode = if role.leader == self.me { LogMode::Leading } else { LogMode::Following };
        log.begin_epoch(role.leader_epoch, mode)?;
        if planted(Bug::TruncateToHighWatermark) && mode == LogMode::Following {
            // A failure leaves the log as it should be.
            let _ = log.truncate_to(log.high_watermark(), role.leader_epoch);
        }
        Ok(())
    }

    /// Opens logs, creating those that are new, and serves their partitions.
    fn open_missing(&self, mut table: Table, missing: &[Missing], clock: &dyn Clock) {
        for some in missing.chunks(CREATE_AT_ONCE) {
            let wanted: Vec<NewLog> = some.iter().map(Missing::log).collect();
            let logs = self.logs.get_or_create_many(&wanted, clock.now());
            for ((missing, wanted), log) in some.iter().zip(wanted).zip(logs) {
                let opened = log.map_err(|error| refusal::open(&error));
                let replica = match opened.and_then(|log| self.serve(missing, wanted, log)) {
                    Ok(partition) => Replica::Serving(partition),
                    Err(error) => {
                        // Once is enough while the same error stays.
                        if missing.failed.as_ref() != Some(&error) {
                            tracing::error!(topic = %missing.topic.name, partition = %missing.index, %error, "partition could not be opened");
                        }
                        Replica::Failed(error)
                    }
                };
                let slot = table
                    .get_mut(&missing.topic.name)
                    .and_then(|topic| Arc::make_mut(topic).partitions.get_mut(missing.index.get() as usize));
                if let Some(slot) = slot {
                    *slot = Some(replica);
                }
            }
            self.table.store(Arc::new(table.clone()));
        }
    }

    fn serve(&self, missing: &Missing, wanted: NewLog, log: Arc<Log>) -> Result<Arc<Partition>, ApiError> {
        let topic = &missing.topic;
        let state = topic.partition(missing.index).ok_or_else(|| {
            refusal::internal("a partition that does not exist was opened", &wanted.partition)
        })?;
        // A log that was found on disk was opened before this topic's configuration was known for sure.
        log.update_config(wanted.config);
        let role = Role::of(state, &TopicSettings::from(&*topic.config));
        self.fence(&log, &role).map_err(|error| refusal::append(&error))?;
        tracing::debug!(partition = %wanted.partition, end = %log.log_end_offset(), "partition opened");
        let partition = Partition::new(wanted.partition, topic.id, self.me, log, role, self.tracing.clone());
        self.assignments.post(Assignment::of(&partition, self.me));
        Ok(partition)
    }

    fn remove(&self, gone: &[Arc<Partition>]) {
        // First the handlers let go, then the files.
        for partition in gone {
            partition.retire();
            self.assignments.post(Assignment::none(partition));
        }
        let names: Vec<_> = gone.iter().map(|partition| partition.topic_partition().clone()).collect();
        self.delete_logs(&names);
    }

    fn delete_logs(&self, names: &[TopicPartition]) {
        if names.is_empty() {
            return;
        }
        for (name, deleted) in names.iter().zip(self.logs.delete_many(names)) {
            match deleted {
                Ok(_) => tracing::info!(partition = %name, "partition removed"),
                Err(error) => tracing::warn!(partition = %name, %error, "partition could not be removed"),
            }
        }
    }
}

impl Missing {
    fn log(&self) -> NewLog {
        NewLog {
            partition: TopicPartition::new(self.topic.name.clone(), self.index),
            topic_id: Some(self.topic.id),
            config: log_config(&self.topic.config),
        }
    }
}

/// The topics of which a log could not be opened.
fn failed(table: &Table, image: &MetadataImage) -> Vec<Arc<TopicImage>> {
    let failed = table.iter().filter(|(_, topic)| topic.has_failed());
    failed.filter_map(|(name, _)| image.topic(name.as_str()).cloned()).collect()
}
