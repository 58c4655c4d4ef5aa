//! One Ready of the raft crate, in the order that makes it safe (catalogue 25):
//!
//! ```text
//!   1. send what a standing leader may send early       (its followers write while it writes)
//!   2. persist entries + hard state + snapshot, one batch, synced
//!   3. send the rest: votes, acknowledgements
//!   4. tell the raft crate; send what that allows
//!   5. apply what is committed, a page at a time; answer the proposers
//! ```

use super::core::Core;
use crate::error::RaftFailure;
use crate::machine::StateMachine;
use crate::store::{RaftStore, WriteBatch};
use crate::transport::{MessageClass, Transport};
use crate::wire;
use raft::eraftpb::{Message, Snapshot};
use thalweg_core::NodeId;

impl<S: RaftStore, M: StateMachine, T: Transport> Core<S, M, T> {
    /// Handles one Ready; `false` if there was none.
    pub(super) fn process_ready(&mut self) -> Result<bool, RaftFailure> {
        if let Some(failure) = self.raw.store().take_failure() {
            return Err(failure.into());
        }
        if !self.raw.has_ready() {
            return Ok(false);
        }
        let mut ready = self.raw.ready();

        // The crate lets a leader send before it persists. Not so in the moment it becomes one: a lone voter with
        // learners wins and appends in the same Ready as its term changes, and after a crash it would lead that
        // term a second time with other entries.
        let stored = self.raw.store().hard_state();
        let early = ready.take_messages();
        let is_standing = self.raw.raft.term == stored.term && self.raw.raft.vote == stored.vote;
        let late = if is_standing {
            self.send(early);
            Vec::new()
        } else {
            early
        };

        for read in ready.take_read_states() {
            self.reads.confirmed(&read.request_ctx, read.index);
        }

        let snapshot = Some(ready.snapshot()).filter(|snapshot| !snapshot.is_empty()).cloned();
        if ready.must_sync() || snapshot.is_some() || !ready.entries().is_empty() {
            // The commit index goes along whenever something is written; alone it is not worth a sync.
            let hard_state = wire::hard_state_from_raft(&self.raw.raft.hard_state());
            let batch = WriteBatch {
                snapshot: snapshot.as_ref().map(wire::snapshot_from_raft),
                reset_log: snapshot.is_some(),
                entries: ready.take_entries().iter().map(wire::entry_from_raft).collect(),
                hard_state: Some(hard_state),
            };
            self.raw.mut_store().write(batch)?;
        }

        self.send(late);
        self.send(ready.take_persisted_messages());

        if let Some(snapshot) = snapshot {
            self.install(&snapshot)?;
        }
        let mut committed = ready.take_committed_entries();
        let mut light = self.raw.advance_append(ready);
        self.send(light.take_messages());
        committed.append(&mut light.take_committed_entries());
        // Outside of the Ready, because applying a membership change makes the raft crate decide anew.
        self.apply(committed)?;
        self.raw.advance_apply_to(self.applied.index);
        self.step_down_if_removed();
        Ok(true)
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let class = wire::class(&message);
            if class == MessageClass::Snapshot {
                self.snapshots_sent.insert(message.to, self.now);
            }
            match wire::encode_message(&message) {
                Ok(bytes) => self.transport.send(NodeId(message.to), class, bytes),
                Err(error) => {
                    tracing::error!(node = %self.config.node_id, to = message.to, %error, "raft message not sent");
                }
            }
        }
    }

    /// Puts a snapshot from the leader, which is on the disk by now, into the state machine.
    fn install(&mut self, snapshot: &Snapshot) -> Result<(), RaftFailure> {
        let meta = snapshot.get_metadata();
        self.machine.restore(meta.index, &snapshot.data)?;
        self.applied.index = meta.index;
        self.applied.term = meta.term;
        self.applied.conf = wire::conf_from_raft(meta.get_conf_state());
        self.applied.bytes_since_snapshot = 0;
        self.applied.snapshot_owed = false;
        self.proposals.skipped(meta.index);
        self.note_cluster()?;
        tracing::info!(node = %self.config.node_id, index = meta.index, bytes = snapshot.data.len(), "raft snapshot installed");
        Ok(())
    }

    /// The raft crate lets a leader that is no member any more lead on.
    fn step_down_if_removed(&mut self) {
        let id = self.config.node_id.get();
        let conf = &self.applied.conf;
        let votes = conf.voters.contains(&id) || conf.voters_outgoing.contains(&id);
        if self.leads() && !votes {
            tracing::info!(node = %self.config.node_id, "raft leader steps down: it was removed from the voters");
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
    }
}
