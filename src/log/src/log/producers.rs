//! What the producer state learns from stored batches.

use crate::error::ReadError;
use crate::producer_state::{ProducerBatch, ProducerStates};
use crate::segment::{BatchScan, ScanError, Segment};
use std::sync::Arc;
use thalweg_core::batch::BatchHeader;
use thalweg_core::{Offset, Timestamp};

/// Index entries per step of a walk backwards (each about `index.interval.bytes` of log).
const RECALL_STEP: usize = 64;
/// Most bytes of a log whose headers are read to remember more than one batch for each producer.
const RECALL_BYTES: u64 = 64 << 20;

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

/// Gives the producers back the older batches that a snapshot does not hold: walks back from the newest place where one can
/// be, until every producer has its batches or [`RECALL_BYTES`] are read. Reads nothing if no producer lacks any.
pub(super) fn recall(producers: &mut ProducerStates, segments: &[Arc<Segment>]) -> Result<(), ReadError> {
    let mut wanting = producers.wanting_recall();
    let Some(newest) = wanting.values().max().copied() else { return Ok(()) };
    let mut budget = RECALL_BYTES;
    for segment in segments.iter().rev().filter(|segment| segment.base() < newest) {
        let file = segment.open_file()?;
        // What lies at or above the newest wanted place is known already.
        let mut end = segment.locate(newest)?.map_or(segment.size(), |batch| batch.position);
        let mut back = RECALL_STEP;
        while end > 0 {
            let start = segment.tail_position(back)?;
            back += RECALL_STEP;
            if start >= end {
                continue;
            }
            let mut found = Vec::new();
            let mut scan = BatchScan::headers(&*file, start, end);
            loop {
                let batch = match scan.next() {
                    Ok(Some(batch)) => batch,
                    Ok(None) => break,
                    Err(err @ ScanError::Io(_)) => return Err(segment.scan_error(err)),
                    Err(err @ ScanError::Bad { .. }) => {
                        // An index entry that points nowhere must not keep a log from opening: a producer that repeats an
                        // older batch only hears less about it.
                        let err = segment.scan_error(err);
                        tracing::warn!(error = %err, "cannot look for the producers' older batches");
                        return Ok(());
                    }
                };
                if wanting.contains_key(&batch.header.producer_id) && !batch.header.attributes.is_control() {
                    found.push(producer_batch(&batch.header));
                }
            }
            for batch in found.iter().rev() {
                if wanting.contains_key(&batch.producer_id) && !producers.recall_one(batch) {
                    wanting.remove(&batch.producer_id);
                }
            }
            budget = budget.saturating_sub(end - start);
            if wanting.is_empty() || budget == 0 {
                return Ok(());
            }
            end = start;
        }
    }
    Ok(())
}
