//! Appends: one vectored write of the patched header and the body as it came.

use super::producers::{apply, producer_batch};
use super::{Appender, Life, Log};
use crate::config::LogConfig;
use crate::error::{AppendError, StorageError};
use crate::producer_state::SequenceCheck;
use crate::segment::{Scanned, Segment};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thalweg_core::batch::{BatchHeader, BatchIter, HEADER_LEN, TimestampType, ValidBatch, crc_of};
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
    /// has changed.
    pub fn append_as_leader(
        &self,
        batch: &ValidBatch,
        epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let config = self.config();
        let mut appender = self.appender();
        self.check_writable()?;
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
        // On disk before the batch, and harmless if the batch fails: the epoch does start here.
        appender.epochs.assign(epoch, base)?;
        let mut slices = [IoSlice::new(&bytes), IoSlice::new(batch.body())];
        self.write(&segment, &config, &mut slices, incoming.size)?;
        let position = segment.size();
        segment.publish(std::iter::once(Scanned { header, position }));
        self.appended(&mut appender, std::iter::once(&header), now);
        let flush = self.wants_flush(&appender, &config);
        drop(appender);
        if flush {
            self.request_flush();
        }
        let (base_offset, last_offset) = (header.base_offset, header.last_offset());
        Ok(Appended { base_offset, last_offset, log_append_time, log_start_offset, duplicate: false })
    }

    /// Appends what a follower fetched: whole batches with their offsets, one behind the other, whose checksums the caller
    /// has checked. The first must continue the log. Returns the new log end.
    ///
    /// On an error the batches in front of the failure may have been appended; [`Log::log_end_offset`] tells.
    pub fn append_as_follower(&self, batches: &[u8], now: Timestamp) -> Result<Offset, AppendError> {
        let config = self.config();
        let mut appender = self.appender();
        self.check_writable()?;
        appender.now = appender.now.max(now);
        let headers = self.continuing_headers(batches, &config)?;
        let mut rest = batches;
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
                appender.epochs.assign(header.leader_epoch, header.base_offset)?;
            }
            let (piece, behind) = rest.split_at(bytes);
            self.write(&segment, &config, &mut [IoSlice::new(piece)], bytes as u64)?;
            let mut position = segment.size();
            segment.publish(headers[..count].iter().map(|header| {
                let batch = Scanned { header: *header, position };
                position = batch.end();
                batch
            }));
            self.appended(&mut appender, headers[..count].iter(), now);
            (rest, headers) = (behind, &headers[count..]);
        }
        let flush = self.wants_flush(&appender, &config);
        drop(appender);
        if flush {
            self.request_flush();
        }
        Ok(self.log_end_offset())
    }

    /// The headers of batches that continue the log. Only a compacted topic may skip offsets.
    fn continuing_headers(
        &self,
        batches: &[u8],
        config: &LogConfig,
    ) -> Result<Vec<BatchHeader>, AppendError> {
        let mut headers = Vec::new();
        let mut expected = self.log_end_offset();
        for batch in BatchIter::new(batches) {
            let header = batch?.header;
            let found = header.base_offset;
            if found < expected || (found > expected && !config.cleanup_compact) {
                return Err(AppendError::NotContinuous { expected, found });
            }
            expected = header.next_offset();
            headers.push(header);
        }
        Ok(headers)
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
