//! One partition's replica on this broker: its log, what the metadata says of it, and who waits for it.
//!
//! ```text
//!   append ─► [log] ─► appended ──┬──► followers' streams (marked)
//!                                 ▼
//!   positions ─► LeaderState ─► high watermark ──► consumers and producers (marked)
//!   fsync ──────────┘
//! ```

use super::role::{IsrProposal, Role};
use super::session::{Session, Slot, Waiters};
use super::traffic::Traffic;
use crate::replication::leader::state::{LeaderState, Outcome, Stale};
use crate::trace::{Following, TracedBatch, Traces, Tracing};
use arc_swap::{ArcSwap, Guard};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::replication::ReplicaProgress;
use thalweg_core::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};
use thalweg_log::{FlushListener, Log};
use thalweg_proto::internal::v1::BatchTrace;
use tokio::time::Instant;

/// One partition's replica on this broker.
#[derive(Debug)]
pub struct Partition {
    topic_partition: TopicPartition,
    topic_id: TopicId,
    me: BrokerId,
    log: Arc<Log>,
    role: ArcSwap<Role>,
    /// While this broker leads. The high watermark moves only under this lock, so that none of an earlier leader's is late.
    leader: Mutex<Option<LeaderState>>,
    /// Where the log ended when this broker began to lead; 0 while it does not.
    epoch_start: AtomicI64,
    /// Everything below is on stable storage on every replica in sync.
    stable: AtomicI64,
    retired: AtomicBool,
    waiters: Waiters,
    followers: Waiters,
    traffic: Traffic,
    traces: Traces,
}

impl Partition {
    /// A replica over its log. Takes the high watermark as far as the role allows.
    pub fn new(
        topic_partition: TopicPartition,
        topic_id: TopicId,
        me: BrokerId,
        log: Arc<Log>,
        role: Role,
        tracing: Tracing,
    ) -> Arc<Partition> {
        let partition = Arc::new(Partition {
            topic_partition,
            topic_id,
            me,
            log,
            role: ArcSwap::from_pointee(role.clone()),
            leader: Mutex::new(None),
            epoch_start: AtomicI64::new(0),
            stable: AtomicI64::new(0),
            retired: AtomicBool::new(false),
            waiters: Waiters::default(),
            followers: Waiters::default(),
            traffic: Traffic::default(),
            traces: Traces::new(tracing),
        });
        let listener: Arc<dyn FlushListener> = Arc::clone(&partition) as Arc<dyn FlushListener>;
        partition.log.set_flush_listener(Arc::downgrade(&listener));
        partition.set_role(role);
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

    /// What went through it.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The traced batches that it waits with.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Batches that a leader of this epoch sent, some of them traced, are about to be appended here.
    pub fn following_traced(&self, epoch: LeaderEpoch, traces: &[BatchTrace]) -> Following {
        self.traces.following(&self.topic_partition, self.me, epoch, traces)
    }

    /// What the metadata says of it.
    pub fn role(&self) -> Guard<Arc<Role>> {
        self.role.load()
    }

    /// The role, if this broker leads the partition and the partition still exists.
    pub fn leading(&self) -> Option<Guard<Arc<Role>>> {
        let role = self.role.load();
        (role.leader == self.me && !self.is_retired()).then_some(role)
    }

    /// The role, if another broker leads the partition and it still exists here.
    pub fn following(&self) -> Option<Guard<Arc<Role>>> {
        let role = self.role.load();
        let another = role.leader != self.me && role.leader != BrokerId::NONE;
        (another && !self.is_retired()).then_some(role)
    }

    /// Whether the topic was deleted, or the replica moved away.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Takes a new role, and tells everyone who waits. The log must be in the role's mode and epoch already: whoever sees the
    /// role may append.
    pub fn set_role(&self, role: Role) {
        let now = Instant::now();
        let mut leader = self.leader();
        assert!(
            role.leader_epoch >= self.role.load().leader_epoch,
            "the leader epoch of {} went back",
            self.topic_partition
        );
        if role.leader == self.me {
            match &mut *leader {
                Some(state) if state.leader_epoch() == role.leader_epoch => {
                    self.traffic.isr_moved(self.role.load().isr.len(), role.isr.len());
                    state.update(&role.terms(), now);
                }
                state => {
                    self.traces.leave();
                    let start = self.log.log_end_offset();
                    *state = Some(LeaderState::new(self.me, &role.terms(), start, now));
                    self.epoch_start.store(start.get(), Ordering::Release);
                    self.stable.store(0, Ordering::Release);
                }
            }
        } else {
            *leader = None;
            self.traces.leave();
            self.epoch_start.store(0, Ordering::Release);
        }
        let write_caching = role.settings.write_caching;
        self.role.store(Arc::new(role));
        if let Some(state) = &*leader {
            self.advance(state);
        }
        drop(leader);
        if !write_caching && self.log.flushed_offset() < self.log.log_end_offset() {
            self.log.request_flush();
        }
        self.mark_everyone();
    }

    /// The partition is no longer served here. Everyone who waits is told.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.traces.leave();
        self.mark_everyone();
    }

    /// To be called after each append as the leader: lets the followers have it, and moves the high watermark or asks for the
    /// fsync that will.
    pub fn appended(&self) {
        self.followers.mark_all();
        // The role of now, not the append's: write caching may have been switched off meanwhile.
        if self.role.load().settings.write_caching {
            if let Some(state) = &*self.leader() {
                self.advance(state);
            }
        } else {
            self.log.request_flush();
        }
    }

    /// To be called with a traced batch between its append and [`appended`](Partition::appended): its spans end here when the
    /// followers and the high watermark have passed it.
    pub fn traced(&self, batch: TracedBatch) {
        let leader = self.leader();
        // A later leader's watermark says nothing of it.
        let state = leader.as_ref().filter(|state| state.leader_epoch() == batch.leader_epoch());
        if let Some(state) = state {
            self.traces.add(batch);
            // A follower in full swing may hold it already.
            self.look_at_traces(state);
        }
    }

    fn look_at_traces(&self, state: &LeaderState) {
        let safe = |at: ReplicaProgress| at.safe(self.role.load().settings.write_caching);
        self.traces.look(self.log.high_watermark(), |id| state.progress(id).map(safe));
    }

    /// To be called when the log's start has moved by a request: the followers shall hear of it.
    pub fn start_moved(&self) {
        self.followers.mark_all();
    }

    /// To be called when a follower's log has taken what came, and when only the leader's high watermark came: takes the high
    /// watermark as far as the log goes, and asks for an fsync where the topic wants one. When that is through, the slots that
    /// are [registered](Partition::register) are marked.
    pub fn followed(&self, leaders_high_watermark: Offset) {
        let leader = self.leader();
        // A late word of another leader is of no use to one that leads itself.
        if leader.is_none() {
            self.log.set_high_watermark(leaders_high_watermark);
        }
        drop(leader);
        if !self.role.load().settings.write_caching && self.log.flushed_offset() < self.log.log_end_offset() {
            self.log.request_flush();
        }
    }

    /// How many replicas are in sync.
    pub fn in_sync(&self) -> usize {
        self.role.load().isr.len()
    }

    /// Everything below is on stable storage on every replica in sync, as far as the leader knows.
    pub fn stable_offset(&self) -> Offset {
        Offset(self.stable.load(Ordering::Acquire))
    }

    /// Whether a leader that was just elected does not know yet how far the partition is committed: earlier leaders may have told
    /// of a higher watermark (catalogue 6).
    pub fn is_settling(&self) -> bool {
        self.log.high_watermark().get() < self.epoch_start.load(Ordering::Acquire)
    }

    /// Puts `slot` among those that are marked when something changes here, until the registration is dropped.
    pub fn register(self: &Arc<Partition>, slot: Arc<Slot>) -> Registration {
        self.waiters.add(Arc::clone(&slot));
        Registration { partition: Arc::clone(self), slot, follower: false }
    }

    /// Puts `slot` among those that are marked by each append and each change of the role, but not by the high watermark.
    pub fn register_follower(self: &Arc<Partition>, slot: Arc<Slot>) -> Registration {
        self.followers.add(Arc::clone(&slot));
        Registration { partition: Arc::clone(self), slot, follower: true }
    }

    /// A session that waits for this partition alone.
    pub fn wait_here(self: &Arc<Partition>) -> (Arc<Session>, Registration) {
        let session = Session::new();
        let registration = self.register(session.slot(0));
        (session, registration)
    }

    /// A follower begins to follow in `leader_epoch`. Returns whether its ISR membership should be looked at; `None` when it does
    /// not count: this broker does not lead in that epoch, or the follower is none or was replaced.
    pub fn follow(&self, who: BrokerRef, leader_epoch: LeaderEpoch, at: ReplicaProgress) -> Option<bool> {
        self.follower_came(who, leader_epoch, |state, end, now| state.follow(who, at, end, now))
    }

    /// A follower has come further. As [`follow`](Partition::follow).
    pub fn position(&self, who: BrokerRef, leader_epoch: LeaderEpoch, at: ReplicaProgress) -> Option<bool> {
        self.follower_came(who, leader_epoch, |state, end, now| state.position(who, at, end, now))
    }

    /// Whether what this follower says counts: it follows in `leader_epoch`, in which this broker leads. Once it does not, only a
    /// new [`follow`](Partition::follow) helps: it may have been removed and added again since.
    pub fn hears(&self, who: BrokerRef, leader_epoch: LeaderEpoch) -> bool {
        let leader = self.leader();
        leader.as_ref().is_some_and(|state| state.leader_epoch() == leader_epoch && state.hears(who))
    }

    fn follower_came(
        &self,
        who: BrokerRef,
        leader_epoch: LeaderEpoch,
        take: impl FnOnce(&mut LeaderState, Offset, Instant) -> Result<(), Stale>,
    ) -> Option<bool> {
        let now = Instant::now();
        let mut leader = self.leader();
        // What was said to the leader of another epoch moves nothing (catalogue 3).
        let state = leader.as_mut().filter(|state| state.leader_epoch() == leader_epoch)?;
        take(state, self.log.log_end_offset(), now).ok()?;
        self.advance(state);
        Some(state.may_join(who.id, self.log.high_watermark(), now))
    }

    /// What a follower holds, as it told this leader.
    pub fn follower_progress(&self, id: BrokerId) -> Option<ReplicaProgress> {
        self.leader().as_ref()?.progress(id)
    }

    /// The ISR to ask the controllers for, if another one is due; it counts as sent.
    pub fn propose_isr(
        &self,
        own_epoch: BrokerEpoch,
        max_lag: Duration,
        epoch_of: impl Fn(BrokerId) -> Option<BrokerEpoch>,
    ) -> Option<IsrProposal> {
        let mut leader = self.leader();
        let state = leader.as_mut().filter(|_| !self.is_retired())?;
        let (high_watermark, end) = (self.log.high_watermark(), self.log.log_end_offset());
        let isr = state.propose(own_epoch, high_watermark, end, max_lag, Instant::now(), epoch_of)?;
        Some(IsrProposal {
            leader_epoch: state.leader_epoch(),
            partition_epoch: state.partition_epoch(),
            isr,
        })
    }

    /// What came of a proposal. Returns whether to look again later.
    pub fn isr_answered(&self, proposal: &IsrProposal, outcome: Outcome) -> bool {
        let mut leader = self.leader();
        let Some(state) = leader.as_mut().filter(|state| state.leader_epoch() == proposal.leader_epoch)
        else {
            return false;
        };
        let again = state.answered(proposal.partition_epoch, outcome, Instant::now());
        self.advance(state);
        again
    }

    /// Gives up on followers that the high watermark was held back for in vain. Returns whether it is still held back for any.
    pub fn release_holds(&self) -> bool {
        let mut leader = self.leader();
        let Some(state) = leader.as_mut() else { return false };
        if state.release_holds(Instant::now()) {
            self.advance(state);
        }
        state.is_holding()
    }

    /// Whether the high watermark is held back for a follower that may join.
    pub fn is_holding(&self) -> bool {
        self.leader().as_ref().is_some_and(LeaderState::is_holding)
    }

    fn leader(&self) -> MutexGuard<'_, Option<LeaderState>> {
        // Every change under this lock is a whole one.
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark_everyone(&self) {
        self.waiters.mark_all();
        self.followers.mark_all();
    }

    /// Moves the high watermark as far as it goes. `state` is under its lock.
    fn advance(&self, state: &LeaderState) {
        let own = ReplicaProgress {
            // The flushed offset first: an append in between must not make it look further than the end.
            flushed: self.log.flushed_offset(),
            log_end: self.log.log_end_offset(),
        };
        let stable = state.stable(own).get();
        let stabler = self.stable.swap(stable, Ordering::AcqRel) < stable;
        let before = self.log.high_watermark();
        let after = state.high_watermark(before, own);
        if after > before {
            self.log.set_high_watermark(after);
        }
        // The watermark may have been ahead of the disks, from before write caching was switched off.
        if after > before || (stabler && !self.role.load().settings.write_caching) {
            self.waiters.mark_all();
            self.followers.mark_wanting();
        }
        if self.traces.is_any() {
            self.look_at_traces(state);
        }
    }
}

impl FlushListener for Partition {
    fn flushed(&self, _up_to: Offset) {
        match &*self.leader() {
            Some(state) => self.advance(state),
            // A follower tells its leader.
            None => self.waiters.mark_all(),
        }
    }

    fn failed(&self) {
        tracing::error!(partition = %self.topic_partition, "the log's directory failed; the partition takes no writes");
        self.mark_everyone();
    }
}

/// A slot's place among a partition's waiters; dropping it leaves.
#[derive(Debug)]
pub struct Registration {
    partition: Arc<Partition>,
    slot: Arc<Slot>,
    follower: bool,
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

    /// Of a follower's slot: the next move of the high watermark marks it too, once.
    pub fn want_high_watermark(&self) {
        self.slot.want();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let waiters = if self.follower { &self.partition.followers } else { &self.partition.waiters };
        waiters.remove(&self.slot);
    }
}
