//! Brokers' signs of life, as the leading controller takes them: one at a time, or on a stream whose end is a sign too.

use crate::quorum::{Quorum, no_leader};
use crate::sessions::Sessions;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::{BrokerEpoch, BrokerId, ErrorCode, MetadataVersion, Retriable};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerSessionRequest, BrokerSessionResponse,
};
use thalweg_runtime::Shutdown;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Commands that a broker may be behind and still be held for caught up: others go on changing metadata meanwhile.
const CAUGHT_UP_WITHIN: u64 = 100;
/// Answers that may wait for a broker to take them.
const ANSWERS: usize = 4;

/// Takes signs of life.
#[derive(Clone)]
pub struct Heartbeats {
    quorum: Quorum,
    sessions: Arc<Mutex<Sessions>>,
    /// Told when a stream broke, so that the broker's grace is watched.
    broke: Arc<Notify>,
}

impl Heartbeats {
    /// Nobody was heard yet.
    pub fn new(quorum: Quorum) -> Heartbeats {
        Heartbeats { quorum, sessions: Arc::default(), broke: Arc::default() }
    }

    /// What is known of the brokers.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a broker's stream breaks.
    pub async fn broken(&self) {
        self.broke.notified().await;
    }

    /// Takes one heartbeat. What the broker asks for with it is proposed; whether that has happened the answer says.
    ///
    /// Errors: `CONTROLLER_NOT_AVAILABLE`, `BROKER_NOT_REGISTERED`, `STALE_BROKER_EPOCH`.
    pub async fn take(&self, request: BrokerHeartbeatRequest) -> Result<BrokerHeartbeatResponse, ApiError> {
        let broker = broker_of(&request);
        if !self.quorum.is_serving() {
            return Err(no_leader());
        }
        let image = self.quorum.published().image();
        let Some(known) = image.broker(broker.id) else {
            let message = format!("broker {} is not registered; register again", broker.id);
            return Err(ApiError::new(ErrorCode::BrokerNotRegistered, message));
        };
        if known.epoch != broker.epoch {
            let message = format!(
                "broker {} is registered under epoch {}, not {}",
                broker.id, known.epoch, broker.epoch
            );
            return Err(ApiError::new(ErrorCode::StaleBrokerEpoch, message));
        }
        self.sessions().touch(broker.id, broker.epoch, Instant::now());
        let caught_up = request.metadata_version.saturating_add(CAUGHT_UP_WITHIN) >= image.version().get();
        let command = if request.want_shutdown {
            // Asked again while it leads: another replica may have caught up since.
            let again = known.in_controlled_shutdown && self.leads(broker.id);
            (!known.in_controlled_shutdown || again).then_some(Command::BeginControlledShutdown(broker))
        } else {
            (known.fenced && caught_up).then_some(Command::UnfenceBroker(broker))
        };
        if let Some(command) = command
            && let Err(error) = self.quorum.propose(&command).await
        {
            if error.retriable() == Retriable::No {
                return Err(error);
            }
            tracing::warn!(broker = %broker.id, %error, "what a heartbeat asked for was not done yet");
        }
        Ok(self.answer(&request))
    }

    /// What the image says of the broker.
    fn answer(&self, request: &BrokerHeartbeatRequest) -> BrokerHeartbeatResponse {
        let image = self.quorum.published().image();
        let id = BrokerId(request.broker_id);
        BrokerHeartbeatResponse {
            fenced: image.broker(id).is_none_or(|known| known.fenced),
            may_shutdown: request.want_shutdown && !self.leads(id),
        }
    }

    /// Whether a broker leads what somebody else could lead; what nobody else can lead it may as well leave.
    fn leads(&self, id: BrokerId) -> bool {
        let image = self.quorum.published().image();
        let could = |member: &BrokerId| {
            *member != id && image.broker(*member).is_some_and(|broker| broker.is_active())
        };
        let mut partitions = image.topics().flat_map(|topic| &topic.partitions);
        partitions.any(|partition| partition.leader == id && partition.isr.iter().any(could))
    }

    /// Takes heartbeats from a stream, answers each, and speaks by itself when what it said of the broker changes.
    pub fn session(
        &self,
        inbound: Streaming<BrokerSessionRequest>,
        shutdown: Shutdown,
    ) -> BoxStream<'static, Result<BrokerSessionResponse, Status>> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let session = Session {
            heartbeats: self.clone(),
            changed: self.quorum.published().feed.version(),
            inbound,
            answers,
            broker: None,
            last: None,
        };
        tokio::spawn(session.run(shutdown));
        stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|answer| (answer, receiver))
        })
        .boxed()
    }
}

fn broker_of(request: &BrokerHeartbeatRequest) -> BrokerRef {
    BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) }
}

/// One stream of one broker.
struct Session {
    heartbeats: Heartbeats,
    changed: watch::Receiver<MetadataVersion>,
    inbound: Streaming<BrokerSessionRequest>,
    answers: mpsc::Sender<Result<BrokerSessionResponse, Status>>,
    /// Whose it is; one stream serves one incarnation.
    broker: Option<BrokerRef>,
    /// The last heartbeat and what was answered.
    last: Option<(BrokerHeartbeatRequest, BrokerHeartbeatResponse)>,
}

impl Session {
    async fn run(mut self, shutdown: Shutdown) {
        let mut status = self.heartbeats.quorum.status();
        let broke = loop {
            let pending = self.last.as_ref().is_some_and(|(request, answer)| {
                answer.fenced || (request.want_shutdown && !answer.may_shutdown)
            });
            tokio::select! {
                next = self.inbound.message() => match next {
                    Ok(Some(BrokerSessionRequest { heartbeat: Some(heartbeat) })) => {
                        match self.take(heartbeat).await {
                            Ok(answer) => if self.send(answer).await.is_err() { break true },
                            Err(error) => {
                                // What remains to be said; the broker may be gone already.
                                let _ = self.answers.send(Err(error.to_status())).await;
                                break false;
                            }
                        }
                    }
                    Ok(Some(BrokerSessionRequest { heartbeat: None })) => {
                        let error = ApiError::invalid("heartbeat", "a session's request has a heartbeat");
                        let _ = self.answers.send(Err(error.to_status())).await;
                        break false;
                    }
                    // Both are the end of the broker's process, or of the network to it.
                    Ok(None) | Err(_) => break true,
                },
                changed = self.changed.changed(), if pending => {
                    if changed.is_err() || self.tell_change().await.is_err() {
                        break changed.is_ok();
                    }
                }
                changed = status.changed() => if changed.is_err() || !status.borrow_and_update().serving {
                    let _ = self.answers.send(Err(no_leader().to_status())).await;
                    break false;
                },
                () = shutdown.triggered() => {
                    let error = ApiError::new(ErrorCode::ShuttingDown, "this controller is stopping; ask another");
                    let _ = self.answers.send(Err(error.to_status())).await;
                    break false;
                }
            }
        };
        self.end(broke);
    }

    async fn take(&mut self, heartbeat: BrokerHeartbeatRequest) -> Result<BrokerHeartbeatResponse, ApiError> {
        let broker = broker_of(&heartbeat);
        if self.broker.is_some_and(|known| known != broker) {
            return Err(ApiError::invalid("broker_id", "a session belongs to one incarnation of one broker"));
        }
        let answer = self.heartbeats.take(heartbeat).await?;
        if self.broker.is_none() {
            self.broker = Some(broker);
            self.heartbeats.sessions().opened(broker.id, broker.epoch);
        }
        self.last = Some((heartbeat, answer));
        Ok(answer)
    }

    async fn tell_change(&mut self) -> Result<(), ()> {
        let Some((request, before)) = self.last else { return Ok(()) };
        let answer = self.heartbeats.answer(&request);
        if answer == before {
            return Ok(());
        }
        self.last = Some((request, answer));
        self.send(answer).await
    }

    async fn send(&self, answer: BrokerHeartbeatResponse) -> Result<(), ()> {
        self.answers.send(Ok(BrokerSessionResponse { heartbeat: Some(answer) })).await.map_err(|_| ())
    }

    fn end(&self, broke: bool) {
        let Some(broker) = self.broker else { return };
        let goodbye = self.last.is_some_and(|(request, _)| request.want_shutdown);
        let evidence =
            self.heartbeats.sessions().closed(broker.id, broker.epoch, broke && !goodbye, Instant::now());
        if evidence {
            tracing::info!(broker = %broker.id, epoch = %broker.epoch, "a broker's session broke");
            self.heartbeats.broke.notify_one();
        }
    }
}
