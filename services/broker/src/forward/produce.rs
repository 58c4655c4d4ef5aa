//! The unary Produce, at whichever brokers lead.

use super::PARTS_AT_ONCE;
use super::outcome::{Failure, is_elsewhere};
use super::patience::Patience;
use super::route::{Route, leads_all, route};
use super::spread::{merge, split};
use crate::node::Node;
use crate::produce::fence::Writer;
use crate::produce::request::Terms;
use crate::produce::{unary, weight};
use futures_util::{StreamExt, stream};
use thalweg_core::{ErrorCode, Offset};
use thalweg_proto::v1::producer_service_client::ProducerServiceClient;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// Serves one call. `deadline` is when the answer must leave, if the call has one.
pub async fn produce(
    node: &Node,
    request: v1::ProduceRequest,
    deadline: Option<Instant>,
) -> Result<v1::ProduceResponse, ApiError> {
    if is_local(node, &request) {
        return unary::produce(node, request, Writer::Client, deadline).await;
    }
    let Some(_charge) = node.in_flight.try_charge(weight(&request)) else {
        return Err(ApiError::new(
            ErrorCode::Throttled,
            "the broker holds as many bytes of unacknowledged records as it may; retry after a pause",
        ));
    };
    let silent = request.acks == v1::Acks::None as i32;
    let partition = request.partition.unwrap_or(-1);
    let until = Instant::now() + Terms::of(&request)?.timeout;
    let until = deadline.map_or(until, |deadline| until.min(deadline));
    let answer = match request.partition {
        Some(_) => to_one(node, request, until).await,
        None => to_many(node, request, until).await,
    };
    match answer {
        Err(error) if silent => {
            tracing::debug!(%error, "a produce request without acks was refused");
            let unseen = v1::ProduceResult {
                partition,
                base_offset: Offset::NONE.get(),
                last_offset: Offset::NONE.get(),
                log_append_time_ms: -1,
                ..Default::default()
            };
            Ok(v1::ProduceResponse { results: vec![unseen], positions: Vec::new() })
        }
        answer => answer,
    }
}

/// Whether this broker serves the request by itself: it leads, or it is to refuse.
pub fn is_local(node: &Node, request: &v1::ProduceRequest) -> bool {
    use v1::produce_request::Payload;
    let any = v1::Routing::try_from(request.routing).is_ok_and(|routing| routing != v1::Routing::LeaderOnly);
    if !any || Terms::of(request).is_err() {
        return true;
    }
    match (&request.payload, request.partition) {
        (None, _) | (Some(Payload::RecordBatch(_)), None) => true,
        (_, Some(partition)) => {
            matches!(route(node, &request.topic, partition), Route::Here | Route::Refused(_))
        }
        (Some(Payload::Records(set)), None) => {
            crate::produce::records::check(&set.records).is_err()
                || node.metadata.partition_count(&request.topic).is_none()
                || leads_all(node, &request.topic)
        }
    }
}

/// A request with a partition.
pub async fn to_one(
    node: &Node,
    mut request: v1::ProduceRequest,
    until: Instant,
) -> Result<v1::ProduceResponse, ApiError> {
    let partition = request.partition.unwrap_or(-1);
    request.routing = v1::Routing::LeaderOnly as i32;
    let mut patience = Patience::new(node, until);
    loop {
        patience.look();
        let outcome = match route(node, &request.topic, partition) {
            Route::Here => match unary::produce(node, request.clone(), Writer::Client, Some(until)).await {
                Err(error) if is_elsewhere(&error) => Err(Failure::Refused(error)),
                Err(error) => Err(Failure::Told(error)),
                Ok(answer) => Ok(answer),
            },
            Route::There(leader) => {
                request.timeout_ms = left_ms(until);
                node.peers
                    .call(node, leader, until, request.clone(), |channel, request| async move {
                        ProducerServiceClient::new(channel).produce(request).await
                    })
                    .await
            }
            Route::Nobody(error) => Err(Failure::Refused(error)),
            Route::Refused(error) => Err(Failure::Told(error)),
        };
        match outcome {
            Ok(answer) => return Ok(answer),
            Err(Failure::Refused(error)) => {
                if !patience.wait(node).await {
                    return Err(error);
                }
            }
            Err(failure) => return Err(failure.into_error()),
        }
    }
}

/// Plain records that go where their keys say.
async fn to_many(
    node: &Node,
    request: v1::ProduceRequest,
    until: Instant,
) -> Result<v1::ProduceResponse, ApiError> {
    let parts = split(node, request)?;
    let (requests, places) = (parts.requests, parts.places);
    let mut answers: Vec<_> = stream::iter(requests.into_iter().enumerate())
        .map(|(at, request)| async move {
            let partition = request.partition.unwrap_or(-1);
            (at, partition, to_one(node, request, until).await)
        })
        .buffer_unordered(PARTS_AT_ONCE)
        .collect()
        .await;
    answers.sort_unstable_by_key(|(at, ..)| *at);
    merge(answers.into_iter().map(|(_, partition, answer)| (partition, answer)).collect(), &places)
}

/// For `timeout_ms`, where 0 would mean the default.
fn left_ms(until: Instant) -> u32 {
    let left = until.saturating_duration_since(Instant::now()).as_millis();
    u32::try_from(left).unwrap_or(u32::MAX).clamp(1, crate::produce::request::MAX_TIMEOUT_MS)
}
