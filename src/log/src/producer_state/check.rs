//! May this batch be appended? The rules of idempotence, pure.

use super::{ProducerBatch, ProducerEntry};
use thalweg_core::planted::{Bug, planted};
use thalweg_core::{ErrorCode, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// What to do with a batch that breaks no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceCheck {
    /// Append it.
    Accept,
    /// It is in the log already: answer with where.
    Duplicate {
        /// The first record's offset.
        base_offset: Offset,
        /// The last record's offset.
        last_offset: Offset,
        /// The batch's largest timestamp, as stored.
        timestamp: Timestamp,
    },
}

/// Why a batch may not be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// The batch leaves a gap, or overlaps an earlier one without being it.
    #[error("producer {producer_id} at epoch {epoch}: expected sequence {expected}, the batch has {found}")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's epoch.
        epoch: ProducerEpoch,
        /// The sequence that would follow.
        expected: Sequence,
        /// The batch's first sequence.
        found: Sequence,
    },
    /// The batch is in the log, but too long ago for its offset to be remembered.
    #[error(
        "producer {producer_id}: sequences {first} to {last} were appended before, too long ago to tell their offsets"
    )]
    DuplicateSequence {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's first sequence.
        first: Sequence,
        /// The batch's last sequence.
        last: Sequence,
    },
    /// Another instance with a newer epoch took over.
    #[error("producer {producer_id}: epoch {found} is fenced, the current one is {current}")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: ProducerId,
        /// The newest epoch known.
        current: ProducerEpoch,
        /// The batch's epoch.
        found: ProducerEpoch,
    },
    /// Nothing is known of the producer, and the batch is not its first: the state expired, or the log lost records.
    #[error(
        "producer {producer_id} is not known to this partition and the batch starts at sequence {found}, not 0; take a new producer epoch"
    )]
    UnknownProducerId {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's first sequence.
        found: Sequence,
    },
    /// A batch with a producer id but a negative epoch or sequence.
    #[error("producer {producer_id}: the batch's epoch {epoch} and sequence {sequence} must not be negative")]
    Malformed {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's epoch.
        epoch: ProducerEpoch,
        /// The batch's first sequence.
        sequence: Sequence,
    },
    /// A plain batch of a producer that is inside a transaction.
    #[error(
        "producer {producer_id} has a transaction open since offset {since}; the batch is not part of it"
    )]
    TransactionOpen {
        /// The producer.
        producer_id: ProducerId,
        /// The transaction's first offset.
        since: Offset,
    },
}

impl SequenceError {
    /// The caller-visible code, which also says whether to retry.
    pub fn code(&self) -> ErrorCode {
        match self {
            SequenceError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequence,
            SequenceError::DuplicateSequence { .. } => ErrorCode::DuplicateSequence,
            SequenceError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            SequenceError::UnknownProducerId { .. } => ErrorCode::UnknownProducerId,
            SequenceError::Malformed { .. } | SequenceError::TransactionOpen { .. } => {
                ErrorCode::InvalidRequest
            }
        }
    }
}

/// Whether sequences `first..=last` lie wholly at or before the newest one of the entry.
///
/// A producer may count such a batch as written, so this says yes only where it is sure: an epoch begins at sequence 0, hence
/// whatever is not above the newest was written, and sequences above it only if a wrap is seen among the remembered batches.
fn is_past(entry: &ProducerEntry, newest: Sequence, first: Sequence, last: Sequence) -> bool {
    let behind = |sequence: Sequence| (newest.get() as u32).wrapping_sub(sequence.get() as u32) & CIRCLE;
    let near = behind(first) < PAST && behind(last) <= behind(first);
    let wrapped = entry.batches.front().is_some_and(|oldest| oldest.first_sequence > newest);
    near && ((first <= last && last <= newest) || wrapped)
}

/// Mask of the circle of 2^31 sequences.
const CIRCLE: u32 = i32::MAX as u32;
/// Half of the circle: what lies further behind is rather a gap across the wrap.
const PAST: u32 = 1 << 30;

pub(super) fn check(
    entry: Option<&ProducerEntry>,
    batch: &ProducerBatch,
) -> Result<SequenceCheck, SequenceError> {
    let ProducerBatch {
        producer_id, producer_epoch: epoch, first_sequence: first, last_sequence: last, ..
    } = *batch;
    if !producer_id.is_some() || planted(Bug::NoDeduplication) {
        return Ok(SequenceCheck::Accept);
    }
    if epoch.get() < 0 || first.get() < 0 || last.get() < 0 {
        return Err(SequenceError::Malformed { producer_id, epoch, sequence: first });
    }
    let Some(entry) = entry else {
        if first.get() == 0 {
            return Ok(SequenceCheck::Accept);
        }
        return Err(SequenceError::UnknownProducerId { producer_id, found: first });
    };
    if epoch < entry.producer_epoch {
        let current = entry.producer_epoch;
        return Err(SequenceError::InvalidProducerEpoch { producer_id, current, found: epoch });
    }
    let same_epoch = epoch == entry.producer_epoch;
    if same_epoch && let Some(found) = entry.find_batch(first, last) {
        return Ok(SequenceCheck::Duplicate {
            base_offset: found.base_offset(),
            last_offset: found.last_offset,
            timestamp: found.timestamp,
        });
    }
    if let (Some(since), false) = (entry.current_txn_first_offset, batch.transactional) {
        return Err(SequenceError::TransactionOpen { producer_id, since });
    }
    // A new epoch starts at 0, and so does one of which only a transaction marker is known.
    let newest = if same_epoch { entry.last_sequence() } else { None };
    let expected = newest.map_or(Sequence(0), |last| last.advance(1));
    if first == expected {
        return Ok(SequenceCheck::Accept);
    }
    match newest {
        Some(newest) if is_past(entry, newest, first, last) => {
            Err(SequenceError::DuplicateSequence { producer_id, first, last })
        }
        _ => Err(SequenceError::OutOfOrderSequence { producer_id, epoch, expected, found: first }),
    }
}
