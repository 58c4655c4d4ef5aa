//! This process's place in the cluster: its registration, and the signs of life that keep it.
//!
//! ```text
//!   register ─► session (a heartbeat a second) ─► stream breaks: the next session, at whoever leads
//!                   │ fenced, or forgotten: register again, and get shards under new epochs
//!                   └ another process under this id: end
//! ```

use crate::config::CoordinatorIntervals;
use std::sync::Arc;
use std::time::Duration;
use thalweg_client::controllers::{Controllers, MetadataStore, Repeat, Session, timed};
use thalweg_core::{CoordinatorEpoch, CoordinatorId, ErrorCode, MetadataVersion, Retriable};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_runtime::Shutdown;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Between two heartbeats while the coordinator waits to be let go.
const STOPPING_BEAT: Duration = Duration::from_millis(50);
/// Between two incarnations of one process at least: whatever makes it begin anew does not go away by that.
const BETWEEN_INCARNATIONS: Duration = Duration::from_secs(2);

/// Who a coordinator is.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// Its id.
    pub id: CoordinatorId,
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// Random; another one is another process to the cluster.
    pub incarnation: [u8; 16],
    /// Where brokers reach it.
    pub endpoint: String,
    /// Its rack or zone.
    pub rack: Option<String>,
}

/// Why a coordinator is not, or no longer, registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The cluster does not take it.
    #[error("the cluster does not take this coordinator: {0}")]
    Refused(ApiError),
    /// Another process has its id.
    #[error("another process took the place of coordinator {0}; give each coordinator an id of its own")]
    Replaced(CoordinatorId),
}

/// What the rest of the coordinator knows of its registration, and may ask for.
#[derive(Debug)]
pub struct Membership {
    /// The coordinator.
    pub id: CoordinatorId,
    /// The epoch of the registration; `None` before the first.
    pub epoch: watch::Sender<Option<CoordinatorEpoch>>,
    /// Set to `true` to ask for leave.
    pub stop: watch::Sender<bool>,
    /// Whether the cluster let it go.
    pub may_shutdown: watch::Sender<bool>,
    /// When the last heartbeat was sent that a controller answered.
    heard: watch::Sender<Instant>,
    anew: Notify,
}

impl Membership {
    /// Not registered yet.
    pub fn new(id: CoordinatorId) -> Membership {
        Membership {
            id,
            epoch: watch::Sender::new(None),
            stop: watch::Sender::new(false),
            may_shutdown: watch::Sender::new(false),
            heard: watch::Sender::new(Instant::now()),
            anew: Notify::new(),
        }
    }

    /// Becomes another process to the cluster: every shard gets a new epoch and is loaded again. The way out where memory and log
    /// may differ and the log cannot tell how.
    pub fn begin_anew(&self) {
        self.anew.notify_one();
    }

    /// Whether the controllers may hold this process for gone by now, so that others may have its shards.
    pub fn may_be_fenced(&self, session: Duration) -> bool {
        self.heard.borrow().elapsed() >= session
    }
}

/// Registers, trying again for `within` as long as that may help. Returns the version of the metadata that holds the
/// registration.
pub async fn register(
    controllers: &Controllers,
    who: &Introduction,
    membership: &Membership,
    within: Duration,
) -> Result<MetadataVersion, RegisterError> {
    let deadline = Instant::now() + within;
    let timing = *controllers.timing();
    let mut pause = timing.retry_first;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = left.min(timing.call);
        let sent = Instant::now();
        let answer = controllers
            .call(Repeat::Safe, left, |target| {
                let mut client = Controllers::client(&target.channel);
                let request = timed(who.request(), attempt);
                async move { Ok(client.register_coordinator(request).await?.into_inner()) }
            })
            .await;
        match answer {
            Ok(registered) if registered.cluster_id != who.cluster_id => {
                let message = format!(
                    "the controllers are of cluster {}, not {}",
                    registered.cluster_id, who.cluster_id
                );
                return Err(RegisterError::Refused(ApiError::new(ErrorCode::InconsistentClusterId, message)));
            }
            Ok(registered) => {
                let epoch = CoordinatorEpoch(registered.coordinator_epoch);
                membership.heard.send_replace(sent);
                membership.epoch.send_replace(Some(epoch));
                tracing::info!(coordinator = %who.id, %epoch, cluster = %who.cluster_id, "registered");
                return Ok(MetadataVersion(registered.metadata_version));
            }
            Err(error) => {
                if error.retriable() == Retriable::No || Instant::now() + pause >= deadline {
                    return Err(RegisterError::Refused(error));
                }
                tracing::warn!(coordinator = %who.id, %error, "not registered yet; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(timing.retry_most);
            }
        }
    }
}

impl Introduction {
    fn request(&self) -> internal::RegisterCoordinatorRequest {
        internal::RegisterCoordinatorRequest {
            coordinator_id: self.id.get(),
            cluster_id: self.cluster_id.clone(),
            incarnation_id: self.incarnation.to_vec().into(),
            endpoint: self.endpoint.clone(),
            rack: self.rack.clone().unwrap_or_default(),
            feature_levels: Some(internal::FeatureLevels::OURS),
        }
    }
}

type Beats = Session<internal::CoordinatorSessionRequest, internal::CoordinatorSessionResponse>;

/// How a session ended.
enum Ended {
    /// The stream broke, or the controller no longer leads.
    Broke { answered: bool },
    /// The cluster holds this incarnation for gone.
    Fenced,
    /// The cluster does not know this epoch.
    Unknown,
    /// This process asked to begin anew.
    Anew,
}

/// Keeps a registration alive.
#[derive(Debug)]
pub struct Heartbeats {
    controllers: Arc<Controllers>,
    metadata: Arc<MetadataStore>,
    membership: Arc<Membership>,
    intervals: CoordinatorIntervals,
    who: Introduction,
    stop: watch::Receiver<bool>,
    born: Instant,
}

impl Heartbeats {
    /// Heartbeats of `who`, once it is registered.
    pub fn new(
        controllers: Arc<Controllers>,
        metadata: Arc<MetadataStore>,
        membership: Arc<Membership>,
        intervals: CoordinatorIntervals,
        who: Introduction,
    ) -> Heartbeats {
        let stop = membership.stop.subscribe();
        Heartbeats { controllers, metadata, membership, intervals, who, stop, born: Instant::now() }
    }

    /// Beats until the shutdown. A registration that the cluster does not hold any more is renewed; one that another process
    /// took over ends the coordinator.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), RegisterError> {
        tokio::select! {
            ended = self.beat_on() => ended,
            () = shutdown.triggered() => Ok(()),
        }
    }

    async fn beat_on(&mut self) -> Result<(), RegisterError> {
        let mut pause = self.intervals.retry_first;
        loop {
            let ended = match self.open().await {
                Ok(session) => self.keep(session).await,
                Err(error) => self.judge(&error, false),
            };
            match ended {
                Ended::Broke { answered: true } => pause = self.intervals.retry_first,
                Ended::Broke { answered: false } => {}
                Ended::Fenced => self.register_again("the cluster fenced this coordinator").await?,
                Ended::Unknown => {
                    if self.is_replaced() {
                        return Err(RegisterError::Replaced(self.who.id));
                    }
                    // The cluster let it go, and it did not hear that: it is as good as gone, and has no shards.
                    if *self.stop.borrow() && self.is_forgotten() {
                        self.membership.may_shutdown.send_replace(true);
                        return std::future::pending().await;
                    }
                    if self.is_forgotten() {
                        self.register_again("the cluster does not know this coordinator any more").await?;
                    }
                }
                Ended::Anew => {
                    // What fails for good fails again: not too often.
                    tokio::time::sleep_until(self.born + BETWEEN_INCARNATIONS).await;
                    self.born = Instant::now();
                    self.who.incarnation = rand::random();
                    self.register_again("beginning anew").await?;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.intervals.retry_most);
        }
    }

    async fn open(&self) -> Result<Beats, ApiError> {
        let open = |mut client: ControllerServiceClient<Channel>, beats| async move {
            client.coordinator_session(beats).await
        };
        Session::open(&self.controllers, self.beat(), open).await
    }

    fn beat(&self) -> internal::CoordinatorSessionRequest {
        internal::CoordinatorSessionRequest {
            coordinator_id: self.who.id.get(),
            coordinator_epoch: self.epoch().map_or(-1, CoordinatorEpoch::get),
            want_shutdown: *self.stop.borrow(),
            feature_levels: Some(internal::FeatureLevels::OURS),
        }
    }

    fn epoch(&self) -> Option<CoordinatorEpoch> {
        *self.membership.epoch.borrow()
    }

    async fn keep(&mut self, mut session: Beats) -> Ended {
        let mut answered = false;
        // The first heartbeat was sent with the opening.
        let (mut sent, mut waiting) = (Instant::now(), true);
        let mut next = Instant::now();
        let membership = Arc::clone(&self.membership);
        loop {
            let wake = if waiting { sent + self.intervals.heartbeat_answer } else { next };
            let stopping = *self.stop.borrow_and_update();
            tokio::select! {
                answer = session.next() => match answer {
                    Ok(answer) => {
                        if !answered {
                            tracing::debug!(coordinator = %self.who.id, controller = %session.controller, "session open");
                        }
                        (answered, waiting) = (true, false);
                        self.membership.heard.send_replace(sent);
                        if answer.fenced {
                            return Ended::Fenced;
                        }
                        self.membership.may_shutdown.send_replace(answer.may_shutdown && stopping);
                        let pause = if stopping { STOPPING_BEAT } else { self.intervals.heartbeat };
                        next = Instant::now() + pause;
                    }
                    Err(error) => {
                        self.controllers.addresses().turn_from(&session.controller);
                        return self.judge(&error, answered);
                    }
                },
                () = tokio::time::sleep_until(wake) => {
                    if waiting {
                        self.controllers.addresses().turn_from(&session.controller);
                        tracing::debug!(controller = %session.controller, "the controller is silent");
                        return Ended::Broke { answered };
                    }
                    session.beat(self.beat());
                    (sent, waiting) = (Instant::now(), true);
                }
                Ok(()) = self.stop.changed(), if !stopping => {
                    session.beat(self.beat());
                    // An answer to an earlier one counts from that one.
                    if !waiting {
                        (sent, waiting) = (Instant::now(), true);
                    }
                }
                () = membership.anew.notified() => return Ended::Anew,
            }
        }
    }

    fn judge(&self, error: &ApiError, answered: bool) -> Ended {
        tracing::debug!(coordinator = %self.who.id, %error, "no session with the leading controller");
        match error.code {
            ErrorCode::StaleCoordinatorEpoch => Ended::Unknown,
            _ => Ended::Broke { answered },
        }
    }

    /// Whether the metadata has another process under this id, a later one.
    fn is_replaced(&self) -> bool {
        let image = self.metadata.image();
        image.coordinator(self.who.id).is_some_and(|registered| {
            registered.incarnation != self.who.incarnation
                && self.epoch().is_some_and(|own| registered.epoch > own)
        })
    }

    /// Whether the metadata, as far as it is known here, has no registration of this process that is good. While it says otherwise,
    /// what is known here may be old: then the next session is tried first.
    fn is_forgotten(&self) -> bool {
        let image = self.metadata.image();
        image
            .coordinator(self.who.id)
            .is_none_or(|registered| registered.fenced || Some(registered.epoch) != self.epoch())
    }

    async fn register_again(&self, why: &str) -> Result<(), RegisterError> {
        tracing::warn!(coordinator = %self.who.id, reason = why, "registering again");
        loop {
            match register(&self.controllers, &self.who, &self.membership, self.intervals.start).await {
                // Nobody answered for so long: there may be no controllers. They will be back.
                Err(RegisterError::Refused(error)) if error.retriable() != Retriable::No => {
                    tracing::warn!(coordinator = %self.who.id, %error, "not registered again yet");
                }
                done => return done.map(drop),
            }
        }
    }
}
