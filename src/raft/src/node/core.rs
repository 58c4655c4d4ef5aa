//! What a node decides, without a clock, a queue or a network of its own: ticks, messages and requests come in by
//! calls, and a turn of [`Core::turn`] brings their consequences to the disk, the peers and the state machine.

use super::proposals::Proposals;
use super::reads::Reads;
use crate::config::RaftConfig;
use crate::error::{RaftError, RaftFailure};
use crate::handle::{Reply, Request};
use crate::machine::StateMachine;
use crate::storage::LogStorage;
use crate::store::{ConfState, RaftStore, SnapshotMeta};
use crate::transport::Transport;
use crate::types::{Membership, RaftStatus, Role};
use crate::wire;
use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use std::collections::BTreeMap;
use thalweg_core::NodeId;
use tokio::sync::watch;

/// Ticks between two voters that stand for election because the leader's process is gone: time for a whole election.
const CAMPAIGN_APART_TICKS: u64 = 3;
/// Pages of committed entries that are applied before the loop looks at its queues again.
const PAGES_PER_TURN: usize = 8;

pub(super) struct Core<S: RaftStore, M: StateMachine, T> {
    pub(super) config: RaftConfig,
    pub(super) raw: RawNode<LogStorage<S>>,
    pub(super) machine: M,
    pub(super) transport: T,
    pub(super) applied: Applied,
    pub(super) proposals: Proposals<M::Output>,
    pub(super) change: Option<PendingChange>,
    pub(super) reads: Reads,
    /// To whom a snapshot is on its way, and since which tick.
    pub(super) snapshots_sent: BTreeMap<u64, u64>,
    pub(super) now: u64,
    /// What the state machine was told.
    announced: Role,
    /// The last leader and term seen, to notice changes.
    seen: (u64, u64),
    /// When proposals in the log lost their leader.
    lost_at: Option<u64>,
    /// When to stand for election because the leader's process is gone.
    campaign_at: Option<u64>,
    may_campaign_alone: bool,
}

/// How far the state machine is.
pub(super) struct Applied {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) conf: ConfState,
    pub(super) bytes_since_snapshot: u64,
    /// A snapshot must be taken, however little was applied.
    pub(super) snapshot_owed: bool,
}

/// A membership change in the log whose proposer waits.
pub(super) struct PendingChange {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) reply: Reply<Membership>,
}

impl<S: RaftStore, M: StateMachine, T: Transport> Core<S, M, T> {
    pub(super) fn new(
        config: RaftConfig,
        raw: RawNode<LogStorage<S>>,
        machine: M,
        transport: T,
        incarnation: u64,
        meta: SnapshotMeta,
    ) -> Core<S, M, T> {
        let reads = Reads::new(config.node_id, incarnation);
        let seen = (raw.raft.leader_id, raw.raft.term);
        Core {
            config,
            raw,
            machine,
            transport,
            applied: Applied {
                index: meta.index,
                term: meta.term,
                conf: meta.conf,
                bytes_since_snapshot: 0,
                snapshot_owed: false,
            },
            proposals: Proposals::new(),
            change: None,
            reads,
            snapshots_sent: BTreeMap::new(),
            now: 0,
            announced: Role::Follower,
            seen,
            lost_at: None,
            campaign_at: None,
            may_campaign_alone: true,
        }
    }

    pub(super) fn config(&self) -> &RaftConfig {
        &self.config
    }

    // === what comes in ===

    pub(super) fn tick(&mut self) {
        self.now += 1;
        // A campaign needs every committed entry applied: a committed membership change decides who votes, and to
        // look for one the raft crate would read the whole unapplied log into memory.
        if self.leads() || self.caught_up() {
            self.raw.tick();
        }
        self.campaign_if_due();
        let leader = self.leader();
        self.reads.tick(self.now, self.config.election_ticks as u64, leader);
        self.retry_snapshots();
        let patience = 2 * self.config.election_ticks as u64;
        if self.lost_at.is_some_and(|lost_at| self.now - lost_at >= patience) {
            self.give_up_in_log();
        }
    }

    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<(), RaftFailure> {
        let message = match wire::decode_message(bytes) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(node = %self.config.node_id, %error, "raft message refused");
                return Ok(());
            }
        };
        if !self.is_acceptable(&message) {
            tracing::debug!(
                node = %self.config.node_id, from = message.from, to = message.to,
                kind = ?message.get_msg_type(), "raft message ignored"
            );
            return Ok(());
        }
        let last_index = self.raw.raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && message.commit > last_index
        {
            // The raft crate would panic: "to_commit is out of range".
            return Err(RaftFailure::LostEntries {
                node_id: self.config.node_id,
                acknowledged: message.commit,
                last_index,
            });
        }
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(node = %self.config.node_id, %error, "raft message had no effect");
        }
        Ok(())
    }

    fn is_acceptable(&self, message: &Message) -> bool {
        use MessageType::*;
        let kind = match message.get_msg_type() {
            MsgHup | MsgBeat | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum => false,
            // Neither is forwarded between our nodes: a proposer learns who leads, and asks there.
            MsgPropose | MsgTransferLeader => false,
            // It means "campaign now".
            MsgTimeoutNow => self.caught_up(),
            _ => true,
        };
        kind && message.to == self.config.node_id.get() && message.from != 0 && message.from != message.to
    }

    pub(super) fn request(&mut self, request: Request<M::Output>) {
        match request {
            Request::Propose { command, reply, permit } => self.proposals.push(command, reply, permit),
            Request::Read { reply } => {
                self.reads.push(reply, self.now + self.config.read_timeout_ticks);
            }
            Request::Change { change, reply } => self.change_membership(change, reply),
            Request::Transfer { to, reply } => {
                let answer = self.transfer(to);
                // A caller that has gone away needs no answer.
                let _ = reply.send(answer);
            }
            Request::HandOver { reply } => {
                let begun = self.hand_over();
                let _ = reply.send(Ok(begun));
            }
            Request::Progress { reply } => {
                let _ = reply.send(self.progress());
            }
        }
    }

    pub(super) fn unreachable(&mut self, peer: NodeId) {
        self.raw.report_unreachable(peer.get());
    }

    pub(super) fn snapshot_failed(&mut self, peer: NodeId) {
        if self.snapshots_sent.remove(&peer.get()).is_some() {
            self.raw.report_snapshot(peer.get(), SnapshotStatus::Failure);
        }
    }

    /// The process of `peer` is gone. If it led, this node stands for election soon: the voters one after the other, so that
    /// they do not stand in each other's way, and each only after the others had time to notice it too.
    pub(super) fn gone(&mut self, peer: NodeId) {
        if self.leads() || self.raw.raft.leader_id != peer.get() {
            return;
        }
        let voters = &self.applied.conf.voters;
        let own = self.config.node_id.get();
        let rank = voters.iter().filter(|id| **id != peer.get() && **id < own).count() as u64;
        tracing::info!(node = %self.config.node_id, leader = %peer, "raft leader is gone");
        let term = self.raw.raft.term;
        // From now on it votes for another: it does not wait for a leader that it knows to be gone.
        self.raw.raft.become_follower(term, 0);
        self.campaign_at = Some(self.now + 1 + CAMPAIGN_APART_TICKS * rank);
    }

    fn campaign_if_due(&mut self) {
        let Some(at) = self.campaign_at else { return };
        if self.raw.raft.leader_id != 0 || self.raw.raft.state != StateRole::Follower {
            self.campaign_at = None;
        } else if self.now >= at && self.caught_up() {
            self.campaign_at = None;
            if let Err(error) = self.raw.campaign() {
                tracing::debug!(node = %self.config.node_id, %error, "raft campaign not begun");
            }
        }
    }

    // === what comes of it ===

    /// Brings everything decided so far to its end: appended, synced, sent, applied, answered.
    pub(super) fn turn(&mut self) -> Result<(), RaftFailure> {
        for _ in 0..PAGES_PER_TURN {
            self.append_waiting();
            self.begin_read_round();
            if !self.process_ready()? {
                self.campaign_if_alone()?;
                if !self.raw.has_ready() {
                    break;
                }
            }
            self.notice_leader_change();
        }
        self.reads.applied(self.applied.index);
        self.snapshot_if_due()
    }

    pub(super) fn has_room(&self) -> bool {
        self.proposals.has_room()
    }

    pub(super) fn has_more(&self) -> bool {
        self.raw.has_ready()
    }

    pub(super) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0).map(NodeId)
    }

    /// Everything known to be committed is applied.
    fn caught_up(&self) -> bool {
        self.applied.index >= self.raw.raft.raft_log.committed
    }

    fn is_alone(&self) -> bool {
        self.applied.conf.voters == [self.config.node_id.get()]
            && self.applied.conf.voters_outgoing.is_empty()
    }

    /// The only voter need not wait for an election timeout to find out that nobody else leads.
    fn campaign_if_alone(&mut self) -> Result<(), RaftFailure> {
        if !self.may_campaign_alone || !self.caught_up() {
            return Ok(());
        }
        self.may_campaign_alone = false;
        if self.is_alone() && !self.leads() {
            self.raw.campaign().map_err(|error| RaftFailure::Core { reason: error.to_string() })?;
        }
        Ok(())
    }

    /// Gives waiting commands to Raft, many in one append.
    fn append_waiting(&mut self) {
        if !self.leads() {
            let leader = self.leader();
            self.proposals.refuse_waiting(leader);
            return;
        }
        loop {
            let commands = self.proposals.next_batch(self.config.max_size_per_msg);
            if commands.is_empty() {
                return;
            }
            let count = commands.len();
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgPropose);
            message.from = self.config.node_id.get();
            let entries: Vec<Entry> = commands.into_iter().map(entry_of).collect();
            message.set_entries(entries.into());
            let first_index = self.raw.raft.raft_log.last_index() + 1;
            // Refused while too much is uncommitted or leadership is being handed over: they wait.
            if self.raw.raft.step(message).is_err() {
                return;
            }
            self.proposals.entered_log(count, first_index, self.raw.raft.term);
        }
    }

    fn begin_read_round(&mut self) {
        // A leader that has not committed in its term does not know yet what was committed before it (catalogue
        // 27); the raft crate would drop the question without a word.
        let can_ask =
            if self.leads() { self.raw.raft.commit_to_current_term() } else { self.raw.raft.leader_id != 0 };
        if can_ask && self.reads.wants_round() {
            let context = self.reads.begin_round(self.now);
            self.raw.read_index(context);
        }
    }

    fn notice_leader_change(&mut self) {
        let seen = (self.raw.raft.leader_id, self.raw.raft.term);
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        self.reads.ask_all_again();
        if self.leads() {
            // Indexes begin anew behind what this log holds now.
            self.give_up_in_log();
        } else if self.lost_at.is_none() && (self.proposals.any_in_log() || self.change.is_some()) {
            // They may still be committed under the new leader; wait a little to find out.
            self.lost_at = Some(self.now);
        }
    }

    pub(super) fn give_up_in_log(&mut self) {
        self.lost_at = None;
        self.proposals.give_up_in_log();
        if let Some(change) = self.change.take() {
            let _ = change.reply.send(Err(RaftError::OutcomeUnknown));
        }
    }

    fn retry_snapshots(&mut self) {
        if !self.leads() {
            self.snapshots_sent.clear();
            return;
        }
        let (now, patience) = (self.now, self.config.snapshot_retry_ticks);
        let prs = self.raw.raft.prs();
        self.snapshots_sent
            .retain(|id, _| prs.get(*id).is_some_and(|pr| pr.state == ProgressState::Snapshot));
        let late: Vec<u64> = self
            .snapshots_sent
            .iter()
            .filter(|(_, sent)| now.saturating_sub(**sent) >= patience)
            .map(|(id, _)| *id)
            .collect();
        late.into_iter().for_each(|id| self.snapshot_failed(NodeId(id)));
    }

    // === what others see ===

    /// Publishes the status if it changed, and tells the state machine a new role.
    pub(super) fn publish(&mut self, status: &watch::Sender<RaftStatus>) {
        let raft = &self.raw.raft;
        let role = Role::from_raft(raft.state);
        let serving = role == Role::Leader && raft.apply_to_current_term();
        let membership = wire::membership(&self.applied.conf);
        let next = RaftStatus {
            node_id: self.config.node_id,
            role,
            serving,
            term: raft.term,
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied: self.applied.index,
            voters: membership.voters,
            learners: membership.learners,
        };
        if self.announced != role && (role != Role::Leader || serving) {
            tracing::info!(node = %next.node_id, ?role, term = next.term, leader = ?next.leader.map(NodeId::get), "raft role changed");
            self.announced = role;
            self.machine.role_changed(role);
        }
        status.send_if_modified(|current| {
            let changed = *current != next;
            if changed {
                *current = next;
            }
            changed
        });
    }
}

fn entry_of(command: Bytes) -> Entry {
    Entry { data: command, ..Entry::default() }
}
