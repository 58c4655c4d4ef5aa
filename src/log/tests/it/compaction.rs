//! Compaction, by its rules. Catalogue 16 is here.

use crate::compacted::{PLENTY, check_compacted, clean, compact, keyed, keyless, keys_and_values, row, rows};
use crate::harness::{EPOCH, NOW, flush, open, open_log, stamp, stored, tp};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use thalweg_core::batch::{BatchBuilder, BatchIter, Limits, ProducerStamp, ValidBatch};
use thalweg_core::compression::Compression;
use thalweg_core::{LeaderEpoch, Offset, Sequence, Timestamp};
use thalweg_log::dump::{self, FindingKind};
use thalweg_log::storage::{FaultError, OpKind, OpenMode, SimStorage, Storage};
use thalweg_log::{AppendError, CleanStep, Log, LogConfig, LogManager, LogMode, ReadBound};

const DIR: &str = "/data";
const DAY: i64 = 86_400_000;

struct Broker {
    sim: SimStorage,
    config: LogConfig,
    manager: LogManager,
    log: Arc<Log>,
}

fn later(ms: i64) -> Timestamp {
    NOW.saturating_add_millis(ms)
}

impl Broker {
    fn new(config: LogConfig) -> Broker {
        Broker::on(SimStorage::new(1), config)
    }

    fn on(sim: SimStorage, config: LogConfig) -> Broker {
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let manager = open(&storage, Path::new(DIR), &config).unwrap();
        let log = open_log(&manager, &config).unwrap();
        Broker { sim, config, manager, log }
    }

    fn reopen(self) -> Broker {
        let Broker { sim, config, manager, log } = self;
        manager.close(None).unwrap();
        drop((manager, log));
        let broker = Broker::on(sim, config);
        assert!(!broker.log.recovery_report().recovered);
        broker
    }

    fn put(&self, key: &str, value: Option<&str>) -> Offset {
        self.put_at(key, value, NOW)
    }

    fn put_at(&self, key: &str, value: Option<&str>, at: Timestamp) -> Offset {
        let batch = keyed(&[row(key, value)], at, Compression::None, ProducerStamp::NONE);
        self.log.append_as_leader(&batch, EPOCH, NOW).unwrap().base_offset
    }

    /// Closes the active segment: a record of another key that is as large as a segment.
    fn roll(&self) {
        let segments = self.log.segment_count();
        let filler = "x".repeat(self.config.segment_bytes as usize - 100);
        self.put("filler", Some(&filler));
        self.put("filler", Some("end"));
        assert!(self.log.segment_count() > segments);
    }

    fn commit(&self) {
        flush(&self.manager, &self.log);
        self.log.set_high_watermark(self.log.log_end_offset());
    }

    fn clean_at(&self, now: Timestamp) -> bool {
        clean(&self.manager, now, PLENTY).is_some()
    }

    fn has(&self, offset: Offset) -> bool {
        rows(&self.log).iter().any(|row| row.offset == offset)
    }

    /// What `log dump --verify` finds in all files of the partition.
    fn findings(&self) -> Vec<(String, FindingKind)> {
        let dir = Path::new(DIR).join("t-0");
        let mut found = Vec::new();
        for entry in self.sim.list(&dir).unwrap() {
            let path = dir.join(&entry.name);
            if dump::FileKind::of(&path).is_some() {
                let report = dump::verify(&self.sim, &path, 1 << 20).unwrap();
                found.extend(report.findings.into_iter().map(|finding| (entry.name.clone(), finding.kind)));
            }
        }
        found
    }
}

#[test]
fn the_last_record_of_each_key_stays_where_it_was() {
    let broker = Broker::new(compact());
    for round in 0..20 {
        for key in ["a", "b", "c"] {
            broker.put(key, Some(&format!("{key}{round}")));
        }
    }
    broker.put("b", Some("last"));
    broker.roll();
    broker.commit();
    let size = broker.log.size_bytes();
    assert!(broker.clean_at(NOW));
    let left = keys_and_values(&broker.log);
    let small: Vec<_> = left.iter().filter(|(_, key, _)| key != "filler").cloned().collect();
    let expected = [(57, "a", "a19"), (59, "c", "c19"), (60, "b", "last")];
    assert_eq!(small, expected.map(|(at, key, value)| (at, key.to_owned(), Some(value.to_owned()))));
    assert!(broker.log.size_bytes() < size);
    // Nothing is dirty now.
    assert!(!broker.clean_at(later(10 * DAY)));
    assert_eq!(broker.findings(), []);
    let broker = broker.reopen();
    assert_eq!(keys_and_values(&broker.log), left);
    // What is small now has room in one segment together, once there is something to clean.
    broker.put("d", Some("d"));
    broker.roll();
    broker.commit();
    let stats = clean(&broker.manager, NOW, PLENTY).unwrap();
    assert!(stats.segments_written < stats.segments_replaced, "{stats:?}");
    let still: Vec<_> =
        keys_and_values(&broker.log).into_iter().filter(|(_, key, _)| key != "filler").collect();
    assert_eq!(still[..3], small[..]);
}

#[test]
fn a_fetch_of_an_offset_that_is_gone_gives_the_next_one() {
    let broker = Broker::new(compact());
    for round in 0..10 {
        broker.put("k", Some(&format!("{round}")));
    }
    broker.roll();
    broker.commit();
    assert!(broker.clean_at(NOW));
    for from in 0..10 {
        let read = broker.log.read(Offset(from), 1, ReadBound::HighWatermark, true).unwrap();
        let batch = BatchIter::new(&read.data).next().unwrap().unwrap();
        assert_eq!((batch.header.base_offset, batch.header.record_count), (Offset(9), 1), "from {from}");
        assert_eq!(read.next_offset, Offset(10));
    }
}

/// Catalogue 16: only what is committed is cleaned, and never the active segment.
#[test]
fn c16_nothing_above_the_high_watermark_or_in_the_active_segment_is_cleaned() {
    let broker = Broker::new(compact());
    for i in 0..200 {
        broker.put("k", Some(&format!("{i}")));
    }
    flush(&broker.manager, &broker.log);
    for watermark in [0, 1, 40, 41, 77, 120, 199, 200] {
        broker.log.set_high_watermark(Offset(watermark));
        broker.clean_at(later(watermark));
        let kept: Vec<i64> = rows(&broker.log).iter().map(|row| row.offset.get()).collect();
        assert!((watermark..200).all(|offset| kept.contains(&offset)), "{watermark}: {kept:?}");
        assert!(broker.log.cleaned_offset().is_none_or(|cleaned| cleaned <= Offset(watermark)));
    }
    // All is committed. The active segment has several records of the key all the same.
    let segments: Vec<i64> = rows(&broker.log).iter().map(|row| row.offset.get()).collect();
    assert!(segments.len() > 1 && segments.len() < 60, "{segments:?}");
    assert!(segments.windows(2).all(|pair| pair[1] == pair[0] + 1) || segments[1] > segments[0] + 1);
}

/// What is not on this disk for good is not what a key's last record is judged by.
#[test]
fn what_is_not_flushed_is_not_cleaned() {
    let broker = Broker::new(compact());
    for i in 0..100 {
        broker.put("k", Some(&format!("{i}")));
    }
    broker.log.set_high_watermark(broker.log.log_end_offset());
    assert!(!broker.clean_at(NOW));
    broker.commit();
    assert!(broker.clean_at(NOW));
}

/// Catalogue 16: a tombstone outlives what it deletes, for `delete.retention.ms` from its first cleaning on, and then it goes.
#[test]
fn c16_tombstones_outlive_their_data_and_do_expire() {
    let broker = Broker::new(LogConfig { delete_retention_ms: DAY, ..compact() });
    let value = broker.put("k", Some("v"));
    broker.roll();
    broker.commit();
    assert!(broker.clean_at(NOW) && broker.has(value));
    let tombstone = broker.put("k", None);
    broker.roll();
    broker.commit();
    // Long after the tombstone was written: the time runs from its first cleaning.
    assert!(broker.clean_at(later(10 * DAY)));
    assert!(!broker.has(value) && broker.has(tombstone));
    let dirty = |broker: &Broker| {
        broker.put("other", Some("x"));
        broker.roll();
        broker.commit();
    };
    dirty(&broker);
    assert!(broker.clean_at(later(11 * DAY - 1)));
    assert!(broker.has(tombstone), "a reader that began with the first cleaning may still need it");
    // The horizon survives a restart: it is in the batch.
    let broker = broker.reopen();
    dirty(&broker);
    assert!(broker.clean_at(later(11 * DAY)));
    assert!(!broker.has(tombstone));
    assert!(rows(&broker.log).iter().all(|row| row.key.as_deref() != Some("k")));
}

/// Catalogue 16, KIP-534: further cleanings do not put the horizon off.
#[test]
fn c16_a_tombstone_is_not_kept_alive_by_cleanings() {
    let broker = Broker::new(LogConfig { delete_retention_ms: DAY, ..compact() });
    let tombstone = broker.put("k", None);
    for round in 0..10 {
        broker.put("other", Some("x"));
        broker.roll();
        broker.commit();
        assert!(broker.clean_at(later(round * DAY / 4)));
        assert_eq!(broker.has(tombstone), round < 4, "round {round}");
    }
}

/// Catalogue 16: a transaction's marker outlives the records that it decides about. (Control batches stay for good, until
/// the transactions come that say when one may go.)
#[test]
fn c16_markers_outlive_their_data() {
    let broker = Broker::new(compact());
    let transactional = ProducerStamp { transactional: true, ..stamp(7, 0, 0) };
    let batch = keyed(&[row("k", Some("v"))], NOW, Compression::None, transactional);
    broker.log.append_as_leader(&batch, EPOCH, NOW).unwrap();
    let mut builder = BatchBuilder::new(Compression::None, 1 << 10);
    builder.append(NOW, Some(&[0, 0, 0, 1]), Some(&[0; 6]), &[]);
    let stamped = ProducerStamp { base_sequence: Sequence::NONE, ..transactional };
    let mut marker = builder.finish(stamped).to_vec();
    // The control bit, and the checksum over it.
    marker[22] |= 1 << 5;
    let crc = crc32c::crc32c(&marker[21..]);
    marker[17..21].copy_from_slice(&crc.to_be_bytes());
    let marker = ValidBatch::check_internal(marker.into(), &Limits::default()).unwrap();
    let at = broker.log.log_end_offset();
    broker.log.append_as_follower(&stored(&marker, at, EPOCH), EPOCH, NOW).unwrap();
    broker.put("k", Some("w"));
    broker.roll();
    broker.commit();
    for day in 0..5 {
        broker.put("other", Some("x"));
        broker.roll();
        broker.commit();
        assert!(broker.clean_at(later(day * DAY)));
    }
    assert!(!broker.has(Offset(0)) && broker.has(at));
}

#[test]
fn every_codec_stays_and_so_do_timestamps_and_bytes() {
    for codec in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let broker = Broker::new(compact());
        let mut written = BTreeMap::new();
        for i in 0..40i64 {
            let batch: Vec<_> =
                (0..4).map(|k| row(&format!("k{}", (i * 3 + k) % 11), Some(&format!("{i}/{k}")))).collect();
            let batch = keyed(&batch, later(i * 7 % 13), codec, ProducerStamp::NONE);
            broker.log.append_as_leader(&batch, EPOCH, NOW).unwrap();
        }
        for row in rows(&broker.log) {
            written.insert(row.offset, row);
        }
        broker.roll();
        for row in rows(&broker.log) {
            written.insert(row.offset, row);
        }
        broker.commit();
        assert!(broker.clean_at(NOW));
        check_compacted(&broker.log, &written);
        assert!(rows(&broker.log).len() < 20, "{codec}");
        assert_eq!(broker.findings(), [], "{codec}");
        let bytes = crate::harness::read_from(&broker.log, Offset(0), ReadBound::LogEnd);
        let batches = BatchIter::new(&bytes).map(|batch| batch.unwrap().header);
        let of_codec =
            batches.filter(|header| header.attributes.compression() == Ok(codec) && header.record_count > 0);
        assert!(of_codec.count() > 1, "{codec}");
    }
}

#[test]
fn a_producers_last_sequence_stays_known_when_its_records_are_gone() {
    let broker = Broker::new(compact());
    let batch = |sequence, value: &str| {
        keyed(&[row("k", Some(value))], NOW, Compression::None, stamp(9, 0, sequence))
    };
    for sequence in 0..3 {
        broker.log.append_as_leader(&batch(sequence, "v"), EPOCH, NOW).unwrap();
    }
    broker.put("k", Some("w"));
    broker.roll();
    broker.commit();
    assert!(broker.clean_at(NOW));
    assert!(!broker.has(Offset(2)));
    // A follower that copies the compacted log knows the producer as the leader does.
    let follower = Broker::new(compact());
    follower.log.begin_epoch(EPOCH, LogMode::Following).unwrap();
    let bytes = crate::harness::read_from(&broker.log, Offset(0), ReadBound::LogEnd);
    follower.log.append_as_follower(&bytes, EPOCH, NOW).unwrap();
    assert_eq!(rows(&follower.log), rows(&broker.log));
    follower.log.begin_epoch(LeaderEpoch(1), LogMode::Leading).unwrap();
    for log in [&follower.log, &broker.log] {
        let epoch = log.latest_epoch().unwrap();
        let again = log.append_as_leader(&batch(2, "v"), epoch, NOW).unwrap();
        assert_eq!((again.duplicate, again.base_offset), (true, Offset(2)));
        assert!(!log.append_as_leader(&batch(3, "v"), epoch, NOW).unwrap().duplicate);
    }
}

#[test]
fn followers_that_clean_on_their_own_have_the_same_records() {
    let leader = Broker::new(compact());
    let follower = Broker::new(compact());
    follower.log.begin_epoch(EPOCH, LogMode::Following).unwrap();
    for round in 0..30 {
        for key in 0..5 {
            leader.put(&format!("k{key}"), Some(&format!("{round}")));
        }
        if round % 7 == 0 {
            leader.commit();
            leader.clean_at(NOW);
        }
        if round % 4 == 3 {
            let from = follower.log.log_end_offset();
            let bytes = crate::harness::read_from(&leader.log, from, ReadBound::LogEnd);
            follower.log.append_as_follower(&bytes, EPOCH, NOW).unwrap();
            flush(&follower.manager, &follower.log);
            follower.log.set_high_watermark(leader.log.high_watermark());
        }
    }
    let from = follower.log.log_end_offset();
    let bytes = crate::harness::read_from(&leader.log, from, ReadBound::LogEnd);
    follower.log.append_as_follower(&bytes, EPOCH, NOW).unwrap();
    for broker in [&leader, &follower] {
        broker.commit();
        broker.clean_at(NOW);
        assert!(broker.log.cleaned_offset().is_some());
        assert_eq!(broker.findings(), []);
    }
    // The rolls are not at the same places, so neither is what is clean: below both points all is the same.
    let clean = leader.log.cleaned_offset().min(follower.log.cleaned_offset()).unwrap();
    let last_values = |log: &Log| {
        let mut last = BTreeMap::new();
        rows(log).into_iter().for_each(|row| drop(last.insert(row.key, (row.offset, row.value))));
        last
    };
    assert_eq!(last_values(&leader.log), last_values(&follower.log));
    assert!(clean > Offset(50));
}

#[test]
fn a_map_that_is_full_ends_the_round_earlier_and_the_next_goes_on() {
    let broker = Broker::new(compact());
    let mut written = BTreeMap::new();
    for i in 0..300 {
        broker.put(&format!("k{}", i % 60), Some(&format!("{i}")));
    }
    broker.roll();
    rows(&broker.log).into_iter().for_each(|row| drop(written.insert(row.offset, row)));
    broker.commit();
    // Room for about seven keys.
    let mut job = broker.manager.next_cleaning(NOW, 240).unwrap();
    while let CleanStep::More(_) = job.step() {}
    drop(job);
    let first = broker.log.cleaned_offset().unwrap();
    assert!(first > Offset(0) && first < Offset(20), "{first}");
    check_compacted(&broker.log, &written);
    clean(&broker.manager, NOW, 240).unwrap();
    check_compacted(&broker.log, &written);
    assert!(broker.log.cleaned_offset().unwrap() > Offset(250));
    let left = rows(&broker.log).len();
    assert!(left < 200, "{left} left");
}

#[test]
fn a_record_stays_uncompacted_for_as_long_as_the_topic_says() {
    let lag = |broker: &Broker| {
        for i in 0..60 {
            broker.put_at("k", Some(&format!("{i}")), later(i * 1_000));
        }
        broker.commit();
    };
    let broker = Broker::new(LogConfig { min_compaction_lag_ms: 30_000, segment_bytes: 700, ..compact() });
    lag(&broker);
    assert!(!broker.clean_at(later(30_000)));
    assert!(broker.clean_at(later(60_000)));
    let kept: Vec<i64> = rows(&broker.log).iter().map(|row| row.offset.get()).collect();
    assert!((31..60).all(|young| kept.contains(&young)) && kept.len() < 45, "{kept:?}");
    // And no longer: with a ratio that nothing reaches.
    let broker = Broker::new(LogConfig {
        min_cleanable_dirty_permille: 1_000,
        max_compaction_lag_ms: Some(100_000),
        segment_bytes: 700,
        ..compact()
    });
    lag(&broker);
    assert!(!broker.clean_at(later(100_000)));
    assert!(broker.clean_at(later(100_001)));
    // The active segment is not too old to be ever compacted.
    let segments = broker.log.segment_count();
    broker.log.apply_retention(later(200_000)).unwrap();
    assert_eq!(broker.log.segment_count(), segments + 1);
}

#[test]
fn the_dirtiest_log_is_first_and_a_clean_enough_one_waits() {
    let broker = Broker::new(LogConfig { min_cleanable_dirty_permille: 500, ..compact() });
    let other = broker.manager.get_or_create(&tp("u", 0), None, broker.config.clone(), NOW).unwrap();
    let fill = |log: &Arc<Log>, keys: i64| {
        for i in 0..100 {
            let batch = keyed(
                &[row(&format!("k{}", i % keys), Some("value"))],
                NOW,
                Compression::None,
                ProducerStamp::NONE,
            );
            log.append_as_leader(&batch, EPOCH, NOW).unwrap();
        }
        flush(&broker.manager, log);
        log.set_high_watermark(log.log_end_offset());
    };
    fill(&broker.log, 90);
    clean(&broker.manager, NOW, PLENTY).unwrap();
    fill(&broker.log, 90);
    fill(&other, 90);
    let job = broker.manager.next_cleaning(NOW, PLENTY).unwrap();
    assert_eq!(job.partition(), &tp("u", 0), "all of it is dirty");
    // One job a log; the other log has as much clean as dirty.
    let second = broker.manager.next_cleaning(NOW, PLENTY);
    assert!(second.is_none_or(|job| job.partition() == &tp("t", 0)));
    drop(job);
    assert_eq!(broker.manager.next_cleaning(NOW, PLENTY).unwrap().partition(), &tp("u", 0));
}

#[test]
fn retention_applies_to_a_log_that_is_compacted_and_deleted() {
    let broker = Broker::new(LogConfig { cleanup_delete: true, retention_ms: Some(DAY), ..compact() });
    for i in 0..60 {
        broker.put("k", Some(&format!("{i}")));
    }
    broker.roll();
    broker.commit();
    assert!(broker.clean_at(NOW));
    broker.log.apply_retention(later(2 * DAY)).unwrap();
    assert_eq!(rows(&broker.log), []);
    assert_eq!(broker.log.log_start_offset(), broker.log.log_end_offset());
    // Without `delete` in the policy nothing is too old.
    let broker = Broker::new(LogConfig { retention_ms: Some(DAY), ..compact() });
    broker.put("k", Some("v"));
    broker.roll();
    broker.commit();
    broker.log.apply_retention(later(2 * DAY)).unwrap();
    assert!(broker.has(Offset(0)));
}

#[test]
fn records_without_a_key_from_before_stay() {
    let broker = Broker::new(LogConfig { cleanup_compact: false, ..compact() });
    for i in 0..5 {
        broker.log.append_as_leader(&keyless(&format!("{i}")), EPOCH, NOW).unwrap();
        broker.put("k", Some("v"));
    }
    broker.roll();
    broker.commit();
    assert!(!broker.clean_at(NOW), "the policy is delete");
    broker.log.update_config(compact());
    assert!(broker.clean_at(NOW));
    let left = rows(&broker.log);
    assert_eq!(left.iter().filter(|row| row.key.is_none()).count(), 5);
    assert_eq!(left.iter().filter(|row| row.key.as_deref() == Some("k")).count(), 1);
}

/// A topic whose policy is `delete` again still opens: gaps below what was compacted are no damage.
#[test]
fn a_log_that_is_no_longer_compacted_keeps_its_gaps_after_a_crash() {
    let broker = Broker::new(compact());
    for i in 0..40 {
        broker.put(&format!("k{}", i % 2), Some(&format!("{i}")));
    }
    broker.commit();
    assert!(broker.clean_at(NOW));
    let left = rows(&broker.log);
    let Broker { sim, manager, log, .. } = broker;
    drop((manager, log));
    sim.power_cut_strict();
    let broker = Broker::on(sim, LogConfig { cleanup_compact: false, ..compact() });
    assert_eq!(rows(&broker.log), left);
    assert_eq!(broker.log.recovery_report().cut_bytes, 0);
}

/// The leader's log was compacted under an earlier policy, and this replica is made only now: what it is sent has gaps.
#[test]
fn a_replica_of_a_topic_that_is_no_longer_compacted_takes_its_gaps_and_keeps_them() {
    let leader = Broker::new(compact());
    for i in 0..40 {
        let key = if i % 5 == 0 { format!("only-{i}") } else { format!("k{}", i % 2) };
        leader.put(&key, Some(&format!("{i}")));
    }
    leader.commit();
    assert!(leader.clean_at(NOW));
    let left = rows(&leader.log);
    let end = leader.log.log_end_offset();
    assert!((left.len() as i64) < end.get());
    let bytes = crate::harness::read_from(&leader.log, Offset(0), ReadBound::LogEnd);

    let delete = LogConfig { cleanup_compact: false, ..compact() };
    let follower = Broker::new(delete.clone());
    follower.log.begin_epoch(EPOCH, LogMode::Following).unwrap();
    follower.log.append_as_follower(&bytes, EPOCH, NOW).unwrap();
    assert_eq!((rows(&follower.log), follower.log.log_end_offset()), (left.clone(), end));
    // What goes back is refused all the same, and nothing is changed by it.
    let again = follower.log.append_as_follower(&bytes, EPOCH, NOW);
    assert!(matches!(again, Err(AppendError::NotContinuous { .. })), "{again:?}");

    // A crash finds no damage in the gaps.
    flush(&follower.manager, &follower.log);
    let Broker { sim, manager, log, .. } = follower;
    drop((manager, log));
    sim.power_cut_strict();
    let follower = Broker::on(sim, delete);
    assert!(follower.log.recovery_report().recovered);
    assert_eq!((rows(&follower.log), follower.log.log_end_offset()), (left.clone(), end));
    assert_eq!(follower.log.recovery_report().cut_bytes, 0);

    // Cut inside a gap it ends with a batch, as it would after the next start.
    let gap = left.windows(2).find(|pair| pair[1].offset.get() > pair[0].offset.get() + 1).unwrap();
    follower.log.begin_epoch(EPOCH, LogMode::Following).unwrap();
    let cut = follower.log.truncate_to(gap[1].offset, EPOCH).unwrap();
    assert!(cut <= gap[1].offset);
    let left = rows(&follower.log);
    let follower = follower.reopen();
    assert_eq!((rows(&follower.log), follower.log.log_end_offset()), (left, cut));
}

#[test]
fn readers_of_a_replaced_segment_go_on() {
    let broker = Broker::new(LogConfig { segment_bytes: 20_000, ..compact() });
    for i in 0..200 {
        broker.put(&format!("k{}", i % 3), Some(&format!("{i}")));
    }
    broker.roll();
    broker.commit();
    let before = broker.log.read(Offset(50), 500, ReadBound::LogEnd, true).unwrap();
    assert!(broker.clean_at(NOW));
    // A place that was remembered in the old file is none in the new one.
    let after = broker.log.read(before.next_offset, 500, ReadBound::LogEnd, true).unwrap();
    let first = BatchIter::new(&after.data).next().unwrap().unwrap();
    first.verify().unwrap();
    assert_eq!(first.header.base_offset, Offset(197));
}

#[test]
fn truncation_below_the_cleaned_point_takes_it_back_and_ends_with_a_batch() {
    for to in 1..80 {
        let broker = Broker::new(compact());
        for i in 0..80 {
            broker.put(&format!("k{}", i % 3), Some(&format!("{i}")));
        }
        broker.commit();
        assert!(broker.clean_at(NOW));
        let cleaned = broker.log.cleaned_offset().unwrap();
        broker.log.begin_epoch(EPOCH, LogMode::Following).unwrap();
        let end = broker.log.truncate_to(Offset(to), EPOCH).unwrap();
        assert!(end <= Offset(to));
        assert_eq!(broker.log.cleaned_offset(), Some(cleaned.min(end)));
        let left = rows(&broker.log);
        let broker = broker.reopen();
        assert_eq!((rows(&broker.log), broker.log.log_end_offset()), (left, end));
        assert_eq!(broker.log.cleaned_offset(), Some(cleaned.min(end)));
        assert_eq!(broker.log.recovery_report().lost_stable, None);
    }
}

#[test]
fn a_cleaning_that_meets_a_truncation_a_deletion_or_a_close_leaves_the_log_alone() {
    let start = || {
        let broker = Broker::new(compact());
        for i in 0..120 {
            broker.put(&format!("k{}", i % 3), Some(&format!("{i}")));
        }
        broker.commit();
        let mut job = broker.manager.next_cleaning(NOW, PLENTY).unwrap();
        assert!(matches!(job.step(), CleanStep::More(_)));
        (broker, job)
    };
    let (broker, mut job) = start();
    broker.log.begin_epoch(EPOCH, LogMode::Following).unwrap();
    broker.log.truncate_to(Offset(10), EPOCH).unwrap();
    assert_eq!(job.step(), CleanStep::Stopped);
    assert_eq!(rows(&broker.log).len(), 10);
    drop(job);

    let (broker, mut job) = start();
    broker.manager.delete(broker.log.topic_partition()).unwrap();
    // Another log of the name has the folder now.
    let new = open_log(&broker.manager, &broker.config).unwrap();
    assert_eq!(job.step(), CleanStep::Stopped);
    drop(job);
    assert_eq!(new.log_end_offset(), Offset(0));

    let (broker, mut job) = start();
    let before = rows(&broker.log);
    broker.manager.close(None).unwrap();
    assert_eq!(job.step(), CleanStep::Stopped);
    drop(job);
    assert_eq!(rows(&broker.log), before);

    // Retention took some of the segments.
    let (broker, mut job) = start();
    broker.log.delete_records(Offset(70)).unwrap();
    while matches!(job.step(), CleanStep::More(_)) {}
    assert_eq!(rows(&broker.log).first().map(|row| row.offset), Some(Offset(70)));
    assert!(!broker.log.is_uncleanable());
    drop(job);
    assert!(broker.clean_at(NOW));
}

#[test]
fn a_damaged_batch_makes_one_log_uncleanable_and_harms_no_other() {
    let broker = Broker::new(compact());
    let other = broker.manager.get_or_create(&tp("u", 0), None, broker.config.clone(), NOW).unwrap();
    for i in 0..100 {
        broker.put(&format!("k{}", i % 3), Some(&format!("{i}")));
        let batch = keyed(&[row("k", Some("v"))], NOW, Compression::None, ProducerStamp::NONE);
        other.append_as_leader(&batch, EPOCH, NOW).unwrap();
    }
    for log in [&broker.log, &other] {
        flush(&broker.manager, log);
        log.set_high_watermark(log.log_end_offset());
    }
    let path = Path::new(DIR).join("t-0/00000000000000000000.log");
    broker.sim.flip_bit(&path, 300, 2).unwrap();
    for _ in 0..4 {
        broker.clean_at(NOW);
    }
    assert!(broker.log.is_uncleanable() && !broker.log.log_is_failed());
    assert!(other.cleaned_offset().is_some());
    assert_eq!(broker.log.cleaned_offset(), None);
    broker.put("k", Some("appends go on"));
}

#[test]
fn a_disk_that_refuses_leaves_the_log_as_it_was() {
    for (op, nth, error) in [
        (OpKind::Write, 1, FaultError::NoSpace),
        (OpKind::Write, 2, FaultError::NoSpace),
        (OpKind::SyncData, 1, FaultError::Io),
        (OpKind::SyncData, 2, FaultError::Io),
        (OpKind::Open, 1, FaultError::Io),
        (OpKind::Rename, 1, FaultError::Io),
        (OpKind::Rename, 3, FaultError::Io),
    ] {
        let broker = Broker::new(compact());
        for i in 0..100 {
            broker.put(&format!("k{}", i % 3), Some(&format!("{i}")));
        }
        broker.commit();
        let before = rows(&broker.log);
        broker.sim.fail_nth_on(".cleaned", &[op], nth, error);
        broker.clean_at(NOW);
        broker.sim.clear_faults();
        assert!(!broker.log.log_is_failed(), "{op:?} {nth}");
        assert_eq!(broker.log.is_uncleanable(), error == FaultError::Io, "{op:?} {nth}");
        if broker.log.cleaned_offset().is_none() && error == FaultError::NoSpace {
            assert!(broker.clean_at(NOW), "there is space again");
        }
        let after = rows(&broker.log);
        assert!(after.iter().all(|row| before.contains(row)));
        let left: Vec<_> = broker.sim.list(&Path::new(DIR).join("t-0")).unwrap();
        let strays: Vec<_> = left
            .iter()
            .filter(|entry| entry.name.ends_with(".cleaned") || entry.name.ends_with(".swap"))
            .collect();
        assert!(strays.is_empty(), "{op:?} {nth}: {strays:?}");
        let broker = broker.reopen();
        assert_eq!(rows(&broker.log), after);
    }
}

#[test]
fn a_cleaning_leaves_the_last_room_on_a_disk_to_appends() {
    let broker = Broker::new(compact());
    for i in 0..100 {
        broker.put(&format!("k{}", i % 3), Some(&format!("{i}")));
    }
    broker.commit();
    broker.sim.set_capacity(Some(broker.sim.used_bytes() + 1_000));
    assert!(!broker.clean_at(NOW));
    assert!(!broker.log.is_uncleanable());
    broker.sim.set_capacity(None);
    assert!(broker.clean_at(NOW));
}

#[test]
fn the_cleaners_checkpoint_is_kafkas_and_forgets_deleted_logs() {
    let broker = Broker::new(compact());
    let path = Path::new(DIR).join("cleaner-offset-checkpoint");
    assert!(!broker.sim.exists(&path).unwrap(), "nothing was compacted");
    for i in 0..100 {
        broker.put("k", Some(&format!("{i}")));
    }
    broker.commit();
    assert!(broker.clean_at(NOW));
    let text = |sim: &SimStorage| {
        let file = sim.open(&path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let cleaned = broker.log.cleaned_offset().unwrap();
    assert_eq!(text(&broker.sim), format!("0\n1\nt 0 {cleaned}\n"));
    let broker = broker.reopen();
    assert_eq!(broker.log.cleaned_offset(), Some(cleaned));
    broker.manager.delete(&tp("t", 0)).unwrap();
    let new = open_log(&broker.manager, &broker.config).unwrap();
    assert_eq!(new.cleaned_offset(), None);
    assert_eq!(text(&broker.sim), "0\n0\n");
}
