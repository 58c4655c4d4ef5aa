//! What the raft crate reads: our store, with the end of the log kept in memory.

use crate::error::StoreError;
use crate::store::{HardState, LogEntry, RaftStore, Snapshot, Summary, WriteBatch};
use crate::wire;
use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, StorageError};
use std::cell::RefCell;
use std::collections::VecDeque;
use thalweg_core::ClusterId;

/// The end of the log that is kept in memory, in entries and in bytes of data: on the usual path nothing is read
/// from the disk.
const RECENT_ENTRIES: usize = 1024;
const RECENT_BYTES: usize = 1 << 20;

pub(crate) struct LogStorage<S> {
    store: S,
    summary: Summary,
    recent: VecDeque<LogEntry>,
    recent_bytes: usize,
    /// The raft crate cannot pass on how a read failed, so it is kept here for the owner.
    failure: RefCell<Option<StoreError>>,
}

impl<S: RaftStore> LogStorage<S> {
    pub(crate) fn new(store: S) -> Result<LogStorage<S>, StoreError> {
        let summary = store.summary()?;
        check(&summary)?;
        Ok(LogStorage {
            store,
            summary,
            recent: VecDeque::new(),
            recent_bytes: 0,
            failure: RefCell::new(None),
        })
    }

    /// The cluster that the store belongs to, if it is known.
    pub(crate) fn cluster_id(&self) -> Option<&ClusterId> {
        self.store.identity().cluster_id.as_ref()
    }

    pub(crate) fn learn_cluster(&mut self, cluster_id: &ClusterId) -> Result<(), StoreError> {
        self.store.learn_cluster(cluster_id)
    }

    pub(crate) fn summary(&self) -> &Summary {
        &self.summary
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.summary.hard_state
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.summary.snapshot.as_ref().map_or(0, |meta| meta.index)
    }

    pub(crate) fn load_snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        self.store.snapshot()
    }

    /// How a read by the raft crate failed, if one did.
    pub(crate) fn take_failure(&self) -> Option<StoreError> {
        self.failure.borrow_mut().take()
    }

    /// Writes and syncs a batch.
    pub(crate) fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut next = self.summary.clone();
        if let Some(snapshot) = &batch.snapshot {
            next.snapshot = Some(snapshot.meta.clone());
            if batch.reset_log {
                next.log_start = (snapshot.meta.index, snapshot.meta.term);
                next.last_index = snapshot.meta.index;
            }
        }
        next.last_index = batch.entries.last().map_or(next.last_index, |last| last.index);
        next.hard_state = batch.hard_state.unwrap_or(next.hard_state);
        check(&next)?;
        let (entries, reset) = (batch.entries.clone(), batch.reset_log);
        self.store.write(batch)?;
        self.summary = next;
        if reset {
            self.forget_from(0);
        }
        if let Some(first) = entries.first() {
            self.forget_from(first.index);
        }
        entries.into_iter().for_each(|entry| self.remember(entry));
        Ok(())
    }

    /// Forgets entries up to `index`; the snapshot must cover them.
    pub(crate) fn compact(&mut self, index: u64) -> Result<(), StoreError> {
        if index <= self.summary.log_start.0 {
            return Ok(());
        }
        assert!(index <= self.snapshot_index(), "only what a snapshot covers may be compacted");
        let term = match self.recent_term(index) {
            Some(term) => term,
            None => self.store.term(index)?,
        };
        self.store.compact(index)?;
        self.summary.log_start = (index, term);
        while self.recent.front().is_some_and(|entry| entry.index <= index) {
            self.forget_front();
        }
        Ok(())
    }

    fn remember(&mut self, entry: LogEntry) {
        self.recent_bytes += entry.data.len();
        self.recent.push_back(entry);
        while self.recent.len() > RECENT_ENTRIES
            || (self.recent_bytes > RECENT_BYTES && self.recent.len() > 1)
        {
            self.forget_front();
        }
    }

    fn forget_front(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= entry.data.len();
        }
    }

    fn forget_from(&mut self, index: u64) {
        while self.recent.back().is_some_and(|entry| entry.index >= index) {
            if let Some(entry) = self.recent.pop_back() {
                self.recent_bytes -= entry.data.len();
            }
        }
    }

    fn recent_term(&self, index: u64) -> Option<u64> {
        let first = self.recent.front()?.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.recent.get(at).map(|entry| entry.term)
    }

    fn read_entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<LogEntry>, StoreError> {
        let Some(first) = self.recent.front().map(|entry| entry.index).filter(|first| *first <= low) else {
            return self.store.entries(low, high, max_bytes);
        };
        let skip = (low - first) as usize;
        let mut found: Vec<LogEntry> = Vec::new();
        let mut bytes = 0u64;
        for entry in self.recent.iter().skip(skip).take((high - low) as usize) {
            bytes = bytes.saturating_add(entry.data.len() as u64);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn failed(&self, error: StoreError) -> raft::Error {
        let text = error.to_string();
        self.failure.borrow_mut().get_or_insert(error);
        raft::Error::Store(StorageError::Other(text.into()))
    }
}

/// Refuses what would make the raft crate panic with "hs.commit is out of range".
fn check(summary: &Summary) -> Result<(), StoreError> {
    let damaged = |what: String| Err(StoreError::Damaged { what });
    let snapshot = summary.snapshot.as_ref().map_or(0, |meta| meta.index);
    let (start, commit, last) = (summary.log_start.0, summary.hard_state.commit, summary.last_index);
    if start > snapshot {
        return damaged(format!("the log starts behind {start}, but the snapshot ends at {snapshot}"));
    }
    if commit > last {
        return damaged(format!("entries up to {commit} were committed, but the log ends at {last}"));
    }
    if commit < snapshot {
        return damaged(format!("the snapshot ends at {snapshot}, but only {commit} was committed"));
    }
    Ok(())
}

impl<S: RaftStore> raft::Storage for LogStorage<S> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf =
            self.summary.snapshot.as_ref().map(|meta| wire::conf_to_raft(&meta.conf)).unwrap_or_default();
        Ok(RaftState::new(wire::hard_state_to_raft(self.summary.hard_state), conf))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.summary.log_start.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.summary.last_index + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        let entries = self.read_entries(low, high, max_bytes).map_err(|error| self.failed(error))?;
        Ok(entries.into_iter().map(wire::entry_to_raft).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let (start, start_term) = self.summary.log_start;
        if index == start {
            return Ok(start_term);
        }
        if index < start {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.summary.last_index {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        match self.recent_term(index) {
            Some(term) => Ok(term),
            None => self.store.term(index).map_err(|error| self.failed(error)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.summary.log_start.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.summary.last_index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        match self.store.snapshot().map_err(|error| self.failed(error))? {
            Some(snapshot) if snapshot.meta.index >= request_index => Ok(wire::snapshot_to_raft(snapshot)),
            _ => Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)),
        }
    }
}
