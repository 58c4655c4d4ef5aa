//! A storage whose calls a test holds open, or lets panic, to put two threads in an order that is rare otherwise.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use thalweg_log::storage::{DirEntry, DirLock, LogFile, Mapping, OpenMode, Storage};

/// How long a test waits for a call before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Write,
    SyncData,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// The next call waits.
    Shut,
    /// A call waits.
    Reached,
    /// The next call panics.
    Trapped,
}

/// The gates by call and file name.
#[derive(Debug, Default)]
pub struct Gates {
    gates: Mutex<BTreeMap<(Call, String), Gate>>,
    changed: Condvar,
}

impl Gates {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Call, String), Gate>> {
        self.gates.lock().unwrap()
    }

    /// Holds the next call on a file of this name.
    pub fn shut(&self, call: Call, name: &str) {
        self.lock().insert((call, name.to_owned()), Gate::Shut);
    }

    /// Lets the next call on a file of this name panic.
    pub fn trap(&self, call: Call, name: &str) {
        self.lock().insert((call, name.to_owned()), Gate::Trapped);
    }

    /// Waits until a call stands at the gate.
    pub fn wait_for(&self, call: Call, name: &str) {
        let key = (call, name.to_owned());
        let waits = |gates: &mut BTreeMap<_, Gate>| gates.get(&key) != Some(&Gate::Reached);
        let (_gates, timeout) = self.changed.wait_timeout_while(self.lock(), PATIENCE, waits).unwrap();
        assert!(!timeout.timed_out(), "no {call:?} on {name}");
    }

    /// Lets the call go on.
    pub fn open(&self, call: Call, name: &str) {
        self.lock().remove(&(call, name.to_owned()));
        self.changed.notify_all();
    }

    fn pass(&self, call: Call, path: &Path) {
        let key = (call, path.file_name().unwrap().to_string_lossy().into_owned());
        let mut gates = self.lock();
        let Some(gate) = gates.get_mut(&key) else { return };
        if *gate == Gate::Trapped {
            gates.remove(&key);
            drop(gates);
            panic!("a trap on {}", path.display());
        }
        *gate = Gate::Reached;
        self.changed.notify_all();
        let shut = |gates: &mut BTreeMap<_, Gate>| gates.contains_key(&key);
        let (_gates, timeout) = self.changed.wait_timeout_while(gates, PATIENCE, shut).unwrap();
        assert!(!timeout.timed_out(), "nobody opened the gate of {}", path.display());
    }
}

#[derive(Debug)]
pub struct GatedStorage {
    pub inner: Arc<dyn Storage>,
    pub gates: Arc<Gates>,
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn LogFile>,
    gates: Arc<Gates>,
    path: PathBuf,
}

impl Storage for GatedStorage {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        let (inner, gates) = (self.inner.open(path, mode)?, Arc::clone(&self.gates));
        Ok(Arc::new(GatedFile { inner, gates, path: path.to_owned() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.inner.available_bytes(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.inner.lock(path)
    }
}

impl LogFile for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_all_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.gates.pass(Call::Write, &self.path);
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
        // Held when the work is done: what is written from here on is not in it.
        self.inner.sync_data()?;
        self.gates.pass(Call::SyncData, &self.path);
        Ok(())
    }
    fn map(&self, len: usize) -> io::Result<Mapping> {
        self.inner.map(len)
    }
}
