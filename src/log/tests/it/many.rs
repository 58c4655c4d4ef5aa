//! Many logs created and deleted at once.

use crate::harness::{EPOCH, NOW, flush, manager_config, open, plain, small, tp};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_core::{Offset, TopicId};
use thalweg_log::storage::{FaultError, OpKind, SimStorage, Storage};
use thalweg_log::{LogManager, NewLog, OpenError};

const ID: TopicId = TopicId([7; 16]);

fn wanted(count: i32) -> Vec<NewLog> {
    let new = |i| NewLog { partition: tp("t", i), topic_id: Some(ID), config: small() };
    (0..count).map(new).collect()
}

fn sim(seed: u64) -> (SimStorage, Arc<dyn Storage>) {
    let sim = SimStorage::new(seed);
    (sim.clone(), Arc::new(sim))
}

#[test]
fn many_logs_are_made_stable_by_one_sync() {
    let (sim, storage) = sim(1);
    let manager = open(&storage, Path::new("/data"), &small()).unwrap();
    sim.fail_nth(&[OpKind::SyncData, OpKind::SyncDir], 1, FaultError::Io);
    for log in manager.get_or_create_many(&wanted(50), NOW) {
        let log = log.unwrap();
        assert_eq!((log.log_end_offset(), log.topic_id()), (Offset(0), Some(ID)));
    }
    sim.clear_faults();
    let log = manager.get(&tp("t", 9)).unwrap();
    log.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap();
    flush(&manager, &log);
    drop((log, manager));
    sim.power_cut_strict();
    let manager = open(&storage, Path::new("/data"), &small()).unwrap();
    assert_eq!(manager.logs().len(), 50);
    assert!(manager.logs().iter().all(|log| log.topic_id() == Some(ID)));
    assert_eq!(manager.get(&tp("t", 9)).unwrap().log_end_offset(), Offset(1));
    // What is there is opened, whatever else is created beside it; another topic's is refused.
    let again = manager.get_or_create_many(&wanted(70), NOW);
    assert_eq!((again.len(), manager.logs().len()), (70, 70));
    assert_eq!(again[9].as_ref().unwrap().log_end_offset(), Offset(1));
    let mut other = wanted(90);
    other[3].topic_id = Some(TopicId([8; 16]));
    let answers = manager.get_or_create_many(&other, NOW);
    assert!(matches!(answers[3], Err(OpenError::OtherTopic { .. })));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 89);
}

#[test]
fn a_power_cut_while_many_logs_are_created_leaves_whole_logs_or_none() {
    let mut calls = 0;
    for cut in 0.. {
        let (sim, storage) = sim(cut);
        let manager = open(&storage, Path::new("/data"), &small()).unwrap();
        sim.cut_after_ops(cut);
        let created = manager.get_or_create_many(&wanted(12), NOW);
        let done = created.iter().all(Result::is_ok);
        assert_eq!(done, created.iter().any(Result::is_ok), "all or none, cut {cut}");
        drop((created, manager));
        sim.restart();
        let manager = open(&storage, Path::new("/data"), &small()).unwrap();
        if done {
            assert_eq!(manager.logs().len(), 12);
        }
        for log in manager.get_or_create_many(&wanted(12), NOW) {
            let log = log.unwrap();
            assert_eq!((log.log_end_offset(), log.topic_id()), (Offset(0), Some(ID)), "cut {cut}");
            log.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap();
        }
        if done {
            break;
        }
        calls += 1;
    }
    assert!(calls > 36, "{calls} calls were cut");
}

#[test]
fn a_failed_sync_of_many_creates_none_and_may_be_repeated() {
    for error in [FaultError::Io, FaultError::NoSpace] {
        let (sim, storage) = sim(3);
        let manager = open(&storage, Path::new("/data"), &small()).unwrap();
        sim.fail_nth(&[OpKind::SyncBatch], 1, error);
        assert!(manager.get_or_create_many(&wanted(20), NOW).iter().all(Result::is_err));
        assert!(manager.logs().is_empty());
        // One that fails by itself leaves the others alone.
        sim.fail_nth_on("t-5", &[OpKind::Write], 1, error);
        let answers = manager.get_or_create_many(&wanted(20), NOW);
        assert!(answers.iter().enumerate().all(|(i, answer)| answer.is_ok() == (i != 5)));
        assert!(manager.get_or_create_many(&wanted(20), NOW).iter().all(Result::is_ok));
    }
}

#[test]
fn new_logs_spread_over_the_directories() {
    let (_, storage) = sim(4);
    let dirs: Vec<PathBuf> = ["/a", "/b", "/c"].map(PathBuf::from).to_vec();
    let manager = LogManager::open(storage, manager_config(&dirs), NOW, &|_| small()).unwrap();
    manager.get_or_create_many(&wanted(60), NOW);
    assert_eq!(manager.dir_states().iter().map(|dir| dir.logs).collect::<Vec<_>>(), [20, 20, 20]);
}

#[test]
fn many_logs_are_deleted_with_one_sync_and_stay_deleted() {
    let (sim, storage) = sim(5);
    let manager = open(&storage, Path::new("/data"), &small()).unwrap();
    manager.get_or_create_many(&wanted(40), NOW);
    let names: Vec<_> = (0..50).map(|i| tp("t", i)).collect();
    let before = sim.op_count();
    let answers = manager.delete_many(&names);
    let gone = answers.into_iter().map(Result::unwrap).filter(|gone| *gone).count();
    assert_eq!((gone, manager.logs().len()), (40, 0));
    assert!(sim.op_count() - before < 40 + 20, "a rename each, and a few syncs");
    drop(manager);
    sim.power_cut_strict();
    assert!(open(&storage, Path::new("/data"), &small()).unwrap().logs().is_empty());
}

#[test]
fn thousands_of_logs_hold_no_file_open_until_they_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(thalweg_log::storage::OsStorage::new());
    let manager = open(&storage, dir.path(), &small()).unwrap();
    let open_files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = open_files();
    assert!(manager.get_or_create_many(&wanted(500), NOW).iter().all(Result::is_ok));
    assert!(open_files() < before + 400);
    let log = manager.get(&tp("t", 499)).unwrap();
    log.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap();
    assert_eq!(log.log_end_offset(), Offset(1));
}
