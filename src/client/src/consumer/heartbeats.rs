//! The task that keeps a consumer in its group, however busy the application is.

use super::wire::{self, Identity};
use crate::client::Client;
use crate::error::{ClientError, transient};
use crate::net::Purpose;
use crate::proto;
use crate::proto::group_service_client::GroupServiceClient;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;
use thalweg_core::group::member::{Event, Loss, Outgoing};
use thalweg_core::group::state::Partitions;
use thalweg_core::group::{MemberEpoch, Membership, Subscription};
use thalweg_core::metadata::command::Refusal;
use thalweg_core::{TopicId, TopicName, TopicPartition};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// How long the task sleeps at most, so that it sees in time that the application has stayed away.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Topics whose names are kept before those that are not read any more are forgotten.
const MANY_NAMES: usize = 1024;

/// What consumer and task see of each other at any time.
#[derive(Debug)]
pub(super) struct Shared {
    begun: Instant,
    /// What commits are fenced by; 0 while the member is not in the group.
    epoch: AtomicI32,
    /// When the application got records and went away with them, in milliseconds since `begun` and one more; 0 while it waits.
    busy_since: AtomicU64,
    /// The member left because the application stayed away.
    stalled: AtomicBool,
    back: Notify,
}

/// What the consumer wants.
#[derive(Debug)]
pub(super) enum Wish {
    Subscribe(Subscription),
    GaveBack(Partitions),
    Leave { for_now: bool },
}

/// A partition that came.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) at: TopicPartition,
    pub(super) topic_id: TopicId,
    pub(super) since: MemberEpoch,
}

/// What the consumer has to know.
#[derive(Debug)]
pub(super) enum Notice {
    Assigned(Vec<Given>),
    Revoke { ids: Partitions, at: Vec<TopicPartition>, until: Instant },
    Lost { at: Vec<TopicPartition>, why: Loss },
    Left,
    Failed(Refusal),
}

type Call = BoxFuture<'static, Result<proto::HeartbeatResponse, ClientError>>;

pub(super) struct Heartbeats {
    client: Client,
    identity: Arc<Identity>,
    member: Membership,
    shared: Arc<Shared>,
    wishes: mpsc::UnboundedReceiver<Wish>,
    notices: mpsc::UnboundedSender<Notice>,
    names: HashMap<TopicId, TopicName>,
    call: Option<(u64, Call)>,
    /// Nobody wishes for anything any more.
    orphan: bool,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            begun: Instant::now(),
            epoch: AtomicI32::new(0),
            busy_since: AtomicU64::new(1),
            stalled: AtomicBool::new(false),
            back: Notify::new(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// What commits are fenced by, while the member is in the group.
    pub(super) fn epoch(&self) -> Option<MemberEpoch> {
        let epoch = MemberEpoch(self.epoch.load(Ordering::Acquire));
        (epoch > MemberEpoch::JOIN).then_some(epoch)
    }

    /// The application waits for records.
    pub(super) fn waits(&self) {
        self.busy_since.store(0, Ordering::Release);
        if self.stalled.swap(false, Ordering::AcqRel) {
            self.back.notify_one();
        }
    }

    /// The application has gone to do its work.
    pub(super) fn works(&self) {
        let now = u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX);
        self.busy_since.store(now.saturating_add(1), Ordering::Release);
    }
}

impl Heartbeats {
    pub(super) fn new(
        client: Client,
        identity: Arc<Identity>,
        member: Membership,
        shared: Arc<Shared>,
        wishes: mpsc::UnboundedReceiver<Wish>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Heartbeats {
        let (names, call, orphan) = (HashMap::new(), None, false);
        Heartbeats { client, identity, member, shared, wishes, notices, names, call, orphan }
    }

    /// Runs until the member has left, or cannot be in the group. A consumer that is dropped leaves.
    pub(super) async fn run(mut self) {
        loop {
            self.step();
            if self.member.is_ended() {
                return;
            }
            let now = self.shared.now();
            let wake = self.member.next_wake().unwrap_or(Duration::MAX);
            let wake = wake.saturating_sub(now).min(LONGEST_SLEEP);
            let (call, orphan) = (&mut self.call, self.orphan);
            tokio::select! {
                wish = self.wishes.recv(), if !orphan => self.wish(wish),
                outcome = async {
                    match call {
                        Some((number, call)) => (*number, call.await),
                        None => std::future::pending().await,
                    }
                } => self.answered(outcome),
                () = self.shared.back.notified() => {}
                () = tokio::time::sleep(wake) => {}
            }
        }
    }

    /// Does all that is to be done now.
    fn step(&mut self) {
        let now = self.shared.now();
        match self.shared.busy_since.load(Ordering::Acquire) {
            0 => self.member.waits(now),
            since => self.member.works(Duration::from_millis(since - 1)),
        }
        while let Some(event) = self.member.poll(now) {
            self.publish();
            let notice = match event {
                Event::Send(beat) => {
                    self.send(&beat);
                    continue;
                }
                Event::Assigned(ids) => Notice::Assigned(self.given(&ids)),
                Event::Revoke { partitions, until } => {
                    let at = self.named(&partitions);
                    Notice::Revoke { ids: partitions, at, until: self.shared.begun + until }
                }
                Event::Lost { partitions, why } => {
                    if why == Loss::NotPolled {
                        self.shared.stalled.store(true, Ordering::Release);
                    }
                    tracing::info!(
                        group = %self.identity.group,
                        partitions = partitions.len(),
                        reason = %why.refusal(),
                        "partitions are lost"
                    );
                    Notice::Lost { at: self.named(&partitions), why }
                }
                Event::Left => Notice::Left,
                Event::Failed(refusal) => Notice::Failed(refusal),
            };
            // Nobody listens any more: the consumer is gone, and what is left is to leave. As many wait as there are rebalances
            // within one poll interval.
            let _ = self.notices.send(notice);
        }
        self.publish();
        if self.names.len() > MANY_NAMES {
            let has = self.member.has();
            self.names.retain(|id, _| has.iter().any(|at| at.topic == *id));
        }
    }

    fn publish(&self) {
        self.shared.epoch.store(self.member.epoch().0.max(0), Ordering::Release);
    }

    fn wish(&mut self, wish: Option<Wish>) {
        let now = self.shared.now();
        match wish {
            Some(Wish::Subscribe(subscription)) => self.member.subscribe(subscription, now),
            Some(Wish::GaveBack(partitions)) => self.member.gave_back(&partitions, now),
            Some(Wish::Leave { for_now }) => self.member.leave(for_now, now),
            None => {
                self.orphan = true;
                self.member.leave(true, now);
            }
        }
    }

    /// One attempt at the broker whose turn it is; the machine knows when to try again. The former call, if there is one, is
    /// dropped.
    fn send(&mut self, beat: &Outgoing) {
        let request = self.identity.heartbeat(beat);
        let client = self.client.clone();
        let call: Call = Box::pin(async move {
            let endpoints = client.endpoints();
            let endpoint = endpoints.first().ok_or(ClientError::Protocol("no broker is known"))?;
            let channel = client.channels().get(Purpose::Control, endpoint)?;
            match GroupServiceClient::new(channel).heartbeat(request).await {
                Ok(response) => Ok(response.into_inner()),
                Err(status) => {
                    let error = ClientError::from_status(status);
                    if matches!(&error, ClientError::Transport(status) if transient(status)) {
                        client.next_turn();
                    }
                    Err(error)
                }
            }
        });
        self.call = Some((beat.number, call));
    }

    fn answered(&mut self, (number, outcome): (u64, Result<proto::HeartbeatResponse, ClientError>)) {
        self.call = None;
        let outcome = match outcome {
            Ok(response) => wire::answer(&response, &mut self.names),
            Err(error) => {
                tracing::debug!(group = %self.identity.group, %error, "heartbeat failed");
                Err(wire::refusal(error))
            }
        };
        self.member.answered(number, outcome, self.shared.now());
    }

    /// The partitions by name. One whose topic has no name any more was deleted: there is nothing to read.
    fn named(&self, ids: &Partitions) -> Vec<TopicPartition> {
        self.given(ids).into_iter().map(|given| given.at).collect()
    }

    fn given(&self, ids: &Partitions) -> Vec<Given> {
        let since = self.member.epoch();
        let given = ids.iter().filter_map(|id| {
            let at = TopicPartition::new(self.names.get(&id.topic)?.clone(), id.partition);
            Some(Given { at, topic_id: id.topic, since })
        });
        given.collect()
    }
}
