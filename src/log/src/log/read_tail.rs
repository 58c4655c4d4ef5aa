//! Reads for followers: what was just appended comes from memory, everything else from the file.

use super::{Life, Log, LogRead, ReadBound};
use crate::error::ReadError;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thalweg_core::Offset;

/// A follower of a log, for as long as it follows: what it has not been given yet is kept in memory, as far as that goes.
#[derive(Debug)]
pub struct TailReader {
    log: Arc<Log>,
    id: u64,
}

/// What a read for a follower found: as [`LogRead`], with the bytes in pieces.
#[derive(Debug, Clone)]
pub struct TailRead {
    /// Whole batches, one behind the other, cut anywhere.
    pub data: Vec<Bytes>,
    /// The offset behind `data`: where to read on.
    pub next_offset: Offset,
    /// The high watermark.
    pub high_watermark: Offset,
    /// The first offset of the log.
    pub log_start_offset: Offset,
    /// The log's end.
    pub log_end_offset: Offset,
}

impl TailRead {
    /// Bytes of batches.
    pub fn bytes(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }
}

impl Log {
    /// A follower that will read from `next` on.
    pub fn tail_reader(self: &Arc<Log>, next: Offset) -> TailReader {
        TailReader { id: self.tail.enter(next), log: Arc::clone(self) }
    }

    /// Bytes that the tails of all logs hold in memory, with what they keep alive.
    pub fn tail_bytes(&self) -> usize {
        self.memory.tails.held_bytes()
    }
}

impl TailReader {
    /// Reads as [`Log::read`] with [`ReadBound::LogEnd`] and at least one batch; what is still in memory is not copied.
    pub fn read(&self, from: Offset, max_bytes: usize) -> Result<TailRead, ReadError> {
        if let Some(read) = self.read_memory(from, max_bytes) {
            return Ok(read);
        }
        self.log.tail.reads_file(self.id, from);
        let read = self.log.read(from, max_bytes, ReadBound::LogEnd, true)?;
        let LogRead { data, next_offset, high_watermark, log_start_offset, log_end_offset, .. } = read;
        let data = if data.is_empty() { Vec::new() } else { vec![data] };
        Ok(TailRead { data, next_offset, high_watermark, log_start_offset, log_end_offset })
    }

    fn read_memory(&self, from: Offset, max_bytes: usize) -> Option<TailRead> {
        let log = &*self.log;
        let generation = log.generation.load(Ordering::Acquire);
        if !generation.is_multiple_of(2) || log.life() == Life::Deleted {
            return None;
        }
        // In the order of every read.
        let (high_watermark, log_end_offset) = (log.high_watermark(), log.log_end_offset());
        let log_start_offset = log.log_start_offset();
        if from < log_start_offset || from >= log_end_offset {
            return None;
        }
        let piece = log.tail.read(self.id, from, max_bytes, log_end_offset)?;
        // A truncation that began meanwhile cleared the tail, or will: what was found may be what it cuts.
        if log.generation.load(Ordering::Acquire) != generation {
            return None;
        }
        let (data, next_offset) = (piece.data, piece.next_offset);
        Some(TailRead { data, next_offset, high_watermark, log_start_offset, log_end_offset })
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        self.log.tail.leave(self.id);
    }
}
