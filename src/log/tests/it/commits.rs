//! The committer beside appends, and when it breaks.

use crate::gated::{Call, GatedStorage, Gates};
use crate::harness::{EPOCH, NOW, manager_config, open, open_log, plain, small};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use thalweg_core::Offset;
use thalweg_log::storage::{SimStorage, Storage};
use thalweg_log::{AppendError, CommitMode, FlushListener, LogConfig, LogManager, StorageError};

const DIR: &str = "/data";
/// How long a test waits for a thread before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

fn gated() -> (SimStorage, Arc<Gates>, Arc<dyn Storage>) {
    let (sim, gates) = (SimStorage::new(21), Arc::new(Gates::default()));
    let storage = GatedStorage { inner: Arc::new(sim.clone()), gates: Arc::clone(&gates) };
    (sim, gates, Arc::new(storage))
}

/// A sync finds the active segment dirty and syncs it while a write to it is on its way. The bytes of that write are not
/// in the sync, so the next one must not find the segment clean.
#[test]
fn a_write_beside_a_sync_gets_a_sync_of_its_own() {
    let (sim, gates, storage) = gated();
    let config = LogConfig { write_caching: true, ..small() };
    let manager = open(&storage, Path::new(DIR), &config).unwrap();
    let log = open_log(&manager, &config).unwrap();
    // A closed segment that waits for its sync: the place to hold the committer between its look at the log's end and its
    // sync of the active segment.
    while log.segment_count() < 2 {
        log.append_as_leader(&plain(1, 300), EPOCH, NOW).unwrap();
    }
    let (closed, covered) = ("00000000000000000000.log", log.log_end_offset());
    let active = format!("{:020}.log", covered.get() - 1);
    gates.shut(Call::SyncData, closed);
    gates.shut(Call::Write, &active);
    log.request_flush();
    std::thread::scope(|scope| {
        let committer = scope.spawn(|| manager.run_committers());
        gates.wait_for(Call::SyncData, closed);
        let appender = scope.spawn(|| log.append_as_leader(&plain(2, 300), EPOCH, NOW).map(drop));
        gates.wait_for(Call::Write, &active);
        gates.shut(Call::SyncData, &active);
        gates.open(Call::SyncData, closed);
        gates.wait_for(Call::SyncData, &active);
        // The sync is done and its return held; only now do the bytes arrive.
        gates.open(Call::Write, &active);
        appender.join().unwrap().unwrap();
        gates.open(Call::SyncData, &active);
        assert_eq!(committer.join().unwrap(), 1);
    });
    assert_eq!((log.flushed_offset(), log.log_end_offset()), (covered, covered.advance(1)));
    log.request_flush();
    manager.run_committers();
    assert_eq!(log.flushed_offset(), covered.advance(1));
    drop((log, manager));
    sim.power_cut_strict();
    let manager = open(&storage, Path::new(DIR), &config).unwrap();
    let log = open_log(&manager, &config).unwrap();
    assert_eq!(log.log_end_offset(), covered.advance(1), "what was flushed survives");
}

struct Told(Sender<Option<Offset>>);

impl FlushListener for Told {
    fn flushed(&self, up_to: Offset) {
        let _ = self.0.send(Some(up_to));
    }
    fn failed(&self) {
        let _ = self.0.send(None);
    }
}

#[test]
fn a_panic_of_the_committer_fails_the_directory_and_tells_all_who_wait() {
    let (_, gates, storage) = gated();
    let mut config = manager_config(&[PathBuf::from(DIR)]);
    config.commit_mode = CommitMode::Threads;
    let manager = LogManager::open(storage, config, NOW, &|_| small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    let (sender, told) = channel();
    let listener: Arc<dyn FlushListener> = Arc::new(Told(sender));
    log.set_flush_listener(Arc::downgrade(&listener));
    log.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Some(Offset(1))));
    gates.trap(Call::SyncData, "00000000000000000000.log");
    log.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(None), "the one who waits is told");
    let refused = log.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap_err();
    assert!(matches!(refused, AppendError::Storage(StorageError::DirFailed { .. })), "{refused}");
    assert!(log.log_is_failed() && log.flushed_offset() == Offset(1));
    // The thread goes on and answers who asks later.
    while told.try_recv().is_ok() {}
    log.request_flush();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(None));
}
