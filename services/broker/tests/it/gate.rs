//! A simulated disk whose fsync waits at a gate, so that a test decides when an append becomes stable.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use thalweg_log::storage::{DirEntry, DirLock, LogFile, Mapping, OpenMode, SimStorage, Storage};

#[derive(Debug, Clone)]
pub struct GatedStorage {
    pub sim: SimStorage,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    lists: Mutex<bool>,
}

impl Gate {
    fn pass(&self) {
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
    }
}

impl GatedStorage {
    pub fn new() -> GatedStorage {
        GatedStorage { sim: SimStorage::new(1), gate: Arc::default() }
    }

    /// From here on syncs of log files wait.
    pub fn close_gate(&self) {
        *self.gate.closed.lock().unwrap() = true;
    }

    /// The same, and listings of folders wait too: an opening of the logs that takes long.
    pub fn close_gate_for_lists(&self) {
        *self.gate.lists.lock().unwrap() = true;
        self.close_gate();
    }

    pub fn open_gate(&self) {
        *self.gate.lists.lock().unwrap() = false;
        *self.gate.closed.lock().unwrap() = false;
        self.gate.opened.notify_all();
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn LogFile>,
    gate: Option<Arc<Gate>>,
}

impl LogFile for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_all_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(bufs, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.reserve(offset, len)
    }
    fn release_reserved(&self) -> io::Result<()> {
        self.inner.release_reserved()
    }
    fn sync_data(&self) -> io::Result<()> {
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        self.inner.sync_data()
    }
    fn map(&self, len: usize) -> io::Result<Mapping> {
        self.inner.map(len)
    }
}

impl Storage for GatedStorage {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.sim.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let held = *self.gate.lists.lock().unwrap();
        if held {
            self.gate.pass();
        }
        self.sim.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.sim.exists(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let gate = is_log.then(|| Arc::clone(&self.gate));
        Ok(Arc::new(GatedFile { inner: self.sim.open(path, mode)?, gate }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sim.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.sim.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.sim.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.sim.sync_dir(dir)
    }
    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.sim.available_bytes(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.sim.lock(path)
    }
}
