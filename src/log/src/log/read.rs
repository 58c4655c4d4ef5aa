//! Reads: whole batches, straight from the file into a pooled buffer.

use super::{Life, Log};
use crate::error::{ReadError, StorageError};
use crate::segment::Segment;
use bytes::Bytes;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use thalweg_core::batch::{BatchHeader, HEADER_LEN};
use thalweg_core::{ErrorCode, Offset};

/// How far a read may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBound {
    /// Committed records.
    HighWatermark,
    /// Committed records outside open transactions.
    LastStable,
    /// Everything, for followers.
    LogEnd,
}

/// What a read found.
#[derive(Debug, Clone)]
pub struct LogRead {
    /// Whole batches, one behind the other. The first holds the offset asked for (or, in a compacted log, the next one
    /// there is). Empty if the offset is at the bound, or the first batch is larger than allowed.
    pub data: Bytes,
    /// The offset behind `data`: where to read on.
    pub next_offset: Offset,
    /// The high watermark.
    pub high_watermark: Offset,
    /// The last stable offset.
    pub last_stable_offset: Offset,
    /// The first offset of the log.
    pub log_start_offset: Offset,
    /// The log's end.
    pub log_end_offset: Offset,
}

/// How often a read is repeated because the log was truncated meanwhile, before it waits for the truncation to end.
const OPTIMISTIC_READS: usize = 3;

/// How many ends of reads are remembered for each log: as many sequential readers find their place without the index.
const HINTS: usize = 4;

/// Where earlier reads ended, so that the next one of the same reader starts there.
#[derive(Debug, Default)]
pub(super) struct Hints {
    entries: [Option<Hint>; HINTS],
    next: usize,
}

#[derive(Debug, Clone, Copy)]
struct Hint {
    generation: u64,
    segment: Offset,
    offset: Offset,
    position: u64,
}

/// The most bytes that one read gives, unless a single batch is larger. It bounds the buffer, whatever a caller asks for.
pub const MAX_READ_BYTES: usize = 64 << 20;

/// What was read of one segment.
struct Piece {
    data: Bytes,
    next_offset: Offset,
}

/// How far a read may go in one segment.
struct Limits {
    /// Only batches that end below this.
    below: Offset,
    max_bytes: usize,
    min_one_batch: bool,
}

impl Log {
    /// Reads batches from the one that holds `from`, at most `max_bytes`; with `min_one_batch` the first may be larger.
    ///
    /// One read never crosses a segment's end, so it may give less than there is; it gives nothing only if there is nothing
    /// below the bound (or the first batch does not fit). `from` at the bound is no error. Blocks for file I/O.
    pub fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        bound: ReadBound,
        min_one_batch: bool,
    ) -> Result<LogRead, ReadError> {
        for _ in 0..OPTIMISTIC_READS {
            let generation = self.generation.load(Ordering::Acquire);
            let result = self.read_once(from, max_bytes, bound, min_one_batch, generation);
            if generation.is_multiple_of(2) && self.generation.load(Ordering::Acquire) == generation {
                return result;
            }
        }
        // Truncation holds this lock.
        let _appender = self.appender();
        let generation = self.generation.load(Ordering::Acquire);
        self.read_once(from, max_bytes, bound, min_one_batch, generation)
    }

    fn read_once(
        &self,
        from: Offset,
        max_bytes: usize,
        bound: ReadBound,
        min_one_batch: bool,
        generation: u64,
    ) -> Result<LogRead, ReadError> {
        if self.life() == Life::Deleted {
            return Err(StorageError::Deleted { partition: self.topic_partition().clone() }.into());
        }
        // The bound before the segments: they hold at least what the bound promises.
        let high_watermark = self.high_watermark();
        let log_end_offset = self.log_end_offset();
        let segments = self.segments();
        let log_start_offset = self.log_start_offset();
        let below = match bound {
            ReadBound::HighWatermark => high_watermark,
            ReadBound::LastStable => self.last_stable_offset().min(high_watermark),
            ReadBound::LogEnd => log_end_offset,
        };
        if from < log_start_offset || from > log_end_offset {
            return Err(ReadError::OffsetOutOfRange {
                requested: from,
                log_start: log_start_offset,
                log_end: log_end_offset,
            });
        }
        let mut read = LogRead {
            data: Bytes::new(),
            next_offset: from,
            high_watermark,
            last_stable_offset: high_watermark,
            log_start_offset,
            log_end_offset,
        };
        let limits = Limits { below, max_bytes: max_bytes.min(MAX_READ_BYTES), min_one_batch };
        let first = segments.partition_point(|segment| segment.base() <= from).saturating_sub(1);
        for segment in &segments[first..] {
            if from >= below || segment.base() >= below {
                break;
            }
            let piece = match self.read_segment(segment, from, &limits, generation) {
                Err(err) if self.log_start_offset() > from && err.code() == ErrorCode::StorageError => {
                    // Retention removed the file meanwhile.
                    return Err(ReadError::OffsetOutOfRange {
                        requested: from,
                        log_start: self.log_start_offset(),
                        log_end: log_end_offset,
                    });
                }
                other => other?,
            };
            if let Some(piece) = piece {
                (read.data, read.next_offset) = (piece.data, piece.next_offset);
                break;
            }
        }
        Ok(read)
    }

    /// The batches of one segment from the one that holds `from`; `None` if it has none that ends there or behind.
    fn read_segment(
        &self,
        segment: &Segment,
        from: Offset,
        limits: &Limits,
        generation: u64,
    ) -> Result<Option<Piece>, ReadError> {
        let size = segment.size();
        if let Some(position) = self.take_hint(generation, segment.base(), from)
            && let Some(found) = self.read_batches(segment, position, size, from, limits, generation)?
        {
            return Ok(Some(found));
        }
        match segment.locate(from)? {
            Some(batch) => self.read_batches(segment, batch.position, size, from, limits, generation),
            None => Ok(None),
        }
    }

    /// Reads at a position; `None` if no batch that ends at or above `from` begins there.
    fn read_batches(
        &self,
        segment: &Segment,
        position: u64,
        size: u64,
        from: Offset,
        limits: &Limits,
        generation: u64,
    ) -> Result<Option<Piece>, ReadError> {
        let io = |err| StorageError::io("read", &segment.path(), err);
        let file = segment.open_file()?;
        let available = usize::try_from(size.saturating_sub(position)).unwrap_or(usize::MAX);
        let mut want = limits.max_bytes.max(HEADER_LEN).min(available);
        loop {
            let mut buffer = self.memory.pool.take(want);
            let bytes = &mut buffer.bytes_mut()[..want];
            file.read_exact_at(bytes, position).map_err(io)?;
            let Ok(first) = BatchHeader::parse(bytes) else { return Ok(None) };
            if first.last_offset() < from || first.size() > available {
                return Ok(None);
            }
            let (end, next_offset) = whole_batches(bytes, first.base_offset, limits.below);
            // The first batch ends at or above the bound.
            if end == 0 && first.last_offset() >= limits.below {
                return Ok(Some(Piece { data: Bytes::new(), next_offset: from }));
            }
            let too_large = first.size() > limits.max_bytes.min(want);
            if too_large && !limits.min_one_batch {
                return Ok(Some(Piece { data: Bytes::new(), next_offset: from }));
            }
            if first.size() > want {
                want = first.size();
                continue;
            }
            let position = position + end as u64;
            self.leave_hint(Hint { generation, segment: segment.base(), offset: next_offset, position });
            return Ok(Some(Piece { data: buffer.freeze(0..end), next_offset }));
        }
    }

    fn take_hint(&self, generation: u64, segment: Offset, offset: Offset) -> Option<u64> {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |hint: &&Hint| hint.generation == generation && hint.segment == segment && hint.offset == offset;
        hints.entries.iter().flatten().find(fits).map(|hint| hint.position)
    }

    fn leave_hint(&self, hint: Hint) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |old: &Option<Hint>| {
            old.is_some_and(|old| old.segment == hint.segment && old.offset == hint.offset)
        };
        let slot = match hints.entries.iter().position(known) {
            Some(slot) => slot,
            None => {
                hints.next = (hints.next + 1) % HINTS;
                hints.next
            }
        };
        hints.entries[slot] = Some(hint);
    }
}

/// How many bytes are whole batches that end below `below`, and the offset behind them.
fn whole_batches(bytes: &[u8], from: Offset, below: Offset) -> (usize, Offset) {
    let (mut end, mut next) = (0, from);
    while let Ok(header) = BatchHeader::parse(&bytes[end..]) {
        if header.size() > bytes.len() - end || header.last_offset() >= below {
            break;
        }
        end += header.size();
        next = header.next_offset();
    }
    (end, next)
}
