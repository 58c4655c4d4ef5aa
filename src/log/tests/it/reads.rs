//! Reads and appends side by side, followers, and the leader's time.

use crate::harness::{
    EPOCH, NOW, batch_of, open, open_log, plain, produced, read_from, records_of, small, stamp,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thalweg_core::batch::{BatchIter, ProducerStamp, TimestampType};
use thalweg_core::compression::Compression;
use thalweg_core::{LeaderEpoch, Offset, Timestamp};
use thalweg_log::storage::{OsStorage, SimStorage, Storage};
use thalweg_log::{AppendError, LogConfig, ReadBound, ReadError};

fn sim() -> Arc<dyn Storage> {
    Arc::new(SimStorage::new(5))
}

/// Readers see whole, good batches and no gap while one thread appends, rolls, retains, truncates and flushes.
#[test]
fn readers_beside_appends_truncations_and_retention_see_whole_batches_only() {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(OsStorage::new());
    let config = LogConfig { segment_bytes: 20_000, retention_bytes: Some(60_000), ..small() };
    let manager = open(&storage, dir.path(), &config).unwrap();
    let log = open_log(&manager, &config).unwrap();
    let done = AtomicBool::new(false);
    let read_batches = std::thread::scope(|scope| {
        let reader = |bound| {
            let (log, done) = (&log, &done);
            move || {
                let (mut from, mut batches) = (Offset::ZERO, 0u64);
                while !done.load(Ordering::Relaxed) {
                    let read = match log.read(from, 3_000, bound, true) {
                        Ok(read) => read,
                        Err(ReadError::OffsetOutOfRange { log_start, log_end, .. }) => {
                            from = if from < log_start { log_start } else { log_end };
                            continue;
                        }
                        Err(err) => panic!("{err}"),
                    };
                    let mut next = None;
                    for batch in BatchIter::new(&read.data) {
                        let batch = batch.unwrap();
                        batch.verify().unwrap();
                        assert!(next.is_none_or(|next| next == batch.header.base_offset));
                        next = Some(batch.header.next_offset());
                        batches += 1;
                    }
                    if let Some(next) = next {
                        assert_eq!(read.next_offset, next);
                    }
                    // A reader at the end starts again at the beginning, so that old segments are read too.
                    from = if read.data.is_empty() { log.log_start_offset() } else { read.next_offset };
                }
                batches
            }
        };
        let readers = [ReadBound::HighWatermark, ReadBound::LogEnd, ReadBound::LastStable]
            .map(|bound| scope.spawn(reader(bound)));
        for i in 0..3_000i64 {
            log.append_as_leader(
                &batch_of(&[i, i + 1], 100, Compression::None, ProducerStamp::NONE),
                EPOCH,
                NOW,
            )
            .unwrap();
            match i % 100 {
                13 | 63 => log.set_high_watermark(Offset(log.log_end_offset().get() - 3)),
                37 => drop(log.apply_retention(NOW).unwrap()),
                71 => drop(log.truncate_to(Offset(log.log_end_offset().get() - 2), EPOCH).unwrap()),
                90 => drop(manager.run_committers()),
                _ => {}
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap())
    });
    assert!(read_batches.iter().all(|batches| *batches > 0), "{read_batches:?}");
}

#[test]
fn a_followers_log_is_its_leaders_byte_for_byte() {
    let (leader_disk, follower_disk) = (sim(), sim());
    let leader_manager = open(&leader_disk, Path::new("/l"), &small()).unwrap();
    let follower_manager =
        open(&follower_disk, Path::new("/f"), &LogConfig { segment_bytes: 900, ..small() });
    let follower_manager = follower_manager.unwrap();
    let leader = open_log(&leader_manager, &small()).unwrap();
    let follower = open_log(&follower_manager, &LogConfig { segment_bytes: 900, ..small() }).unwrap();
    for i in 0..30 {
        let batch = produced(i, 2, stamp(4, 0, i as i32 * 2));
        leader.append_as_leader(&batch, LeaderEpoch(i as i32 / 10), NOW).unwrap();
    }
    while follower.log_end_offset() < leader.log_end_offset() {
        let read = leader.read(follower.log_end_offset(), 2_000, ReadBound::LogEnd, true).unwrap();
        follower.append_as_follower(&read.data, LeaderEpoch(2), NOW).unwrap();
    }
    assert!(follower.segment_count() > leader.segment_count());
    let all = read_from(&leader, Offset::ZERO, ReadBound::LogEnd);
    assert_eq!(read_from(&follower, Offset::ZERO, ReadBound::LogEnd), all);
    for epoch in 0..3 {
        let epoch = LeaderEpoch(epoch);
        assert_eq!(follower.epoch_end_offset(epoch), leader.epoch_end_offset(epoch));
    }
    // The follower knows the producers: as a leader it would answer a repeated batch as its leader did.
    let again = follower.append_as_leader(&produced(29, 2, stamp(4, 0, 58)), LeaderEpoch(3), NOW).unwrap();
    assert_eq!((again.duplicate, again.base_offset), (true, Offset(58)));
    let first = leader.read(Offset::ZERO, 1, ReadBound::LogEnd, true).unwrap();
    let refused = follower.append_as_follower(&first.data, LeaderEpoch(3), NOW);
    assert!(matches!(refused, Err(AppendError::NotContinuous { .. })));
    let refused = follower.append_as_follower(&first.data[..50], LeaderEpoch(3), NOW);
    assert!(matches!(refused, Err(AppendError::Batch(_))));
    assert_eq!(follower.log_end_offset(), leader.log_end_offset());
}

#[test]
fn log_append_time_replaces_the_producers_time_under_a_good_checksum() {
    let disk = sim();
    let config = LogConfig { message_timestamp_type: TimestampType::LogAppendTime, ..small() };
    let manager = open(&disk, Path::new("/d"), &config).unwrap();
    let log = open_log(&manager, &config).unwrap();
    let batch = produced(5, 3, stamp(1, 0, 0));
    let appended = log.append_as_leader(&batch, EPOCH, NOW).unwrap();
    assert_eq!(appended.log_append_time, NOW);
    let times: Vec<_> = records_of(&log).into_iter().map(|(_, time)| time).collect();
    assert_eq!(times, [NOW; 3], "and the checksum holds");
    assert_eq!(log.offset_for_timestamp(Timestamp(6)).unwrap(), Some((Offset(0), NOW)));
    let again = log.append_as_leader(&batch, EPOCH, NOW.saturating_add_millis(9)).unwrap();
    assert_eq!((again.duplicate, again.log_append_time), (true, NOW));
    log.update_config(small());
    let appended = log.append_as_leader(&plain(7, 5), EPOCH, NOW).unwrap();
    assert_eq!(appended.log_append_time, Timestamp::NONE);
}

#[test]
fn a_batch_larger_than_the_read_is_given_whole_or_not_at_all() {
    let disk = sim();
    let config = LogConfig::default();
    let manager = open(&disk, Path::new("/d"), &config).unwrap();
    let log = open_log(&manager, &config).unwrap();
    log.append_as_leader(&plain(1, 50_000), EPOCH, NOW).unwrap();
    log.append_as_leader(&plain(2, 10), EPOCH, NOW).unwrap();
    let size = log.read(Offset(0), 1 << 20, ReadBound::LogEnd, false).unwrap().data.len();
    for max_bytes in [0, 1, 61, 5_000, 50_000] {
        let none = log.read(Offset(0), max_bytes, ReadBound::LogEnd, false).unwrap();
        assert_eq!((none.data.len(), none.next_offset), (0, Offset(0)));
        let whole = log.read(Offset(0), max_bytes, ReadBound::LogEnd, true).unwrap();
        assert_eq!(whole.next_offset, Offset(1));
        assert!(whole.data.len() > 50_000 && whole.data.len() < size);
    }
    let both = log.read(Offset(0), size, ReadBound::LogEnd, false).unwrap();
    assert_eq!((both.data.len(), both.next_offset), (size, Offset(2)));
}

#[test]
fn an_earlier_leader_is_refused() {
    let disk = sim();
    let manager = open(&disk, Path::new("/d"), &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    log.append_as_leader(&plain(1, 10), LeaderEpoch(4), NOW).unwrap();
    let refused = log.append_as_leader(&plain(2, 10), LeaderEpoch(3), NOW);
    assert!(matches!(refused, Err(AppendError::StaleEpoch { .. })), "{refused:?}");
    assert_eq!((log.log_end_offset(), log.latest_epoch()), (Offset(1), Some(LeaderEpoch(4))));
}

#[test]
fn a_batch_larger_than_a_segment_is_refused() {
    let disk = sim();
    let manager = open(&disk, Path::new("/d"), &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    let refused = log.append_as_leader(&plain(1, 2_000), EPOCH, NOW);
    assert!(matches!(refused, Err(AppendError::LargerThanSegment { .. })), "{refused:?}");
    assert_eq!(log.log_end_offset(), Offset(0));
}

#[test]
fn a_truncated_log_starts_over_where_it_is_told() {
    let disk = sim();
    let manager = open(&disk, Path::new("/d"), &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    for i in 0..10 {
        log.append_as_leader(&produced(i, 1, stamp(3, 0, i as i32)), EPOCH, NOW).unwrap();
    }
    assert_eq!(log.truncate_fully_and_start_at(Offset(100), EPOCH).unwrap(), Offset(100));
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(100), Offset(100)));
    assert_eq!((log.high_watermark(), log.latest_epoch()), (Offset(100), None));
    // Its producers are unknown again.
    assert!(log.append_as_leader(&produced(1, 1, stamp(3, 0, 10)), EPOCH, NOW).is_err());
    log.append_as_leader(&plain(7, 10), EPOCH, NOW).unwrap();
    manager.close(None).unwrap();
    drop((log, manager));
    let manager = open(&disk, Path::new("/d"), &small()).unwrap();
    let log = open_log(&manager, &small()).unwrap();
    assert_eq!(records_of(&log), [(Offset(100), Timestamp(7))]);
}
