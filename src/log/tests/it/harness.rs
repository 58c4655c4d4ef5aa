//! What every test needs: batches, logs, and a full scan to compare with.

use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_core::batch::{BatchBuilder, BatchIter, Limits, ProducerStamp, ValidBatch};
use thalweg_core::compression::Compression;
use thalweg_core::{
    BrokerId, ClusterId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp,
    TopicName, TopicPartition,
};
use thalweg_log::storage::Storage;
use thalweg_log::{CommitMode, Log, LogConfig, LogManager, LogManagerConfig, OpenError, ReadBound};

pub const EPOCH: LeaderEpoch = LeaderEpoch(0);
pub const NOW: Timestamp = Timestamp(1_700_000_000_000);

pub fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(TopicName::new(topic).unwrap(), PartitionId(partition))
}

/// A configuration whose segments and indexes are small, so that a few batches meet rolls and lookups.
pub fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 1500,
        index_interval_bytes: 200,
        retention_ms: None,
        first_reserve_bytes: 512,
        max_reserve_bytes: 1024,
        ..LogConfig::default()
    }
}

pub fn manager_config(dirs: &[PathBuf]) -> LogManagerConfig {
    let mut config = LogManagerConfig::new(dirs.to_vec(), ClusterId(Arc::from("test-cluster")), BrokerId(1));
    config.commit_mode = CommitMode::Manual;
    let next = std::sync::atomic::AtomicU8::new(1);
    config.new_id = Arc::new(move || [next.fetch_add(1, std::sync::atomic::Ordering::Relaxed); 16]);
    config
}

pub fn open(storage: &Arc<dyn Storage>, dir: &Path, config: &LogConfig) -> Result<LogManager, OpenError> {
    LogManager::open(Arc::clone(storage), manager_config(&[dir.to_owned()]), NOW, &|_| config.clone())
}

pub fn open_log(manager: &LogManager, config: &LogConfig) -> Result<Arc<Log>, OpenError> {
    manager.get_or_create(&tp("t", 0), None, config.clone(), NOW)
}

/// Records with these timestamps, each with a value of `size` bytes that says which one it is.
pub fn batch_of(timestamps: &[i64], size: usize, codec: Compression, stamp: ProducerStamp) -> ValidBatch {
    let mut builder = BatchBuilder::new(codec, 1 << 20);
    for (i, timestamp) in timestamps.iter().enumerate() {
        let mut value = format!("{timestamp}/{i}/").into_bytes();
        value.resize(size.max(1), b'x');
        builder.append(Timestamp(*timestamp), None, Some(&value), &[]);
    }
    let bytes: Bytes = builder.finish(stamp);
    ValidBatch::check(bytes, &Limits::default()).unwrap()
}

pub fn plain(timestamp: i64, size: usize) -> ValidBatch {
    batch_of(&[timestamp], size, Compression::None, ProducerStamp::NONE)
}

pub fn stamp(id: i64, epoch: i16, sequence: i32) -> ProducerStamp {
    ProducerStamp {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(sequence),
        transactional: false,
    }
}

pub fn produced(timestamp: i64, records: usize, stamp: ProducerStamp) -> ValidBatch {
    batch_of(&vec![timestamp; records], 20, Compression::None, stamp)
}

/// The bytes as a leader stores them, with message.timestamp.type=CreateTime.
pub fn stored(batch: &ValidBatch, base: Offset, epoch: LeaderEpoch) -> Vec<u8> {
    let mut bytes = batch.bytes().to_vec();
    bytes[..8].copy_from_slice(&base.get().to_be_bytes());
    bytes[12..16].copy_from_slice(&epoch.get().to_be_bytes());
    bytes
}

/// Everything from `from` to the log's end, read in pieces.
pub fn read_from(log: &Log, mut from: Offset, bound: ReadBound) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let read = log.read(from, 700, bound, true).unwrap();
        if read.data.is_empty() {
            return all;
        }
        assert!(read.next_offset > from, "a read that gives something moves on");
        all.extend_from_slice(&read.data);
        from = read.next_offset;
    }
}

/// Offset and timestamp of every record that can be read, from a full scan.
pub fn records_of(log: &Log) -> Vec<(Offset, Timestamp)> {
    let start = log.log_start_offset();
    let bytes = read_from(log, start, ReadBound::LogEnd);
    let mut records = Vec::new();
    let mut scratch = Vec::new();
    for batch in BatchIter::new(&bytes) {
        let batch = batch.unwrap();
        batch.verify().unwrap();
        for record in batch.records(&mut scratch, 1 << 24).unwrap() {
            let record = record.unwrap();
            if record.offset >= start {
                records.push((record.offset, record.timestamp));
            }
        }
    }
    records
}

/// Lookups by time, and reads from every offset, give what a full scan gives.
pub fn check_lookups(log: &Log) {
    let records = records_of(log);
    let offsets: Vec<i64> = records.iter().map(|(offset, _)| offset.get()).collect();
    let expected: Vec<i64> = (log.log_start_offset().get()..log.log_end_offset().get()).collect();
    assert_eq!(offsets, expected, "offsets have no gaps");
    let mut times: Vec<i64> = records.iter().map(|(_, time)| time.as_millis()).collect();
    times.sort_unstable();
    times.dedup();
    let around: Vec<i64> = times.iter().flat_map(|time| [time - 1, *time, time + 1]).collect();
    for at in around {
        let found = log.offset_for_timestamp(Timestamp(at)).unwrap();
        let scanned = records.iter().find(|(_, time)| time.as_millis() >= at).copied();
        assert_eq!(found, scanned, "lookup of {at}");
    }
    let max = records.iter().map(|(_, time)| *time).max();
    let first_max = records.iter().find(|(_, time)| Some(*time) == max).copied();
    assert_eq!(log.max_timestamp_offset().unwrap(), first_max);
    for (offset, _) in &records {
        let read = log.read(*offset, 1, ReadBound::LogEnd, true).unwrap();
        let batch = BatchIter::new(&read.data).next().unwrap().unwrap();
        assert!(batch.header.base_offset <= *offset && *offset <= batch.header.last_offset());
        assert_eq!(batch.bytes.len(), read.data.len(), "one batch was asked for");
    }
}

/// Syncs what is queued.
pub fn flush(manager: &LogManager, log: &Log) {
    log.request_flush();
    manager.run_committers();
}
