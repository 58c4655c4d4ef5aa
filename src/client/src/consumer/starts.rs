//! Where partitions that were just assigned begin: where the group was, or where `offset_reset` says. An error is never taken for
//! "nothing was committed": that would lead to reading all again, or to skipping.

use super::heartbeats::Shared;
use super::hooks::OffsetAndMetadata;
use super::wire::Identity;
use crate::admin::resolve;
use crate::client::{Client, MAX_CONTROL_MESSAGE};
use crate::net::Backoff;
use crate::proto;
use crate::proto::group_service_client::GroupServiceClient;
use crate::{ClientError, Isolation, OffsetReset, Start};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, Stream};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, TopicId, TopicName, TopicPartition};

/// Where one partition begins.
#[derive(Debug)]
pub(super) enum Found {
    Committed(OffsetAndMetadata),
    Reset(Offset),
    /// Nothing is committed, and nothing says where to begin.
    Nowhere,
    Failed(ClientError),
}

/// The partitions whose start is being looked for.
pub(super) struct Starts {
    source: Arc<Source>,
    searches: FuturesUnordered<BoxFuture<'static, Vec<(TopicPartition, u64, Step)>>>,
    last: u64,
}

enum Step {
    Done(Found),
    /// It has no committed offset.
    Reset(Start),
}

/// What a search needs.
struct Source {
    client: Client,
    identity: Arc<Identity>,
    shared: Arc<Shared>,
    reset: OffsetReset,
    isolation: Isolation,
    /// The searches that somebody waits for, by partition.
    wanted: Mutex<BTreeMap<TopicPartition, u64>>,
}

impl Starts {
    pub(super) fn new(
        client: Client,
        identity: Arc<Identity>,
        shared: Arc<Shared>,
        reset: OffsetReset,
        isolation: Isolation,
    ) -> Starts {
        let wanted = Mutex::default();
        let source = Arc::new(Source { client, identity, shared, reset, isolation, wanted });
        Starts { source, searches: FuturesUnordered::new(), last: 0 }
    }

    /// Looks for these.
    pub(super) fn search(&mut self, partitions: Vec<(TopicPartition, TopicId)>) {
        if partitions.is_empty() {
            return;
        }
        self.last += 1;
        let number = self.last;
        self.source.lock().extend(partitions.iter().map(|(at, _)| (at.clone(), number)));
        let source = Arc::clone(&self.source);
        self.searches.push(Box::pin(async move { source.committed(partitions, number).await }));
    }

    /// Does not look for it any more.
    pub(super) fn forget(&mut self, at: &TopicPartition) {
        self.source.lock().remove(at);
    }

    /// What was found; never ready while nothing is looked for.
    pub(super) fn poll_found(&mut self, cx: &mut Context<'_>) -> Poll<Vec<(TopicPartition, Found)>> {
        while let Poll::Ready(Some(steps)) = Pin::new(&mut self.searches).poll_next(cx) {
            let mut found = Vec::new();
            for (at, number, step) in steps {
                if self.source.lock().get(&at) != Some(&number) {
                    continue;
                }
                match step {
                    Step::Done(outcome) => {
                        self.source.lock().remove(&at);
                        found.push((at, outcome));
                    }
                    Step::Reset(start) => {
                        let source = Arc::clone(&self.source);
                        self.searches.push(Box::pin(async move { source.reset(at, number, start).await }));
                    }
                }
            }
            if !found.is_empty() {
                return Poll::Ready(found);
            }
        }
        Poll::Pending
    }
}

impl Source {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TopicPartition, u64>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self, at: &TopicPartition, number: u64) -> bool {
        self.lock().get(at) == Some(&number)
    }

    fn backoff(&self) -> Backoff {
        let config = self.client.config();
        Backoff::new(config.retry_backoff, config.retry_backoff_max)
    }

    /// Asks for committed offsets until there is an answer, or nobody wants it.
    async fn committed(
        &self,
        partitions: Vec<(TopicPartition, TopicId)>,
        number: u64,
    ) -> Vec<(TopicPartition, u64, Step)> {
        let mut backoff = self.backoff();
        loop {
            let wanted = partitions.iter().filter(|(at, _)| self.is_wanted(at, number));
            let wanted: Vec<(TopicPartition, TopicId)> = wanted.cloned().collect();
            if wanted.is_empty() {
                return Vec::new();
            }
            let outcome = self.fetch(&wanted).await;
            let asked: Vec<TopicPartition> = wanted.into_iter().map(|(at, _)| at).collect();
            match outcome {
                Ok(mut known) => {
                    let step = |at: &TopicPartition| match known.remove(at) {
                        Some(offset) => Step::Done(Found::Committed(offset)),
                        None => match self.reset {
                            OffsetReset::Earliest => Step::Reset(Start::Earliest),
                            OffsetReset::Latest => Step::Reset(Start::Latest),
                            OffsetReset::None => Step::Done(Found::Nowhere),
                        },
                    };
                    let steps: Vec<Step> = asked.iter().map(step).collect();
                    return asked.into_iter().zip(steps).map(|(at, step)| (at, number, step)).collect();
                }
                Err(error) if may_pass(&error) => {
                    tracing::info!(group = %self.identity.group, %error, "committed offsets could not be had yet");
                    tokio::time::sleep(backoff.next_pause()).await;
                }
                Err(error) => {
                    let failed = |at| (at, number, Step::Done(Found::Failed(error.clone())));
                    return asked.into_iter().map(failed).collect();
                }
            }
        }
    }

    async fn fetch(
        &self,
        partitions: &[(TopicPartition, TopicId)],
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, ClientError> {
        let member = self.shared.epoch();
        let id = member.map(|_| self.identity.member.as_str().to_owned());
        let request = proto::FetchOffsetsRequest {
            group_id: self.identity.group.as_str().to_owned(),
            member_id: id.unwrap_or_default(),
            member_epoch: member.map_or(0, |epoch| epoch.0),
            topics: by_topic(partitions.iter().map(|(at, id)| (at, Some(*id)))),
        };
        fetch_committed(&self.client, request).await
    }

    async fn reset(&self, at: TopicPartition, number: u64, start: Start) -> Vec<(TopicPartition, u64, Step)> {
        let mut backoff = self.backoff();
        while self.is_wanted(&at, number) {
            let (topic, partition) = (at.topic.as_str(), at.partition);
            match resolve(&self.client, topic, partition, start, self.isolation).await {
                Ok(offset) => return vec![(at, number, Step::Done(Found::Reset(offset)))],
                Err(error) if may_pass(&error) => tokio::time::sleep(backoff.next_pause()).await,
                Err(error) => return vec![(at, number, Step::Done(Found::Failed(error)))],
            }
        }
        Vec::new()
    }
}

/// Whether an error says nothing about the offsets: also one about the member, which joins anew then.
fn may_pass(error: &ClientError) -> bool {
    let member = matches!(error.code(), Some(ErrorCode::UnknownMember | ErrorCode::FencedMemberEpoch));
    member || error.retriable()
}

/// The partitions as the wire wants them, with their topics' ids as far as they are known: what was committed of a former topic
/// of the same name is not theirs.
pub(crate) fn by_topic<'a>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, Option<TopicId>)>,
) -> Vec<proto::TopicPartitions> {
    let mut topics: BTreeMap<(&TopicName, Option<TopicId>), Vec<i32>> = BTreeMap::new();
    for (at, id) in partitions {
        topics.entry((&at.topic, id)).or_default().push(at.partition.get());
    }
    let topics = topics.into_iter().map(|((topic, id), partitions)| proto::TopicPartitions {
        topic: topic.as_str().to_owned(),
        topic_id: id.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
        partitions,
    });
    topics.collect()
}

/// What a group has committed.
pub(crate) async fn fetch_committed(
    client: &Client,
    request: proto::FetchOffsetsRequest,
) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, ClientError> {
    let answer = client
        .call(|channel| {
            let request = request.clone();
            async move {
                let service = GroupServiceClient::new(channel);
                service.max_decoding_message_size(MAX_CONTROL_MESSAGE).fetch_offsets(request).await
            }
        })
        .await?;
    let mut known = BTreeMap::new();
    for found in answer.offsets {
        let topic = TopicName::new(&found.topic)
            .map_err(|_| ClientError::Protocol("a committed offset has an illegal topic name"))?;
        if found.offset < 0 {
            return Err(ClientError::Protocol("a committed offset is negative"));
        }
        let offset = OffsetAndMetadata {
            offset: Offset(found.offset),
            leader_epoch: found.leader_epoch.map_or(LeaderEpoch::NONE, LeaderEpoch),
            metadata: found.metadata,
        };
        known.insert(TopicPartition::new(topic, thalweg_core::PartitionId(found.partition)), offset);
    }
    Ok(known)
}
