//! A handle on a simulated file.

use super::fault::{Failure, OpKind, PowerCut};
use super::state::{FileChange, InodeId, State, put};
use crate::storage::{DIRECT_ALIGN, DirLock, LogFile, Mapping};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) type Shared = Arc<Mutex<State>>;

/// A test that panicked while it held the lock has failed already; its threads may go on.
pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct SimFile {
    pub shared: Shared,
    pub inode: InodeId,
    pub generation: u64,
    pub writable: bool,
    /// Whether writes go past the page cache, as far as there is one here: they must keep to its rules.
    pub direct: bool,
    pub path: PathBuf,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimFile").field(&self.path).finish()
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        if state.generation == self.generation
            && let Ok(file) = state.file_mut(self.inode)
        {
            file.handles -= 1;
        }
    }
}

impl SimFile {
    /// Locks the disk if this handle is still alive.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = lock(&self.shared);
        state.plan.alive()?;
        if state.generation != self.generation {
            return Err(io::Error::other(PowerCut));
        }
        Ok(state)
    }

    /// Starts a call that changes the file. The inner result is the fault that is planned for it.
    fn change(&self, op: OpKind) -> io::Result<(MutexGuard<'_, State>, Result<(), io::Error>)> {
        let mut state = self.state()?;
        if !self.writable && op != OpKind::SyncData {
            return Err(rustix::io::Errno::BADF.into());
        }
        match state.plan.before(op, &self.path, true) {
            Err(Failure::Power) => Err(Failure::Power.into()),
            Err(fault) => Ok((state, Err(fault.into()))),
            Ok(()) => Ok((state, Ok(()))),
        }
    }

    fn before_read(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        state.plan.before(OpKind::Read, &self.path, false)?;
        Ok(state)
    }
}

impl LogFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.file_mut(self.inode)?.written.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.before_read()?;
        let written = &state.file_mut(self.inode)?.written;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(written.len());
        let n = buf.len().min(written.len() - start);
        buf[..n].copy_from_slice(&written[start..start + n]);
        Ok(n)
    }

    fn write_all_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let is_aligned = |buf: &IoSlice<'_>| {
            buf.as_ptr().align_offset(DIRECT_ALIGN) == 0 && buf.len().is_multiple_of(DIRECT_ALIGN)
        };
        // A file system would refuse it, and nobody would see that all writes go through the page cache after all.
        assert!(
            !self.direct || (offset.is_multiple_of(DIRECT_ALIGN as u64) && bufs.iter().all(is_aligned)),
            "a direct write that is not aligned, at {offset}"
        );
        let (mut state, mut outcome) = self.change(OpKind::Write)?;
        let mut data = Vec::with_capacity(bufs.iter().map(|buf| buf.len()).sum());
        bufs.iter().for_each(|buf| data.extend_from_slice(buf));
        if outcome.is_err() {
            let written = state.rng.below(data.len() as u64 + 1);
            data.truncate(written as usize);
        }
        let room = state.growth_limit(self.inode)?.saturating_sub(offset);
        if (data.len() as u64) > room {
            data.truncate(room as usize);
            outcome = outcome.and(Err(rustix::io::Errno::NOSPC.into()));
        }
        if !data.is_empty() {
            let file = state.file_mut(self.inode)?;
            put(&mut file.written, offset, &data);
            file.pending.push(FileChange::Write { offset, data });
        }
        outcome
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, outcome) = self.change(OpKind::SetLen)?;
        outcome?;
        if len > state.growth_limit(self.inode)? {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        let file = state.file_mut(self.inode)?;
        if len <= file.written.len() as u64 {
            file.reserved_end = 0;
        }
        file.written.resize(len as usize, 0);
        file.pending.push(FileChange::SetLen(len));
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let (mut state, outcome) = self.change(OpKind::Reserve)?;
        outcome?;
        let end = offset.saturating_add(len);
        if end > state.growth_limit(self.inode)? {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        let file = state.file_mut(self.inode)?;
        file.reserved_end = file.reserved_end.max(end);
        Ok(())
    }

    fn release_reserved(&self) -> io::Result<()> {
        let (mut state, outcome) = self.change(OpKind::Reserve)?;
        outcome?;
        state.file_mut(self.inode)?.reserved_end = 0;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, outcome) = self.change(OpKind::SyncData)?;
        match outcome {
            Ok(()) => state.sync_file(self.inode),
            Err(fault) => {
                state.lose_pages(self.inode)?;
                Err(fault)
            }
        }
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        let mut state = self.before_read()?;
        let written = &state.file_mut(self.inode)?.written;
        let bytes = written.get(..len).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Box::new(bytes.to_vec()))
    }
}

pub(super) struct SimLock {
    pub shared: Shared,
    pub inode: InodeId,
    pub generation: u64,
    pub path: PathBuf,
}

impl DirLock for SimLock {}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimLock").field(&self.path).finish()
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        if state.generation == self.generation {
            state.locks.remove(&self.inode);
        }
    }
}
