//! One partition's replica on this broker: its log, what the metadata says of it, and who waits for it.

use super::high_watermark::{ReplicaPosition, high_watermark};
use super::session::{Session, Slot, Waiters};
use crate::settings::TopicSettings;
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thalweg_core::{BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};
use thalweg_log::{FlushListener, Log};

/// What the metadata says of a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    /// The leader; [`BrokerId::NONE`] if there is none.
    pub leader: BrokerId,
    /// Its epoch.
    pub leader_epoch: LeaderEpoch,
    /// The replicas in sync.
    pub isr: Vec<BrokerId>,
    /// The topic's configuration.
    pub settings: TopicSettings,
}

/// One partition's replica on this broker.
#[derive(Debug)]
pub struct Partition {
    topic_partition: TopicPartition,
    topic_id: TopicId,
    me: BrokerId,
    log: Arc<Log>,
    role: ArcSwap<Role>,
    retired: AtomicBool,
    waiters: Waiters,
}

impl Partition {
    /// A replica over its log. Takes the high watermark as far as the role allows.
    pub fn new(
        topic_partition: TopicPartition,
        topic_id: TopicId,
        me: BrokerId,
        log: Arc<Log>,
        role: Role,
    ) -> Arc<Partition> {
        let partition = Arc::new(Partition {
            topic_partition,
            topic_id,
            me,
            log,
            role: ArcSwap::from_pointee(role),
            retired: AtomicBool::new(false),
            waiters: Waiters::default(),
        });
        let listener: Arc<dyn FlushListener> = Arc::clone(&partition) as Arc<dyn FlushListener>;
        partition.log.set_flush_listener(Arc::downgrade(&listener));
        partition.settle();
        partition
    }

    /// Its name.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.topic_partition
    }

    /// The id of the topic that it belongs to.
    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// Its log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// What the metadata says of it.
    pub fn role(&self) -> Guard<Arc<Role>> {
        self.role.load()
    }

    /// The role, if this broker leads the partition and the partition still exists.
    pub fn leading(&self) -> Option<Guard<Arc<Role>>> {
        let role = self.role.load();
        (role.leader == self.me && !self.retired.load(Ordering::Acquire)).then_some(role)
    }

    /// Whether the topic was deleted, or the replica moved away.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Takes a new role, and tells the waiters.
    pub fn set_role(&self, role: Role) {
        assert!(
            role.leader_epoch >= self.role.load().leader_epoch,
            "the leader epoch of {} went back",
            self.topic_partition
        );
        self.role.store(Arc::new(role));
        self.settle();
        self.waiters.mark_all();
    }

    /// The partition is no longer served here. Every waiter is told.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.waiters.mark_all();
    }

    /// To be called after each append: moves the high watermark, or asks for the fsync that will.
    pub fn appended(&self) {
        // The role of now, not the append's: write caching may have been switched off meanwhile.
        let role = self.role.load();
        if role.settings.write_caching {
            self.advance(&role);
        } else {
            self.log.request_flush();
        }
    }

    /// How many replicas are in sync.
    pub fn in_sync(&self) -> usize {
        self.role.load().isr.len()
    }

    /// Puts `slot` among those that are marked when something changes here, until the registration is dropped.
    pub fn register(self: &Arc<Partition>, slot: Arc<Slot>) -> Registration {
        self.waiters.add(Arc::clone(&slot));
        Registration { partition: Arc::clone(self), slot }
    }

    /// A session that waits for this partition alone.
    pub fn wait_here(self: &Arc<Partition>) -> (Arc<Session>, Registration) {
        let session = Session::new();
        let registration = self.register(session.slot(0));
        (session, registration)
    }

    // After a change of role: the watermark may be able to move at once, or need an fsync first.
    fn settle(&self) {
        let role = self.role.load();
        if role.leader == self.me {
            self.advance(&role);
            if !role.settings.write_caching && self.log.flushed_offset() < self.log.log_end_offset() {
                self.log.request_flush();
            }
        }
    }

    /// Whether the high watermark moved; then the waiters were told.
    fn advance(&self, role: &Role) -> bool {
        let own = ReplicaPosition {
            // The end first: a flush in between can only make the position smaller than it is.
            log_end: self.log.log_end_offset(),
            flushed: self.log.flushed_offset(),
        };
        let before = self.log.high_watermark();
        let positions = role.isr.iter().map(|replica| (*replica == self.me).then_some(own));
        let after = high_watermark(before, role.settings.write_caching, positions);
        if after > before {
            self.log.set_high_watermark(after);
            self.waiters.mark_all();
        }
        after > before
    }
}

impl FlushListener for Partition {
    fn flushed(&self, _up_to: Offset) {
        if let Some(role) = self.leading()
            && !self.advance(&role)
            && !role.settings.write_caching
        {
            // The watermark may have been ahead of the disk, from before write caching was switched off.
            self.waiters.mark_all();
        }
    }

    fn failed(&self) {
        tracing::error!(partition = %self.topic_partition, "the log's directory failed; the partition takes no writes");
        self.waiters.mark_all();
    }
}

/// A slot's place among a partition's waiters; dropping it leaves.
#[derive(Debug)]
pub struct Registration {
    partition: Arc<Partition>,
    slot: Arc<Slot>,
}

impl Registration {
    /// The partition.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// To be called before the partition is looked at.
    pub fn acknowledge(&self) {
        self.slot.acknowledge();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.partition.waiters.remove(&self.slot);
    }
}
