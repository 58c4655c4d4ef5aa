//! The task of one stream: connects, sends what [`Stream`] says, appends what comes.

use super::apply;
use super::backoff;
use super::inbound::{self, Inbound, Received};
use super::mailbox::Mailbox;
use super::manager::FollowerSeams;
use super::pace::Pace;
use super::request::Followed;
use super::stream::{Class, End, Repair, Stream};
use crate::replicas::{Partition, Registration, Session};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicPartition};
use thalweg_log::ReadError;
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::partition_end::Reason;
use thalweg_proto::internal::v1::{PartitionEnd, ReplicateHello, ReplicateRequest};
use thalweg_runtime::{Shutdown, blocking};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// The first wait before a connection is tried again.
const RECONNECT_MIN: Duration = Duration::from_millis(20);
/// The longest.
const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a leader may take to accept a stream: longer than it waits for metadata that a follower has already.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(8);
/// Requests that wait for the connection to take them. What comes on top stays in [`Stream`], where it grows together.
const OUTBOUND: usize = 2;
/// Messages that are applied before their positions are told, if they are there already.
const MESSAGES_AT_ONCE: usize = 8;
/// Bytes of batches after which positions and credit are told although more messages are there: the leader works meanwhile.
const BYTES_AT_ONCE: usize = 512 << 10;
/// Logs that are mended at the same time.
const REPAIRS_AT_ONCE: usize = 8;

/// What a link is to do with a partition.
#[derive(Debug)]
pub(super) enum Order {
    Follow { partition: Arc<Partition>, epoch: LeaderEpoch },
    Forget,
}

/// A partition that a link let go of, because it belongs on the other stream of the same leader.
#[derive(Debug)]
pub(super) struct Move {
    pub epoch: LeaderEpoch,
    pub to: Class,
}

pub(super) type Orders = Mailbox<TopicPartition, Order>;
pub(super) type Moves = Mailbox<TopicPartition, Move>;

/// What all links share.
#[derive(Debug, Clone)]
pub(super) struct LinkSeams {
    pub seams: FollowerSeams,
    /// The epoch of this process's own registration, while the metadata has it as this broker's latest; `None` while nothing may
    /// be followed.
    pub known_epoch: watch::Receiver<Option<BrokerEpoch>>,
    pub moves: Arc<Moves>,
    pub pace: Pace,
}

type Repaired = (u32, LeaderEpoch, Result<bool, ReadError>);
type Repairing = Pin<Box<dyn Future<Output = Repaired> + Send>>;

/// One stream and its partitions.
pub(super) struct Link {
    leader: BrokerId,
    orders: Arc<Orders>,
    shared: LinkSeams,
    stream: Stream,
    keys: BTreeMap<TopicPartition, u32>,
    followed: HashMap<u32, FollowedPartition>,
    next_key: u32,
    // Marked when a flush is through.
    flushes: Arc<Session>,
    marked: Vec<u32>,
    repairs: FuturesUnordered<Repairing>,
    to_repair: VecDeque<(u32, LeaderEpoch, Repair)>,
}

struct FollowedPartition {
    partition: Arc<Partition>,
    registration: Registration,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the broker stops")]
    Stopped,
    #[error("nothing is left to follow")]
    Idle,
    #[error("the connection is to be opened anew")]
    Renew,
    #[error("the leader is not in the metadata")]
    Unknown,
    #[error("the metadata does not have this process's registration as this broker's latest")]
    Unregistered,
    #[error("the leader did not answer in time")]
    Silent,
    #[error("the leader ended the stream")]
    Over,
    #[error(transparent)]
    Address(#[from] thalweg_runtime::dial::DialError),
    #[error("{} ({:?})", .0.message(), .0.code())]
    Refused(#[from] Box<tonic::Status>),
}

impl Link {
    pub fn new(leader: BrokerId, class: Class, orders: Arc<Orders>, shared: LinkSeams) -> Link {
        let stream = Stream::new(class, shared.seams.config.clone(), shared.pace.clone());
        Link {
            leader,
            orders,
            shared,
            stream,
            keys: BTreeMap::new(),
            followed: HashMap::new(),
            next_key: 0,
            flushes: Session::new(),
            marked: Vec::new(),
            repairs: FuturesUnordered::new(),
            to_repair: VecDeque::new(),
        }
    }

    /// Follows until the shutdown. Without a partition there is no connection.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut failures = 0;
        loop {
            self.take_orders();
            if self.stream.is_empty() {
                tokio::select! {
                    biased;
                    () = shutdown.triggered() => return,
                    () = self.orders.wait() => continue,
                }
            }
            let mut heard = false;
            let ended = self.serve(&shutdown, &mut heard).await;
            self.stream.closed();
            if heard {
                failures = 0;
            }
            match &ended {
                Ended::Stopped => return,
                Ended::Idle | Ended::Renew => continue,
                // Once is enough for each outage.
                error if failures == 0 => {
                    tracing::warn!(leader = %self.leader, %error, "replication stream broken; trying again");
                }
                error => tracing::debug!(leader = %self.leader, %error, "replication stream not opened"),
            }
            let wait = backoff::after(failures, RECONNECT_MIN, RECONNECT_MAX);
            failures += 1;
            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                () = tokio::time::sleep(wait) => {}
                // New partitions: the controllers hold the leader for alive.
                () = self.orders.wait(), if wait > RECONNECT_MIN => failures = 0,
                Ok(()) = self.shared.known_epoch.changed() => failures = 0,
            }
        }
    }

    /// One connection, from its opening to its end.
    async fn serve(&mut self, shutdown: &Shutdown, heard: &mut bool) -> Ended {
        let own_epoch = *self.shared.known_epoch.borrow_and_update();
        let (mut requests, opening) = match self.dial(own_epoch) {
            Ok(opening) => opening,
            Err(ended) => return ended,
        };
        let opened = tokio::select! {
            biased;
            () = shutdown.triggered() => return Ended::Stopped,
            opened = tokio::time::timeout(ACCEPT_TIMEOUT, opening) => opened,
        };
        let mut inbound = match opened {
            Ok(Ok(inbound)) => inbound,
            Ok(Err(status)) => return Ended::Refused(status),
            Err(_) => return Ended::Silent,
        };
        tracing::debug!(leader = %self.leader, "replication stream open");
        loop {
            if let Some(ended) = self.turn(shutdown, &mut requests, &mut inbound, heard).await {
                return ended;
            }
        }
    }

    /// The channel for requests, with the first of them in it, and the stream as it opens.
    #[allow(clippy::type_complexity, reason = "the only other name would be the function's")]
    fn dial(
        &mut self,
        own_epoch: Option<BrokerEpoch>,
    ) -> Result<
        (mpsc::Sender<ReplicateRequest>, impl Future<Output = Result<Inbound, Box<tonic::Status>>> + use<>),
        Ended,
    > {
        let FollowerSeams { me, cluster_id, dialer, metadata, .. } = &self.shared.seams;
        let image = metadata.snapshot();
        let own_epoch = own_epoch.ok_or(Ended::Unregistered)?;
        let leader = image.broker(self.leader).ok_or(Ended::Unknown)?;
        let hello = ReplicateHello {
            cluster_id: cluster_id.0.to_string(),
            follower_id: me.get(),
            follower_epoch: own_epoch.get(),
            leader_id: self.leader.get(),
        };
        let channel = dialer.channel(&leader.internal_endpoint.to_string())?;
        let (requests, outbound) = mpsc::channel(OUTBOUND);
        self.stream.opened();
        let first = ReplicateRequest { hello: Some(hello), ..self.next_request(Instant::now()) };
        // A leader may want the hello before it answers; the channel is new, so there is room.
        let _ = requests.try_send(first);
        Ok((requests, inbound::open(channel, ReceiverStream::new(outbound).map(Ok))))
    }

    /// Waits for one thing to happen and deals with it. Returns why the connection is over, if it is.
    async fn turn(
        &mut self,
        shutdown: &Shutdown,
        requests: &mut mpsc::Sender<ReplicateRequest>,
        inbound: &mut Inbound,
        heard: &mut bool,
    ) -> Option<Ended> {
        let now = Instant::now();
        self.stream.tick(now);
        let wants_to_send = self.stream.wants_to_send(now);
        let deadline = self.stream.deadline(now);
        tokio::select! {
            biased;
            () = shutdown.triggered() => return Some(Ended::Stopped),
            _ = self.shared.known_epoch.changed() => return Some(Ended::Renew),
            () = self.orders.wait() => {
                self.take_orders();
                if self.stream.is_empty() {
                    return Some(Ended::Idle);
                }
            }
            permit = requests.reserve(), if wants_to_send => {
                let Ok(permit) = permit else { return Some(Ended::Over) };
                let request = self.next_request(now);
                if !super::request::is_empty(&request) {
                    permit.send(request);
                }
                if self.stream.is_worn_out() {
                    return Some(Ended::Renew);
                }
            }
            () = self.flushes.marked() => self.take_flushes(),
            Some((key, epoch, result)) = self.repairs.next() => self.repaired(key, epoch, result),
            message = inbound.next() => {
                let (mut next, mut messages, mut bytes) = (Some(message), 0, 0);
                while let Some(message) = next.take() {
                    match message {
                        Some(Ok(message)) => bytes += self.take_in(message),
                        Some(Err(status)) => return Some(Ended::Refused(Box::new(status))),
                        None => return Some(Ended::Over),
                    }
                    *heard = true;
                    messages += 1;
                    if messages < MESSAGES_AT_ONCE && bytes < BYTES_AT_ONCE {
                        // What is there already shares the next request.
                        next = inbound.next().now_or_never();
                    }
                }
            }
            () = tokio::time::sleep_until(deadline.unwrap_or(now)), if deadline.is_some() => {}
        }
        None
    }

    fn next_request(&mut self, now: Instant) -> ReplicateRequest {
        let followed = &self.followed;
        self.stream.next_request(now, |key| {
            let partition = &followed[&key].partition;
            Followed {
                topic_id: partition.topic_id(),
                partition: partition.topic_partition().partition,
                at: partition.log().position(),
            }
        })
    }

    fn take_orders(&mut self) {
        for (name, order) in self.orders.take() {
            match order {
                Order::Follow { partition, epoch } => self.follow(name, partition, epoch),
                Order::Forget => self.forget(&name),
            }
        }
    }

    fn follow(&mut self, name: TopicPartition, partition: Arc<Partition>, epoch: LeaderEpoch) {
        let known = self.keys.get(&name).copied();
        let same = known.filter(|key| Arc::ptr_eq(&self.followed[key].partition, &partition));
        if same.is_none() {
            self.forget(&name);
        }
        let key = same.unwrap_or_else(|| {
            let key = self.next_key;
            // Wraps after four thousand million partitions; none of the first is here by then.
            self.next_key = self.next_key.wrapping_add(1);
            let registration = partition.register(self.flushes.slot(key));
            self.followed.insert(key, FollowedPartition { partition, registration });
            self.keys.insert(name, key);
            key
        });
        self.stream.follow(key, epoch);
    }

    fn forget(&mut self, name: &TopicPartition) {
        if let Some(key) = self.keys.remove(name) {
            self.stream.forget(key);
            self.followed.remove(&key);
        }
    }

    fn take_flushes(&mut self) {
        self.flushes.take_ready(&mut self.marked);
        for key in self.marked.drain(..) {
            if let Some(followed) = self.followed.get(&key) {
                followed.registration.acknowledge();
                self.stream.flushed(key);
            }
        }
    }

    /// Deals with one message. Returns how many bytes of batches it had.
    fn take_in(&mut self, message: Vec<Received>) -> usize {
        let mut total = 0;
        for received in message {
            let bytes = received.bytes();
            total += bytes;
            self.stream.received(bytes as u64);
            let Some((key, epoch)) = self.stream.partition_of(received.news.slot) else { continue };
            let now = Instant::now();
            let partition = &self.followed[&key].partition;
            match apply::apply(partition, epoch, &received, self.shared.seams.clock.now()) {
                Ok(took) => {
                    let moves = took.and_then(|took| self.stream.appended(key, took, now));
                    if let Some(to) = moves.filter(|_| received.news.end.is_none()) {
                        let name = partition.topic_partition().clone();
                        self.forget(&name);
                        self.shared.moves.put(name, Move { epoch, to });
                        continue;
                    }
                }
                Err(error) => {
                    let failure = apply::of_append(&error);
                    tracing::warn!(
                        partition = %partition.topic_partition(), leader = %self.leader, %error, ?failure,
                        "cannot append what the leader sent"
                    );
                    self.stream.failed(key, failure, now);
                    continue;
                }
            }
            if let Some(end) = &received.news.end {
                self.ended(key, epoch, received.news.slot, end, now);
            }
        }
        total
    }

    fn ended(&mut self, key: u32, epoch: LeaderEpoch, slot: u32, end: &PartitionEnd, now: Instant) {
        let partition = self.followed[&key].partition.topic_partition();
        let end = match &end.reason {
            Some(Reason::Diverging(at)) => {
                tracing::info!(
                    %partition, leader = %self.leader, epoch = at.epoch, end = at.end_offset,
                    "the log leaves the leader's and is cut"
                );
                End::Diverging(LeaderEpoch(at.epoch), Offset(at.end_offset))
            }
            Some(Reason::OutOfRange(range)) => End::OutOfRange(Offset(range.log_start_offset)),
            Some(Reason::Error(error)) => {
                let error = ApiError::from_proto(error);
                tracing::debug!(%partition, leader = %self.leader, %error, "the leader sends no more");
                End::Refused
            }
            None => End::Refused,
        };
        if let Some(repair) = self.stream.ended(slot, end, now) {
            self.to_repair.push_back((key, epoch, repair));
            self.begin_repairs();
        }
    }

    /// Logs are mended beside the stream: each takes several syncs, and the other partitions go on.
    fn begin_repairs(&mut self) {
        while self.repairs.len() < REPAIRS_AT_ONCE
            && let Some((key, epoch, repair)) = self.to_repair.pop_front()
        {
            let Some(followed) = self.followed.get(&key) else { continue };
            let log = Arc::clone(followed.partition.log());
            let work = async move {
                let name = log.topic_partition().clone();
                let mended = blocking::run(move || apply::repair(&log, epoch, repair)).await;
                // The work panicked, or the process ends: the log is not to be trusted, and says so itself.
                let failed =
                    |_| Err(ReadError::Storage(thalweg_log::StorageError::LogFailed { partition: name }));
                (key, epoch, mended.unwrap_or_else(failed))
            };
            self.repairs.push(Box::pin(work));
        }
    }

    fn repaired(&mut self, key: u32, epoch: LeaderEpoch, result: Result<bool, ReadError>) {
        if let (Err(error), Some(followed)) = (&result, self.followed.get(&key)) {
            let partition = followed.partition.topic_partition();
            tracing::warn!(%partition, %error, "the log could not be cut as the leader's");
        }
        let result = result.map_err(|error| apply::of_repair(&error));
        self.stream.repaired(key, epoch, result, Instant::now());
        self.begin_repairs();
    }
}
