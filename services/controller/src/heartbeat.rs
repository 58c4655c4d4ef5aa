//! Brokers' signs of life, as the leading controller takes them: one at a time, or on a stream.

use crate::kind::Brokers;
use crate::members::Members;
use crate::quorum::{Quorum, no_leader, refused};
use crate::stream::Signs;
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::{BrokerEpoch, BrokerId, ErrorCode, Retriable};
use thalweg_proto::ApiError;
use thalweg_proto::features::levels;
use thalweg_proto::internal::v1::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerSessionRequest, BrokerSessionResponse,
};

/// Commands that a broker may be behind and still be held for caught up: others go on changing metadata meanwhile.
const CAUGHT_UP_WITHIN: u64 = 100;

/// Takes signs of life.
#[derive(Clone)]
pub struct Heartbeats {
    members: Members<Brokers>,
}

impl Heartbeats {
    /// Takes those of these brokers.
    pub fn new(members: Members<Brokers>) -> Heartbeats {
        Heartbeats { members }
    }

    fn quorum(&self) -> &Quorum {
        self.members.quorum()
    }

    /// Takes one heartbeat. What the broker asks for with it is proposed; whether that has happened the answer says.
    ///
    /// Errors: `CONTROLLER_NOT_AVAILABLE`, `BROKER_NOT_REGISTERED`, `STALE_BROKER_EPOCH`, `INCOMPATIBLE_FEATURE_LEVEL`.
    pub async fn take(&self, request: BrokerHeartbeatRequest) -> Result<BrokerHeartbeatResponse, ApiError> {
        let (id, epoch) = Heartbeats::giver(&request);
        let broker = BrokerRef { id, epoch };
        if !self.quorum().is_serving() {
            return Err(no_leader());
        }
        let image = self.quorum().published().image();
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
        let supported = levels(request.feature_levels)?;
        self.members.supports((id, epoch), supported);
        // One that registered behind a raise of the level it does not know is no sign of life: it stays fenced, or is fenced.
        supported.admit(&format!("broker {id}"), image.feature_level()).map_err(refused)?;
        self.members.touch((id, epoch));
        let caught_up = request.metadata_version.saturating_add(CAUGHT_UP_WITHIN) >= image.version().get();
        let command = if request.want_shutdown {
            // Asked again while it leads: another replica may have caught up since.
            let again = known.in_controlled_shutdown && self.leads(broker.id);
            (!known.in_controlled_shutdown || again).then_some(Command::BeginControlledShutdown(broker))
        } else {
            (known.fenced && caught_up).then_some(Command::UnfenceBroker(broker))
        };
        if let Some(command) = command
            && let Err(error) = self.quorum().propose(&command).await
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
        let image = self.quorum().published().image();
        let id = BrokerId(request.broker_id);
        BrokerHeartbeatResponse {
            fenced: image.broker(id).is_none_or(|known| known.fenced),
            may_shutdown: request.want_shutdown && !self.leads(id),
        }
    }

    /// Whether a broker leads what somebody else could lead; what nobody else can lead it may as well leave.
    fn leads(&self, id: BrokerId) -> bool {
        let image = self.quorum().published().image();
        let could = |member: &BrokerId| {
            *member != id && image.broker(*member).is_some_and(|broker| broker.is_active())
        };
        let mut partitions = image.topics().flat_map(|topic| &topic.partitions);
        partitions.any(|partition| partition.leader == id && partition.isr.iter().any(could))
    }
}

impl Signs for Heartbeats {
    type Kind = Brokers;
    type Request = BrokerSessionRequest;
    type Response = BrokerSessionResponse;
    type Sign = BrokerHeartbeatRequest;
    type Answer = BrokerHeartbeatResponse;

    fn members(&self) -> &Members<Brokers> {
        &self.members
    }

    fn sign(request: BrokerSessionRequest) -> Result<BrokerHeartbeatRequest, ApiError> {
        let missing = || ApiError::invalid("heartbeat", "a session's request has a heartbeat");
        request.heartbeat.ok_or_else(missing)
    }

    fn response(answer: BrokerHeartbeatResponse) -> BrokerSessionResponse {
        BrokerSessionResponse { heartbeat: Some(answer) }
    }

    fn giver(sign: &BrokerHeartbeatRequest) -> (BrokerId, BrokerEpoch) {
        (BrokerId(sign.broker_id), BrokerEpoch(sign.broker_epoch))
    }

    fn is_goodbye(sign: &BrokerHeartbeatRequest) -> bool {
        sign.want_shutdown
    }

    fn is_pending(sign: &BrokerHeartbeatRequest, answer: &BrokerHeartbeatResponse) -> bool {
        answer.fenced || (sign.want_shutdown && !answer.may_shutdown)
    }

    fn take(
        &self,
        sign: BrokerHeartbeatRequest,
    ) -> impl Future<Output = Result<BrokerHeartbeatResponse, ApiError>> + Send {
        Heartbeats::take(self, sign)
    }

    fn answer(&self, sign: &BrokerHeartbeatRequest) -> Result<BrokerHeartbeatResponse, ApiError> {
        Ok(Heartbeats::answer(self, sign))
    }
}
