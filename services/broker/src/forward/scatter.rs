//! Calls that name many partitions, each by itself: ListOffsets and DeleteRecords.

use super::PARTS_AT_ONCE;
use super::outcome::{Failure, is_elsewhere};
use super::patience::Patience;
use super::route::{Route, route};
use crate::node::Node;
use crate::read::list_offsets;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_core::{BrokerId, Offset, Timestamp};
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_proto::v1::consumer_service_client::ConsumerServiceClient;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// Serves ListOffsets. Refusals that may pass are waited for until `until`.
pub async fn list_offsets(
    node: Arc<Node>,
    request: v1::ListOffsetsRequest,
    until: Instant,
) -> Result<v1::ListOffsetsResponse, ApiError> {
    let v1::ListOffsetsRequest { partitions, isolation_level, routing } = &request;
    if !is_forwarded(*routing, partitions.len()) {
        return list_offsets::list_offsets(node, request).await;
    }
    let isolation_level = *isolation_level;
    let ask = |node: Arc<Node>, leader: Option<BrokerId>, partitions: Vec<v1::ListOffsetsPartition>| {
        let routing = v1::Routing::LeaderOnly as i32;
        let request = v1::ListOffsetsRequest { partitions, isolation_level, routing };
        async move {
            let answer = match leader {
                None => list_offsets::list_offsets(node, request).await.map_err(local)?,
                Some(leader) => {
                    let call = |channel, request| async move {
                        ConsumerServiceClient::new(channel).list_offsets(request).await
                    };
                    node.peers.call(&node, leader, until, request, call).await?
                }
            };
            Ok(answer.results)
        }
        .boxed()
    };
    let results = scatter(&node, request.partitions, until, ask).await?;
    Ok(v1::ListOffsetsResponse { results })
}

/// Serves DeleteRecords. Refusals that may pass are waited for until `until`.
pub async fn delete_records(
    node: Arc<Node>,
    request: v1::DeleteRecordsRequest,
    until: Instant,
) -> Result<v1::DeleteRecordsResponse, ApiError> {
    let v1::DeleteRecordsRequest { partitions, routing } = &request;
    if !is_forwarded(*routing, partitions.len()) {
        return list_offsets::delete_records(node, request).await;
    }
    let ask = |node: Arc<Node>, leader: Option<BrokerId>, partitions: Vec<v1::DeleteRecordsPartition>| {
        let routing = v1::Routing::LeaderOnly as i32;
        let request = v1::DeleteRecordsRequest { partitions, routing };
        async move {
            let answer = match leader {
                None => list_offsets::delete_records(node, request).await.map_err(local)?,
                Some(leader) => {
                    let call = |channel, request| async move {
                        AdminServiceClient::new(channel).delete_records(request).await
                    };
                    node.peers.call(&node, leader, until, request, call).await?
                }
            };
            Ok(answer.results)
        }
        .boxed()
    };
    let results = scatter(&node, request.partitions, until, ask).await?;
    Ok(v1::DeleteRecordsResponse { results })
}

fn local(error: ApiError) -> Failure {
    if is_elsewhere(&error) { Failure::Refused(error) } else { Failure::Told(error) }
}

/// What is wrong with a request is told by this broker's own.
fn is_forwarded(routing: i32, partitions: usize) -> bool {
    let any = v1::Routing::try_from(routing).is_ok_and(|routing| routing != v1::Routing::LeaderOnly);
    any && (1..=list_offsets::MAX_PARTITIONS).contains(&partitions)
}

/// One partition of a request.
pub trait Wanted: Clone + Send {
    /// Its answer.
    type Result: Send;
    /// Topic and partition.
    fn partition(&self) -> (&str, i32);
    /// The answer that holds this error.
    fn failed(&self, error: &ApiError) -> Self::Result;
    /// The error that an answer holds.
    fn error(result: &Self::Result) -> Option<&v1::Error>;
}

type Asked<R> = BoxFuture<'static, Result<Vec<R>, Failure>>;

/// Asks each leader for its partitions, again for those that moved, and answers in the request's order.
async fn scatter<W: Wanted>(
    node: &Arc<Node>,
    wanted: Vec<W>,
    until: Instant,
    ask: impl Fn(Arc<Node>, Option<BrokerId>, Vec<W>) -> Asked<W::Result>,
) -> Result<Vec<W::Result>, ApiError> {
    let alone = wanted.len() == 1;
    let mut results: Vec<Option<Result<W::Result, ApiError>>> = wanted.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..wanted.len()).collect();
    let mut patience = Patience::new(node, until);
    loop {
        patience.look();
        let mut again = Vec::new();
        let mut by_leader: BTreeMap<Option<BrokerId>, Vec<usize>> = BTreeMap::new();
        for at in open {
            let (topic, partition) = wanted[at].partition();
            match route(node, topic, partition) {
                Route::Here => by_leader.entry(None).or_default().push(at),
                Route::There(leader) => by_leader.entry(Some(leader)).or_default().push(at),
                Route::Refused(error) => results[at] = Some(Err(error)),
                Route::Nobody(error) => {
                    results[at] = Some(Err(error));
                    again.push(at);
                }
            }
        }
        let asked: Vec<_> = by_leader
            .into_iter()
            .map(|(leader, asked)| {
                let partitions = asked.iter().map(|at| wanted[*at].clone()).collect();
                let answer = ask(Arc::clone(node), leader, partitions);
                async move { (asked, answer.await) }
            })
            .collect();
        let mut answers = stream::iter(asked).buffer_unordered(PARTS_AT_ONCE);
        while let Some((asked, answer)) = answers.next().await {
            take::<W>(&asked, answer, &mut results, &mut again);
        }
        if again.is_empty() || !patience.wait(node).await {
            break;
        }
        open = again;
    }
    let whole =
        wanted.iter().zip(results).map(|(wanted, result)| match result {
            Some(Ok(result)) => Ok(result),
            Some(Err(error)) if alone => Err(error),
            Some(Err(error)) => Ok(wanted.failed(&error)),
            None => Ok(wanted
                .failed(&crate::refusal::internal("a partition was left out", "a leader's short answer"))),
        });
    whole.collect()
}

/// Takes one leader's answer in. What may be asked again, because nothing was done or reading it twice does no harm, is put
/// into `again`: moving a log's start twice to the same place does none either.
fn take<W: Wanted>(
    asked: &[usize],
    answer: Result<Vec<W::Result>, Failure>,
    results: &mut [Option<Result<W::Result, ApiError>>],
    again: &mut Vec<usize>,
) {
    match answer {
        Ok(answers) => {
            for (at, result) in asked.iter().zip(answers) {
                let error = W::error(&result).map(ApiError::from_proto);
                match error.map(Failure::of_error) {
                    Some(Failure::Refused(error)) => {
                        again.push(*at);
                        results[*at] = Some(Err(error));
                    }
                    _ => results[*at] = Some(Ok(result)),
                }
            }
        }
        Err(failure) => {
            if !matches!(failure, Failure::Told(_)) {
                again.extend(asked);
            }
            let error = failure.into_error();
            asked.iter().for_each(|at| results[*at] = Some(Err(error.clone())));
        }
    }
}

impl Wanted for v1::ListOffsetsPartition {
    type Result = v1::ListOffsetsResult;

    fn partition(&self) -> (&str, i32) {
        (&self.topic, self.partition)
    }

    fn failed(&self, error: &ApiError) -> v1::ListOffsetsResult {
        v1::ListOffsetsResult {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: Offset::NONE.get(),
            timestamp_ms: Timestamp::NONE.as_millis(),
            leader_epoch: -1,
            error: Some(error.to_proto()),
        }
    }

    fn error(result: &v1::ListOffsetsResult) -> Option<&v1::Error> {
        result.error.as_ref()
    }
}

impl Wanted for v1::DeleteRecordsPartition {
    type Result = v1::DeleteRecordsResult;

    fn partition(&self) -> (&str, i32) {
        (&self.topic, self.partition)
    }

    fn failed(&self, error: &ApiError) -> v1::DeleteRecordsResult {
        v1::DeleteRecordsResult {
            topic: self.topic.clone(),
            partition: self.partition,
            log_start_offset: Offset::NONE.get(),
            error: Some(error.to_proto()),
        }
    }

    fn error(result: &v1::DeleteRecordsResult) -> Option<&v1::Error> {
        result.error.as_ref()
    }
}
