//! What the producer state learns from stored batches.

use crate::error::ReadError;
use crate::producer_state::{ProducerBatch, ProducerStates};
use crate::segment::{BatchScan, Segment};
use std::sync::Arc;
use thalweg_core::batch::BatchHeader;
use thalweg_core::{Offset, Timestamp};

/// How far back batches are read to remember more than one for each producer, in index entries (each about
/// `index.interval.bytes` of log).
const RECALL_ENTRIES: usize = 64;
/// How many batches are looked at for that.
const RECALL_BATCHES: usize = 4096;

/// A header as the producer state sees it.
pub(super) fn producer_batch(header: &BatchHeader) -> ProducerBatch {
    ProducerBatch {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        first_sequence: header.base_sequence,
        last_sequence: header.last_sequence(),
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        timestamp: header.max_timestamp,
        transactional: header.attributes.is_transactional(),
    }
}

/// Takes notice of a stored batch.
pub(super) fn apply(producers: &mut ProducerStates, header: &BatchHeader, now: Timestamp) {
    if header.attributes.is_control() {
        producers.advance_map_end(header.next_offset());
    } else {
        producers.apply(&producer_batch(header), now);
    }
}

/// Takes notice of all batches from the state's end up to `end`.
pub(super) fn replay(
    producers: &mut ProducerStates,
    segments: &[Arc<Segment>],
    end: Offset,
    now: Timestamp,
) -> Result<(), ReadError> {
    let from = producers.map_end_offset();
    let first = segments.partition_point(|segment| segment.base() <= from).saturating_sub(1);
    for segment in &segments[first..] {
        let Some(start) = segment.locate(from)? else { continue };
        let file = segment.open_file()?;
        let mut scan = BatchScan::headers(&*file, start.position, segment.size());
        while let Some(batch) = scan.next().map_err(|err| segment.scan_error(err))? {
            if batch.header.next_offset() <= end {
                apply(producers, &batch.header, now);
            }
        }
    }
    producers.advance_map_end(end);
    Ok(())
}

/// Gives the producers back the older batches that a snapshot does not hold, from the end of the log.
pub(super) fn recall(producers: &mut ProducerStates, segments: &[Arc<Segment>]) -> Result<(), ReadError> {
    if producers.is_empty() {
        return Ok(());
    }
    let mut found = Vec::new();
    // The active segment may be short; the one before it holds what came just before.
    for segment in &segments[segments.len().saturating_sub(2)..] {
        let start = segment.tail_position(RECALL_ENTRIES)?;
        let file = segment.open_file()?;
        let mut scan = BatchScan::headers(&*file, start, segment.size());
        while let Some(batch) = scan.next().map_err(|err| segment.scan_error(err))? {
            if batch.header.producer_id.is_some() && !batch.header.attributes.is_control() {
                found.push(producer_batch(&batch.header));
            }
        }
    }
    producers.recall(&found[found.len().saturating_sub(RECALL_BATCHES)..]);
    Ok(())
}
