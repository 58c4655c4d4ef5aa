//! Commits, one after the other: a later one is never overtaken by the retry of an earlier one.

use super::error::CommitError;
use super::hooks::{ConsumerInterceptor, OffsetAndMetadata};
use super::wire::Identity;
use crate::client::{Client, MAX_CONTROL_MESSAGE};
use crate::proto;
use crate::proto::group_service_client::GroupServiceClient;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::MemberEpoch;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, TopicId, TopicPartition};
use thalweg_proto::ApiError;
use tokio::sync::{mpsc, oneshot};

/// Commits that wait at most.
pub(super) const MAX_WAITING: usize = 1024;
/// Partitions of one call.
const MAX_PARTITIONS: usize = 10_000;

/// Told what became of a commit.
pub(super) type Callback = Box<dyn FnOnce(Result<(), CommitError>) + Send>;

/// Offsets to commit, by partition.
pub(super) type Offsets = BTreeMap<TopicPartition, ToCommit>;

/// An offset to commit.
#[derive(Debug, Clone)]
pub(crate) struct ToCommit {
    /// In a member's commit: `None` if the member does not have the partition, as far as the application has seen.
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) what: OffsetAndMetadata,
}

/// A commit that waits.
pub(super) struct Job {
    /// The newest epoch that the application had seen when it asked, 0 if none: what it had lost by then without having seen it,
    /// or loses later, is refused, also when it has come back.
    pub(super) epoch: MemberEpoch,
    pub(super) offsets: Offsets,
    pub(super) done: Callback,
}

/// What is durable now.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) epoch: MemberEpoch,
    pub(super) offsets: Vec<(TopicPartition, Offset)>,
}

/// Where commits are handed in.
#[derive(Clone)]
pub(super) struct CommitLane {
    jobs: mpsc::Sender<Job>,
}

struct Committer {
    client: Client,
    identity: Arc<Identity>,
    limit: Duration,
    interceptors: Vec<Arc<dyn ConsumerInterceptor>>,
    jobs: mpsc::Receiver<Job>,
    durable: mpsc::UnboundedSender<Durable>,
}

impl CommitLane {
    /// Opens a lane; it ends when nobody can hand in any more and all that waits is done.
    pub(super) fn open(
        client: Client,
        identity: Arc<Identity>,
        limit: Duration,
        interceptors: Vec<Arc<dyn ConsumerInterceptor>>,
    ) -> (CommitLane, mpsc::UnboundedReceiver<Durable>) {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING);
        let (durable, outcomes) = mpsc::unbounded_channel();
        let committer = Committer { client, identity, limit, interceptors, jobs: waiting, durable };
        tokio::spawn(committer.run());
        (CommitLane { jobs }, outcomes)
    }

    /// Hands a commit in. Its callback is called in any case.
    pub(super) fn hand_in(&self, job: Job) {
        if let Err(error) = self.jobs.try_send(job) {
            let (mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) = error;
            (job.done)(Err(CommitError::TooMany(MAX_WAITING)));
        }
    }

    /// The same, with an answer to wait for.
    pub(super) fn ask(
        &self,
        epoch: MemberEpoch,
        offsets: Offsets,
    ) -> oneshot::Receiver<Result<(), CommitError>> {
        let (answer, receiver) = oneshot::channel();
        // Who does not wait for the answer any more does not want it.
        let done: Callback = Box::new(move |outcome| drop(answer.send(outcome)));
        self.hand_in(Job { epoch, offsets, done });
        receiver
    }
}

impl Committer {
    async fn run(mut self) {
        let mut next = None;
        loop {
            let first = match next.take() {
                Some(job) => job,
                None => match self.jobs.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            // What waits is one commit, in which the newest of each partition counts.
            let Job { epoch, mut offsets, done } = first;
            let mut dones = vec![(offsets.keys().cloned().collect::<Vec<_>>(), done)];
            while let Ok(job) = self.jobs.try_recv() {
                if job.epoch != epoch || offsets.len() + job.offsets.len() > MAX_PARTITIONS {
                    next = Some(job);
                    break;
                }
                dones.push((job.offsets.keys().cloned().collect(), job.done));
                offsets.extend(job.offsets);
            }
            let outcome = self.commit(epoch, &offsets).await;
            for (partitions, done) in dones {
                done(match &outcome {
                    Err(error) => Err(error.clone()),
                    Ok(failures) => {
                        let own = failures.iter().filter(|(at, _)| partitions.contains(at));
                        let own: Vec<_> = own.cloned().collect();
                        if own.is_empty() { Ok(()) } else { Err(CommitError::Partitions(own)) }
                    }
                });
            }
        }
    }

    /// Commits, and names what was refused alone.
    async fn commit(
        &self,
        epoch: MemberEpoch,
        offsets: &Offsets,
    ) -> Result<Vec<(TopicPartition, ApiError)>, CommitError> {
        let (all, others): (Vec<_>, Vec<_>) =
            offsets.iter().partition(|(_, offset)| offset.topic_id.is_some());
        let not_had = |at: &TopicPartition| {
            let message = format!("the member does not have partition {at}; another may have gone on");
            (at.clone(), ApiError::new(ErrorCode::StaleMemberEpoch, message))
        };
        // They may be on their way to the member, and then the epoch would count, but not what the application knows of them.
        let mut failures: Vec<_> = others.into_iter().map(|(at, _)| not_had(at)).collect();
        for part in all.chunks(MAX_PARTITIONS) {
            let results = self.call(epoch, part).await?;
            if results.len() != part.len() {
                return Err(crate::ClientError::Protocol("a commit has another number of results").into());
            }
            let mut durable = Vec::new();
            for ((at, offset), result) in part.iter().zip(results) {
                match result.error {
                    Some(error) => failures.push(((*at).clone(), ApiError::from_proto(&error))),
                    None => durable.push(((*at).clone(), offset.what.clone())),
                }
            }
            for interceptor in &self.interceptors {
                interceptor.on_commit(&durable);
            }
            let offsets = durable.into_iter().map(|(at, what)| (at, what.offset)).collect();
            // The consumer may be gone: then nobody has to know.
            let _ = self.durable.send(Durable { epoch, offsets });
        }
        Ok(failures)
    }

    async fn call(
        &self,
        epoch: MemberEpoch,
        part: &[(&TopicPartition, &ToCommit)],
    ) -> Result<Vec<proto::CommitResult>, CommitError> {
        let request = proto::CommitOffsetsRequest {
            group_id: self.identity.group.as_str().to_owned(),
            member_id: self.identity.member.as_str().to_owned(),
            member_epoch: epoch.0,
            instance_id: self.identity.instance_text(),
            offsets: part.iter().map(|(at, offset)| to_proto(at, offset)).collect(),
            cursor: Bytes::new(),
        };
        let answer = self
            .client
            .call_within(self.limit, |channel| {
                let request = request.clone();
                async move {
                    let service = GroupServiceClient::new(channel);
                    service.max_decoding_message_size(MAX_CONTROL_MESSAGE).commit_offsets(request).await
                }
            })
            .await?;
        Ok(answer.results)
    }
}

/// An offset as it goes over the wire.
pub(crate) fn to_proto(at: &TopicPartition, offset: &ToCommit) -> proto::OffsetToCommit {
    let epoch = offset.what.leader_epoch;
    proto::OffsetToCommit {
        topic: at.topic.as_str().to_owned(),
        partition: at.partition.get(),
        offset: offset.what.offset.get(),
        leader_epoch: (epoch != LeaderEpoch::NONE).then_some(epoch.get()),
        metadata: offset.what.metadata.clone(),
        topic_id: offset.topic_id.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
    }
}
