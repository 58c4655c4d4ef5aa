//! [`Storage`] in memory, for tests and the simulation: it keeps apart what was written and what was synced, cuts the
//! power at any call, and fails calls as planned.
//!
//! A power cut keeps everything synced. Of the rest it keeps what the seed says: each unsynced write wholly, not at all, up
//! to some sector or in scattered 512-byte sectors; each unsynced creation, rename or removal or not. It is as hard as
//! POSIX allows, harder than ext4 is: code that survives it rests on no file system's kindness.

mod crash;
mod fault;
mod file;
mod rng;
mod state;
#[cfg(test)]
mod tests;

pub use fault::{FaultError, OpKind, PowerCut, is_power_cut};

use super::{DirEntry, DirLock, LogFile, OpenMode, Storage, SyncBatch};
use file::{Shared, SimFile, SimLock, lock};
use state::{Dir, File, FileChange, Inode, InodeId, NameChange, ROOT, State};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What [`Storage::available_bytes`] answers without a capacity: 1 TiB.
const UNLIMITED_BYTES: u64 = 1 << 40;

/// A disk in memory. Clones share it, so that a test keeps one while the log holds the other.
#[derive(Clone)]
pub struct SimStorage {
    shared: Shared,
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStorage")
    }
}

impl SimStorage {
    /// An empty disk without limits or faults. The seed decides what each power cut keeps.
    pub fn new(seed: u64) -> Self {
        SimStorage { shared: Arc::new(Mutex::new(State::new(seed))) }
    }

    /// Cuts the power and turns the machine on again: everything synced is there, of the rest what the seed says. Handles
    /// and locks from before are dead. Planned faults stay, a planned cut does not.
    pub fn power_cut(&self) {
        lock(&self.shared).power_cut(false);
    }

    /// As [`SimStorage::power_cut`], but nothing unsynced survives.
    pub fn power_cut_strict(&self) {
        lock(&self.shared).power_cut(true);
    }

    /// Turns the machine on after a planned cut ([`SimStorage::cut_after_ops`]); the same as [`SimStorage::power_cut`].
    pub fn restart(&self) {
        self.power_cut();
    }

    /// The number of calls so far that changed something (created, wrote, cut, reserved, synced, renamed, removed).
    pub fn op_count(&self) -> u64 {
        lock(&self.shared).plan.changes()
    }

    /// Lets `n` more changing calls through; the next one, and every call after it, fails with [`PowerCut`] until
    /// [`SimStorage::restart`] or a power cut.
    pub fn cut_after_ops(&self, n: u64) {
        lock(&self.shared).plan.cut_after(n);
    }

    /// Whether a planned cut has happened and the machine was not turned on again.
    pub fn is_off(&self) -> bool {
        lock(&self.shared).plan.is_off()
    }

    /// Fails the `n`-th (from 1) of the coming calls of these kinds, once. A failed write may have written any prefix; a
    /// failed `sync_data` loses the unsynced bytes for good, as Linux does.
    pub fn fail_nth(&self, ops: &[OpKind], n: u64, error: FaultError) {
        self.fail_nth_on("", ops, n, error);
    }

    /// As [`SimStorage::fail_nth`], counting only calls on paths that contain `path_part`.
    pub fn fail_nth_on(&self, path_part: &str, ops: &[OpKind], n: u64, error: FaultError) {
        lock(&self.shared).plan.add(ops, path_part, n, error);
    }

    /// Fails the next `sync_data` with `EIO`.
    pub fn fail_next_sync(&self) {
        self.fail_nth(&[OpKind::SyncData], 1, FaultError::Io);
    }

    /// Drops all planned faults.
    pub fn clear_faults(&self) {
        lock(&self.shared).plan.clear();
    }

    /// Limits the disk: written and reserved bytes together. Writes beyond it are cut short and fail with `StorageFull`.
    /// `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.shared).capacity = bytes;
    }

    /// Bytes in use, reservations included.
    pub fn used_bytes(&self) -> u64 {
        lock(&self.shared).used()
    }

    /// Flips one bit of a file, on the disk and in what is read: silent corruption.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = lock(&self.shared);
        let id = state.lookup(path)?;
        let file = state.file_mut(id)?;
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        *file.written.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1 << (bit % 8);
        if let Some(byte) = file.stable.get_mut(at) {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    fn begin(&self, op: OpKind, path: &Path, changes: bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = lock(&self.shared);
        state.plan.before(op, path, changes)?;
        Ok(state)
    }

    fn handle(&self, state: &mut State, id: InodeId, path: &Path, writable: bool) -> io::Result<SimFile> {
        state.file_mut(id)?.handles += 1;
        let shared = Arc::clone(&self.shared);
        let (generation, path) = (state.generation, path.to_owned());
        Ok(SimFile { shared, inode: id, generation, writable, direct: false, path })
    }
}

fn create_file(state: &mut State, path: &Path) -> io::Result<InodeId> {
    let (dir, name) = state.lookup_parent(path)?;
    let id = state.insert(Inode::File(File::default()));
    state.change_names(NameChange { remove: None, add: Some((dir, name, id)) });
    Ok(id)
}

impl Storage for SimStorage {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        lock(&self.shared).plan.alive()?;
        let mut path = PathBuf::new();
        let mut parent = ROOT;
        for name in state::names(dir)? {
            path.push(&name);
            let existing = lock(&self.shared).dir(parent)?.written.get(&name).copied();
            parent = match existing {
                Some(id) if lock(&self.shared).is_dir(id) => id,
                Some(_) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    let mut state = self.begin(OpKind::CreateDir, &path, true)?;
                    let id = state.insert(Inode::Dir(Dir::default()));
                    state.change_names(NameChange { remove: None, add: Some((parent, name, id)) });
                    state.sync_names(parent);
                    id
                }
            };
        }
        Ok(())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.begin(OpKind::CreateDir, dir, true)?;
        let (parent, name) = state.lookup_parent(dir)?;
        if state.dir(parent)?.written.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.insert(Inode::Dir(Dir::default()));
        state.change_names(NameChange { remove: None, add: Some((parent, name, id)) });
        Ok(())
    }

    fn begin_batch(&self, dir: &Path) -> io::Result<Option<Box<dyn SyncBatch>>> {
        let state = self.begin(OpKind::List, dir, false)?;
        state.dir(state.lookup(dir)?)?;
        let (disk, generation) = (self.clone(), state.generation);
        Ok(Some(Box::new(SimBatch { disk, dir: dir.to_owned(), generation })))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.begin(OpKind::List, dir, false)?;
        let entries = &state.dir(state.lookup(dir)?)?.written;
        let entry =
            |(name, id): (&String, &InodeId)| DirEntry { name: name.clone(), is_dir: state.is_dir(*id) };
        Ok(entries.iter().map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.begin(OpKind::List, path, false)?;
        match state.lookup(path) {
            Ok(_) => Ok(true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        let found = {
            let state = lock(&self.shared);
            state.plan.alive()?;
            state.lookup(path).is_ok()
        };
        let changes = match mode {
            OpenMode::Read | OpenMode::ReadWrite => false,
            OpenMode::Create => !found,
            OpenMode::Truncate => true,
        };
        let mut state = self.begin(OpKind::Open, path, changes)?;
        let id = match state.lookup(path) {
            Ok(id) => id,
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            Err(_) if matches!(mode, OpenMode::Create | OpenMode::Truncate) => create_file(&mut state, path)?,
            Err(err) => return Err(err),
        };
        let handle = self.handle(&mut state, id, path, mode != OpenMode::Read)?;
        if mode == OpenMode::Truncate {
            let file = state.file_mut(id)?;
            file.reserved_end = 0;
            if !file.written.is_empty() {
                file.written.clear();
                file.pending.push(FileChange::SetLen(0));
            }
        }
        drop(state);
        Ok(Arc::new(handle))
    }

    fn open_direct(&self, path: &Path) -> io::Result<Option<Arc<dyn LogFile>>> {
        let mut state = self.begin(OpKind::Open, path, false)?;
        let id = state.lookup(path)?;
        let mut handle = self.handle(&mut state, id, path, true)?;
        handle.direct = true;
        drop(state);
        Ok(Some(Arc::new(handle)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.begin(OpKind::Rename, from, true)?;
        let id = state.lookup(from)?;
        let (from_dir, from_name) = state.lookup_parent(from)?;
        let (to_dir, to_name) = state.lookup_parent(to)?;
        if state.is_dir(id) && state::names(to)?.starts_with(&state::names(from)?) && from != to {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(&target) = state.dir(to_dir)?.written.get(&to_name) {
            match (state.is_dir(id), state.is_dir(target)) {
                _ if target == id => return Ok(()),
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, true) if !state.dir(target)?.written.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
        }
        let (remove, add) = (Some((from_dir, from_name, id)), Some((to_dir, to_name, id)));
        state.change_names(NameChange { remove, add });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin(OpKind::Remove, path, true)?;
        let id = state.lookup(path)?;
        if state.is_dir(id) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (dir, name) = state.lookup_parent(path)?;
        state.change_names(NameChange { remove: Some((dir, name, id)), add: None });
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.begin(OpKind::Remove, dir, true)?;
        let top = state.lookup(dir)?;
        state.dir(top)?;
        let mut todo = vec![top];
        while let Some(id) = todo.pop() {
            for (name, child) in state.dir(id)?.written.clone() {
                if state.is_dir(child) {
                    todo.push(child);
                }
                state.change_names(NameChange { remove: Some((id, name, child)), add: None });
            }
        }
        let (parent, name) = state.lookup_parent(dir)?;
        state.change_names(NameChange { remove: Some((parent, name, top)), add: None });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.begin(OpKind::SyncDir, dir, true)?;
        let id = state.lookup(dir)?;
        state.dir(id)?;
        state.sync_names(id);
        Ok(())
    }

    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        let state = lock(&self.shared);
        state.plan.alive()?;
        state.lookup(dir)?;
        Ok(state.available().unwrap_or(UNLIMITED_BYTES))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        let found = lock(&self.shared).lookup(path).is_ok();
        let mut state = self.begin(OpKind::Lock, path, !found)?;
        let id = match state.lookup(path) {
            Ok(id) => id,
            Err(_) => create_file(&mut state, path)?,
        };
        state.file_mut(id)?;
        if !state.locks.insert(id) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(SimLock { shared, inode: id, generation: state.generation, path: path.to_owned() }))
    }
}

struct SimBatch {
    disk: SimStorage,
    dir: PathBuf,
    generation: u64,
}

impl SyncBatch for SimBatch {
    fn sync(self: Box<Self>) -> io::Result<()> {
        let mut state = self.disk.begin(OpKind::SyncBatch, &self.dir, true)?;
        if state.generation != self.generation {
            return Err(io::Error::other(PowerCut));
        }
        let top = state.lookup(&self.dir)?;
        state.sync_below(top)
    }
}
