//! The node: its start, and the loop that owns it.

mod apply;
mod core;
mod membership;
mod proposals;
mod reads;
mod ready;

use self::core::Core;
use crate::config::{ConfigError, INBOX_QUEUE, REQUEST_QUEUE, RaftConfig};
use crate::error::{RaftError, RaftFailure, StoreError};
use crate::handle::{self, Inbound, Mailbox, RaftHandle, Request};
use crate::logger;
use crate::machine::StateMachine;
use crate::storage::LogStorage;
use crate::store::{ConfState, HardState, Identity, RaftStore, Snapshot, SnapshotMeta, Summary, WriteBatch};
use crate::transport::Transport;
use crate::types::RaftStatus;
use raft::RawNode;
use std::sync::atomic::Ordering;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Index and term of the snapshot with which a group is founded. The founding membership is part of it, because no
/// log entry carries it: a node that joins later must get it from a snapshot.
const FOUNDING_INDEX: u64 = 1;
const FOUNDING_TERM: u64 = 1;

/// A node that is ready to run.
pub struct RaftNode<S: RaftStore, M: StateMachine, T: Transport> {
    core: Core<S, M, T>,
    mailbox: Mailbox<M::Output>,
}

/// A node that is ready to run, and the handle to it.
pub type Started<S, M, T> = (RaftNode<S, M, T>, RaftHandle<<M as StateMachine>::Output>);

impl<S: RaftStore, M: StateMachine, T: Transport> RaftNode<S, M, T> {
    /// Prepares a node: founds the group if the store is empty and voters are given, and restores the state machine
    /// from the last snapshot. Reads and writes the disk. Nothing runs until [`RaftNode::run`] does.
    pub fn start(
        config: RaftConfig,
        mut store: S,
        mut machine: M,
        transport: T,
    ) -> Result<Started<S, M, T>, RaftFailure> {
        config.check()?;
        if store.identity().node_id != config.node_id {
            let expected = Identity { node_id: config.node_id, ..store.identity().clone() };
            let found = store.identity().to_string();
            return Err(StoreError::Identity { found, expected: expected.to_string() }.into());
        }
        if store.summary()? == Summary::default() && !config.voters.is_empty() {
            found_group(&config, &mut store, &machine)?;
        }
        let incarnation = store.begin_incarnation()?;
        let storage = LogStorage::new(store)?;
        let snapshot = storage.load_snapshot()?;
        if let Some(snapshot) = &snapshot {
            machine.restore(snapshot.meta.index, &snapshot.data)?;
        }
        let meta = snapshot.map(|snapshot| snapshot.meta).unwrap_or_default();
        let commit = storage.hard_state().commit;
        let raw = RawNode::new(&config.to_raft(meta.index), storage, &logger::logger(config.node_id))
            .map_err(|error| ConfigError::Refused { reason: error.to_string() })?;
        tracing::info!(
            node = %config.node_id, incarnation, snapshot = meta.index, commit, voters = ?meta.conf.voters,
            "raft node opened"
        );
        let status =
            RaftStatus { node_id: config.node_id, applied: meta.index, commit, ..RaftStatus::default() };
        let (handle, mailbox) = handle::channel(status);
        let mut core = Core::new(config, raw, machine, transport, incarnation, meta);
        core.note_cluster()?;
        Ok((RaftNode { core, mailbox }, handle))
    }

    /// Runs the node until it is shut down or fails. Syncs the disk in line: give it a thread of its own
    /// ([`RaftNode::spawn_thread`]) unless the store is in memory. A failure is the owner's to handle; callers see
    /// [`RaftError::Stopped`].
    pub async fn run(mut self) -> Result<(), RaftFailure> {
        let mut ticker = self.ticker();
        loop {
            self.core.turn()?;
            self.core.publish(&self.mailbox.status);
            if *self.mailbox.stop.borrow() {
                return self.wind_down(ticker).await;
            }
            let mailbox = &mut self.mailbox;
            tokio::select! {
                biased;
                _ = ticker.tick() => self.core.tick(),
                stopped = mailbox.stop.changed() => if stopped.is_err() {
                    // The last handle is gone: nobody can ask for anything any more.
                    return self.wind_down(ticker).await;
                },
                Some(inbound) = mailbox.inbox.recv() => self.take_inbound(inbound)?,
                Some(request) = mailbox.requests.recv(), if self.core.has_room() => self.take_requests(request),
                // More pages of committed entries wait: go on, but let what arrived meanwhile have its turn.
                () = std::future::ready(()), if self.core.has_more() => tokio::task::yield_now().await,
            }
        }
    }

    fn ticker(&self) -> Interval {
        let tick = self.core.config().tick;
        let mut ticker = interval_at(Instant::now() + tick, tick);
        // After a slow fsync the missed ticks must not come in a burst: that would look like a silent leader.
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticker
    }

    /// Takes the message and all that wait behind it, so that they share one write.
    fn take_inbound(&mut self, first: Inbound) -> Result<(), RaftFailure> {
        let mut next = Some(first);
        for _ in 0..INBOX_QUEUE {
            let Some(inbound) = next else { break };
            match inbound {
                Inbound::Message(bytes) => {
                    self.mailbox.inbox_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                    self.core.step(&bytes)?;
                }
                Inbound::Unreachable(peer) => self.core.unreachable(peer),
                Inbound::SnapshotFailed(peer) => self.core.snapshot_failed(peer),
                Inbound::Gone(peer) => self.core.gone(peer),
            }
            next = self.mailbox.inbox.try_recv().ok();
        }
        Ok(())
    }

    /// Takes the request and all that wait behind it, so that they share one write and one fsync.
    fn take_requests(&mut self, first: Request<M::Output>) {
        let mut next = Some(first);
        for _ in 0..REQUEST_QUEUE {
            let Some(request) = next else { break };
            self.core.request(request);
            if !self.core.has_room() {
                break;
            }
            next = self.mailbox.requests.try_recv().ok();
        }
    }

    /// Refuses what waits, hands leadership over if there is somebody to take it, and ends.
    async fn wind_down(mut self, mut ticker: Interval) -> Result<(), RaftFailure> {
        self.mailbox.requests.close();
        while let Ok(request) = self.mailbox.requests.try_recv() {
            refuse(request);
        }
        let mut ticks_left = self.core.config().election_ticks;
        self.core.hand_over();
        while self.core.is_handing_over() && ticks_left > 0 {
            self.core.turn()?;
            self.core.publish(&self.mailbox.status);
            tokio::select! {
                biased;
                _ = ticker.tick() => {
                    ticks_left -= 1;
                    self.core.tick();
                }
                Some(inbound) = self.mailbox.inbox.recv() => self.take_inbound(inbound)?,
            }
        }
        self.core.finish()?;
        tracing::info!(node = %self.core.config().node_id, "raft node stopped");
        Ok(())
    }
}

fn refuse<O>(request: Request<O>) {
    // A caller that has gone away needs no answer.
    match request {
        Request::Propose { reply, .. } => drop(reply.send(Err(RaftError::Stopped))),
        Request::Read { reply } => drop(reply.send(Err(RaftError::Stopped))),
        Request::Change { reply, .. } => drop(reply.send(Err(RaftError::Stopped))),
        Request::Transfer { reply, .. } => drop(reply.send(Err(RaftError::Stopped))),
        Request::HandOver { reply } => drop(reply.send(Err(RaftError::Stopped))),
        Request::Progress { reply } => drop(reply.send(Err(RaftError::Stopped))),
    }
}

fn found_group<S: RaftStore, M: StateMachine>(
    config: &RaftConfig,
    store: &mut S,
    machine: &M,
) -> Result<(), StoreError> {
    let mut voters: Vec<u64> = config.voters.iter().map(|voter| voter.get()).collect();
    voters.sort_unstable();
    tracing::info!(node = %config.node_id, ?voters, "raft group founded");
    let conf = ConfState { voters, ..ConfState::default() };
    let meta = SnapshotMeta { index: FOUNDING_INDEX, term: FOUNDING_TERM, conf };
    store.write(WriteBatch {
        snapshot: Some(Snapshot { meta, data: machine.snapshot() }),
        reset_log: true,
        entries: Vec::new(),
        hard_state: Some(HardState { term: FOUNDING_TERM, vote: 0, commit: FOUNDING_INDEX }),
    })
}
