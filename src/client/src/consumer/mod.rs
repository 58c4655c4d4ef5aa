//! A member of a consumer group that reads straight from the leaders.
//!
//! ```text
//!                      heartbeats ◄──── Heartbeats (a task: core's Membership)
//!                                            │ notices          ▲ wishes
//!   the application ── poll, next ──► Consumer ── PartitionReader ──► leaders
//!                                            │ jobs
//!                      commits ◄──────── Committer (a task: one after the other)
//! ```
//! The task keeps the session while the application is busy; everything that the application could notice happens inside its
//! own calls.

mod commits;
mod config;
mod error;
mod fill;
mod heartbeats;
mod hooks;
mod rebalance;
mod records;
mod starts;
mod typed;
mod wire;

pub(crate) use commits::{ToCommit, to_proto};
pub use config::ConsumerConfig;
pub use error::{CommitError, ConsumerError};
pub use hooks::{ConsumerInterceptor, OffsetAndMetadata, Rebalance, RebalanceListener};
pub use records::{ConsumerRecord, RecordHeader};
pub(crate) use starts::{by_topic, fetch_committed};
pub use typed::{DeserializeError, Deserializer, TypedConsumer, TypedRecord};

use crate::admin::resolve;
use crate::client::Client;
use crate::reader::PartitionReader;
use crate::trace::{Receiver, Receiving, process};
use crate::{Chunk, ClientError, ConfigError, Start, proto};
use commits::{CommitLane, Durable, Job, Offsets};
use futures_util::stream::{Stream, unfold};
use heartbeats::{Heartbeats, Notice, Shared, Wish};
use rebalance::Revocation;
use records::Decoding;
use starts::Starts;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::{MemberEpoch, MemberId, Membership, Position, Positions, Subscription};
use thalweg_core::metadata::command::Refusal;
use thalweg_core::{Offset, TopicId, TopicName, TopicPartition};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wire::Identity;

/// A member of a consumer group: it gets a share of the partitions, reads them from their leaders and commits how far it got.
/// Each record comes at least once to some member of the group, and in order within its partition.
///
/// All calls that wait for records are cancel safe: dropped while they wait, nothing is lost, so they fit into `select!` and
/// timeouts. Between two of them the application has `max_poll_interval`; heartbeats go on meanwhile.
///
/// A consumer that is dropped leaves its group without a last commit; [`close`](Self::close) it.
pub struct Consumer {
    client: Client,
    config: ConsumerConfig,
    identity: Arc<Identity>,
    shared: Arc<Shared>,
    reader: PartitionReader,
    subscription: Option<Subscription>,
    member: Option<Member>,
    /// What it has been given and has not given back.
    owned: BTreeMap<TopicPartition, Owned>,
    /// How far each of them is, once it is known where it begins.
    positions: Positions<TopicPartition>,
    paused: BTreeSet<TopicPartition>,
    /// The chunk whose records are being given.
    buffer: Option<Decoding>,
    /// Whose records the application works on.
    touched: Vec<TopicPartition>,
    starts: Starts,
    revoking: VecDeque<Revocation>,
    commits: CommitLane,
    durable: mpsc::UnboundedReceiver<Durable>,
    auto_commit: Option<oneshot::Receiver<Result<(), CommitError>>>,
    next_auto_commit: Instant,
    /// Wait to be told; at most a few for each partition.
    errors: VecDeque<ConsumerError>,
    rejected: Option<Refusal>,
}

/// The way to the task that keeps the membership.
struct Member {
    wishes: mpsc::UnboundedSender<Wish>,
    notices: mpsc::UnboundedReceiver<Notice>,
}

/// A partition of the member's.
#[derive(Debug)]
struct Owned {
    topic_id: TopicId,
    since: MemberEpoch,
    high_watermark: Option<Offset>,
}

/// The application is away from when this is dropped.
struct Away(Arc<Shared>);

impl Drop for Away {
    fn drop(&mut self) {
        self.0.works();
    }
}

impl Consumer {
    pub(crate) fn new(client: Client, config: ConsumerConfig) -> Result<Consumer, ClientError> {
        let (group, instance) = config.check()?;
        let draw = || format!("{}-{:032x}", client.config().client_id, rand::random::<u128>());
        let drawn = config.member_id.clone().unwrap_or_else(draw);
        let member =
            MemberId::new(&drawn).or_else(|_| MemberId::new(&format!("{:032x}", rand::random::<u128>())));
        let member = member.map_err(|_| ClientError::Protocol("a drawn member id is not legal"))?;
        let identity = Arc::new(Identity {
            group,
            member,
            life: rand::random(),
            instance,
            client_id: client.config().client_id.clone(),
            session_timeout: config.session_timeout,
            rebalance_timeout: config.max_poll_interval,
        });
        let shared = Arc::new(Shared::new());
        let reader = PartitionReader::new(client.clone(), config.reader())?;
        let (commits, durable) = CommitLane::open(
            client.clone(),
            Arc::clone(&identity),
            config.api_timeout,
            config.interceptors.clone(),
        );
        let starts = Starts::new(
            client.clone(),
            Arc::clone(&identity),
            Arc::clone(&shared),
            config.offset_reset,
            config.isolation,
        );
        let next_auto_commit = Instant::now() + config.auto_commit_interval;
        Ok(Consumer {
            client,
            config,
            identity,
            shared,
            reader,
            subscription: None,
            member: None,
            owned: BTreeMap::new(),
            positions: Positions::default(),
            paused: BTreeSet::new(),
            buffer: None,
            touched: Vec::new(),
            starts,
            revoking: VecDeque::new(),
            commits,
            durable,
            auto_commit: None,
            next_auto_commit,
            errors: VecDeque::new(),
            rejected: None,
        })
    }

    /// Wants to read these topics, instead of what it wanted before. They need not exist yet. The consumer joins its group in
    /// the background; the next call for records goes on with that.
    pub fn subscribe(
        &mut self,
        topics: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<(), ConsumerError> {
        let name = |topic: &str| {
            TopicName::new(topic).map_err(|error| ConfigError::new("topics", format!("{topic:?}: {error}")))
        };
        let topics: Result<BTreeSet<TopicName>, ConfigError> =
            topics.into_iter().map(|topic| name(topic.as_ref())).collect();
        self.want(topics?, None)
    }

    /// Wants to read all topics whose whole name matches this regular expression (RE2 syntax), also those that are created later,
    /// instead of what it wanted before. Internal topics never match.
    pub fn subscribe_pattern(&mut self, pattern: &str) -> Result<(), ConsumerError> {
        self.want(BTreeSet::new(), Some(pattern.to_owned()).filter(|pattern| !pattern.is_empty()))
    }

    fn want(&mut self, topics: BTreeSet<TopicName>, pattern: Option<String>) -> Result<(), ConsumerError> {
        if topics.is_empty() && pattern.is_none() {
            return Err(ConfigError::new("topics", "name at least one topic, or a pattern").into());
        }
        let subscription = Subscription {
            topics,
            pattern,
            rack: self.config.rack.as_deref().map(Arc::from),
            assignor: self.config.assignor.clone(),
        };
        self.subscription = Some(subscription.clone());
        match &self.member {
            // A task that has ended says why with its last notice.
            Some(member) => drop(member.wishes.send(Wish::Subscribe(subscription))),
            None => self.member = Some(self.join(subscription)),
        }
        Ok(())
    }

    fn join(&self, subscription: Subscription) -> Member {
        let (wishes, wished) = mpsc::unbounded_channel();
        let (notified, notices) = mpsc::unbounded_channel();
        self.shared.works();
        let membership = Membership::new(
            self.identity.member.clone(),
            self.identity.instance.clone(),
            subscription,
            self.config.timeouts(),
            self.shared.now(),
        );
        let (client, identity) = (self.client.clone(), Arc::clone(&self.identity));
        let shared = Arc::clone(&self.shared);
        let task = Heartbeats::new(client, identity, membership, shared, wished, notified);
        tokio::spawn(task.run());
        Member { wishes, notices }
    }

    /// Gives everything back and leaves the group, with a last automatic commit. It can subscribe again.
    pub async fn unsubscribe(&mut self) -> Result<(), ConsumerError> {
        self.subscription = None;
        self.leave(false).await
    }

    /// Commits what was given (with automatic commits), gives everything back and leaves the group; a static member leaves for
    /// now, and keeps its partitions for its session. Fails when the last commit does; it has left then, too.
    pub async fn close(mut self) -> Result<(), ConsumerError> {
        self.leave(true).await
    }

    /// The next record. What was given before is done with.
    pub async fn next(&mut self) -> Result<ConsumerRecord, ConsumerError> {
        let _away = self.back();
        let receiving = Receiving::begin(self.client.tracing());
        loop {
            self.fill().await?;
            let Some(record) = self.take_record() else { continue };
            let records = vec![record?];
            receiving.records(self.receiver(), &records);
            let intercepted = self.intercept(records);
            if let Some(record) = intercepted.into_iter().next() {
                return Ok(record);
            }
        }
    }

    /// Up to `max_poll_records` records of one partition, as soon as there are any; none after `timeout`. What was given before
    /// is done with.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<ConsumerRecord>, ConsumerError> {
        let _away = self.back();
        let receiving = Receiving::begin(self.client.tracing());
        let deadline = Instant::now() + timeout;
        loop {
            match tokio::time::timeout_at(deadline, self.fill()).await {
                Err(_) => return Ok(Vec::new()),
                Ok(filled) => filled?,
            }
            let mut records = Vec::new();
            while records.len() < self.config.max_poll_records {
                match self.take_record() {
                    None => break,
                    Some(Ok(record)) => records.push(record),
                    Some(Err(error)) if records.is_empty() => return Err(error),
                    Some(Err(error)) => {
                        self.errors.push_front(error);
                        break;
                    }
                }
            }
            receiving.records(self.receiver(), &records);
            let records = self.intercept(records);
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    /// The next chunk: whole batches of one partition as they are stored, which is the fastest way. What was given before is done
    /// with.
    pub async fn next_chunk(&mut self) -> Result<Chunk, ConsumerError> {
        let _away = self.back();
        let receiving = Receiving::begin(self.client.tracing());
        loop {
            self.fill().await?;
            let Some(decoding) = self.buffer.take() else { continue };
            let (at, (end, epoch)) = (decoding.at().clone(), decoding.end());
            self.give(at, Position::new(end, epoch));
            let chunk = decoding.into_rest();
            receiving.chunk(self.receiver(), &chunk);
            return Ok(chunk);
        }
    }

    /// Opens a span `process TOPIC` for what the application does with a record, linked to the span that sent it: attach the
    /// context that it is in, or run a future in it. It ends with `context.span().end()`, or when the context is dropped. Without
    /// a tracer it is the current context. See [`trace`](crate::trace).
    pub fn process_span(&self, record: &ConsumerRecord) -> opentelemetry::Context {
        process(self.receiver(), record)
    }

    fn receiver(&self) -> Receiver<'_> {
        Receiver {
            tracing: self.client.tracing(),
            client_id: &self.identity.client_id,
            group: Some(&self.config.group),
        }
    }

    /// Records as a stream; it ends behind an error after which there is nothing more.
    pub fn records(&mut self) -> impl Stream<Item = Result<ConsumerRecord, ConsumerError>> + '_ {
        unfold(Some(self), |consumer| async {
            let consumer = consumer?;
            let next = consumer.next().await;
            let ended = next.as_ref().is_err_and(ConsumerError::is_fatal);
            Some((next, Some(consumer).filter(|_| !ended)))
        })
    }

    /// Chunks as a stream; it ends behind an error after which there is nothing more.
    pub fn chunks(&mut self) -> impl Stream<Item = Result<Chunk, ConsumerError>> + '_ {
        unfold(Some(self), |consumer| async {
            let consumer = consumer?;
            let next = consumer.next_chunk().await;
            let ended = next.as_ref().is_err_and(ConsumerError::is_fatal);
            Some((next, Some(consumer).filter(|_| !ended)))
        })
    }

    /// Commits everything that was given (`commitSync`). Returns when it is durable, and was committed in the order of the calls.
    pub async fn commit(&mut self) -> Result<(), CommitError> {
        let offsets = self.given_offsets();
        self.commit_all(offsets).await
    }

    /// Commits these offsets: of each partition the next record to read.
    pub async fn commit_offsets(
        &mut self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
    ) -> Result<(), CommitError> {
        let offsets = self.named_offsets(offsets);
        self.commit_all(offsets).await
    }

    async fn commit_all(&mut self, offsets: Offsets) -> Result<(), CommitError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let answer = self.ask(offsets).await.unwrap_or(Err(CommitError::NotMember));
        self.note_durable();
        answer
    }

    /// Commits everything that was given, without waiting (`commitAsync`). Commits never overtake each other; of those that wait the
    /// newest counts, and one that fails changes nothing.
    pub fn commit_async(&mut self, done: impl FnOnce(Result<(), CommitError>) + Send + 'static) {
        let offsets = self.given_offsets();
        self.hand_in(offsets, Box::new(done));
    }

    /// Commits these offsets, without waiting.
    pub fn commit_offsets_async(
        &mut self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
        done: impl FnOnce(Result<(), CommitError>) + Send + 'static,
    ) {
        let offsets = self.named_offsets(offsets);
        self.hand_in(offsets, Box::new(done));
    }

    fn hand_in(&self, offsets: Offsets, done: commits::Callback) {
        match self.shared.epoch() {
            Some(_) => self.commits.hand_in(Job { epoch: self.seen(&offsets), offsets, done }),
            None => done(Err(CommitError::NotMember)),
        }
    }

    /// What the group has committed of these partitions; those without are left out.
    pub fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> impl Future<Output = Result<BTreeMap<TopicPartition, OffsetAndMetadata>, ClientError>> + Send + use<>
    {
        let request = proto::FetchOffsetsRequest {
            group_id: self.config.group.clone(),
            topics: by_topic(partitions.iter().map(|at| (at, self.topic_id(at)))),
            ..Default::default()
        };
        let client = self.client.clone();
        async move {
            // To the group, no partitions would be all.
            if request.topics.is_empty() {
                Ok(BTreeMap::new())
            } else {
                fetch_committed(&client, request).await
            }
        }
    }

    /// Goes on elsewhere in a partition that the consumer has.
    pub async fn seek(&mut self, at: &TopicPartition, to: Start) -> Result<(), ConsumerError> {
        if !self.owned.contains_key(at) {
            return Err(ConsumerError::NotAssigned { at: at.clone() });
        }
        let (topic, partition) = (at.topic.as_str(), at.partition);
        let offset = resolve(&self.client, topic, partition, to, self.config.isolation).await?;
        self.go_on(at, offset);
        Ok(())
    }

    /// Gives no records of these partitions for now. They stay the consumer's; those that it does not have are passed over.
    pub fn pause(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if self.owned.contains_key(at) && self.paused.insert(at.clone()) {
                self.stop_reading(at);
            }
        }
    }

    /// Goes on with partitions that were paused.
    pub fn resume(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if self.paused.remove(at) {
                self.read(at);
            }
        }
    }

    /// The partitions that it has, in order.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.owned.keys().cloned().collect()
    }

    /// Those of them that are paused.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.paused.iter().cloned().collect()
    }

    /// What it wants to read.
    pub fn subscription(&self) -> Option<&Subscription> {
        self.subscription.as_ref()
    }

    /// The next offset that it will give of a partition, once that is known.
    pub fn position(&self, at: &TopicPartition) -> Option<Offset> {
        let position = self.positions.get(at)?.given.offset;
        (position >= Offset::ZERO).then_some(position)
    }

    /// Records between the consumer's position and the end of the partition, as far as its leader has told.
    pub fn lag(&self, at: &TopicPartition) -> Option<i64> {
        let end = self.owned.get(at)?.high_watermark?;
        Some((end.get() - self.position(at)?.get()).max(0))
    }

    /// The member's id, drawn anew for each consumer unless the settings name one.
    pub fn member_id(&self) -> &str {
        self.identity.member.as_str()
    }

    /// What its commits are fenced by; `None` while it is not in the group.
    pub fn member_epoch(&self) -> Option<MemberEpoch> {
        self.shared.epoch()
    }

    /// The settings.
    pub fn config(&self) -> &ConsumerConfig {
        &self.config
    }

    /// Why some partition is not read at the moment; see [`PartitionReader::last_failure`].
    pub fn last_failure(&self) -> Option<String> {
        self.reader.last_failure()
    }
}
