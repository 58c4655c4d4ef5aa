//! A full disk refuses appends, harms nothing, and takes them again when there is space.

use crate::harness::{EPOCH, NOW, check_lookups, open, open_log, plain, read_from, small};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, Timestamp};
use thalweg_log::storage::{FaultError, OpKind, SimStorage, Storage};
use thalweg_log::{AppendError, Log, LogConfig, LogManager, ReadBound, StorageError};

const DIR: &str = "/data";

#[test]
fn a_full_disk_refuses_appends_until_space_returns() {
    for config in [small(), LogConfig { retention_ms: None, ..LogConfig::default() }] {
        let sim = SimStorage::new(11);
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let manager = open(&storage, Path::new(DIR), &config).unwrap();
        let log = open_log(&manager, &config).unwrap();
        sim.set_capacity(Some(sim.used_bytes() + 10_000));
        let mut refused = 0;
        for i in 0..60 {
            let end = log.log_end_offset();
            match log.append_as_leader(&plain(i, 500), EPOCH, NOW) {
                Ok(appended) => assert_eq!(appended.base_offset, end),
                Err(err) => {
                    assert_eq!(err.code(), ErrorCode::StorageError);
                    assert_eq!(log.log_end_offset(), end);
                    refused += 1;
                }
            }
        }
        let kept = log.log_end_offset();
        assert!(refused > 0 && kept > Offset(5), "{refused} refused, {kept} kept");
        assert!(!log.log_is_failed());
        let before = read_from(&log, Offset::ZERO, ReadBound::LogEnd);
        check_lookups(&log);
        manager.run_committers();
        assert_eq!(log.flushed_offset(), kept, "what was taken is stable");

        sim.set_capacity(None);
        assert_eq!(log.append_as_leader(&plain(70, 500), EPOCH, NOW).unwrap().base_offset, kept);
        manager.run_committers();
        drop((log, manager));
        sim.power_cut();
        let manager = open(&storage, Path::new(DIR), &config).unwrap();
        let log = open_log(&manager, &config).unwrap();
        assert_eq!(log.log_end_offset(), kept.advance(1));
        assert!(read_from(&log, Offset::ZERO, ReadBound::LogEnd).starts_with(&before));
        check_lookups(&log);
    }
}

#[test]
fn a_log_opens_on_a_full_disk() {
    let sim = SimStorage::new(12);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let manager = open(&storage, Path::new(DIR), &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    for i in 0..20 {
        log.append_as_leader(&plain(i, 300), EPOCH, NOW).unwrap();
    }
    manager.run_committers();
    manager.housekeeping(NOW);
    let all = read_from(&log, Offset::ZERO, ReadBound::LogEnd);
    drop((log, manager));
    sim.power_cut();
    // The indexes are rebuilt: there is no space for them, but memory is enough.
    sim.fail_nth_on("index", &[OpKind::Write], 1, FaultError::NoSpace);
    let manager = open(&storage, Path::new(DIR), &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    assert_eq!(read_from(&log, Offset::ZERO, ReadBound::LogEnd), all);
    check_lookups(&log);
}

/// One index file of a segment is stored and the other is not: both go, and are written whole later.
#[test]
fn half_a_stored_index_is_forgotten_and_written_anew() {
    for op in [OpKind::Write, OpKind::SyncData] {
        for nth in 1..=6 {
            let sim = SimStorage::new(14);
            let storage: Arc<dyn Storage> = Arc::new(sim.clone());
            let manager = open(&storage, Path::new(DIR), &small()).unwrap();
            let log = open_log(&manager, &small()).unwrap();
            for i in 0..14 {
                log.append_as_leader(&plain(i, 300), EPOCH, NOW).unwrap();
            }
            log.request_flush();
            manager.run_committers();
            drop((log, manager));
            // No checkpoint was written: all segments are scanned and their indexes stored.
            sim.power_cut_strict();
            // Twice: the first lookup would mend the index.
            sim.fail_nth_on(".timeindex", &[op], nth, FaultError::NoSpace);
            sim.fail_nth_on(".timeindex", &[OpKind::Write], nth + 1, FaultError::NoSpace);
            let manager = open(&storage, Path::new(DIR), &small()).unwrap();
            sim.clear_faults();
            let log = open_log(&manager, &small()).unwrap();
            for i in 14..30 {
                log.append_as_leader(&plain(i, 300), EPOCH, NOW).unwrap();
            }
            manager.run_committers();
            check_lookups(&log);
            drop(log);
            manager.close(None).unwrap();
            drop(manager);
            let manager = open(&storage, Path::new(DIR), &small()).unwrap();
            let log = open_log(&manager, &small()).unwrap();
            assert!(!log.recovery_report().recovered, "{op:?} {nth}");
            assert_eq!(log.log_end_offset(), Offset(30));
            check_lookups(&log);
        }
    }
}

#[test]
fn a_torn_append_that_cannot_be_cut_away_stops_appends_but_not_reads() {
    let sim = SimStorage::new(13);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let manager = open(&storage, Path::new(DIR), &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    log.append_as_leader(&plain(1, 100), EPOCH, NOW).unwrap();
    sim.fail_nth_on(".log", &[OpKind::Write], 1, FaultError::Io);
    sim.fail_nth_on(".log", &[OpKind::SetLen], 1, FaultError::Io);
    assert!(log.append_as_leader(&plain(2, 100), EPOCH, NOW).is_err());
    assert!(log.log_is_failed());
    let refused = log.append_as_leader(&plain(3, 100), EPOCH, NOW).unwrap_err();
    assert!(matches!(refused, AppendError::Storage(StorageError::LogFailed { .. })), "{refused}");
    let read = log.read(Offset(0), 10_000, ReadBound::LogEnd, true).unwrap();
    assert_eq!(read.next_offset, Offset(1));
    assert!(manager.close(None).is_err(), "a torn log is not closed cleanly");
    drop((log, manager));
    let manager = open(&storage, Path::new(DIR), &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    assert!(log.recovery_report().recovered);
    assert_eq!(log.log_end_offset(), Offset(1));
    assert_eq!(log.append_as_leader(&plain(4, 100), EPOCH, NOW).unwrap().base_offset, Offset(1));
}

/// A log of several segments and two leader epochs, whose records are all older than `retention.ms`.
fn expired() -> (SimStorage, LogManager, Arc<Log>, Timestamp) {
    let sim = SimStorage::new(15);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let config = LogConfig { retention_ms: Some(1_000), ..small() };
    let manager = open(&storage, Path::new(DIR), &config).unwrap();
    let log = open_log(&manager, &config).unwrap();
    for i in 0..20 {
        let epoch = if i < 3 { EPOCH } else { LeaderEpoch(1) };
        log.append_as_leader(&plain(NOW.as_millis(), 300), epoch, NOW).unwrap();
    }
    manager.run_committers();
    log.set_high_watermark(Offset(20));
    (sim, manager, log, NOW.saturating_add_millis(2_000))
}

fn segment_files(sim: &SimStorage) -> usize {
    let entries = sim.list(&Path::new(DIR).join("t-0")).unwrap();
    entries.iter().filter(|entry| entry.name.ends_with(".log")).count()
}

#[test]
fn retention_makes_room_on_a_full_disk() {
    // What fails while the segments go: the epochs, the snapshot that a roll writes, the new segment, a removal.
    let faults = [
        ("leader-epoch-checkpoint", OpKind::Write, 1),
        (".snapshot", OpKind::Write, 1),
        (".log", OpKind::Open, 1),
        (".log", OpKind::Remove, 2),
    ];
    for (name, op, nth) in faults {
        let (sim, _manager, log, later) = expired();
        assert!(segment_files(&sim) > 3);
        sim.fail_nth_on(name, &[op], nth, FaultError::NoSpace);
        let result = log.apply_retention(later);
        assert_eq!(result.is_err(), op == OpKind::Remove, "{name}: {result:?}");
        if op != OpKind::Remove {
            assert_eq!((log.segment_count(), segment_files(&sim)), (1, 1), "{name}");
        }
        log.apply_retention(later).unwrap();
        assert_eq!((log.segment_count(), segment_files(&sim)), (1, 1), "{name}, second round");
        assert_eq!(log.log_start_offset(), Offset(20));
        assert_eq!(log.epoch_end_offset(LeaderEpoch(0)), Some((LeaderEpoch(0), Offset(20))));
    }
}

#[test]
fn delete_records_removes_the_files_even_if_nothing_can_be_written() {
    for name in ["leader-epoch-checkpoint", "log-start-offset-checkpoint"] {
        let (sim, _manager, log, _) = expired();
        sim.fail_nth_on(name, &[OpKind::Write], 1, FaultError::NoSpace);
        let stable = log.delete_records(Offset(19)).is_ok();
        assert_eq!(
            stable,
            name.starts_with("leader"),
            "{name}: the start is stable or the caller hears of it"
        );
        assert_eq!(segment_files(&sim), log.segment_count(), "{name}");
        assert_eq!(log.delete_records(Offset(19)).unwrap(), Offset(19));
    }
}

#[test]
fn a_full_disk_during_a_truncation_leaves_the_log_as_it_was_or_cuts_it() {
    let starts_over = |log: &Log, to| log.truncate_fully_and_start_at(Offset(to), EPOCH);
    let cuts = |log: &Log, to| log.truncate_to(Offset(to), EPOCH);
    type Change = dyn Fn(&Log, i64) -> Result<Offset, thalweg_log::ReadError>;
    let changes: [(&Change, i64); 3] = [(&cuts, 2), (&starts_over, 100), (&starts_over, 20)];
    for (case, (change, to)) in changes.iter().enumerate() {
        let mut failed = 0;
        for nth in 1..40 {
            let (sim, manager, log, _) = expired();
            log.update_config(LogConfig { retention_ms: None, retention_bytes: None, ..small() });
            manager.housekeeping(NOW.saturating_add_millis(100_000_000));
            let (size, end) = (log.size_bytes(), log.log_end_offset());
            let kinds = [OpKind::Open, OpKind::Write, OpKind::SyncData, OpKind::Rename];
            sim.fail_nth_on("checkpoint", &kinds, nth, FaultError::NoSpace);
            if change(&log, *to).is_err() {
                failed += 1;
                assert!(!log.log_is_failed() && manager.failed_dir().is_none(), "{case} {nth}");
                assert_eq!((log.size_bytes(), log.log_end_offset()), (size, end), "{case} {nth}");
                assert_eq!(log.high_watermark(), end);
                check_lookups(&log);
                let epochs = [LeaderEpoch(0), LeaderEpoch(1)].map(|epoch| log.epoch_end_offset(epoch));
                // A crash right behind the failure brings all of it back.
                if nth % 2 == 0 {
                    manager.housekeeping(NOW.saturating_add_millis(200_000_000));
                    drop((log, manager));
                    sim.power_cut();
                    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
                    let manager = open(&storage, Path::new(DIR), &small()).unwrap();
                    let log = open_log(&manager, &small()).unwrap();
                    assert_eq!(log.recovery_report().lost_stable, None, "{case} {nth}");
                    assert_eq!(log.log_end_offset(), end);
                    let again = [LeaderEpoch(0), LeaderEpoch(1)].map(|epoch| log.epoch_end_offset(epoch));
                    assert_eq!(again, epochs, "{case} {nth}");
                    continue;
                }
                change(&log, *to).unwrap();
            }
            sim.clear_faults();
            assert_eq!(log.log_end_offset(), Offset(*to), "{case} {nth}");
            check_lookups(&log);
            log.append_as_leader(&plain(NOW.as_millis(), 300), LeaderEpoch(2), NOW).unwrap();
            check_lookups(&log);
        }
        assert!(failed > 3, "{case}: {failed}");
    }
}

#[test]
fn a_disk_that_fails_in_the_middle_of_a_truncation_is_out_of_use() {
    let (sim, manager, log, _) = expired();
    let listen = || {
        let rung = Arc::new(AtomicUsize::new(0));
        let bell = Arc::clone(&rung);
        manager.on_dir_failure(Arc::new(move || _ = bell.fetch_add(1, Ordering::SeqCst)));
        rung
    };
    let rung = listen();
    sim.fail_nth_on(".log", &[OpKind::SetLen], 1, FaultError::Io);
    assert!(log.truncate_to(Offset(2), EPOCH).is_err());
    assert!(log.log_is_failed());
    let (dir, reason) = manager.failed_dir().unwrap();
    assert_eq!((dir.as_path(), rung.load(Ordering::SeqCst)), (Path::new(DIR), 1));
    assert!(reason.contains("00000000000000000000.log"), "{reason}");
    assert_eq!(listen().load(Ordering::SeqCst), 1, "who asks late hears it, too");
}
