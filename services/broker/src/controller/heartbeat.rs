//! Signs of life: on a session with the leading controller, and by single calls to any controller while there is none.

use super::link::ControllerLink;
use super::registration::{Introduction, Patience, RegisterError, register};
use std::sync::Arc;
use std::time::Duration;
use thalweg_client::controllers::{Controllers, Repeat, timed};
use thalweg_core::{ErrorCode, MetadataVersion};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_runtime::Shutdown;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

/// Between two heartbeats while the broker waits to be let go.
const STOPPING_BEAT: Duration = Duration::from_millis(50);

/// For a single heartbeat, at all controllers together, before a session is tried again.
const SINGLE_WITHIN: Duration = Duration::from_secs(2);

/// What the cluster last said of this broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is fenced. A broker starts so.
    pub fenced: bool,
    /// Whether it may stop.
    pub may_shutdown: bool,
}

/// What the rest of the broker has to do with its heartbeats.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Set to `true` to ask for leave.
    pub stop: watch::Sender<bool>,
    /// What the cluster says.
    pub standing: watch::Receiver<Standing>,
}

type Session =
    thalweg_client::controllers::Session<internal::BrokerSessionRequest, internal::BrokerSessionResponse>;

/// Keeps a registration alive.
#[derive(Debug)]
pub struct Heartbeats {
    link: Arc<ControllerLink>,
    who: Introduction,
    applied: watch::Receiver<MetadataVersion>,
    stop: watch::Receiver<bool>,
    standing: watch::Sender<Standing>,
    // The next pause while fenced; it doubles.
    soon: Duration,
    heard: Instant,
    lost: bool,
}

impl Heartbeats {
    /// Heartbeats of `who`; `applied` is the version of the metadata that the partitions here stand for.
    pub fn new(
        link: Arc<ControllerLink>,
        who: Introduction,
        applied: watch::Receiver<MetadataVersion>,
    ) -> (Heartbeats, Wishes) {
        let (stop, stop_heard) = watch::channel(false);
        let (standing, standing_heard) = watch::channel(Standing { fenced: true, may_shutdown: false });
        let soon = link.intervals().retry_first;
        let beats = Heartbeats {
            link,
            who,
            applied,
            stop: stop_heard,
            standing,
            soon,
            heard: Instant::now(),
            lost: false,
        };
        (beats, Wishes { stop, standing: standing_heard })
    }

    /// Beats until the shutdown. A registration that the cluster no longer knows is renewed; one that another process took
    /// over ends the broker.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), RegisterError> {
        tokio::select! {
            ended = self.beat_on() => ended,
            () = shutdown.triggered() => Ok(()),
        }
    }

    async fn beat_on(&mut self) -> Result<(), RegisterError> {
        let mut pause = self.link.intervals().retry_first;
        loop {
            let error = match self.open().await {
                Ok(session) => {
                    let (error, lasted) = self.keep(session).await;
                    if lasted {
                        pause = self.link.intervals().retry_first;
                    }
                    match error.code {
                        ErrorCode::BrokerNotRegistered | ErrorCode::StaleBrokerEpoch => Some(error),
                        // Much of the broker's time is gone by now: the next session may fail the same way, so first a sign of
                        // life through whoever can be reached.
                        _ => {
                            tracing::debug!(broker = %self.who.node_id, %error, "the session is over");
                            self.beat_once().await.err()
                        }
                    }
                }
                // Whoever can be reached hands it on to the leader.
                Err(error) => {
                    tracing::debug!(broker = %self.who.node_id, %error, "no session with the leading controller");
                    self.beat_once().await.err()
                }
            };
            if let Some(error) = error {
                if matches!(error.code, ErrorCode::BrokerNotRegistered | ErrorCode::StaleBrokerEpoch) {
                    self.register_again(&error).await?;
                    continue;
                }
                self.look_out(&error);
            }
            let stopping = *self.stop.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // A wish to stop does not wait.
                Ok(()) = self.stop.changed(), if !stopping => {}
            }
            pause = (pause * 2).min(self.link.intervals().retry_most);
        }
    }

    /// Beats on a session until it ends: why, and whether it was ever answered.
    async fn keep(&mut self, mut session: Session) -> (ApiError, bool) {
        let answer_within = self.link.intervals().heartbeat_answer;
        // The first heartbeat was sent with the opening.
        let (mut waiting, mut lasted) = (Some(Instant::now()), false);
        let mut next = Instant::now();
        loop {
            let (wake, due) = match waiting {
                Some(since) => (since + answer_within, false),
                None => (next, true),
            };
            let stopping = *self.stop.borrow_and_update();
            tokio::select! {
                answer = session.next() => match answer {
                    Ok(answer) => {
                        if !lasted {
                            tracing::debug!(broker = %self.who.node_id, controller = %session.controller, "session open");
                        }
                        (waiting, lasted) = (None, true);
                        if let Some(heartbeat) = answer.heartbeat {
                            next = Instant::now() + self.take(heartbeat);
                        }
                    }
                    Err(error) => {
                        self.link.controllers().addresses().turn_from(&session.controller);
                        return (error, lasted);
                    }
                },
                () = tokio::time::sleep_until(wake) => {
                    if !due {
                        self.link.controllers().addresses().turn_from(&session.controller);
                        let message = format!("the controller at {} is silent", session.controller);
                        return (ApiError::new(ErrorCode::ControllerNotAvailable, message), lasted);
                    }
                    session.beat(self.beat());
                    waiting = Some(Instant::now());
                }
                changed = self.stop.changed(), if !stopping => {
                    // Nobody can ask any more once the sender is gone: then it never did.
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    session.beat(self.beat());
                    waiting = Some(Instant::now());
                }
            }
        }
    }

    async fn open(&self) -> Result<Session, ApiError> {
        let open = |mut client: ControllerServiceClient<Channel>, beats| async move {
            client.broker_session(beats).await
        };
        Session::open(self.link.controllers(), self.beat(), open).await
    }

    fn beat(&self) -> internal::BrokerSessionRequest {
        internal::BrokerSessionRequest { heartbeat: Some(self.heartbeat()) }
    }

    async fn beat_once(&mut self) -> Result<(), ApiError> {
        let within = SINGLE_WITHIN.min(self.link.intervals().heartbeat_answer);
        let heartbeat = self.heartbeat();
        let answer = self
            .link
            .controllers()
            .call(Repeat::Safe, within, |target| {
                let mut client = Controllers::client(&target.channel);
                let request = timed(heartbeat, within);
                async move { Ok(client.broker_heartbeat(request).await?.into_inner()) }
            })
            .await?;
        self.take(answer);
        Ok(())
    }

    fn heartbeat(&self) -> internal::BrokerHeartbeatRequest {
        internal::BrokerHeartbeatRequest {
            broker_id: self.who.node_id.get(),
            // Beats begin behind the registration.
            broker_epoch: self.link.epoch().map_or(-1, |epoch| epoch.get()),
            metadata_version: self.applied.borrow().get(),
            want_shutdown: *self.stop.borrow(),
            feature_levels: Some(internal::FeatureLevels::OURS),
        }
    }

    /// Takes an answer in. Returns when to beat again.
    fn take(&mut self, answer: internal::BrokerHeartbeatResponse) -> Duration {
        let standing = Standing { fenced: answer.fenced, may_shutdown: answer.may_shutdown };
        self.heard = Instant::now();
        self.lost = false;
        self.link.answered(answer.fenced);
        let before = self.standing.send_replace(standing);
        if before.fenced != standing.fenced {
            tracing::info!(broker = %self.who.node_id, fenced = standing.fenced, "the cluster's view of this broker changed");
        }
        let intervals = self.link.intervals();
        if *self.stop.borrow() {
            return STOPPING_BEAT;
        }
        if !standing.fenced {
            self.soon = intervals.retry_first;
            return intervals.heartbeat;
        }
        // It waits for the metadata to be applied here; the next beat that says so lets it in.
        let soon = self.soon;
        self.soon = (soon * 2).min(intervals.heartbeat);
        soon
    }

    async fn register_again(&mut self, error: &ApiError) -> Result<(), RegisterError> {
        tracing::warn!(broker = %self.who.node_id, %error, "registering again");
        // This process lost nothing since its last registration.
        self.who.clean_shutdown_epoch = self.link.epoch();
        // The cluster was told with the first one.
        self.who.damaged = false;
        let within = self.link.intervals().start;
        register(&self.link, &self.who, within, Patience::None).await?;
        Ok(())
    }

    fn look_out(&mut self, error: &ApiError) {
        tracing::debug!(broker = %self.who.node_id, %error, "heartbeat not answered");
        if !self.lost && self.heard.elapsed() > self.link.intervals().session {
            self.lost = true;
            tracing::warn!(
                broker = %self.who.node_id, %error,
                "no controller heard from this broker for a session: the cluster may hold it for gone"
            );
        }
    }
}
