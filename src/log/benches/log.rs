//! The log against the bare system calls it stands on, in one run: `pwrite`, `pread`, and writes grouped under one
//! `fdatasync`. The figures mean something only as ratios within a run.
//!
//! `TMPDIR` says on which disk; a file system in memory makes the fsync cases meaningless.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on shall stop, as a test does")]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::io::IoSlice;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};
use thalweg_core::batch::{BatchBuilder, Limits, ProducerStamp, ValidBatch};
use thalweg_core::compression::Compression;
use thalweg_core::{
    BrokerId, ClusterId, LeaderEpoch, Offset, PartitionId, Timestamp, TopicName, TopicPartition,
};
use thalweg_log::storage::{LogFile, OpenMode, OsStorage, Storage};
use thalweg_log::{FlushListener, Log, LogConfig, LogManager, LogManagerConfig, ReadBound};

const KIB: usize = 1 << 10;
const SIZES: [(&str, usize); 4] =
    [("1KiB", KIB), ("4KiB", 4 * KIB), ("64KiB", 64 * KIB), ("1MiB", KIB * KIB)];
/// Appends in flight in the grouped case.
const IN_FLIGHT: i64 = 64;
/// Both sides write around in this much, so that pages are resident after the first round.
const FILE_BYTES: u64 = 256 << 20;

fn batch(size: usize) -> ValidBatch {
    let mut builder = BatchBuilder::new(Compression::None, 2 * size);
    let value = vec![b'x'; (size - 100).min(900)];
    let mut timestamp = 0;
    while builder.is_empty() || builder.len() + value.len() + 100 < size {
        builder.append(Timestamp(timestamp), None, Some(&value), &[]);
        timestamp += 1;
    }
    let bytes: Bytes = builder.finish(ProducerStamp::NONE);
    let limits = Limits { max_batch_bytes: 2 * KIB * KIB, ..Limits::default() };
    ValidBatch::check(bytes, &limits).unwrap()
}

fn open(dir: &Path, write_caching: bool) -> (LogManager, Arc<Log>) {
    let cluster = ClusterId(Arc::from("bench"));
    let config = LogManagerConfig::new(vec![dir.to_owned()], cluster, BrokerId(0));
    let manager =
        LogManager::open(Arc::new(OsStorage::new()), config, Timestamp(0), &|_| LogConfig::default());
    let manager = manager.unwrap();
    let partition = TopicPartition::new(TopicName::new("bench").unwrap(), PartitionId(0));
    let log_config = LogConfig { write_caching, retention_ms: None, ..LogConfig::default() };
    let log = manager.get_or_create(&partition, None, log_config, Timestamp(0)).unwrap();
    (manager, log)
}

fn file(dir: &Path) -> Arc<dyn LogFile> {
    OsStorage::new().open(&dir.join("plain"), OpenMode::Truncate).unwrap()
}

fn append(c: &mut Criterion) {
    for (name, size) in SIZES {
        let mut group = c.benchmark_group(format!("append/{name}"));
        group.throughput(Throughput::Bytes(size as u64)).sample_size(20);
        let dir = tempfile::tempdir().unwrap();
        let batch = batch(size);

        let plain = file(dir.path());
        let mut at = 0;
        group.bench_function("pwrite", |b| {
            b.iter(|| {
                if at + 2 * size as u64 > FILE_BYTES {
                    at = 0;
                    plain.set_len(0).unwrap();
                }
                plain.write_all_at(&mut [IoSlice::new(batch.bytes())], at).unwrap();
                at += batch.bytes().len() as u64;
            });
        });

        let (_manager, log) = open(dir.path(), true);
        group.bench_function("log", |b| {
            b.iter(|| {
                if log.size_bytes() + 2 * size as u64 > FILE_BYTES {
                    log.truncate_fully_and_start_at(Offset::ZERO, LeaderEpoch(0)).unwrap();
                }
                black_box(log.append_as_leader(&batch, LeaderEpoch(0), Timestamp(0)).unwrap());
            });
        });
        group.finish();
    }
}

fn read(c: &mut Criterion) {
    for (name, size) in [("64KiB-batches", 64 * KIB), ("1KiB-batches", KIB)] {
        let mut group = c.benchmark_group(format!("read-1MiB/{name}"));
        group.throughput(Throughput::Bytes(KIB as u64 * KIB as u64)).sample_size(20);
        let dir = tempfile::tempdir().unwrap();
        let batch = batch(size);
        let (_manager, log) = open(dir.path(), true);
        while log.size_bytes() < 64 << 20 {
            log.append_as_leader(&batch, LeaderEpoch(0), Timestamp(0)).unwrap();
        }
        log.set_high_watermark(log.log_end_offset());

        let segment = log.dir().join("00000000000000000000.log");
        let plain = OsStorage::new().open(&segment, OpenMode::Read).unwrap();
        let mut buffer = vec![0; KIB * KIB];
        let mut at = 0;
        group.bench_function("pread", |b| {
            b.iter(|| {
                at = if at + (2 << 20) > (64 << 20) { 0 } else { at + (1 << 20) };
                plain.read_exact_at(&mut buffer, at).unwrap();
                black_box(&buffer);
            });
        });
        let mut from = Offset::ZERO;
        group.bench_function("log", |b| {
            b.iter(|| {
                let read = log.read(from, KIB * KIB, ReadBound::HighWatermark, true).unwrap();
                from = if read.data.len() < KIB * KIB / 2 { Offset::ZERO } else { read.next_offset };
                black_box(read);
            });
        });
        group.finish();
    }
}

/// Lets the appender wait until enough of its records are stable.
#[derive(Default)]
struct Acks {
    flushed: Mutex<i64>,
    moved: Condvar,
}

impl FlushListener for Acks {
    fn flushed(&self, up_to: Offset) {
        *self.flushed.lock().unwrap() = up_to.get();
        self.moved.notify_one();
    }

    fn failed(&self) {
        panic!("the disk failed");
    }
}

fn grouped_fsync(c: &mut Criterion) {
    let mut group = c.benchmark_group("grouped-fsync/4KiB-64-in-flight");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(3));
    let dir = tempfile::tempdir().unwrap();
    let batch = batch(4 * KIB);
    let size = batch.bytes().len() as u64;

    let plain = file(dir.path());
    group.bench_function("bare", |b| {
        b.iter_custom(|appends| {
            plain.set_len(0).unwrap();
            plain.reserve(0, appends.next_multiple_of(64) * size).unwrap();
            plain.sync_data().unwrap();
            let start = Instant::now();
            for i in 0..appends {
                plain.write_all_at(&mut [IoSlice::new(batch.bytes())], i * size).unwrap();
                if i % IN_FLIGHT as u64 == 63 {
                    plain.sync_data().unwrap();
                }
            }
            plain.sync_data().unwrap();
            start.elapsed()
        });
    });

    let (_manager, log) = open(dir.path(), false);
    let acks = Arc::new(Acks::default());
    let weak: Weak<Acks> = Arc::downgrade(&acks);
    log.set_flush_listener(weak);
    let records = i64::from(batch.header().record_count);
    group.bench_function("log", |b| {
        b.iter_custom(|appends| {
            log.truncate_fully_and_start_at(Offset::ZERO, LeaderEpoch(0)).unwrap();
            *acks.flushed.lock().unwrap() = 0;
            let wait = |up_to: i64| {
                let flushed = acks.flushed.lock().unwrap();
                drop(acks.moved.wait_while(flushed, |flushed| *flushed < up_to).unwrap());
            };
            let start = Instant::now();
            for i in 1..=appends as i64 {
                log.append_as_leader(&batch, LeaderEpoch(0), Timestamp(0)).unwrap();
                wait((i - IN_FLIGHT) * records);
            }
            wait(appends as i64 * records);
            start.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, append, read, grouped_fsync);
criterion_main!(benches);
