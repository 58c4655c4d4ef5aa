//! What a leader's answer means for a partition.

use super::batch::Batch;
use super::delivery::Written;
use super::error::DeliveryError;
use super::lane::Lane;
use super::shared::Shared;
use super::window::{Answer, Verdict};
use std::sync::Arc;
use thalweg_core::{ErrorCode, Retriable};
use thalweg_proto::{ApiError, Detail};

impl Lane {
    /// The oldest batch in flight is written.
    pub(super) fn deliver(&mut self, written: Written) {
        if let Verdict::Settled(mut batch) = self.window.answer(Answer::Written) {
            batch.delivered(written);
        }
    }

    /// The oldest batch in flight was refused.
    pub(super) fn refused(&mut self, error: ApiError, shared: &Shared) {
        tracing::debug!(topic = %self.queue.topic, partition = %self.queue.partition, %error, "batch refused");
        self.failed(format!("the last answer: {error}"), Some(error.code));
        let answer = match error.code {
            // It was written long ago; only its offset is forgotten.
            ErrorCode::DuplicateSequence => {
                return self.deliver(Written::UNKNOWN);
            }
            ErrorCode::OutOfOrderSequence
            | ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch
                if shared.config.idempotent() =>
            {
                Answer::Sequence
            }
            ErrorCode::MessageTooLarge => {
                if let Some(mut batch) = self.window.replace(Batch::split_if_many) {
                    batch.fail(DeliveryError::Refused(Arc::new(error)));
                }
                return;
            }
            _ if error.retriable() == Retriable::No => Answer::Fatal,
            _ => Answer::Retry,
        };
        if self.follow(&error, shared) {
            self.rest.followed = true;
        } else {
            self.rest.pause |= answer == Answer::Retry;
            self.rest.refresh |= error.retriable() == Retriable::AfterRefresh;
        }
        let verdict = self.window.answer(answer);
        // A leader that refuses every new epoch too must not be asked without end.
        self.rest.pause |= self.window.needs_epoch();
        match verdict {
            Verdict::Settled(mut batch) => batch.fail(DeliveryError::Refused(Arc::new(error))),
            Verdict::Repeated(mut batch) => batch.delivered(Written::UNKNOWN),
            Verdict::Kept => {}
        }
    }

    /// Follows the answer to the leader that it names, if it does.
    fn follow(&self, error: &ApiError, shared: &Shared) -> bool {
        let Some(Detail::NotLeader { leader, endpoint, epoch }) = &error.detail else { return false };
        let (topic, partition) = (self.queue.topic.as_str(), self.queue.partition);
        shared.client.cache().follow(topic, partition, *leader, endpoint, *epoch)
    }
}
