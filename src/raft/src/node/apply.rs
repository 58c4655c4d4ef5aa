//! Committed entries reach the state machine; now and then its state becomes a snapshot and the log is cut.

use super::core::Core;
use crate::error::{RaftError, RaftFailure};
use crate::machine::StateMachine;
use crate::store::{HardState, RaftStore, Snapshot, SnapshotMeta, WriteBatch};
use crate::transport::Transport;
use crate::wire;
use raft::eraftpb::{ConfChangeV2, Entry};

impl<S: RaftStore, M: StateMachine, T: Transport> Core<S, M, T> {
    /// Applies a page of committed entries, in order.
    pub(super) fn apply(&mut self, entries: Vec<Entry>) -> Result<(), RaftFailure> {
        for entry in entries {
            assert!(entry.index == self.applied.index + 1, "entries are applied in order, without gaps");
            let change = wire::change_of(&entry)
                .map_err(|error| RaftFailure::Core { reason: format!("entry {}: {error}", entry.index) })?;
            let output = match change {
                Some(change) => {
                    self.apply_change(&entry, &change)?;
                    None
                }
                // A new leader's first entry is empty.
                None if entry.data.is_empty() => None,
                None => {
                    self.machine.check(entry.index, &entry.data)?;
                    Some(self.machine.apply(entry.index, &entry.data))
                }
            };
            self.applied.index = entry.index;
            self.applied.term = entry.term;
            self.applied.bytes_since_snapshot += entry.data.len() as u64;
            self.proposals.applied(entry.index, entry.term, output);
            self.answer_change(entry.index, entry.term);
        }
        self.note_cluster()
    }

    /// Once the state machine knows the cluster's id, the store knows it too.
    pub(super) fn note_cluster(&mut self) -> Result<(), RaftFailure> {
        let Some(cluster_id) = self.machine.cluster_id() else { return Ok(()) };
        if self.raw.store().cluster_id() != Some(cluster_id) {
            self.raw.mut_store().learn_cluster(cluster_id)?;
        }
        Ok(())
    }

    fn apply_change(&mut self, entry: &Entry, change: &ConfChangeV2) -> Result<(), RaftFailure> {
        // The change counts from now on, so this node must not forget that it is committed: started again with the
        // membership of two changes ago it could elect itself beside a majority that does not know it.
        self.persist_commit(entry.index)?;
        match self.raw.apply_conf_change(change) {
            Ok(conf) => {
                self.applied.conf = wire::conf_from_raft(&conf);
                // A new member may need a snapshot, and takes none that does not name it.
                self.applied.snapshot_owed = true;
                tracing::info!(
                    node = %self.config.node_id, index = entry.index, voters = ?self.applied.conf.voters,
                    learners = ?self.applied.conf.learners, "raft membership changed"
                );
            }
            // The membership is a function of the log, so every node refuses the same change.
            Err(error) => {
                tracing::warn!(node = %self.config.node_id, index = entry.index, %error, "raft membership change refused");
                if let Some(pending) = self.change.take_if(|pending| pending.index == entry.index) {
                    let reason = error.to_string();
                    let _ = pending.reply.send(Err(RaftError::MembershipChangeRefused { reason }));
                }
            }
        }
        Ok(())
    }

    fn answer_change(&mut self, index: u64, term: u64) {
        if let Some(pending) = self.change.take_if(|pending| pending.index <= index) {
            let is_ours = pending.index == index && pending.term == term;
            let answer =
                if is_ours { Ok(wire::membership(&self.applied.conf)) } else { Err(RaftError::Dropped) };
            // A caller that has gone away needs no answer.
            let _ = pending.reply.send(answer);
        }
    }

    /// Makes sure that the store knows the commit index to be at least `index`.
    fn persist_commit(&mut self, index: u64) -> Result<(), RaftFailure> {
        if self.raw.store().hard_state().commit < index {
            let hard_state = self.hard_state_now();
            let batch = WriteBatch { hard_state: Some(hard_state), ..WriteBatch::default() };
            self.raw.mut_store().write(batch)?;
        }
        Ok(())
    }

    /// What is stored, with the commit index of now. Term and vote are left to the Ready that changes them.
    fn hard_state_now(&self) -> HardState {
        let stored = self.raw.store().hard_state();
        let commit = self.raw.raft.raft_log.committed.min(self.raw.store().summary().last_index);
        HardState { commit: commit.max(stored.commit), ..stored }
    }

    /// Takes a snapshot if enough was applied since the last one, and cuts the log behind it.
    pub(super) fn snapshot_if_due(&mut self) -> Result<(), RaftFailure> {
        let last = self.raw.store().snapshot_index();
        let entries = self.applied.index - last;
        let is_due = self.applied.snapshot_owed
            || entries >= self.config.snapshot_every_entries
            || (entries > 0 && self.applied.bytes_since_snapshot >= self.config.snapshot_every_bytes);
        if is_due { self.snapshot() } else { Ok(()) }
    }

    fn snapshot(&mut self) -> Result<(), RaftFailure> {
        let data = self.machine.snapshot();
        let (index, bytes) = (self.applied.index, data.len());
        let meta = SnapshotMeta { index, term: self.applied.term, conf: self.applied.conf.clone() };
        // The commit index may be known in memory only; a snapshot must never be ahead of the stored one.
        let hard_state = self.hard_state_now();
        let snapshot = Some(Snapshot { meta, data });
        let batch = WriteBatch { snapshot, hard_state: Some(hard_state), ..WriteBatch::default() };
        self.raw.mut_store().write(batch)?;
        self.raw.mut_store().compact(index.saturating_sub(self.config.keep_entries))?;
        self.applied.bytes_since_snapshot = 0;
        self.applied.snapshot_owed = false;
        tracing::info!(node = %self.config.node_id, index, bytes, "raft snapshot taken");
        Ok(())
    }

    /// The last words before a stop: the commit index, so that the next start applies without asking anyone.
    pub(super) fn finish(&mut self) -> Result<(), RaftFailure> {
        self.give_up_in_log();
        self.persist_commit(self.applied.index)
    }
}
