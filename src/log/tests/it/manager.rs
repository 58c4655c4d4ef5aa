//! Many logs in several directories: whose they are, how they come and go.

use crate::harness::{
    EPOCH, NOW, manager_config, open, open_log, plain, produced, records_of, small, stamp, tp,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_core::{BrokerEpoch, BrokerId, ClusterId, Offset, TopicId};
use thalweg_log::storage::{FaultError, OpKind, OpenMode, OsStorage, SimStorage, Storage};
use thalweg_log::{CommitMode, LogConfig, LogManager, OpenError, ReadBound, partition_metadata};

fn sim() -> (SimStorage, Arc<dyn Storage>) {
    let sim = SimStorage::new(5);
    (sim.clone(), Arc::new(sim))
}

#[test]
fn a_directory_in_use_of_another_cluster_or_of_a_newer_format_is_refused() {
    let (sim, storage) = sim();
    let dir = PathBuf::from("/data");
    let first = open(&storage, &dir, &small()).unwrap();
    assert!(matches!(open(&storage, &dir, &small()), Err(OpenError::InUse { .. })));
    first.close(None).unwrap();
    drop(first);
    let with = |cluster: &str, node| {
        let mut config = manager_config(std::slice::from_ref(&dir));
        (config.cluster_id, config.node_id) = (ClusterId(Arc::from(cluster)), BrokerId(node));
        LogManager::open(Arc::clone(&storage), config, NOW, &|_| small())
    };
    for (cluster, node) in [("other-cluster", 1), ("test-cluster", 2)] {
        let refused = with(cluster, node).unwrap_err();
        assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
    }
    // A refused start does not use up the marker of the clean stop.
    assert!(sim.exists(&dir.join(".kafka_cleanshutdown")).unwrap());
    let properties = sim.open(&dir.join("meta.properties"), OpenMode::Truncate).unwrap();
    let newer = b"version=2\ncluster.id=test-cluster\nnode.id=1\n";
    properties.write_all_at(&mut [std::io::IoSlice::new(newer)], 0).unwrap();
    assert!(matches!(with("test-cluster", 1), Err(OpenError::Foreign { .. })));
    let twice = manager_config(&[dir.clone(), dir.clone()]);
    assert!(matches!(LogManager::open(storage, twice, NOW, &|_| small()), Err(OpenError::NoDirs)));
}

#[test]
fn a_deleted_partition_is_gone_for_good_and_a_new_one_of_its_name_starts_at_zero() {
    let (sim, storage) = sim();
    let dir = Path::new("/data");
    let manager = open(&storage, dir, &small()).unwrap();
    let (old_id, new_id) = (TopicId([1; 16]), TopicId([2; 16]));
    let log = manager.get_or_create(&tp("t", 0), Some(old_id), small(), NOW).unwrap();
    for i in 0..20 {
        log.append_as_leader(&plain(i, 300), EPOCH, NOW).unwrap();
    }
    manager.run_committers();
    log.set_high_watermark(Offset(20));
    log.delete_records(Offset(10)).unwrap();
    let other = manager.get_or_create(&tp("t", 0), Some(new_id), small(), NOW);
    assert!(matches!(other, Err(OpenError::OtherTopic { .. })));

    assert!(manager.delete(&tp("t", 0)).unwrap());
    assert!(!manager.delete(&tp("t", 0)).unwrap());
    assert!(manager.get(&tp("t", 0)).is_none());
    assert!(log.append_as_leader(&plain(1, 1), EPOCH, NOW).is_err());
    assert!(log.read(Offset(12), 100, ReadBound::LogEnd, true).is_err());
    let folders = || sim.list(dir).unwrap().into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name);
    assert_eq!(folders().filter(|name| name.ends_with("-delete")).count(), 1);

    let new = manager.get_or_create(&tp("t", 0), Some(new_id), small(), NOW).unwrap();
    assert_eq!((new.log_start_offset(), new.log_end_offset()), (Offset(0), Offset(0)));
    new.append_as_leader(&plain(1, 1), EPOCH, NOW).unwrap();
    manager.run_committers();
    manager.housekeeping(NOW);
    assert_eq!(folders().count(), 2, "the files stay for file.delete.delay.ms");
    manager.housekeeping(NOW.saturating_add_millis(60_000));
    assert_eq!(folders().collect::<Vec<_>>(), ["t-0"]);
    drop((log, new, manager));
    sim.power_cut();
    let manager = open(&storage, dir, &small()).unwrap();
    let log = manager.get(&tp("t", 0)).unwrap();
    assert_eq!((log.topic_id(), records_of(&log).len()), (Some(new_id), 1));
}

#[test]
fn logs_are_spread_over_the_directories_and_found_again() {
    let (sim, storage) = sim();
    let dirs: Vec<PathBuf> = ["/a", "/b", "/c"].map(PathBuf::from).to_vec();
    let open = || LogManager::open(Arc::clone(&storage), manager_config(&dirs), NOW, &|_| small()).unwrap();
    let manager = open();
    for partition in 0..9 {
        let log = manager.get_or_create(&tp("t", partition), None, small(), NOW).unwrap();
        log.append_as_leader(&plain(i64::from(partition), 10), EPOCH, NOW).unwrap();
        log.set_high_watermark(Offset(1));
    }
    assert_eq!(manager.dir_states().iter().map(|dir| dir.logs).collect::<Vec<_>>(), [3, 3, 3]);
    let ids: Vec<_> = manager.dir_states().iter().map(|dir| dir.id).collect();
    manager.close(Some(BrokerEpoch(7))).unwrap();
    manager.close(None).unwrap();
    let late = manager.get_or_create(&tp("late", 0), None, small(), NOW);
    assert!(matches!(late, Err(OpenError::Closed)));
    drop(manager);
    let manager = open();
    assert_eq!(manager.logs().len(), 9);
    assert_eq!(manager.dir_states().iter().map(|dir| dir.id).collect::<Vec<_>>(), ids);
    for log in manager.logs() {
        assert!(!log.recovery_report().recovered);
        assert_eq!(log.high_watermark(), Offset(1));
    }
    drop(manager);
    // One partition in two directories is not guessed about.
    sim.create_dir_all(Path::new("/b/t-0")).unwrap();
    let twice = LogManager::open(Arc::clone(&storage), manager_config(&dirs), NOW, &|_| small());
    assert!(matches!(twice, Err(OpenError::Twice { .. })));
}

#[test]
fn write_caching_syncs_only_by_flush_messages_flush_ms_and_checkpoints() {
    let (_, storage) = sim();
    let config = LogConfig { write_caching: true, flush_messages: Some(4), flush_ms: Some(500), ..small() };
    let manager = open(&storage, Path::new("/data"), &config).unwrap();
    let log = open_log(&manager, &config).unwrap();
    manager.housekeeping(NOW);
    let append = |count: i64| {
        for _ in 0..count {
            log.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap();
        }
    };
    append(3);
    assert_eq!((manager.run_committers(), log.flushed_offset()), (0, Offset(0)));
    append(1);
    assert_eq!((manager.run_committers(), log.flushed_offset()), (1, Offset(4)));
    append(1);
    manager.housekeeping(NOW.saturating_add_millis(499));
    assert_eq!(manager.run_committers(), 0);
    manager.housekeeping(NOW.saturating_add_millis(500));
    assert_eq!((manager.run_committers(), log.flushed_offset()), (1, Offset(5)));
    // The same by the call that does nothing else.
    append(1);
    manager.flush_due(NOW.saturating_add_millis(499));
    assert_eq!(manager.run_committers(), 0);
    manager.flush_due(NOW.saturating_add_millis(500));
    assert_eq!((manager.run_committers(), log.flushed_offset()), (1, Offset(6)));
    manager.flush_due(NOW.saturating_add_millis(5_000));
    assert_eq!(manager.run_committers(), 0, "all is synced");
    // A closed segment is synced for the next checkpoint, so that recovery scans no more than one.
    log.update_config(LogConfig { write_caching: true, ..small() });
    let segments = log.segment_count();
    while log.segment_count() == segments {
        append(1);
    }
    assert_eq!(manager.run_committers(), 0);
    manager.housekeeping(NOW.saturating_add_millis(120_000));
    assert_eq!(manager.run_committers(), 1);
    assert_eq!(log.flushed_offset(), log.log_end_offset());
}

#[test]
fn an_idle_log_closes_its_segment_and_expires() {
    let (_, storage) = sim();
    let config = LogConfig { segment_ms: 1_000, retention_ms: Some(10_000), ..LogConfig::default() };
    let manager = open(&storage, Path::new("/data"), &config).unwrap();
    let log = open_log(&manager, &config).unwrap();
    let old = NOW.saturating_add_millis(-5_000);
    log.append_as_leader(&plain(old.as_millis(), 10), EPOCH, NOW).unwrap();
    log.set_high_watermark(Offset(1));
    log.apply_retention(NOW.saturating_add_millis(999)).unwrap();
    assert_eq!(log.segment_count(), 1);
    log.apply_retention(NOW.saturating_add_millis(1_001)).unwrap();
    assert_eq!((log.segment_count(), log.log_start_offset()), (2, Offset(0)));
    log.apply_retention(NOW.saturating_add_millis(5_001)).unwrap();
    assert_eq!((log.segment_count(), log.log_start_offset()), (1, Offset(1)));
    // By the records' time: an append rolls as well.
    log.append_as_leader(&plain(NOW.as_millis(), 10), EPOCH, NOW).unwrap();
    log.append_as_leader(&plain(NOW.as_millis() + 1_001, 10), EPOCH, NOW).unwrap();
    assert_eq!(log.segment_count(), 2);
}

/// A thousand partitions on a real disk, with the committer's thread.
#[test]
fn a_thousand_partitions_open_write_and_open_again() {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(OsStorage::new());
    let config = || {
        let mut config = manager_config(&[dir.path().to_owned()]);
        config.commit_mode = CommitMode::Threads;
        config
    };
    let log_config = LogConfig { write_caching: true, ..LogConfig::default() };
    let manager = LogManager::open(Arc::clone(&storage), config(), NOW, &|_| log_config.clone()).unwrap();
    for partition in 0..1000 {
        manager.get_or_create(&tp("many", partition), None, log_config.clone(), NOW).unwrap();
    }
    for log in manager.logs().iter().step_by(10) {
        log.append_as_leader(&plain(1, 100), EPOCH, NOW).unwrap();
    }
    manager.housekeeping(NOW);
    let reserved_gone = NOW.saturating_add_millis(60_000);
    manager.housekeeping(reserved_gone);
    manager.close(None).unwrap();
    drop(manager);
    let manager = LogManager::open(storage, config(), NOW, &|_| log_config.clone()).unwrap();
    let logs = manager.logs();
    assert_eq!(logs.len(), 1000);
    assert!(logs.iter().all(|log| !log.recovery_report().recovered));
    let records: i64 = logs.iter().map(|log| log.log_end_offset().get()).sum();
    assert_eq!(records, 100);
}

#[test]
fn a_delete_that_meets_a_full_disk_never_hands_old_records_to_a_new_topic() {
    let (old_id, new_id) = (TopicId([1; 16]), TopicId([2; 16]));
    // Each call of the deletion fails once: the rename, the sync behind it, each write of a checkpoint.
    for op in [OpKind::Rename, OpKind::SyncDir, OpKind::Open, OpKind::Write] {
        for nth in 1..=4 {
            let (sim, storage) = sim();
            let dir = Path::new("/data");
            let manager = open(&storage, dir, &small()).unwrap();
            let log = manager.get_or_create(&tp("t", 0), Some(old_id), small(), NOW).unwrap();
            for i in 0..20 {
                log.append_as_leader(&plain(i, 300), EPOCH, NOW).unwrap();
            }
            manager.run_committers();
            log.set_high_watermark(Offset(20));
            log.delete_records(Offset(10)).unwrap();
            manager.housekeeping(NOW);
            drop(log);
            sim.fail_nth(&[op], nth, FaultError::NoSpace);
            let _ = manager.delete(&tp("t", 0));
            sim.clear_faults();
            let new = manager.get_or_create(&tp("t", 0), Some(new_id), small(), NOW).unwrap();
            assert_eq!((new.topic_id(), new.log_end_offset()), (Some(new_id), Offset(0)), "{op:?} {nth}");
            new.append_as_leader(&plain(1, 1), EPOCH, NOW).unwrap();
            manager.run_committers();
            drop((new, manager));
            sim.power_cut();
            let manager = open(&storage, dir, &small()).unwrap();
            let log = manager.get(&tp("t", 0)).unwrap();
            let found = (log.topic_id(), log.log_start_offset(), records_of(&log).len());
            assert_eq!(found, (Some(new_id), Offset(0), 1), "{op:?} {nth}");
        }
    }
}

#[test]
fn a_delete_that_failed_changes_nothing_and_is_tried_again() {
    let (sim, storage) = sim();
    let dir = Path::new("/data");
    let manager = open(&storage, dir, &small()).unwrap();
    let id = Some(TopicId([1; 16]));
    let log = manager.get_or_create(&tp("t", 0), id, small(), NOW).unwrap();
    let fail = || {
        sim.fail_nth(&[OpKind::Rename], 1, FaultError::NoSpace);
        assert!(manager.delete(&tp("t", 0)).is_err());
    };
    fail();
    log.append_as_leader(&plain(1, 1), EPOCH, NOW).unwrap();
    // Wanted again: the delete is off.
    manager.get_or_create(&tp("t", 0), id, small(), NOW).unwrap();
    manager.housekeeping(NOW);
    assert!(manager.get(&tp("t", 0)).is_some());
    fail();
    manager.housekeeping(NOW);
    assert!(manager.get(&tp("t", 0)).is_none());
    // The removal is tried again as well.
    sim.fail_nth(&[OpKind::Remove], 1, FaultError::Io);
    let folders = || sim.list(dir).unwrap().into_iter().filter(|entry| entry.is_dir).count();
    manager.housekeeping(NOW.saturating_add_millis(60_000));
    assert_eq!(folders(), 1);
    manager.housekeeping(NOW.saturating_add_millis(120_000));
    assert_eq!(folders(), 0);
}

#[test]
fn a_folder_without_the_topics_id_is_set_aside() {
    let (sim, storage) = sim();
    let dirs = ["/a", "/b"].map(PathBuf::from);
    let manager = LogManager::open(Arc::clone(&storage), manager_config(&dirs), NOW, &|_| small()).unwrap();
    // One in each directory, of no topic and of another.
    for dir in &dirs {
        sim.create_dir_all(&dir.join("t-0")).unwrap();
    }
    partition_metadata::write(&sim, Path::new("/b/t-0"), TopicId([1; 16])).unwrap();
    let log = manager.get_or_create(&tp("t", 0), Some(TopicId([2; 16])), small(), NOW).unwrap();
    assert_eq!(log.topic_id(), Some(TopicId([2; 16])));
    for dir in &dirs {
        let names = sim.list(dir).unwrap().into_iter().map(|entry| entry.name);
        assert_eq!(names.filter(|name| name.ends_with("-delete")).count(), 1, "{dir:?}");
    }
    drop((log, manager));
    sim.power_cut();
    LogManager::open(storage, manager_config(&dirs), NOW, &|_| small()).unwrap();
}

#[test]
fn a_clean_restart_remembers_five_batches_of_each_producer_however_far_back() {
    let (_, storage) = sim();
    let dir = Path::new("/data");
    let manager = open(&storage, dir, &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    for i in 0..7 {
        log.append_as_leader(&produced(1, 2, stamp(5, 0, i * 2)), EPOCH, NOW).unwrap();
        // Hundreds of index entries of others, over many segments.
        for _ in 0..100 {
            log.append_as_leader(&plain(1, 300), EPOCH, NOW).unwrap();
        }
    }
    drop(log);
    manager.close(None).unwrap();
    drop(manager);
    let manager = open(&storage, dir, &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    assert!(!log.recovery_report().recovered);
    for i in 2..7 {
        let again = log.append_as_leader(&produced(1, 2, stamp(5, 0, i * 2)), EPOCH, NOW).unwrap();
        assert!(again.duplicate);
        assert_eq!(again.base_offset, Offset(i64::from(i) * 102), "batch {i}");
    }
}

#[test]
fn a_new_log_costs_few_changes_on_disk() {
    let (sim, storage) = sim();
    let manager = open(&storage, Path::new("/data"), &small()).unwrap();
    let before = sim.op_count();
    let log = manager.get_or_create(&tp("t", 0), Some(TopicId([1; 16])), small(), NOW).unwrap();
    assert!(!log.recovery_report().recovered);
    // The folder; the topic's id as a file written, synced, renamed and its name synced; the segment and its name.
    assert!(sim.op_count() - before <= 8, "{} changes", sim.op_count() - before);
}
