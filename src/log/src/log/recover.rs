//! After an unclean stop: every batch from the recovery point on is checked, and the log ends where the last good one does.

use super::RecoveryReport;
use crate::error::{OpenError, StorageError};
use crate::leader_epoch::EpochStart;
use crate::segment::{BatchScan, Home, ScanError, Scanned, Segment};
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use thalweg_core::Offset;

/// Bytes that are read and written again at once.
const REWRITE_CHUNK: usize = 256 << 10;

/// What a scan found.
pub(super) struct Recovered {
    /// The segments that are left, the last one cut to its last good batch.
    pub segments: Vec<Arc<Segment>>,
    /// The offset behind the last good batch.
    pub end: Offset,
    /// The first offset that was scanned.
    pub scanned_from: Offset,
    /// Where each epoch starts, of what was scanned.
    pub epochs: Vec<EpochStart>,
}

/// How far one segment is good.
struct Scan {
    /// Bytes of good batches.
    size: u64,
    /// Where the first batch begins that was perhaps never synced.
    unsynced: u64,
    end: Offset,
    /// Why it is not good to its end.
    damage: Option<String>,
}

/// Scans the segments from the one that holds `recovery_point` on. The first damage ends the log: what is behind it is cut
/// away, since offsets must not have holes.
///
/// Inside a segment batches may be missing: compaction removed them, here or where they were copied from, whatever the topic's
/// policy is now. What a disk loses there does not look so: it leaves bytes that are no batch, or, no checksum covering them, an
/// offset that the next batch or the recovery point contradicts. Between two segments nothing is
/// missing, unless, with `may_skip`, it was stable (as a log may be that other software compacted): a segment begins where the one
/// before it ended, and compaction keeps that end.
pub(super) fn recover(
    home: &Home,
    mut segments: Vec<Arc<Segment>>,
    recovery_point: Offset,
    may_skip: bool,
    report: &mut RecoveryReport,
) -> Result<Recovered, OpenError> {
    // A segment that ends right at the recovery point counts as unsafe: its last sync may have come before it was closed,
    // and its indexes are synced only after that.
    let first = segments.partition_point(|segment| segment.base() < recovery_point).saturating_sub(1);
    let scanned_from = segments[first].base();
    let mut end = scanned_from;
    let mut epochs = Vec::new();
    let mut i = first;
    while i < segments.len() {
        let segment = Arc::clone(&segments[i]);
        let base = segment.base();
        let follows = base == end || (may_skip && base > end && base <= recovery_point);
        if i > first && !follows {
            let reason = format!("the segment {} does not continue the log", segment.base());
            remove_from(home, &mut segments, i, &reason, report)?;
            break;
        }
        if segment.size() == 0 {
            // Of thousands of partitions most are empty. There is nothing to save, and its index says nothing.
            segment.recovered(0, segment.new_index());
            end = segment.base();
            i += 1;
            continue;
        }
        let scan = scan(&segment, recovery_point, may_skip, &mut epochs)?;
        report.scanned_segments += 1;
        end = scan.end;
        let is_last = i + 1 == segments.len();
        if let Some(reason) = &scan.damage {
            cut(home, &segment, &scan, reason, report)?;
            remove_from(home, &mut segments, i + 1, reason, report)?;
        }
        write_again(&segment, &scan)?;
        store_index(home, &segment, is_last || scan.damage.is_some());
        i += 1;
    }
    Ok(Recovered { segments, end, scanned_from, epochs })
}

fn scan(
    segment: &Segment,
    recovery_point: Offset,
    may_skip: bool,
    epochs: &mut Vec<EpochStart>,
) -> Result<Scan, OpenError> {
    let file = segment.open_file()?;
    let mut index = segment.new_index();
    let mut scan = Scan { size: 0, unsynced: 0, end: segment.base(), damage: None };
    let mut accept = |scan: &mut Scan, batch: &Scanned| {
        let (epoch, start) = (batch.header.leader_epoch, batch.header.base_offset);
        if epochs.last().is_none_or(|last| last.epoch != epoch) {
            epochs.push(EpochStart { epoch, start });
        }
        segment.note_in(&mut index, batch);
        (scan.size, scan.end) = (batch.end(), batch.header.next_offset());
        if scan.end <= recovery_point {
            scan.unsynced = scan.size;
        }
    };
    // A batch behind a gap, until the next one shows that it is where it belongs: no checksum covers its offset.
    let mut behind_gap: Option<Scanned> = None;
    let mut batches = BatchScan::checked(&*file, 0, segment.size());
    loop {
        let next = batches.next();
        if let Some(doubted) = behind_gap.take() {
            match &next {
                Ok(Some(batch)) if batch.header.base_offset < doubted.header.next_offset() => {
                    scan.damage = Some(out_of_place(&doubted, scan.end));
                    break;
                }
                _ => accept(&mut scan, &doubted),
            }
        }
        match next {
            Ok(None) => break,
            Ok(Some(batch)) if batch.header.base_offset == scan.end => accept(&mut scan, &batch),
            Ok(Some(batch)) if may_follow_a_gap(&batch, scan.end, recovery_point, may_skip) => {
                behind_gap = Some(batch);
            }
            Ok(Some(batch)) => {
                scan.damage = Some(out_of_place(&batch, scan.end));
                break;
            }
            Err(ScanError::Bad { reason, .. }) => {
                scan.damage = Some(reason.to_string());
                break;
            }
            Err(ScanError::Io(err)) => {
                return Err(StorageError::io("scan", &segment.path(), err).into());
            }
        }
    }
    let file_size = segment.size();
    segment.recovered(scan.size, index);
    if scan.damage.is_some() {
        tracing::debug!(file_size, good = scan.size, "scan ended early");
    }
    Ok(scan)
}

/// A log that is not compacted now ended at its recovery point once, so that no gap can lie across it.
fn may_follow_a_gap(batch: &Scanned, expected: Offset, recovery_point: Offset, may_skip: bool) -> bool {
    let base = batch.header.base_offset;
    base > expected && (may_skip || expected >= recovery_point || base < recovery_point)
}

fn out_of_place(batch: &Scanned, expected: Offset) -> String {
    format!("a batch at offset {} where {expected} is due", batch.header.base_offset)
}

/// Makes the good batches stable. A killed process leaves batches that only the page cache holds, and a sync alone does not
/// always save those: if the process was killed or ended because a sync had failed, the kernel has dropped what it could not
/// write, or calls it clean, and the next sync succeeds without writing it. Written again, it is dirty again.
fn write_again(segment: &Segment, scan: &Scan) -> Result<(), OpenError> {
    let io = |err| StorageError::io("write again", &segment.path(), err);
    let file = segment.open_file()?;
    let mut chunk = vec![0; REWRITE_CHUNK];
    let mut at = scan.unsynced;
    while at < scan.size {
        let left = usize::try_from(scan.size - at).unwrap_or(usize::MAX);
        let part = &mut chunk[..left.min(REWRITE_CHUNK)];
        file.read_exact_at(part, at).map_err(io)?;
        match file.write_all_at(&mut [IoSlice::new(part)], at) {
            // Where even what is there needs new space, a full disk must not keep a log from opening.
            Err(err) if err.kind() == ErrorKind::StorageFull => break,
            written => written.map_err(io)?,
        }
        at += part.len() as u64;
    }
    Ok(segment.sync()?)
}

/// Cuts a segment behind its last good batch.
fn cut(
    home: &Home,
    segment: &Segment,
    scan: &Scan,
    reason: &str,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let io = |err| StorageError::io("cut", &segment.path(), err);
    let file = segment.open_file()?;
    let lost = file.len().map_err(io)?.saturating_sub(scan.size);
    file.set_len(scan.size).map_err(io)?;
    report.cut_bytes += lost;
    report.reason.get_or_insert_with(|| reason.to_owned());
    tracing::warn!(
        partition = %home.partition, segment = %segment.base(), bytes = lost, end = %scan.end, reason,
        "cut the log behind its last whole batch"
    );
    Ok(())
}

/// Removes the segments from `at` on, last one first.
fn remove_from(
    home: &Home,
    segments: &mut Vec<Arc<Segment>>,
    at: usize,
    reason: &str,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    for doomed in segments.split_off(at).iter().rev() {
        tracing::error!(
            partition = %home.partition, segment = %doomed.base(), bytes = doomed.size(), reason,
            "removing a whole segment behind a damaged one"
        );
        report.cut_bytes += doomed.size();
        report.removed_segments += 1;
        report.reason.get_or_insert_with(|| reason.to_owned());
        doomed.remove()?;
    }
    Ok(())
}

/// Writes a rebuilt index. A full disk must not keep a log from opening, and the index is in memory anyway; but half an
/// index must not be found at the next start, so then there is none.
fn store_index(home: &Home, segment: &Segment, active: bool) {
    let stored = if active {
        segment.store_index()
    } else {
        segment.seal().and_then(|()| segment.sync_index()).map(drop)
    };
    if let Err(err) = stored {
        tracing::warn!(partition = %home.partition, error = %err, "cannot store a rebuilt index");
        segment.discard_stored_index();
    }
}
