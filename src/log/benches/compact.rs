//! How fast one cleaner compacts from the page cache, and what appends that are fsynced feel of it meanwhile.
//!
//! It prints what it measures. `TMPDIR` says on which disk; on a file system in memory the latencies mean nothing. With the argument
//! `beside` it measures only the appends, in several rounds, alone and beside the cleaner in turn.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on shall stop, as a test does")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};
use thalweg_core::batch::{BatchBuilder, Limits, ProducerStamp, ValidBatch};
use thalweg_core::compression::Compression;
use thalweg_core::{
    BrokerId, ClusterId, LeaderEpoch, Offset, PartitionId, Timestamp, TopicName, TopicPartition,
};
use thalweg_log::storage::OsStorage;
use thalweg_log::{CleanStats, CleanStep, FlushListener, Log, LogConfig, LogManager, LogManagerConfig, Pace};

const MIB: u64 = 1 << 20;
/// How much is compacted.
const LOG_BYTES: u64 = 400 * MIB;
/// Rounds of appends alone and beside the cleaner.
const BESIDE_ROUNDS: usize = 5;
/// For what was written before to reach the disk.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two appends beside the cleaner: a modest rate.
const APPEND_EVERY: Duration = Duration::from_millis(2);

/// Records with keys that come again after a while.
fn batch(first: u64, records: u64, keys: u64, value: usize, codec: Compression) -> ValidBatch {
    let mut builder = BatchBuilder::new(codec, 16 << 20);
    let value: Vec<u8> = (0..value).map(|i| (i as u8).wrapping_mul(31)).collect();
    for n in first..first + records {
        // Spread, so that what stays lies anywhere.
        let key = format!("key-{:016}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys);
        builder.append(Timestamp(n as i64), Some(key.as_bytes()), Some(&value), &[]);
    }
    let limits = Limits { max_batch_bytes: 16 << 20, ..Limits::default() };
    ValidBatch::check(builder.finish(ProducerStamp::NONE), &limits).unwrap()
}

fn open(dir: &Path) -> LogManager {
    let cluster = ClusterId(Arc::from("bench"));
    let config = LogManagerConfig::new(vec![dir.to_owned()], cluster, BrokerId(0));
    LogManager::open(Arc::new(OsStorage::new()), config, Timestamp(0), &|_| LogConfig::default()).unwrap()
}

fn log(manager: &LogManager, topic: &str, compact: bool) -> Arc<Log> {
    let partition = TopicPartition::new(TopicName::new(topic).unwrap(), PartitionId(0));
    let config = LogConfig {
        segment_bytes: 100 * MIB,
        retention_ms: None,
        cleanup_compact: compact,
        cleanup_delete: !compact,
        ..LogConfig::default()
    };
    manager.get_or_create(&partition, None, config, Timestamp(0)).unwrap()
}

#[derive(Default)]
struct Flushed {
    to: Mutex<Offset>,
    bell: Condvar,
}

impl FlushListener for Flushed {
    fn flushed(&self, up_to: Offset) {
        *self.to.lock().unwrap() = up_to;
        self.bell.notify_all();
    }

    fn failed(&self) {}
}

impl Flushed {
    fn listen(log: &Log) -> Arc<Flushed> {
        let flushed = Arc::new(Flushed::default());
        let weak: Weak<Flushed> = Arc::downgrade(&flushed);
        log.set_flush_listener(weak);
        flushed
    }

    fn wait(&self, to: Offset) {
        let mut at = self.to.lock().unwrap();
        while *at < to {
            at = self.bell.wait(at).unwrap();
        }
    }
}

/// Fills a log and closes its last segment.
fn fill(log: &Log, keys: u64, value: usize, codec: Compression) {
    let flushed = Flushed::listen(log);
    let (mut n, records) = (0, 65_536 / (value as u64 + 40));
    while log.size_bytes() < LOG_BYTES + 100 * MIB {
        log.append_as_leader(&batch(n, records, keys, value, codec), LeaderEpoch(0), Timestamp(0)).unwrap();
        n += records;
    }
    flushed.wait(log.log_end_offset());
    log.set_high_watermark(log.log_end_offset());
}

fn clean(manager: &LogManager) -> (CleanStats, Duration) {
    let began = Instant::now();
    let mut job = manager.next_cleaning(Timestamp(1), 128 << 20).unwrap();
    let mut pace = Pace::default();
    loop {
        let (step_began, before) = (Instant::now(), job.syncs());
        match job.step() {
            // As the broker does.
            CleanStep::More(_) => {
                let worked = job.syncs();
                let rest = pace.worked(step_began.elapsed(), worked.since(before));
                if !rest.is_zero() {
                    std::thread::sleep(rest);
                    pace.rested(job.syncs().since(worked));
                }
            }
            CleanStep::Done(stats) => return (stats, began.elapsed()),
            CleanStep::Stopped => panic!("the cleaning stopped"),
        }
    }
}

/// Appends 1 KiB at a time, each synced, until told to stop. The latencies in order.
fn appends(log: &Log, stop: &AtomicBool) -> Vec<Duration> {
    let flushed = Flushed::listen(log);
    let one = batch(0, 1, 10, 1_000, Compression::None);
    let mut taken = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let appended = log.append_as_leader(&one, LeaderEpoch(0), Timestamp(0)).unwrap();
        flushed.wait(appended.last_offset.advance(1));
        taken.push(began.elapsed());
        std::thread::sleep(APPEND_EVERY);
    }
    taken.sort_unstable();
    taken
}

fn percentiles(taken: &[Duration]) -> String {
    let at = |part: usize| taken[(taken.len() - 1) * part / 1000];
    format!("p50 {:?}, p99 {:?}, most {:?}, of {}", at(500), at(990), at(1000), taken.len())
}

fn main() {
    // As a test of the build, `cargo test --benches` asks only that it starts.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    if !std::env::args().any(|arg| arg == "beside") {
        rates();
    }
    beside();
}

/// How fast a log is compacted.
fn rates() {
    for (name, keys, value, codec) in [
        ("1 KiB records, half stay", 250_000, 1_000, Compression::None),
        ("1 KiB records, 1 % stays", 5_000, 1_000, Compression::None),
        ("100 B records, half stay", 2_000_000, 100, Compression::None),
        ("1 KiB records, lz4, half stay", 250_000, 1_000, Compression::Lz4),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let manager = open(dir.path());
        fill(&log(&manager, "compacted", true), keys, value, codec);
        let (stats, took) = clean(&manager);
        let rate = |bytes: u64| bytes as f64 / took.as_secs_f64() / 1e6;
        println!(
            "{name}: {took:?}, read {:.0} MB/s (twice: for the map and for the copy), wrote {:.0} MB/s, log {:.0} MB/s; {stats:?}",
            rate(stats.bytes_read),
            rate(stats.bytes_written),
            rate(stats.bytes_read / 2),
        );
    }
}

/// What appends take, alone and beside the cleaner, in turn: the machine's own noise changes within seconds.
fn beside() {
    let dir = tempfile::tempdir().unwrap();
    let manager = open(dir.path());
    let beside = log(&manager, "beside", false);
    let run = |work: &mut dyn FnMut()| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| appends(&beside, &stop));
            work();
            stop.store(true, Ordering::Relaxed);
            taken.join().unwrap()
        })
    };
    let (mut all_alone, mut all_meanwhile) = (Vec::new(), Vec::new());
    for round in 0..BESIDE_ROUNDS {
        let (keys, topic) = (250_000, format!("compacted-{round}"));
        fill(&log(&manager, &topic, true), keys, 1_000, Compression::None);
        std::thread::sleep(SETTLE);
        let alone = run(&mut || std::thread::sleep(Duration::from_secs(2)));
        let (mut stats, mut took) = (CleanStats::default(), Duration::ZERO);
        let meanwhile = run(&mut || (stats, took) = clean(&manager));
        let rate = stats.bytes_read as f64 / 2.0 / took.as_secs_f64() / 1e6;
        println!("appends alone: {}", percentiles(&alone));
        println!("appends beside the cleaner at {rate:.0} MB/s of log: {}", percentiles(&meanwhile));
        all_alone.extend(alone);
        all_meanwhile.extend(meanwhile);
    }
    all_alone.sort_unstable();
    all_meanwhile.sort_unstable();
    println!("fsynced appends of 1 KiB alone: {}", percentiles(&all_alone));
    println!("fsynced appends of 1 KiB beside the cleaner: {}", percentiles(&all_meanwhile));
}
