//! Appends: one vectored write of the patched header and the body as it came.

use super::pieces::Pieces;
use super::producers::{apply, producer_batch};
use super::{Appender, Life, Log, LogMode};
use crate::config::LogConfig;
use crate::error::{AppendError, StorageError};
use crate::producer_state::SequenceCheck;
use crate::segment::{Scanned, Segment};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thalweg_core::batch::{BatchHeader, HEADER_LEN, TimestampType, ValidBatch, crc_of};
use thalweg_core::{LeaderEpoch, Offset, Timestamp};

/// Where a batch is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The first record's offset.
    pub base_offset: Offset,
    /// The last record's offset.
    pub last_offset: Offset,
    /// The time that the records got, with `message.timestamp.type=LogAppendTime`; else [`Timestamp::NONE`].
    pub log_append_time: Timestamp,
    /// The first offset of the log.
    pub log_start_offset: Offset,
    /// The batch was in the log before; the offsets are those of then.
    pub duplicate: bool,
}

/// The batches of one write, for the decision to roll first.
pub(super) struct Incoming {
    pub size: u64,
    pub last_offset: Offset,
    pub max_timestamp: Timestamp,
}

impl Log {
    /// Appends a batch as the partition's leader: gives it offsets and the epoch, and with LogAppendTime the time `now`.
    ///
    /// The batch is in the page cache when this returns; [`Log::flushed_offset`] says when it is stable. On an error nothing
    /// has changed. Refused with [`AppendError::Fenced`] unless the log is led in `epoch`, once [`Log::begin_epoch`] was called.
    pub fn append_as_leader(
        &self,
        batch: &ValidBatch,
        epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let config = self.config();
        let mut appender = self.appender();
        self.check_writable()?;
        self.check_fence(&appender, epoch, LogMode::Leading)?;
        appender.now = appender.now.max(now);
        let base = self.log_end_offset();
        if base.get() > i64::MAX - i64::from(batch.header().last_offset_delta) - 1 {
            return Err(AppendError::OffsetsExhausted);
        }
        let current = appender.epochs.epochs().latest().map_or(epoch, |latest| latest.epoch);
        if epoch < current {
            return Err(AppendError::StaleEpoch { current, found: epoch });
        }
        let (header, bytes) = stamp(batch, base, epoch, config.message_timestamp_type, now);
        let log_append_time = match config.message_timestamp_type {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => Timestamp::NONE,
        };
        let log_start_offset = self.log_start_offset();
        if let SequenceCheck::Duplicate { base_offset, last_offset, timestamp } =
            appender.producers.check(&producer_batch(&header))?
        {
            let log_append_time =
                if log_append_time == Timestamp::NONE { log_append_time } else { timestamp };
            return Ok(Appended {
                base_offset,
                last_offset,
                log_append_time,
                log_start_offset,
                duplicate: true,
            });
        }
        let incoming = Incoming {
            size: header.size() as u64,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
        };
        let segment = self.segment_for(&mut appender, &config, &incoming, now)?;
        // Harmless if the batch fails: the epoch does start here.
        self.note_epoch(&mut appender, epoch, base);
        let mut slices = [IoSlice::new(&bytes), IoSlice::new(batch.body())];
        self.write(&segment, &config, &mut slices, incoming.size)?;
        let position = segment.size();
        segment.publish(std::iter::once(Scanned { header, position }));
        self.tail.push(&header, &bytes, || batch.bytes().slice(HEADER_LEN..));
        self.appended(&mut appender, std::iter::once(&header), now);
        let flush = self.wants_flush(&appender, &config);
        drop(appender);
        if flush {
            self.request_flush();
        }
        let (base_offset, last_offset) = (header.base_offset, header.last_offset());
        Ok(Appended { base_offset, last_offset, log_append_time, log_start_offset, duplicate: false })
    }

    /// Appends what a follower was sent by the leader of `epoch`: whole batches with their offsets, one behind the other, as they
    /// lie in the leader's log. Each batch's checksum, offset and epoch is checked, and nothing else of it; the first must
    /// continue the log. Returns the new log end. Refused with [`AppendError::Fenced`] unless the log follows in `epoch`, once
    /// [`Log::begin_epoch`] was called.
    ///
    /// On a malformed batch nothing is appended. After another error those in front of the failure may have been;
    /// [`Log::log_end_offset`] tells.
    pub fn append_as_follower(
        &self,
        batches: &[u8],
        epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Offset, AppendError> {
        self.append_pieces_as_follower(&[batches], epoch, now)
    }

    /// As [`Log::append_as_follower`], for batches that came in several pieces, cut anywhere: they are written as they came,
    /// without being gathered first.
    pub fn append_pieces_as_follower(
        &self,
        batches: &[&[u8]],
        epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Offset, AppendError> {
        let config = self.config();
        // Before the lock: the checksums are most of the work.
        let headers = checked_headers(batches)?;
        let mut appender = self.appender();
        self.check_writable()?;
        self.check_fence(&appender, epoch, LogMode::Following)?;
        appender.now = appender.now.max(now);
        self.check_continues(&appender, &headers, epoch)?;
        let mut rest = Pieces::new(batches);
        let mut slices = Vec::new();
        let mut headers = &headers[..];
        while let Some(first) = headers.first() {
            let incoming = Incoming {
                size: first.size() as u64,
                last_offset: first.last_offset(),
                max_timestamp: first.max_timestamp,
            };
            let segment = self.segment_for(&mut appender, &config, &incoming, now)?;
            let (count, bytes) = fitting(headers, &segment, &config);
            for header in &headers[..count] {
                self.note_epoch(&mut appender, header.leader_epoch, header.base_offset);
            }
            slices.clear();
            rest.take(bytes, |piece| slices.push(IoSlice::new(piece)));
            self.write(&segment, &config, &mut slices, bytes as u64)?;
            let mut position = segment.size();
            segment.publish(headers[..count].iter().map(|header| {
                let batch = Scanned { header: *header, position };
                position = batch.end();
                batch
            }));
            self.appended(&mut appender, headers[..count].iter(), now);
            headers = &headers[count..];
        }
        let flush = self.wants_flush(&appender, &config);
        drop(appender);
        if flush {
            self.request_flush();
        }
        Ok(self.log_end_offset())
    }

    /// Whether replicated batches, which follow one another, follow the log: its end and its latest epoch.
    fn check_continues(
        &self,
        appender: &Appender,
        headers: &[BatchHeader],
        epoch: LeaderEpoch,
    ) -> Result<(), AppendError> {
        let Some(first) = headers.first() else { return Ok(()) };
        follows(first, self.log_end_offset())?;
        // Only batches count: an epoch in which this broker led without writing leaves none.
        let mut latest = self.last_epoch(appender).unwrap_or(LeaderEpoch(0));
        for header in headers {
            if header.leader_epoch < latest || header.leader_epoch > epoch {
                let found = header.leader_epoch;
                return Err(AppendError::EpochOutOfOrder { latest, leader: epoch, found });
            }
            latest = header.leader_epoch;
        }
        Ok(())
    }

    /// Notes where an epoch starts.
    pub(super) fn note_epoch(&self, appender: &mut Appender, epoch: LeaderEpoch, start: Offset) {
        if appender.epochs.assign(epoch, start) {
            self.tell_unwritten_epochs(appender);
        }
    }

    /// Writes at the active segment's end. What a failed write left behind is cut away, or the log takes no more appends.
    fn write(
        &self,
        segment: &Segment,
        config: &LogConfig,
        slices: &mut [IoSlice<'_>],
        len: u64,
    ) -> Result<(), StorageError> {
        segment.reserve_for(len, config);
        segment.write(slices).map_err(|failure| {
            if failure.torn {
                self.set_life(Life::Failed);
                tracing::error!(partition = %self.topic_partition(), "a failed append could not be cut away, log failed");
            }
            StorageError::io("append to", &segment.path(), failure.error)
        })
    }

    /// Takes notice of batches that are in the file and shown to readers of the segment.
    fn appended<'a>(
        &self,
        appender: &mut Appender,
        headers: impl Iterator<Item = &'a BatchHeader>,
        now: Timestamp,
    ) {
        let mut end = self.log_end_offset();
        let before = end;
        for header in headers {
            apply(&mut appender.producers, header, now);
            end = header.next_offset();
        }
        appender.since_flush = appender.since_flush.saturating_add((end.get() - before.get()).unsigned_abs());
        appender.dirty_since.get_or_insert(now);
        appender.busy = true;
        // Last: whoever sees the new end may read up to it.
        self.log_end.store(end.get(), Ordering::Release);
    }

    fn wants_flush(&self, appender: &Appender, config: &LogConfig) -> bool {
        !config.write_caching || config.flush_messages.is_some_and(|limit| appender.since_flush >= limit)
    }

    /// The active segment, after a roll if the incoming batch demands one.
    fn segment_for(
        &self,
        appender: &mut Appender,
        config: &LogConfig,
        incoming: &Incoming,
        now: Timestamp,
    ) -> Result<Arc<Segment>, AppendError> {
        let limit = config.segment_limit();
        if incoming.size > limit {
            return Err(AppendError::LargerThanSegment { size: incoming.size, limit });
        }
        if self.must_roll(appender, config, incoming, now)? {
            self.roll(appender, config)?;
        }
        Ok(Arc::clone(&appender.active))
    }
}

/// A batch's header as the leader stores it, and its bytes.
fn stamp(
    batch: &ValidBatch,
    base: Offset,
    epoch: LeaderEpoch,
    kind: TimestampType,
    now: Timestamp,
) -> (BatchHeader, [u8; HEADER_LEN]) {
    let mut header = *batch.header();
    (header.base_offset, header.leader_epoch) = (base, epoch);
    let sent = (header.attributes, header.max_timestamp);
    header.attributes = header.attributes.with_timestamp_type(kind);
    if kind == TimestampType::LogAppendTime {
        header.max_timestamp = now;
    }
    let mut bytes = header.encode();
    // Offset and epoch are not under the checksum, these two are.
    if sent != (header.attributes, header.max_timestamp) {
        header.crc = crc_of(&bytes, batch.body());
        bytes = header.encode();
    }
    (header, bytes)
}

/// The headers of whole, good batches that follow one another.
fn checked_headers(batches: &[&[u8]]) -> Result<Vec<BatchHeader>, AppendError> {
    let mut headers: Vec<BatchHeader> = Vec::new();
    let mut rest = Pieces::new(batches);
    while !rest.is_empty() {
        let header = rest.checked_batch()?;
        if let Some(before) = headers.last() {
            follows(&header, before.next_offset())?;
        }
        headers.push(header);
    }
    Ok(headers)
}

/// A batch may begin above the end of the one before it: the leader, or whoever led before it, compacted what lay between, whatever
/// the topic's policy is now.
fn follows(header: &BatchHeader, expected: Offset) -> Result<(), AppendError> {
    let found = header.base_offset;
    if found < expected {
        return Err(AppendError::NotContinuous { expected, found });
    }
    Ok(())
}

/// How many of the batches fit into the segment together (at least one), and their bytes.
fn fitting(headers: &[BatchHeader], segment: &Segment, config: &LogConfig) -> (usize, usize) {
    let room = config.segment_limit().saturating_sub(segment.size());
    let mut bytes = headers[0].size();
    let mut count = 1;
    for header in &headers[1..] {
        let too_far = header.last_offset().get() - segment.base().get() > i64::from(i32::MAX);
        if (bytes + header.size()) as u64 > room || too_far {
            break;
        }
        bytes += header.size();
        count += 1;
    }
    (count, bytes)
}
