//! Ids for idempotent producers, given away from blocks that the controllers hand out.

use crate::controller::ControllerLink;
use std::ops::Range;
use std::time::Duration;
use thalweg_core::{BrokerId, ProducerEpoch, ProducerId};
use thalweg_proto::{ApiError, v1};
use tokio::sync::Mutex;

/// The ids that are left of the last block.
#[derive(Debug, Default)]
pub struct ProducerIds {
    // Held while a block is fetched, so that many callers fetch one.
    left: Mutex<Range<i64>>,
}

impl ProducerIds {
    /// No ids yet; the first call fetches a block.
    pub fn new() -> ProducerIds {
        ProducerIds::default()
    }

    /// Serves InitProducer: a new id with epoch 0, or the caller's id with the next epoch, or a new id when its epochs are used
    /// up.
    pub async fn init(
        &self,
        link: &ControllerLink,
        me: BrokerId,
        within: Duration,
        request: v1::InitProducerRequest,
    ) -> Result<v1::InitProducerResponse, ApiError> {
        let (id, epoch) = match kept(&request)? {
            Some((id, epoch)) => (id, epoch),
            None => (self.next(link, me, within).await?, ProducerEpoch(0)),
        };
        Ok(v1::InitProducerResponse { producer_id: id.get(), producer_epoch: i32::from(epoch.get()) })
    }

    async fn next(
        &self,
        link: &ControllerLink,
        me: BrokerId,
        within: Duration,
    ) -> Result<ProducerId, ApiError> {
        let mut left = self.left.lock().await;
        if left.is_empty() {
            let block = link.allocate_producer_ids(me, within).await?;
            *left = block;
        }
        left.next().map(ProducerId).ok_or_else(|| {
            ApiError::new(
                thalweg_core::ErrorCode::Internal,
                "the controllers gave an empty block of producer ids",
            )
        })
    }
}

/// The id to keep and its next epoch; `None` for a new id.
fn kept(request: &v1::InitProducerRequest) -> Result<Option<(ProducerId, ProducerEpoch)>, ApiError> {
    let Some(id) = request.producer_id.filter(|id| *id != ProducerId::NONE.get()) else {
        return Ok(None);
    };
    if id < 0 {
        return Err(ApiError::invalid(
            "producer_id",
            "a producer id is not negative; leave it out for a new one",
        ));
    }
    let Some(epoch) = request.producer_epoch.and_then(|epoch| i16::try_from(epoch).ok()).filter(|e| *e >= 0)
    else {
        return Err(ApiError::invalid("producer_epoch", "name the epoch of the id to keep, from 0 to 32767"));
    };
    // The last epoch is never used, as in Kafka: a fence above it must be possible.
    Ok((epoch < i16::MAX - 1).then_some((ProducerId(id), ProducerEpoch(epoch + 1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(id: Option<i64>, epoch: Option<i32>) -> Result<Option<(i64, i16)>, String> {
        kept(&v1::InitProducerRequest { producer_id: id, producer_epoch: epoch })
            .map(|kept| kept.map(|(id, epoch)| (id.get(), epoch.get())))
            .map_err(|error| error.field.unwrap_or_default())
    }

    #[test]
    fn a_kept_id_gets_the_next_epoch_until_they_are_used_up() {
        assert_eq!(ask(None, None), Ok(None));
        assert_eq!(ask(Some(-1), Some(3)), Ok(None));
        assert_eq!(ask(Some(7), Some(0)), Ok(Some((7, 1))));
        assert_eq!(ask(Some(7), Some(32_765)), Ok(Some((7, 32_766))));
        assert_eq!(ask(Some(7), Some(32_766)), Ok(None));
        assert_eq!(ask(Some(-2), Some(0)), Err("producer_id".into()));
        assert_eq!(ask(Some(7), None), Err("producer_epoch".into()));
        assert_eq!(ask(Some(7), Some(32_768)), Err("producer_epoch".into()));
    }
}
