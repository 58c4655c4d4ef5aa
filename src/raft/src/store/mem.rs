//! A store in memory, for tests and simulation: the disk outlives the node, and the test may pull the plug at
//! any step.

use super::{Identity, LogEntry, RaftStore, Snapshot, Summary, WriteBatch};
use crate::error::StoreError;
use crate::store::HardState;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_core::ClusterId;

/// A step of a write at which the plug can be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritePoint {
    /// The node asked for it; nothing is on the disk.
    BeforeWrite,
    /// It is on the disk; the node does not know.
    AfterWrite,
    /// The node asked to compact; nothing is gone.
    BeforeCompact,
    /// The entries are gone; the node does not know.
    AfterCompact,
}

type Hook = Box<dyn FnMut(WritePoint) -> bool + Send>;

#[derive(Default)]
struct Contents {
    incarnation: u64,
    hard_state: HardState,
    snapshot: Option<Snapshot>,
    log_start: (u64, u64),
    entries: BTreeMap<u64, LogEntry>,
}

#[derive(Default)]
struct Disk {
    identity: Option<Identity>,
    open: bool,
    contents: Contents,
    writes: u64,
    hook: Option<Hook>,
}

/// A disk that outlives the nodes which open it. Clones are the same disk.
///
/// What a real disk would keep in a cache until the fsync is kept by nobody here: a batch is on the disk as a
/// whole, or not at all. A hook decides at each [`WritePoint`] whether the machine still runs.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<Disk>>);

impl MemDisk {
    /// An empty disk.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// How many durable writes (fsyncs) were made.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Calls `hook` at every step of every write; `false` pulls the plug there.
    pub fn set_hook(&self, hook: impl FnMut(WritePoint) -> bool + Send + 'static) {
        self.lock().hook = Some(Box::new(hook));
    }

    /// No hook any more.
    pub fn clear_hook(&self) {
        self.lock().hook = None;
    }

    /// What is on the disk now, as a node that started after a crash would find it.
    pub fn summary(&self) -> Summary {
        self.lock().contents.summary()
    }

    /// The entries on the disk.
    pub fn log(&self) -> Vec<LogEntry> {
        self.lock().contents.entries.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, point: WritePoint) -> Result<(), StoreError> {
        // The hook may look at the disk, so it is called without the lock.
        let Some(mut hook) = self.lock().hook.take() else { return Ok(()) };
        let runs = hook(point);
        self.lock().hook.get_or_insert(hook);
        if runs { Ok(()) } else { Err(StoreError::Unplugged) }
    }
}

impl Contents {
    fn summary(&self) -> Summary {
        Summary {
            hard_state: self.hard_state,
            snapshot: self.snapshot.as_ref().map(|snapshot| snapshot.meta.clone()),
            log_start: self.log_start,
            last_index: self.entries.last_key_value().map_or(self.log_start.0, |(index, _)| *index),
        }
    }

    fn write(&mut self, batch: WriteBatch) {
        if let Some(snapshot) = batch.snapshot {
            if batch.reset_log {
                self.entries.clear();
                self.log_start = (snapshot.meta.index, snapshot.meta.term);
            }
            self.snapshot = Some(snapshot);
        }
        if let Some(first) = batch.entries.first() {
            self.entries.split_off(&first.index);
        }
        self.entries.extend(batch.entries.into_iter().map(|entry| (entry.index, entry)));
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
    }
}

/// A node's view of a [`MemDisk`]; closes it when dropped.
pub struct MemStore {
    identity: Identity,
    disk: MemDisk,
}

impl MemStore {
    /// Opens the disk, founding it if it is empty.
    pub fn open(disk: &MemDisk, identity: Identity) -> Result<MemStore, StoreError> {
        let mut inner = disk.lock();
        if inner.open {
            return Err(StoreError::InUse { path: PathBuf::from("memory") });
        }
        let identity = match &inner.identity {
            Some(found) => found.opened_as(&identity)?,
            None => identity,
        };
        inner.identity = Some(identity.clone());
        inner.open = true;
        drop(inner);
        Ok(MemStore { identity, disk: disk.clone() })
    }
}

impl Drop for MemStore {
    fn drop(&mut self) {
        self.disk.lock().open = false;
    }
}

impl RaftStore for MemStore {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn learn_cluster(&mut self, cluster_id: &ClusterId) -> Result<(), StoreError> {
        let expected = Identity { cluster_id: Some(cluster_id.clone()), ..self.identity.clone() };
        let learned = self.identity.opened_as(&expected)?;
        if learned != self.identity {
            self.disk.at(WritePoint::BeforeWrite)?;
            {
                let mut disk = self.disk.lock();
                disk.identity = Some(learned.clone());
                disk.writes += 1;
            }
            self.disk.at(WritePoint::AfterWrite)?;
            self.identity = learned;
        }
        Ok(())
    }

    fn begin_incarnation(&mut self) -> Result<u64, StoreError> {
        self.disk.at(WritePoint::BeforeWrite)?;
        let incarnation = {
            let mut disk = self.disk.lock();
            disk.contents.incarnation += 1;
            disk.writes += 1;
            disk.contents.incarnation
        };
        self.disk.at(WritePoint::AfterWrite)?;
        Ok(incarnation)
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        Ok(self.disk.summary())
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<LogEntry>, StoreError> {
        let disk = self.disk.lock();
        let mut found: Vec<LogEntry> = Vec::new();
        let mut bytes = 0u64;
        for index in low..high {
            let entry = disk.contents.entries.get(&index).ok_or_else(|| missing(index))?;
            bytes = bytes.saturating_add(entry.data.len() as u64);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64, StoreError> {
        self.disk.lock().contents.entries.get(&index).map(|entry| entry.term).ok_or_else(|| missing(index))
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.disk.lock().contents.snapshot.clone())
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        self.disk.at(WritePoint::BeforeWrite)?;
        {
            let mut disk = self.disk.lock();
            disk.contents.write(batch);
            disk.writes += 1;
        }
        self.disk.at(WritePoint::AfterWrite)
    }

    fn compact(&mut self, index: u64) -> Result<(), StoreError> {
        let term = {
            let disk = self.disk.lock();
            if index <= disk.contents.log_start.0 {
                return Ok(());
            }
            disk.contents.entries.get(&index).map(|entry| entry.term).ok_or_else(|| missing(index))?
        };
        self.disk.at(WritePoint::BeforeCompact)?;
        {
            let mut disk = self.disk.lock();
            disk.contents.entries = disk.contents.entries.split_off(&(index + 1));
            disk.contents.log_start = (index, term);
        }
        self.disk.at(WritePoint::AfterCompact)
    }
}

fn missing(index: u64) -> StoreError {
    StoreError::Damaged { what: format!("log entry {index} is missing") }
}
