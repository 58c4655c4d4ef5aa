//! The task that has the partitions which nobody can send to at the moment: it finds their leader, bumps the producer's
//! epoch, and hands them to the leader's sender.

use super::delivery::Written;
use super::inbox::{Home, Inbox};
use super::lane::Lane;
use super::sender::Sender;
use super::shared::Shared;
use super::window::Identity;
use crate::ClientError;
use crate::net::Backoff;
use crate::proto::InitProducerRequest;
use crate::proto::producer_service_client::ProducerServiceClient;
use futures_util::future::{BoxFuture, OptionFuture};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use thalweg_core::{ErrorCode, ProducerEpoch, ProducerId, TopicName};
use tokio::time::Instant;

type Refreshed = Vec<(TopicName, Result<(), ClientError>)>;

/// The dispatcher of one producer.
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    /// Each partition of the producer that no sender has.
    resting: Vec<Resting>,
    /// One for each broker that was ever a leader.
    senders: HashMap<Arc<str>, Arc<Inbox>>,
    refresh: Option<BoxFuture<'static, Refreshed>>,
    epoch: Option<BoxFuture<'static, Result<Identity, ClientError>>>,
    epoch_backoff: Backoff,
    epoch_not_before: Instant,
    next_expiry: Instant,
    next_metadata: Instant,
}

struct Resting {
    lane: Lane,
    not_before: Instant,
    refresh: bool,
}

impl Shared {
    /// Hands a lane that cannot be sent from here to the dispatcher. If there is none any more, its records fail.
    pub(crate) fn give_back(&self, lane: Lane) {
        lane.set_home(Home::Resting(Arc::clone(&self.dispatch)));
        drop(self.dispatch.push(lane));
    }
}

impl Dispatcher {
    pub(crate) fn new(shared: Arc<Shared>) -> Dispatcher {
        let now = Instant::now();
        let backoff = Backoff::new(shared.config.retry_backoff, shared.config.retry_backoff_max);
        Dispatcher {
            resting: Vec::new(),
            senders: HashMap::new(),
            refresh: None,
            epoch: None,
            epoch_backoff: backoff,
            epoch_not_before: now,
            next_expiry: now,
            next_metadata: now + shared.client.config().metadata_max_age,
            shared,
        }
    }

    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _end = EndOnDrop(Arc::clone(&shared));
        loop {
            let now = Instant::now();
            self.take_in(now);
            if shared.take_pressure() {
                shared.topics.urge_all();
            }
            self.expire(now);
            self.begin_refresh(now);
            self.begin_epoch(now);
            self.route(now);
            let closing = shared.closing.is_cancelled();
            if closing && shared.tracker.is_empty() {
                return;
            }
            let wake = self.wake();
            tokio::select! {
                Some(refreshed) = OptionFuture::from(self.refresh.as_mut()) => {
                    self.refresh = None;
                    self.refreshed(refreshed);
                }
                Some(identity) = OptionFuture::from(self.epoch.as_mut()) => {
                    self.epoch = None;
                    self.bumped(identity);
                }
                () = shared.dispatch.changed() => {}
                () = shared.tracker.emptied.notified(), if closing => {}
                () = shared.closing.cancelled(), if !closing => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Takes lanes that came, or came back.
    fn take_in(&mut self, now: Instant) {
        let mut lanes = Vec::new();
        self.shared.dispatch.take(&mut lanes, &mut Vec::new());
        for mut lane in lanes {
            let (pause, refresh) = lane.end_rest();
            self.resting.push(Resting { lane, not_before: now + pause, refresh });
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.next_expiry > now {
            return;
        }
        self.next_expiry = now + self.shared.config.expiry_interval();
        for resting in &mut self.resting {
            if resting.lane.expire(now, self.shared.config.delivery_timeout) {
                resting.lane.window.rest();
            }
        }
    }

    /// Asks for the leaders of those that need it, and of all when metadata is old.
    fn begin_refresh(&mut self, now: Instant) {
        if self.refresh.is_some() {
            return;
        }
        let waiting = self
            .resting
            .iter()
            .filter(|resting| resting.refresh && resting.not_before <= now && resting.busy());
        let mut topics: BTreeSet<TopicName> =
            waiting.map(|resting| resting.lane.queue.topic.clone()).collect();
        if self.next_metadata <= now {
            self.next_metadata = now + self.shared.client.config().metadata_max_age;
            topics.extend(self.shared.topics.names());
        }
        if topics.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.refresh = Some(Box::pin(async move {
            let mut outcomes = Vec::with_capacity(topics.len());
            for topic in topics {
                let outcome = shared.client.refresh(topic.as_str()).await;
                outcomes.push((topic, outcome.map(|metadata| shared.topics.grow(&metadata))));
            }
            outcomes
        }));
    }

    fn refreshed(&mut self, outcomes: Refreshed) {
        let now = Instant::now();
        for (topic, outcome) in outcomes {
            for resting in self.resting.iter_mut().filter(|r| r.refresh && r.lane.queue.topic == topic) {
                match &outcome {
                    Ok(()) => resting.refresh = false,
                    Err(error) => {
                        resting.lane.failed(format!("the last failure: {error}"), error.code());
                        resting.not_before = now + resting.lane.backoff.next_pause();
                    }
                }
            }
        }
    }

    /// Moves lanes to a new epoch: the producer's, if that is newer than theirs, or one that is asked for.
    fn begin_epoch(&mut self, now: Instant) {
        let Some(current) = self.shared.identity() else { return };
        let mut wanted = false;
        for resting in self.resting.iter_mut().filter(|resting| resting.lane.window.needs_epoch()) {
            if resting.lane.window.identity() == Some(current) {
                wanted = true;
            } else {
                for mut batch in resting.lane.window.adopt(current) {
                    batch.delivered(Written::UNKNOWN);
                }
            }
        }
        if wanted && self.epoch.is_none() && self.epoch_not_before <= now {
            let client = self.shared.client.clone();
            self.epoch = Some(Box::pin(async move { init_producer(&client, Some(current)).await }));
        }
    }

    fn bumped(&mut self, outcome: Result<Identity, ClientError>) {
        match outcome {
            Ok(identity) => {
                tracing::info!(producer = %identity.id, epoch = %identity.epoch, "producer epoch bumped");
                self.epoch_backoff.reset();
                self.shared.set_identity(identity);
            }
            Err(error) => {
                tracing::warn!(%error, "the producer's epoch could not be bumped");
                self.epoch_not_before = Instant::now() + self.epoch_backoff.next_pause();
                for resting in self.resting.iter_mut().filter(|resting| resting.lane.window.needs_epoch()) {
                    resting.lane.failed(format!("a new producer epoch is needed: {error}"), error.code());
                }
            }
        }
    }

    /// Hands lanes whose leader is known to its sender.
    fn route(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(resting) = self.resting.get_mut(index) {
            let closed = resting.lane.queue.lock().closed().cloned();
            if let Some(why) = closed {
                resting.lane.window.batches_mut().for_each(|batch| batch.fail(why.clone()));
                self.resting.swap_remove(index);
                continue;
            }
            let may_go = !resting.refresh && resting.not_before <= now && !resting.lane.window.needs_epoch();
            if !may_go || !resting.busy() {
                index += 1;
                continue;
            }
            let queue = &resting.lane.queue;
            let leader = self.shared.client.cache().leader(queue.topic.as_str(), queue.partition);
            queue.set_leaderless(leader.is_none());
            let Some(leader) = leader else {
                resting.refresh = true;
                resting.not_before = now + resting.lane.backoff.next_pause();
                let cache = self.shared.client.cache();
                if cache.lacks(queue.topic.as_str(), queue.partition) {
                    resting.lane.failed("the topic has no such partition", Some(ErrorCode::UnknownPartition));
                } else {
                    resting.lane.failed("the partition has no leader", Some(ErrorCode::LeaderNotAvailable));
                }
                index += 1;
                continue;
            };
            let resting = self.resting.swap_remove(index);
            let mut lane = resting.lane;
            if let Some(inbox) = self.senders.get(&leader.endpoint) {
                match inbox.push(lane) {
                    Ok(()) => continue,
                    Err(back) => lane = *back,
                }
            }
            let inbox = Arc::<Inbox>::default();
            if inbox.push(lane).is_ok() {
                self.senders.insert(Arc::clone(&leader.endpoint), Arc::clone(&inbox));
                let sender = Sender::new(Arc::clone(&self.shared), leader, inbox);
                self.shared.tasks.spawn(sender.run());
            }
        }
    }

    /// When to look again if nothing happens.
    fn wake(&self) -> Instant {
        let pauses = self.resting.iter().filter(|resting| resting.busy()).map(|resting| resting.not_before);
        let now = Instant::now();
        // What is due but waits for a refresh or an epoch is woken by those.
        let pauses = pauses.filter(|at| *at > now);
        let epoch = self.resting.iter().any(|resting| resting.lane.window.needs_epoch());
        let epoch = epoch.then_some(self.epoch_not_before).filter(|at| *at > now);
        pauses.chain(epoch).fold(self.next_expiry.min(self.next_metadata), Instant::min)
    }
}

impl Resting {
    /// Whether there is anything to send: an idle partition is not routed.
    fn busy(&self) -> bool {
        !self.lane.window.is_empty() || !self.lane.queue.lock().is_empty()
    }
}

/// Asks for a producer id, or for the next epoch of the one given.
pub(crate) async fn init_producer(
    client: &crate::Client,
    current: Option<Identity>,
) -> Result<Identity, ClientError> {
    let ask = |current: Option<Identity>| {
        client.call(move |channel| async move {
            let request = InitProducerRequest {
                producer_id: current.map(|identity| identity.id.get()),
                producer_epoch: current.map(|identity| identity.epoch.get().into()),
            };
            ProducerServiceClient::new(channel).init_producer(request).await
        })
    };
    let answer = match ask(current).await {
        // The cluster does not know this id any more, or another instance has it: a new one serves as well.
        Err(error)
            if current.is_some()
                && matches!(
                    error.code(),
                    Some(ErrorCode::InvalidProducerEpoch | ErrorCode::UnknownProducerId)
                ) =>
        {
            ask(None).await?
        }
        other => other?,
    };
    let epoch = i16::try_from(answer.producer_epoch).ok().filter(|epoch| *epoch >= 0);
    match epoch {
        Some(epoch) if answer.producer_id >= 0 => {
            Ok(Identity { id: ProducerId(answer.producer_id), epoch: ProducerEpoch(epoch) })
        }
        _ => Err(ClientError::Protocol("a producer id or epoch is out of range")),
    }
}

/// However the dispatcher ends, nobody waits on it: senders stop, and what they still have fails.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.closing.cancel();
        drop(self.0.dispatch.close());
        self.0.stop.cancel();
    }
}
