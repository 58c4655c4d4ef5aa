//! The bug catalogue's storage part, by number: what others got wrong.

use crate::harness::{
    EPOCH, NOW, check_lookups, flush, manager_config, open, open_log, plain, produced, read_from, records_of,
    small, stamp, stored, tp,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, Timestamp};
use thalweg_log::storage::{FaultError, OpKind, OpenMode, SimStorage, Storage};
use thalweg_log::{
    AppendError, FlushListener, Log, LogConfig, LogManager, ReadBound, SequenceError, StorageError,
};

const DIR: &str = "/data";

fn sim() -> (SimStorage, Arc<dyn Storage>) {
    let sim = SimStorage::new(3);
    (sim.clone(), Arc::new(sim))
}

fn start(storage: &Arc<dyn Storage>, config: &LogConfig) -> (LogManager, Arc<Log>) {
    let manager = open(storage, Path::new(DIR), config).unwrap();
    let log = open_log(&manager, config).unwrap();
    (manager, log)
}

fn names(sim: &SimStorage, extension: &str) -> Vec<String> {
    let entries = sim.list(&Path::new(DIR).join("t-0")).unwrap();
    let mut names: Vec<_> =
        entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(extension)).collect();
    names.sort();
    names
}

#[derive(Default)]
struct Listener {
    flushed: AtomicI64,
    failed: AtomicUsize,
}

impl FlushListener for Listener {
    fn flushed(&self, up_to: Offset) {
        self.flushed.fetch_max(up_to.get(), Ordering::SeqCst);
    }

    fn failed(&self) {
        self.failed.fetch_add(1, Ordering::SeqCst);
    }
}

fn listen(log: &Log) -> Arc<Listener> {
    let listener = Arc::new(Listener::default());
    let weak: Weak<Listener> = Arc::downgrade(&listener);
    log.set_flush_listener(weak);
    listener
}

#[test]
fn c05_no_uncommitted_byte_is_visible_when_the_high_watermark_is_the_end_at_a_roll() {
    let (_, storage) = sim();
    let (_manager, log) = start(&storage, &small());
    let mut committed = Vec::new();
    for i in 0..20 {
        let batch = plain(i, 700);
        committed.extend(stored(&batch, log.log_end_offset(), EPOCH));
        log.append_as_leader(&batch, EPOCH, NOW).unwrap();
        log.set_high_watermark(log.log_end_offset());
        let segments = log.segment_count();
        // The next append may roll; what it brings is not committed, on whichever side of the roll.
        log.append_as_leader(&plain(i, 700), EPOCH, NOW).unwrap();
        assert!(log.segment_count() >= segments);
        let read = read_from(&log, Offset::ZERO, ReadBound::HighWatermark);
        assert_eq!(read.len(), committed.len());
        let read = log.read(log.high_watermark(), 1 << 20, ReadBound::HighWatermark, true).unwrap();
        assert!(read.data.is_empty());
        committed = read_from(&log, Offset::ZERO, ReadBound::LogEnd);
        log.set_high_watermark(log.log_end_offset());
    }
    assert!(log.segment_count() > 10);
}

#[test]
fn c11_a_flipped_bit_below_the_recovery_point_is_found_and_told() {
    let (sim, storage) = sim();
    let config = LogConfig::default();
    let (manager, log) = start(&storage, &config);
    for i in 0..10 {
        log.append_as_leader(&plain(i, 100), EPOCH, NOW).unwrap();
    }
    flush(&manager, &log);
    manager.housekeeping(NOW);
    let size = log.size_bytes();
    drop((log, manager));
    sim.power_cut();
    let path = Path::new(DIR).join("t-0/00000000000000000000.log");
    sim.flip_bit(&path, size / 2 + 80, 3).unwrap();
    let (manager, log) = start(&storage, &config);
    let report = log.recovery_report();
    assert_eq!(report.lost_stable, Some((Offset(5), Offset(10))), "{report:?}");
    assert!(report.reason.as_deref().unwrap().contains("checksum"), "{report:?}");
    // Known until the cluster is told, even if the log itself looks sound the next time.
    assert!(manager.is_damaged());
    drop((log, manager));
    sim.power_cut();
    let (manager, log) = start(&storage, &config);
    assert!(manager.is_damaged() && log.recovery_report().lost_stable.is_none());
    manager.damage_told();
    assert!(!manager.is_damaged());
    drop((log, manager));
    let (manager, log) = start(&storage, &config);
    assert!(!manager.is_damaged());
    // What is good is served, and nothing of the rest.
    assert_eq!(records_of(&log).len(), 5);
}

#[test]
fn c11_a_file_cut_in_the_middle_is_found_after_a_clean_stop_too() {
    let (sim, storage) = sim();
    let config = LogConfig::default();
    let (manager, log) = start(&storage, &config);
    for i in 0..10 {
        log.append_as_leader(&plain(i, 100), EPOCH, NOW).unwrap();
    }
    let size = log.size_bytes();
    manager.close(None).unwrap();
    drop((log, manager));
    let path = Path::new(DIR).join("t-0/00000000000000000000.log");
    sim.open(&path, OpenMode::ReadWrite).unwrap().set_len(size / 2 + 7).unwrap();
    let (_manager, log) = start(&storage, &config);
    assert_eq!(log.recovery_report().lost_stable, Some((Offset(5), Offset(10))));
    assert_eq!(log.size_bytes(), size / 2);
    check_lookups(&log);
}

#[test]
fn c12_a_failed_sync_is_not_tried_again_and_fences_the_directory() {
    let (sim, storage) = sim();
    let dirs = [PathBuf::from("/a"), PathBuf::from("/b")];
    let config = LogConfig::default();
    let manager = LogManager::open(storage, manager_config(&dirs), NOW, &|_| config.clone()).unwrap();
    let log = |partition| manager.get_or_create(&tp("t", partition), None, config.clone(), NOW).unwrap();
    let (first, other_dir, neighbour) = (log(0), log(1), log(2));
    assert_eq!(first.data_dir(), neighbour.data_dir());
    assert_ne!(first.data_dir(), other_dir.data_dir());
    first.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap();
    manager.run_committers();
    let listeners = [listen(&first), listen(&neighbour), listen(&other_dir)];

    for log in [&first, &neighbour, &other_dir] {
        log.append_as_leader(&plain(2, 10), EPOCH, NOW).unwrap();
    }
    sim.fail_nth_on("t-0", &[OpKind::SyncData], 1, FaultError::Io);
    manager.run_committers();
    assert_eq!((first.flushed_offset(), first.log_end_offset()), (Offset(1), Offset(2)));
    assert_eq!(listeners[0].flushed.load(Ordering::SeqCst), 0, "no acknowledgement");
    assert!(listeners[0].failed.load(Ordering::SeqCst) > 0 && listeners[1].failed.load(Ordering::SeqCst) > 0);
    // The next sync would succeed, and save nothing.
    for log in [&first, &neighbour] {
        log.request_flush();
        manager.run_committers();
        assert!(log.log_is_failed());
        let refused = log.append_as_leader(&plain(3, 10), EPOCH, NOW).unwrap_err();
        assert!(matches!(refused, AppendError::Storage(StorageError::DirFailed { .. })), "{refused}");
        assert_eq!(refused.code(), ErrorCode::StorageError);
    }
    assert_eq!(first.flushed_offset(), Offset(1));
    // The other directory goes on, reads go on, new logs go to the other directory, and a clean stop is not claimed.
    assert_eq!(other_dir.flushed_offset(), Offset(1));
    assert_eq!(listeners[2].failed.load(Ordering::SeqCst), 0);
    assert_eq!(first.read(Offset(0), 1000, ReadBound::LogEnd, true).unwrap().next_offset, Offset(2));
    assert_eq!(log(3).data_dir(), other_dir.data_dir());
    let failed: Vec<_> = manager.dir_states().into_iter().map(|dir| dir.failed.is_some()).collect();
    assert_eq!(failed, [true, false]);
    assert!(manager.close(None).is_err());
    assert!(!sim.exists(Path::new("/a/.kafka_cleanshutdown")).unwrap());
    assert!(sim.exists(Path::new("/b/.kafka_cleanshutdown")).unwrap());
}

/// The kernel keeps what it could not write in the page cache, and calls it clean: a process that starts again reads it, and a
/// sync alone saves nothing of it.
#[test]
fn c12_what_is_served_after_a_failed_sync_and_a_restart_survives_a_power_cut() {
    let (sim, storage) = sim();
    let dirs = [PathBuf::from("/a")];
    let config = LogConfig::default();
    let open = || LogManager::open(storage.clone(), manager_config(&dirs), NOW, &|_| config.clone()).unwrap();
    {
        let manager = open();
        let log = manager.get_or_create(&tp("t", 0), None, config.clone(), NOW).unwrap();
        log.append_as_leader(&plain(1, 10), EPOCH, NOW).unwrap();
        manager.run_committers();
        log.append_as_leader(&plain(2, 10), EPOCH, NOW).unwrap();
        sim.fail_nth_on("t-0", &[OpKind::SyncData], 1, FaultError::Io);
        manager.run_committers();
        assert!(log.log_is_failed());
    }
    let served = open().get(&tp("t", 0)).unwrap().log_end_offset();
    assert_eq!(served, Offset(2), "the page cache has it still");
    sim.power_cut_strict();
    let manager = open();
    let log = manager.get(&tp("t", 0)).unwrap();
    assert_eq!(log.log_end_offset(), served);
    assert_eq!(log.read(Offset(0), 1000, ReadBound::LogEnd, true).unwrap().next_offset, served);
}

#[test]
fn c13_a_crash_or_a_full_disk_during_the_start_leaves_no_marker_for_the_next() {
    let (sim, storage) = sim();
    let (manager, log) = start(&storage, &small());
    for i in 0..10 {
        log.append_as_leader(&plain(i, 400), EPOCH, NOW).unwrap();
    }
    manager.close(None).unwrap();
    drop((log, manager));
    let marker = Path::new(DIR).join(".kafka_cleanshutdown");
    assert!(sim.exists(&marker).unwrap());
    // The start fails behind the marker.
    sim.fail_nth_on("t-0", &[OpKind::Open], 1, FaultError::Io);
    assert!(open(&storage, Path::new(DIR), &small()).is_err());
    sim.power_cut();
    assert!(!sim.exists(&marker).unwrap(), "gone for good before anything else was done");
    // The recovery itself meets a full disk, and then a crash.
    sim.fail_nth_on("t-0", &[OpKind::SyncData], 1, FaultError::NoSpace);
    assert!(open(&storage, Path::new(DIR), &small()).is_err());
    sim.cut_after_ops(2);
    assert!(open(&storage, Path::new(DIR), &small()).is_err());
    sim.restart();
    let (_manager, log) = start(&storage, &small());
    assert!(log.recovery_report().recovered);
    assert_eq!(records_of(&log).len(), 10);
}

#[test]
fn c14_whatever_is_wrong_with_an_index_lookups_equal_a_full_scan() {
    let (sim, storage) = sim();
    let (manager, log) = start(&storage, &small());
    for i in 0..40 {
        log.append_as_leader(&plain(1_000 + (i * 37) % 100, 150), EPOCH, NOW).unwrap();
    }
    manager.close(None).unwrap();
    drop((log, manager));
    let dir = Path::new(DIR).join("t-0");
    let damage = |name: &str, how: usize| {
        let path = dir.join(name);
        let file = sim.open(&path, OpenMode::ReadWrite).unwrap();
        let len = file.len().unwrap();
        match how {
            0 => sim.remove_file(&path).unwrap(),
            1 => file.set_len(0).unwrap(),
            2 => file.set_len(len.saturating_sub(3)).unwrap(),
            3 => file.set_len(len + 24).unwrap(),
            _ => sim.flip_bit(&path, len - 1, 6).unwrap(),
        }
    };
    for how in 0..5 {
        for name in names(&sim, ".index") {
            damage(&name, how);
        }
        // A time index whose entries are wrong but plausible cannot be told from a right one; it is written before the
        // marker and synced, so only what a crash can do to it is tried.
        if how < 4 {
            for name in names(&sim, ".timeindex") {
                damage(&name, how);
            }
        }
        let (manager, log) = start(&storage, &small());
        assert_eq!(records_of(&log).len(), 40);
        check_lookups(&log);
        manager.close(None).unwrap();
    }
}

#[test]
fn c14_damaged_checkpoints_cost_a_scan_and_nothing_else() {
    let (sim, storage) = sim();
    let (manager, log) = start(&storage, &small());
    for i in 0..20 {
        log.append_as_leader(&plain(i, 200), LeaderEpoch(i as i32 / 5), NOW).unwrap();
    }
    manager.close(None).unwrap();
    drop((log, manager));
    let files =
        ["recovery-point-offset-checkpoint", "replication-offset-checkpoint", "t-0/leader-epoch-checkpoint"];
    for name in files {
        let file = sim.open(&Path::new(DIR).join(name), OpenMode::ReadWrite).unwrap();
        file.set_len(file.len().unwrap() - 4).unwrap();
    }
    let (_manager, log) = start(&storage, &small());
    check_lookups(&log);
    assert_eq!(records_of(&log).len(), 20);
    for epoch in 0..3 {
        let end = Offset(i64::from(epoch + 1) * 5);
        assert_eq!(log.epoch_end_offset(LeaderEpoch(epoch)), Some((LeaderEpoch(epoch), end)));
    }
}

#[test]
fn c15_a_failed_append_leaves_no_trace_in_the_producer_state() {
    let (sim, storage) = sim();
    let (manager, log) = start(&storage, &small());
    let first = produced(1, 2, stamp(9, 0, 0));
    let second = produced(2, 3, stamp(9, 0, 2));
    log.append_as_leader(&first, EPOCH, NOW).unwrap();
    for error in [FaultError::NoSpace, FaultError::Io] {
        sim.fail_nth_on(".log", &[OpKind::Write], 1, error);
        let refused = log.append_as_leader(&second, EPOCH, NOW).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::StorageError);
        assert_eq!(records_of(&log).len(), 2, "nothing half-written is served");
    }
    // The same batch again is no duplicate and leaves no gap.
    let appended = log.append_as_leader(&second, EPOCH, NOW).unwrap();
    assert_eq!((appended.base_offset, appended.duplicate), (Offset(2), false));
    drop((log, manager));
    let (_manager, log) = start(&storage, &small());
    for (batch, base) in [(&first, 0), (&second, 2)] {
        let again = log.append_as_leader(batch, EPOCH, NOW).unwrap();
        assert_eq!(
            (again.base_offset, again.duplicate),
            (Offset(base), true),
            "known right after the restart"
        );
    }
    let gap = log.append_as_leader(&produced(3, 1, stamp(9, 0, 7)), EPOCH, NOW).unwrap_err();
    assert!(matches!(gap, AppendError::Producer(SequenceError::OutOfOrderSequence { .. })), "{gap}");
}

#[test]
fn c15_an_append_that_fails_at_a_roll_changes_nothing_and_may_be_repeated() {
    // Every call of the roll fails once.
    for nth in 1..20 {
        for error in [FaultError::NoSpace, FaultError::Io] {
            let (sim, storage) = sim();
            let (manager, log) = start(&storage, &small());
            log.append_as_leader(&produced(1, 20, stamp(9, 0, 0)), EPOCH, NOW).unwrap();
            let next = crate::harness::batch_of(
                &[2],
                1200,
                thalweg_core::compression::Compression::None,
                stamp(9, 0, 20),
            );
            let kinds = [OpKind::Open, OpKind::Write, OpKind::SyncData, OpKind::SyncDir, OpKind::Rename];
            sim.fail_nth_on("t-0", &kinds, nth, error);
            let result = log.append_as_leader(&next, EPOCH, NOW);
            sim.clear_faults();
            if let Err(err) = &result {
                assert_eq!(err.code(), ErrorCode::StorageError);
                assert_eq!(log.log_end_offset(), Offset(20));
                assert_eq!(records_of(&log).len(), 20);
                let again = log.append_as_leader(&next, EPOCH, NOW).unwrap();
                assert_eq!((again.base_offset, again.duplicate), (Offset(20), false));
            }
            assert_eq!(log.segment_count(), 2);
            for name in names(&sim, ".snapshot") {
                let offset: i64 = name.trim_end_matches(".snapshot").parse().unwrap();
                assert!(Offset(offset) <= log.log_end_offset(), "a snapshot is never ahead of the log");
            }
            manager.run_committers();
            drop((log, manager));
            sim.power_cut();
            let (_manager, log) = start(&storage, &small());
            assert_eq!(records_of(&log).len(), 21);
            assert!(log.append_as_leader(&next, EPOCH, NOW).unwrap().duplicate);
        }
    }
}

#[test]
fn c15_a_snapshot_ahead_of_the_log_is_not_used() {
    let (sim, storage) = sim();
    let (manager, log) = start(&storage, &small());
    log.append_as_leader(&produced(1, 1, stamp(9, 0, 0)), EPOCH, NOW).unwrap();
    flush(&manager, &log);
    // This fills the segment and is not synced; the roll that follows writes a snapshot that knows of it.
    let big =
        crate::harness::batch_of(&[2], 1200, thalweg_core::compression::Compression::None, stamp(9, 0, 1));
    log.append_as_leader(&big, EPOCH, NOW).unwrap();
    log.append_as_leader(&plain(3, 1000), EPOCH, NOW).unwrap();
    assert_eq!(names(&sim, ".snapshot").len(), 1);
    drop((log, manager));
    sim.power_cut_strict();
    let (_manager, log) = start(&storage, &small());
    assert_eq!(log.log_end_offset(), Offset(1));
    let again = log.append_as_leader(&big, EPOCH, NOW).unwrap();
    assert_eq!((again.base_offset, again.duplicate), (Offset(1), false), "the lost batch is taken again");
}

#[test]
fn c17_retention_never_passes_a_lagging_high_watermark() {
    let (_, storage) = sim();
    let config = LogConfig { retention_ms: Some(1), retention_bytes: Some(1), ..small() };
    let (_manager, log) = start(&storage, &config);
    for i in 0..30 {
        log.append_as_leader(&plain(i, 400), EPOCH, NOW).unwrap();
    }
    let segments = log.segment_count();
    for high_watermark in [0, 1, 7, 15, 29] {
        log.set_high_watermark(Offset(high_watermark));
        log.apply_retention(NOW).unwrap();
        assert!(log.log_start_offset() <= Offset(high_watermark));
        check_lookups(&log);
    }
    assert!(log.segment_count() < segments && log.log_start_offset() > Offset(20));
    log.set_high_watermark(Offset(30));
    log.apply_retention(NOW).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(30), Offset(30)));
    assert_eq!(log.append_as_leader(&plain(99, 10), EPOCH, NOW).unwrap().base_offset, Offset(30));
    assert_eq!(records_of(&log), [(Offset(30), Timestamp(99))]);
}
