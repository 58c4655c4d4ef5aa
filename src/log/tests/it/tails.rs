//! What followers are given from memory is what the file holds, whatever happens to the log in between.

use crate::harness::{NOW, open, open_log, plain, read_from};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use thalweg_core::{LeaderEpoch, Offset};
use thalweg_log::storage::{SimStorage, Storage};
use thalweg_log::{Log, LogConfig, LogManager, LogMode, ReadBound, TailReader};

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 100_000,
        index_interval_bytes: 4_096,
        retention_ms: None,
        first_reserve_bytes: 512,
        max_reserve_bytes: 1024,
        ..LogConfig::default()
    }
}

fn new_log() -> (LogManager, Arc<Log>) {
    let storage: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
    let manager = open(&storage, Path::new("/data"), &config()).unwrap();
    let log = open_log(&manager, &config()).unwrap();
    (manager, log)
}

/// A log that is led in epoch 0.
fn led() -> (LogManager, Arc<Log>) {
    let (manager, log) = new_log();
    log.begin_epoch(LeaderEpoch(0), LogMode::Leading).unwrap();
    (manager, log)
}

fn append(log: &Log, epoch: i32, size: usize) {
    log.append_as_leader(&plain(log.log_end_offset().get(), size), LeaderEpoch(epoch), NOW).unwrap();
}

/// A follower's read gives what the log's file holds from there, or fails as a read of the file does. Returns where it ended.
fn check(log: &Log, reader: &TailReader, from: Offset, max_bytes: usize) -> Offset {
    let (read, plain) = (reader.read(from, max_bytes), log.read(from, 1, ReadBound::LogEnd, true));
    let (read, plain) = match (read, plain) {
        (Ok(read), Ok(plain)) => (read, plain),
        (Err(read), Err(plain)) => {
            assert_eq!(read.to_string(), plain.to_string());
            return from;
        }
        (read, plain) => panic!("{read:?}, and the file {plain:?}"),
    };
    let (data, all) = (read.data.concat(), read_from(log, from, ReadBound::LogEnd));
    assert!(all.starts_with(&data), "from {from}");
    assert_eq!(data.is_empty(), all.is_empty());
    assert_eq!(data.len(), read.bytes());
    assert!(data.len() <= max_bytes.max(plain.data.len()));
    assert_eq!(read_from(log, read.next_offset, ReadBound::LogEnd), all[data.len()..]);
    assert_eq!(read.log_end_offset, plain.log_end_offset);
    assert_eq!((read.high_watermark, read.log_start_offset), (plain.high_watermark, plain.log_start_offset));
    read.next_offset
}

#[test]
fn a_follower_that_keeps_up_is_served_from_memory() {
    let (_manager, log) = led();
    let reader = log.tail_reader(Offset(0));
    for size in [100, 20_000, 50_000, 100] {
        append(&log, 0, size);
    }
    assert!(log.tail_bytes() > 0);
    let end = check(&log, &reader, Offset(0), 1 << 20);
    // From memory a read goes on over the segment's end.
    assert_eq!(end, Offset(4));
    assert_eq!(log.tail_bytes(), 0, "the only one has all of it");
    check(&log, &reader, Offset(0), 1 << 20);
}

#[test]
fn what_is_cut_away_is_not_served_any_more() {
    let (_manager, log) = led();
    let reader = log.tail_reader(Offset(0));
    for _ in 0..4 {
        append(&log, 0, 20_000);
    }
    log.begin_epoch(LeaderEpoch(1), LogMode::Following).unwrap();
    assert_eq!(log.tail_bytes(), 0);
    log.truncate_to(Offset(2), LeaderEpoch(1)).unwrap();
    log.begin_epoch(LeaderEpoch(2), LogMode::Leading).unwrap();
    append(&log, 2, 30_000);
    let mut at = Offset(0);
    while at < log.log_end_offset() {
        at = check(&log, &reader, at, 1);
    }
    assert_eq!(at, Offset(3));
}

#[test]
fn a_log_that_is_gone_holds_nothing() {
    let (manager, log) = led();
    let reader = log.tail_reader(Offset(0));
    append(&log, 0, 20_000);
    manager.delete(log.topic_partition()).unwrap();
    assert_eq!(log.tail_bytes(), 0);
    assert!(reader.read(Offset(0), 1).is_err());
}

#[test]
fn a_writer_beside_its_followers_misses_none() {
    const BATCHES: i64 = 2_000;
    let (_manager, log) = led();
    let follow = |log: Arc<Log>| {
        let reader = log.tail_reader(Offset(0));
        std::thread::spawn(move || {
            let (mut at, mut bytes) = (Offset(0), Vec::new());
            while at < Offset(BATCHES) {
                let read = reader.read(at, 10_000).unwrap();
                bytes.extend(read.data.concat());
                at = read.next_offset;
            }
            bytes
        })
    };
    let followers = [follow(Arc::clone(&log)), follow(Arc::clone(&log))];
    for i in 0..BATCHES {
        append(&log, 0, if i % 50 == 0 { 20_000 } else { 100 });
    }
    let all = read_from(&log, Offset(0), ReadBound::LogEnd);
    for follower in followers {
        assert!(follower.join().unwrap() == all);
    }
    assert_eq!(log.tail_bytes(), 0);
}

#[derive(Debug, Clone)]
enum Op {
    Append {
        size: usize,
    },
    Read {
        reader: usize,
        max_bytes: usize,
    },
    Seek {
        reader: usize,
        back: i64,
    },
    Leave {
        reader: usize,
    },
    /// Another leads for a while, cuts this log and writes to it.
    LoseAndRegain {
        back: i64,
        written: i64,
    },
    DeleteRecords {
        back: i64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => prop_oneof![1usize..2_000, 15_000usize..60_000].prop_map(|size| Op::Append { size }),
        8 => (0usize..3, 1usize..200_000).prop_map(|(reader, max_bytes)| Op::Read { reader, max_bytes }),
        2 => (0usize..3, 0i64..6).prop_map(|(reader, back)| Op::Seek { reader, back }),
        1 => (0usize..3).prop_map(|reader| Op::Leave { reader }),
        1 => (0i64..5, 0i64..3).prop_map(|(back, written)| Op::LoseAndRegain { back, written }),
        1 => (0i64..5).prop_map(|back| Op::DeleteRecords { back }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn memory_and_file_agree(ops in prop::collection::vec(op(), 1..120)) {
        let (_manager, log) = led();
        let mut epoch = 0;
        let mut readers: Vec<(TailReader, Offset)> =
            (0..3).map(|_| (log.tail_reader(Offset(0)), Offset(0))).collect();
        for op in ops {
            match op {
                Op::Append { size } => append(&log, epoch, size),
                Op::Read { reader, max_bytes } => {
                    let (reader, at) = &mut readers[reader];
                    *at = check(&log, reader, *at, max_bytes);
                }
                Op::Seek { reader, back } => {
                    let end = log.log_end_offset().get();
                    readers[reader].1 = Offset((end - back).max(0));
                }
                Op::Leave { reader } => {
                    let at = log.log_end_offset();
                    readers[reader] = (log.tail_reader(at), at);
                }
                Op::LoseAndRegain { back, written } => {
                    log.begin_epoch(LeaderEpoch(epoch + 1), LogMode::Following).unwrap();
                    let end = Offset((log.log_end_offset().get() - back).max(0));
                    let end = log.truncate_to(end, LeaderEpoch(epoch + 1)).unwrap();
                    for i in 0..written {
                        let batch = crate::harness::stored(&plain(i, 20_000), end.advance(i), LeaderEpoch(epoch + 1));
                        let pieces: Vec<&[u8]> = batch.chunks(7_000).collect();
                        log.append_pieces_as_follower(&pieces, LeaderEpoch(epoch + 1), NOW).unwrap();
                    }
                    epoch += 2;
                    log.begin_epoch(LeaderEpoch(epoch), LogMode::Leading).unwrap();
                }
                Op::DeleteRecords { back } => {
                    let end = log.log_end_offset();
                    log.set_high_watermark(end);
                    log.delete_records(Offset((end.get() - back).max(0))).unwrap();
                }
            }
        }
        drop(readers);
        prop_assert_eq!(log.tail_bytes(), 0);
    }
}
