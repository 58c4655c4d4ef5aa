//! The store on disk, in sled 0.34.
//!
//! Traps of sled that shape this file:
//! - `flush()` is no durability barrier on Linux (it ends in `sync_file_range`), so each is followed by
//!   `sync_data()` on sled's own `db` file.
//! - A batch is atomic on one tree only, so everything is in one tree.
//! - A large value, and a tree node that has grown large, go to a file of their own which nobody fsyncs. Nodes
//!   hold some 16 values, so values are cut to [`CHUNK_BYTES`].
//!
//! Keys: `M*` single records, `E` index: entries, `X` index part: the further parts of a long entry,
//! `S` generation part: a snapshot's data. A snapshot's data is written first, under a new generation; one batch
//! then names that generation together with what has to change with it.

mod files;
mod keys;

use super::record::Reader;
use super::{
    EntryKind, HardState, Identity, LogEntry, RaftStore, Snapshot, SnapshotMeta, Summary, WriteBatch,
};
use crate::error::StoreError;
use bytes::Bytes;
use files::Files;
use keys::Key;
use sled::{Batch, Db, Tree};
use std::path::Path;
use thalweg_core::{ClusterId, NodeId};

/// The format of the store's records. A store of another format is refused.
pub const FORMAT: u32 = 1;
/// sled's page cache, in bytes.
const CACHE_BYTES: u64 = 8 << 20;
/// The longest stored value: 16 and a few of them fit into a tree node that sled keeps inline (128 KiB).
const CHUNK_BYTES: usize = 4 << 10;
/// Keys removed, or snapshot parts written, in one batch.
const BATCH_KEYS: usize = 256;
/// The longest entry or snapshot that is believed when its length is read back.
const MAX_VALUE_BYTES: u64 = 1 << 30;

/// A [`RaftStore`] in a folder of its own.
pub struct SledStore {
    identity: Identity,
    // The lock file is released last, when sled has let go of its own files: fields drop in this order.
    tree: Tree,
    _db: Db,
    files: Files,
    state: State,
}

/// What is asked for all the time, so that it need not be read.
#[derive(Debug, Clone, Default)]
struct State {
    summary: Summary,
    generation: u64,
}

/// The record that names the current snapshot.
struct SnapshotPointer {
    meta: SnapshotMeta,
    generation: u64,
    bytes: u64,
}

impl SledStore {
    /// Opens the store in `folder`, founding it if the folder is empty or missing.
    pub fn open(folder: &Path, identity: Identity) -> Result<SledStore, StoreError> {
        let (files, db) = Files::open(folder, CACHE_BYTES)?;
        let tree: Tree = (*db).clone();
        let mut store = SledStore { identity, tree, _db: db, files, state: State::default() };
        store.check_identity()?;
        store.state = store.load()?;
        store.remove_leftovers()?;
        Ok(store)
    }

    fn check_identity(&mut self) -> Result<(), StoreError> {
        let Some(bytes) = self.get(Key::Identity)? else {
            if !self.tree.is_empty() {
                return Err(damaged("the identity record is missing"));
            }
            return self.put_identity(&self.identity);
        };
        let mut reader = Reader::new("identity record", &bytes);
        let found = reader.u32()?;
        if found != FORMAT {
            return Err(StoreError::Format { found, supported: FORMAT });
        }
        let node_id = NodeId(reader.u64()?);
        let cluster_id = String::from_utf8_lossy(reader.rest());
        let cluster_id = Some(ClusterId(cluster_id.into())).filter(|id| !id.0.is_empty());
        let found = Identity { cluster_id, node_id };
        let identity = found.opened_as(&self.identity)?;
        if identity != found {
            self.put_identity(&identity)?;
        }
        self.identity = identity;
        Ok(())
    }

    /// An empty text stands for a cluster that is not known.
    fn put_identity(&self, identity: &Identity) -> Result<(), StoreError> {
        let mut record = FORMAT.to_be_bytes().to_vec();
        record.extend_from_slice(&identity.node_id.get().to_be_bytes());
        record.extend_from_slice(identity.cluster_id.as_ref().map_or(&[], |id| id.0.as_bytes()));
        let mut batch = Batch::default();
        batch.insert(Key::Identity.encode(), record);
        self.commit(batch)
    }

    fn load(&self) -> Result<State, StoreError> {
        let hard_state = match self.get(Key::HardState)? {
            Some(bytes) => HardState::decode(&bytes)?,
            None => HardState::default(),
        };
        let log_start = match self.get(Key::LogStart)? {
            Some(bytes) => decode_log_start(&bytes)?,
            None => (0, 0),
        };
        let pointer = self.pointer()?;
        let last_index = match self.tree.scan_prefix(Key::ENTRIES).next_back() {
            Some(last) => Key::entry_index(&last.map_err(failed("reading"))?.0)?.max(log_start.0),
            None => log_start.0,
        };
        let generation = pointer.as_ref().map_or(0, |pointer| pointer.generation);
        let snapshot = pointer.map(|pointer| pointer.meta);
        Ok(State { summary: Summary { hard_state, snapshot, log_start, last_index }, generation })
    }

    /// A crash may leave snapshots that nobody names, and entries before the log's start.
    fn remove_leftovers(&mut self) -> Result<(), StoreError> {
        self.remove_other_snapshots()?;
        self.remove_entries_through(self.state.summary.log_start.0)
    }

    fn remove_other_snapshots(&self) -> Result<(), StoreError> {
        let current = self.state.generation;
        self.remove_range(Key::snapshot_parts(0), Key::snapshot_parts(current))?;
        self.remove_range(Key::snapshot_parts(current + 1), Key::snapshot_parts(u64::MAX))
    }

    fn remove_entries_through(&self, index: u64) -> Result<(), StoreError> {
        self.remove_range(Key::Entry(0).encode(), Key::Entry(index + 1).encode())?;
        self.remove_range(Key::entry_parts(0), Key::entry_parts(index + 1))
    }

    /// Removes the keys from `from` to before `to`, a batch at a time. Not synced: what comes back after a crash
    /// is removed at the next start.
    fn remove_range(&self, from: Vec<u8>, to: Vec<u8>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        loop {
            let mut batch = Batch::default();
            let mut count = 0;
            for key in self.tree.range(from.clone()..to.clone()).keys().take(BATCH_KEYS) {
                batch.remove(key.map_err(failed("reading"))?);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.tree.apply_batch(batch).map_err(failed("removing"))?;
        }
    }

    fn get(&self, key: Key) -> Result<Option<sled::IVec>, StoreError> {
        self.tree.get(key.encode()).map_err(failed("reading"))
    }

    fn pointer(&self) -> Result<Option<SnapshotPointer>, StoreError> {
        let Some(bytes) = self.get(Key::Snapshot)? else { return Ok(None) };
        let mut reader = Reader::new("snapshot record", &bytes);
        let (generation, bytes) = (reader.u64()?, reader.u64()?);
        let meta = SnapshotMeta::decode(&mut reader)?;
        reader.end()?;
        Ok(Some(SnapshotPointer { meta, generation, bytes }))
    }

    /// Applies a batch and returns when it is on the disk.
    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.tree.apply_batch(batch).map_err(failed("writing"))?;
        self.tree.flush().map_err(failed("flushing"))?;
        self.files.sync()
    }

    fn entry(&self, index: u64) -> Result<LogEntry, StoreError> {
        let head =
            self.get(Key::Entry(index))?.ok_or_else(|| damaged(format!("log entry {index} is missing")))?;
        let (term, kind, bytes, first) = decode_entry_head(&head)?;
        let data = if first.len() == bytes {
            Bytes::copy_from_slice(first)
        } else {
            let mut data = Vec::with_capacity(bytes);
            data.extend_from_slice(first);
            self.read_parts(&Key::entry_parts(index), bytes, &mut data)?;
            data.into()
        };
        Ok(LogEntry { index, term, kind, data })
    }

    /// Appends the values under `prefix` to `data`, which must then have exactly `bytes` bytes.
    fn read_parts(&self, prefix: &[u8], bytes: usize, data: &mut Vec<u8>) -> Result<(), StoreError> {
        for part in self.tree.scan_prefix(prefix).values() {
            let part = part.map_err(failed("reading"))?;
            if data.len() + part.len() > bytes {
                return Err(damaged("a long value has too many parts"));
            }
            data.extend_from_slice(&part);
        }
        if data.len() == bytes { Ok(()) } else { Err(damaged("a long value has lost a part")) }
    }

    fn put_entry(batch: &mut Batch, entry: &LogEntry) {
        let first = entry.data.len().min(CHUNK_BYTES);
        let mut head = Vec::with_capacity(ENTRY_HEAD_BYTES + first);
        head.extend_from_slice(&entry.term.to_be_bytes());
        head.push(entry.kind as u8);
        head.extend_from_slice(&(entry.data.len() as u64).to_be_bytes());
        head.extend_from_slice(&entry.data[..first]);
        batch.insert(Key::Entry(entry.index).encode(), head);
        for (part, bytes) in entry.data[first..].chunks(CHUNK_BYTES).enumerate() {
            batch.insert(Key::EntryPart(entry.index, part as u32).encode(), bytes);
        }
    }

    /// Removes, in the same batch, everything the log holds from `index` on.
    fn cut_log(&self, batch: &mut Batch, index: u64) -> Result<(), StoreError> {
        if index > self.state.summary.last_index {
            return Ok(());
        }
        for prefix in [Key::ENTRIES, Key::PARTS] {
            let mut from = prefix.to_vec();
            from.extend_from_slice(&index.to_be_bytes());
            for key in self.tree.range(from..).keys() {
                let key = key.map_err(failed("reading"))?;
                if !key.starts_with(prefix) {
                    break;
                }
                batch.remove(key);
            }
        }
        Ok(())
    }

    /// Writes a snapshot's data where nobody looks yet. Durable with the batch that names it: sled's log is
    /// recovered in order, so what was written earlier is there.
    fn stage_snapshot(&self, generation: u64, data: &[u8]) -> Result<(), StoreError> {
        for (group, parts) in data.chunks(CHUNK_BYTES * BATCH_KEYS).enumerate() {
            let mut batch = Batch::default();
            for (part, bytes) in parts.chunks(CHUNK_BYTES).enumerate() {
                let part = group * BATCH_KEYS + part;
                batch.insert(Key::SnapshotPart(generation, part as u32).encode(), bytes);
            }
            self.tree.apply_batch(batch).map_err(failed("writing"))?;
        }
        Ok(())
    }
}

impl RaftStore for SledStore {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn learn_cluster(&mut self, cluster_id: &ClusterId) -> Result<(), StoreError> {
        let expected = Identity { cluster_id: Some(cluster_id.clone()), ..self.identity.clone() };
        let learned = self.identity.opened_as(&expected)?;
        if learned != self.identity {
            self.put_identity(&learned)?;
            self.identity = learned;
        }
        Ok(())
    }

    fn begin_incarnation(&mut self) -> Result<u64, StoreError> {
        let last = match self.get(Key::Incarnation)? {
            Some(bytes) => {
                let mut reader = Reader::new("incarnation record", &bytes);
                reader.u64()?
            }
            None => 0,
        };
        let next = last + 1;
        let mut batch = Batch::default();
        batch.insert(Key::Incarnation.encode(), next.to_be_bytes().to_vec());
        self.commit(batch)?;
        Ok(next)
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        Ok(self.state.summary.clone())
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<LogEntry>, StoreError> {
        let mut found = Vec::new();
        let mut bytes = 0u64;
        for index in low..high {
            let entry = self.entry(index)?;
            bytes = bytes.saturating_add(entry.data.len() as u64);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry);
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64, StoreError> {
        let head =
            self.get(Key::Entry(index))?.ok_or_else(|| damaged(format!("log entry {index} is missing")))?;
        Ok(decode_entry_head(&head)?.0)
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        let Some(pointer) = self.pointer()? else { return Ok(None) };
        let bytes = believable(pointer.bytes)?;
        let mut data = Vec::with_capacity(bytes);
        self.read_parts(&Key::snapshot_parts(pointer.generation), bytes, &mut data)?;
        Ok(Some(Snapshot { meta: pointer.meta, data: data.into() }))
    }

    fn write(&mut self, write: WriteBatch) -> Result<(), StoreError> {
        let mut next = self.state.clone();
        let mut batch = Batch::default();
        if let Some(snapshot) = &write.snapshot {
            next.generation += 1;
            self.stage_snapshot(next.generation, &snapshot.data)?;
            let mut pointer = next.generation.to_be_bytes().to_vec();
            pointer.extend_from_slice(&(snapshot.data.len() as u64).to_be_bytes());
            snapshot.meta.encode(&mut pointer);
            batch.insert(Key::Snapshot.encode(), pointer);
            if write.reset_log {
                next.summary.log_start = (snapshot.meta.index, snapshot.meta.term);
                next.summary.last_index = snapshot.meta.index;
                batch.insert(Key::LogStart.encode(), encode_log_start(next.summary.log_start));
                // Those up to the snapshot are leftovers from then on; those behind it must go in this batch.
                self.cut_log(&mut batch, snapshot.meta.index + 1)?;
            }
            next.summary.snapshot = Some(snapshot.meta.clone());
        }
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            self.cut_log(&mut batch, first.index)?;
            write.entries.iter().for_each(|entry| Self::put_entry(&mut batch, entry));
            next.summary.last_index = last.index;
        }
        if let Some(hard_state) = write.hard_state {
            batch.insert(Key::HardState.encode(), hard_state.encode());
            next.summary.hard_state = hard_state;
        }
        self.commit(batch)?;
        self.state = next;
        if write.snapshot.is_some() {
            self.remove_other_snapshots()?;
            if write.reset_log {
                self.remove_entries_through(self.state.summary.log_start.0)?;
            }
        }
        Ok(())
    }

    fn compact(&mut self, index: u64) -> Result<(), StoreError> {
        if index <= self.state.summary.log_start.0 {
            return Ok(());
        }
        let log_start = (index, self.term(index)?);
        let mut batch = Batch::default();
        batch.insert(Key::LogStart.encode(), encode_log_start(log_start));
        self.commit(batch)?;
        self.state.summary.log_start = log_start;
        self.remove_entries_through(index)
    }
}

const ENTRY_HEAD_BYTES: usize = 8 + 1 + 8;

fn decode_entry_head(bytes: &[u8]) -> Result<(u64, EntryKind, usize, &[u8]), StoreError> {
    let mut reader = Reader::new("log entry", bytes);
    let term = reader.u64()?;
    let kind = EntryKind::decode(reader.u8()?)?;
    let length = believable(reader.u64()?)?;
    let first = reader.rest();
    if first.len() != length.min(CHUNK_BYTES) {
        return Err(damaged("a log entry's length is wrong"));
    }
    Ok((term, kind, length, first))
}

fn encode_log_start((index, term): (u64, u64)) -> Vec<u8> {
    [index.to_be_bytes(), term.to_be_bytes()].concat()
}

fn decode_log_start(bytes: &[u8]) -> Result<(u64, u64), StoreError> {
    let mut reader = Reader::new("log start record", bytes);
    let start = (reader.u64()?, reader.u64()?);
    reader.end()?;
    Ok(start)
}

fn believable(bytes: u64) -> Result<usize, StoreError> {
    if bytes > MAX_VALUE_BYTES {
        return Err(damaged("a length is beyond belief"));
    }
    usize::try_from(bytes).map_err(|_| damaged("a length is beyond belief"))
}

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged { what: what.into() }
}

fn failed(action: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |error| match error {
        sled::Error::Io(source) => StoreError::Io { action, source },
        other => StoreError::Damaged { what: other.to_string() },
    }
}
