//! Checks a file against itself and against the `.log` beside it.

use super::finding::{FindingKind, Report};
use super::index::IndexEntries;
use super::segment::{HeaderWalk, Step};
use super::{DumpError, Entry, FileKind};
use crate::checkpoint::{self, CLEANER_CHECKPOINT, PartitionOffset};
use crate::leader_epoch::EpochStart;
use crate::producer_state::decode_snapshot;
use crate::state_file::{self, StateFileErrorKind};
use crate::storage::Storage;
use std::io;
use std::path::Path;
use thalweg_core::batch::{BatchError, BatchHeader, BatchIter, TimestampType, check_crc};
use thalweg_core::{LeaderEpoch, Offset, Timestamp, TopicPartition};

/// Reads the whole file and reports what is wrong with it. `max_inflated` bounds the memory for one compressed batch,
/// in bytes.
pub fn verify(storage: &dyn Storage, path: &Path, max_inflated: usize) -> Result<Report, DumpError> {
    match FileKind::of(path).ok_or_else(|| DumpError::UnknownKind(path.to_owned()))? {
        FileKind::Log => verify_log(storage, path, max_inflated),
        FileKind::OffsetIndex => verify_offset_index(storage, path),
        FileKind::TimeIndex => verify_time_index(storage, path),
        kind => verify_small(storage, path, kind),
    }
}

// === .log ===

fn verify_log(storage: &dyn Storage, path: &Path, max_inflated: usize) -> Result<Report, DumpError> {
    let mut walk = HeaderWalk::open(storage, path)?;
    let mut report = Report { bytes: walk.len(), ..Report::default() };
    let base = walk.base_offset();
    if base.is_none() {
        report.add(0, FindingKind::NoBaseOffset);
    }
    let cleaned = cleaned_offset(storage, path);
    let mut scratch = Vec::new();
    let mut expected = None;
    let mut epoch = LeaderEpoch::NONE;
    loop {
        let (position, header) = match walk.next()? {
            Step::Batch(position, header) => (position, header),
            Step::End(found) => {
                found.into_iter().for_each(|(position, kind)| report.add(position, kind));
                return Ok(report);
            }
        };
        report.entries += 1;
        let found = header.base_offset;
        match (expected, base) {
            (None, Some(base)) if found < base => {
                report.add(position, FindingKind::BelowFileName { base, found });
            }
            (Some(expected), _) if found < expected => {
                report.add(position, FindingKind::OffsetOverlap { expected, found });
            }
            (Some(expected), _) if found > expected && found >= cleaned => {
                report.add(position, FindingKind::OffsetGap { expected, found });
            }
            _ => {}
        }
        // After an overlap the log goes on where it had been, so that one fault is one finding.
        expected = expected.max(Some(header.next_offset()));
        if header.leader_epoch < epoch {
            let (before, found) = (epoch, header.leader_epoch);
            report.add(position, FindingKind::EpochFell { offset: header.base_offset, before, found });
        }
        epoch = epoch.max(header.leader_epoch);
        let bytes = walk.read(position, &header)?;
        match check_crc(&bytes) {
            Err(reason) => report.add(position, FindingKind::BadBatch { offset: found, reason }),
            Ok(_) => {
                report.records += header.record_count as u64;
                if let Some(kind) = check_records(&header, &bytes, &mut scratch, max_inflated) {
                    report.add(position, kind);
                }
            }
        }
    }
}

/// Below which offset the partition was compacted, if the data directory around the file says so: there, gaps are as they
/// should be.
fn cleaned_offset(storage: &dyn Storage, path: &Path) -> Offset {
    let found = (|| {
        let folder = path.parent()?;
        let partition: TopicPartition = folder.file_name()?.to_str()?.parse().ok()?;
        let checkpoint = folder.parent()?.join(CLEANER_CHECKPOINT);
        let entries = checkpoint::read::<PartitionOffset>(storage, &checkpoint).ok()?;
        entries.into_iter().find(|entry| entry.partition == partition).map(|entry| entry.offset)
    })();
    found.unwrap_or(Offset::ZERO)
}

/// Whether the records are as the header says. The checksum is good.
fn check_records(
    header: &BatchHeader,
    bytes: &[u8],
    scratch: &mut Vec<u8>,
    max_inflated: usize,
) -> Option<FindingKind> {
    let offset = header.base_offset;
    let bad = |reason: BatchError| Some(FindingKind::BadRecords { offset, reason });
    let batch = match BatchIter::new(bytes).next()? {
        Ok(batch) => batch,
        Err(reason) => return bad(reason),
    };
    let records = match batch.records(scratch, max_inflated) {
        Ok(records) => records,
        Err(reason) => return bad(reason),
    };
    let (mut count, mut last, mut max) = (0i64, None, Timestamp::NONE);
    for record in records {
        let record = match record {
            Ok(record) => record,
            Err(reason) => return bad(reason),
        };
        // Compaction leaves gaps, but offsets still rise and stay inside the batch.
        if record.offset < offset || record.offset > header.last_offset() || Some(record.offset) <= last {
            break;
        }
        (count, last, max) = (count + 1, Some(record.offset), max.max(record.timestamp));
    }
    if count != i64::from(header.record_count) {
        return Some(FindingKind::RecordCount { offset, announced: header.record_count, found: count });
    }
    let create_time = header.attributes.timestamp_type() == TimestampType::CreateTime;
    if create_time && count > 0 && max != header.max_timestamp {
        return Some(FindingKind::MaxTimestamp { offset, announced: header.max_timestamp, found: max });
    }
    None
}

// === .index and .timeindex ===

/// Opens the `.log` beside an index. The index was opened before, so what it points to is in the log's length.
fn log_beside(
    storage: &dyn Storage,
    path: &Path,
    report: &mut Report,
) -> Result<Option<HeaderWalk>, DumpError> {
    match HeaderWalk::open(storage, &path.with_extension("log")) {
        Ok(walk) => Ok(Some(walk)),
        Err(DumpError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            report.add(0, FindingKind::NoLog);
            Ok(None)
        }
        Err(err) => Err(err),
    }
}

fn trailing_bytes(index: &IndexEntries, report: &mut Report) {
    let len = index.len() % index.entry_size();
    if len > 0 {
        report.add(index.len() - len, FindingKind::TrailingBytes { len });
    }
}

fn verify_offset_index(storage: &dyn Storage, path: &Path) -> Result<Report, DumpError> {
    let index = IndexEntries::open(storage, path, FileKind::OffsetIndex)?;
    let mut report = Report { bytes: index.len(), ..Report::default() };
    let mut log = log_beside(storage, path, &mut report)?;
    trailing_bytes(&index, &mut report);
    let mut last: Option<(Offset, u64)> = None;
    let mut zeros_from = None;
    let end = index.len();
    for entry in index {
        let entry = entry?;
        let Entry::Position { offset, position: target } = entry.shown else { continue };
        // A running Kafka's index is preallocated with zeros; no entry but the first can be zero.
        if entry.zero && last.is_some() {
            zeros_from = zeros_from.or(Some(entry.at));
            continue;
        }
        report.entries += 1;
        zeros_from = None;
        if last.is_some_and(|(o, p)| offset <= o || target <= p) {
            report.add(entry.at, FindingKind::NotRising);
        }
        last = last.max(Some((offset, target)));
        let Some(log) = &mut log else { continue };
        match log.batch_at(target)? {
            Some((header, bytes)) if check_crc(&bytes).is_ok() => {
                let found = header.last_offset();
                if found != offset {
                    report.add(entry.at, FindingKind::PointsElsewhere { offset, found });
                }
            }
            _ => report.add(entry.at, FindingKind::PointsNowhere { offset, target }),
        }
    }
    if let Some(from) = zeros_from {
        report.add(from, FindingKind::TrailingZeros { len: end - from });
    }
    Ok(report)
}

/// The batch headers passed so far, for entries that come in the order of their offsets.
struct Passed {
    walk: HeaderWalk,
    current: Option<BatchHeader>,
    max_before: Timestamp,
}

impl Passed {
    /// Walks on to the batch that holds `offset`; `None` if there is none.
    fn seek(&mut self, offset: Offset) -> Result<Option<&BatchHeader>, DumpError> {
        while self.current.is_none_or(|header| header.last_offset() < offset) {
            if let Some(header) = self.current {
                self.max_before = self.max_before.max(header.max_timestamp);
            }
            match self.walk.next()? {
                Step::Batch(_, header) => self.current = Some(header),
                Step::End(_) => return Ok(None),
            }
        }
        Ok(self.current.as_ref().filter(|header| header.base_offset <= offset))
    }
}

fn verify_time_index(storage: &dyn Storage, path: &Path) -> Result<Report, DumpError> {
    let index = IndexEntries::open(storage, path, FileKind::TimeIndex)?;
    let mut report = Report { bytes: index.len(), ..Report::default() };
    let log = log_beside(storage, path, &mut report)?;
    let mut passed = log.map(|walk| Passed { walk, current: None, max_before: Timestamp::NONE });
    trailing_bytes(&index, &mut report);
    let (base, end) = (index.base(), index.len());
    let mut last: Option<(Offset, Timestamp)> = None;
    let mut zeros_from = None;
    for entry in index {
        let entry = entry?;
        let Entry::Time { timestamp: stored, offset } = entry.shown else { continue };
        if entry.zero && last.is_some() {
            zeros_from = zeros_from.or(Some(entry.at));
            continue;
        }
        report.entries += 1;
        zeros_from = None;
        if last.is_some_and(|(o, t)| offset <= o || stored <= t) {
            report.add(entry.at, FindingKind::NotRising);
            continue; // the walk through the log cannot go back
        }
        last = Some((offset, stored));
        let Some(passed) = &mut passed else { continue };
        match passed.seek(offset)?.copied() {
            // Kafka closes an empty segment with one entry for its base offset.
            None if offset == base && passed.walk.len() == 0 => {}
            None => report.add(entry.at, FindingKind::NoSuchOffset { offset }),
            Some(header) if header.max_timestamp != stored => {
                let found = header.max_timestamp;
                report.add(entry.at, FindingKind::TimestampDiffers { offset, stored, found });
            }
            Some(_) if passed.max_before > stored => {
                let found = passed.max_before;
                report.add(entry.at, FindingKind::YoungerBefore { offset, stored, found });
            }
            Some(_) => {}
        }
    }
    if let Some(from) = zeros_from {
        report.add(from, FindingKind::TrailingZeros { len: end - from });
    }
    Ok(report)
}

// === small files ===

fn verify_small(storage: &dyn Storage, path: &Path, kind: FileKind) -> Result<Report, DumpError> {
    let mut report = Report::default();
    let bytes = match state_file::read(storage, path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(DumpError::io(path)(io::ErrorKind::NotFound.into())),
        Err(err) => match err.kind {
            StateFileErrorKind::TooLarge(len) => {
                report.add(0, FindingKind::TooLarge(len));
                return Ok(report);
            }
            _ => return Err(err.into()),
        },
    };
    report.bytes = bytes.len() as u64;
    match kind {
        FileKind::ProducerSnapshot => match decode_snapshot(&bytes) {
            Ok(entries) => report.entries = entries.len() as u64,
            Err(err) => report.add(0, err),
        },
        FileKind::LeaderEpochs => match checkpoint::decode::<EpochStart>(&bytes) {
            Ok(entries) => {
                report.entries = entries.len() as u64;
                for pair in entries.windows(2) {
                    if pair[1].epoch <= pair[0].epoch || pair[1].start <= pair[0].start {
                        report.add(0, FindingKind::NotRising);
                    }
                }
            }
            Err(err) => report.add(0, err),
        },
        _ => match checkpoint::decode::<PartitionOffset>(&bytes) {
            Ok(entries) => report.entries = entries.len() as u64,
            Err(err) => report.add(0, err),
        },
    }
    Ok(report)
}
