//! What the tests of compaction need: keyed records, a cleaner that runs to its end, and what must hold of a compacted log.

use crate::harness::{NOW, read_from, small};
use std::collections::BTreeMap;
use thalweg_core::batch::{BatchBuilder, BatchIter, Limits, ProducerStamp, ValidBatch};
use thalweg_core::compression::Compression;
use thalweg_core::{Offset, Timestamp};
use thalweg_log::{CleanStats, CleanStep, Log, LogConfig, LogManager, ReadBound};

/// Memory for a cleaner's map that no test fills.
pub const PLENTY: usize = 1 << 16;

pub type Keyed = (String, Option<String>);

/// A record as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub offset: Offset,
    pub key: Option<String>,
    pub value: Option<String>,
    pub timestamp: Timestamp,
}

/// Small segments, compacted whenever anything is dirty.
pub fn compact() -> LogConfig {
    LogConfig { cleanup_compact: true, cleanup_delete: false, min_cleanable_dirty_permille: 0, ..small() }
}

pub fn row(key: &str, value: Option<&str>) -> Keyed {
    (key.to_owned(), value.map(str::to_owned))
}

pub fn keyed(rows: &[Keyed], at: Timestamp, codec: Compression, stamp: ProducerStamp) -> ValidBatch {
    let mut builder = BatchBuilder::new(codec, 1 << 20);
    for (key, value) in rows {
        builder.append(at, Some(key.as_bytes()), value.as_deref().map(str::as_bytes), &[]);
    }
    ValidBatch::check(builder.finish(stamp), &Limits { keys_required: true, ..Limits::default() }).unwrap()
}

pub fn keyless(value: &str) -> ValidBatch {
    let mut builder = BatchBuilder::new(Compression::None, 1 << 20);
    builder.append(NOW, None, Some(value.as_bytes()), &[]);
    ValidBatch::check(builder.finish(ProducerStamp::NONE), &Limits::default()).unwrap()
}

/// Runs cleanings until none is due. The last one's stats.
pub fn clean(manager: &LogManager, now: Timestamp, map_bytes: usize) -> Option<CleanStats> {
    let mut last = None;
    for _ in 0..1_000 {
        let Some(mut job) = manager.next_cleaning(now, map_bytes) else { return last };
        loop {
            match job.step() {
                CleanStep::More(_) => {}
                CleanStep::Done(stats) => {
                    last = Some(stats);
                    break;
                }
                CleanStep::Stopped => return last,
            }
        }
    }
    panic!("the cleaner does not come to an end");
}

/// Every record that can be read from the log's start.
pub fn rows(log: &Log) -> Vec<Row> {
    rows_from(log, log.log_start_offset())
}

pub fn rows_from(log: &Log, from: Offset) -> Vec<Row> {
    let bytes = read_from(log, from, ReadBound::LogEnd);
    records_in(&bytes).into_iter().filter(|row| row.offset >= from).collect()
}

/// The records of whole, good batches that follow one another.
fn records_in(bytes: &[u8]) -> Vec<Row> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (mut rows, mut scratch) = (Vec::new(), Vec::new());
    let mut next = Offset::ZERO;
    for batch in BatchIter::new(bytes) {
        let batch = batch.unwrap();
        batch.verify().unwrap();
        assert!(batch.header.base_offset >= next, "batches follow one another");
        next = batch.header.next_offset();
        for record in batch.records(&mut scratch, 1 << 24).unwrap() {
            let record = record.unwrap();
            rows.push(Row {
                offset: record.offset,
                key: record.key.map(text),
                value: record.value.map(text),
                timestamp: record.timestamp,
            });
        }
    }
    rows
}

pub fn keys_and_values(log: &Log) -> Vec<(i64, String, Option<String>)> {
    rows(log).into_iter().map(|row| (row.offset.get(), row.key.unwrap_or_default(), row.value)).collect()
}

/// What holds of every compacted log whatever was cleaned of it. `written` is all that was appended and is in the log, by
/// offset.
pub fn check_compacted(log: &Log, written: &BTreeMap<Offset, Row>) {
    let start = log.log_start_offset();
    let found = rows(log);
    // Nothing is made up or moved.
    for row in &found {
        assert_eq!(written.get(&row.offset), Some(row), "a record that nobody wrote");
    }
    let there: BTreeMap<_, _> = found.iter().map(|row| (row.offset, row)).collect();
    // The last value of each key is there. A tombstone may have gone, but then nothing older is there either.
    let mut last = BTreeMap::new();
    for row in written.range(start..).map(|(_, row)| row) {
        match &row.key {
            Some(key) => drop(last.insert(key.clone(), row)),
            None => assert!(there.contains_key(&row.offset), "a record without a key stays: {row:?}"),
        }
    }
    for (key, row) in &last {
        if row.value.is_some() {
            assert!(there.contains_key(&row.offset), "the last record of {key} is gone: {row:?}");
        } else if !there.contains_key(&row.offset) {
            let older = found.iter().find(|found| found.key.as_ref() == Some(key));
            assert_eq!(older, None, "the tombstone {row:?} went before what it deletes");
        }
    }
    // Nothing is lost that no cleaning reached.
    let cleaned = log.cleaned_offset().unwrap_or(Offset::ZERO);
    for row in written.range(start..).map(|(_, row)| row) {
        // A crash before the cleaned point was noted leaves it behind what was swapped.
        let superseded = row.key.as_ref().is_some_and(|key| last[key].offset > row.offset);
        let tombstone = row.value.is_none();
        if row.offset >= cleaned && !superseded && !tombstone {
            assert!(there.contains_key(&row.offset), "{row:?} was not to be cleaned");
        }
    }
    // A read from anywhere gives the next record that is left.
    for from in start.get()..=log.log_end_offset().get() {
        let from = Offset(from);
        let read = log.read(from, 400, ReadBound::LogEnd, true).unwrap();
        assert_eq!(read.data.is_empty(), from == log.log_end_offset(), "at {from}");
        // A batch without records may come first, so the next record is not always in the first read.
        let given = records_in(&read.data).into_iter().find(|row| row.offset >= from);
        let next = found.iter().find(|row| row.offset >= from);
        match given {
            Some(given) => assert_eq!(Some(&given), next, "from {from}"),
            None => assert!(next.is_none_or(|next| next.offset >= read.next_offset), "from {from}"),
        }
    }
    // Lookups by time give what a scan gives.
    let times: Vec<_> = found.iter().map(|row| row.timestamp).collect();
    for at in times.iter().flat_map(|at| [Timestamp(at.0 - 1), *at, Timestamp(at.0 + 1)]) {
        let scanned = found.iter().find(|row| row.timestamp >= at).map(|row| (row.offset, row.timestamp));
        assert_eq!(log.offset_for_timestamp(at).unwrap(), scanned, "lookup of {at:?}");
    }
    let youngest = times.iter().max();
    let scanned = found.iter().find(|row| Some(&row.timestamp) == youngest);
    assert_eq!(log.max_timestamp_offset().unwrap(), scanned.map(|row| (row.offset, row.timestamp)));
}
