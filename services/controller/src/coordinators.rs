//! Coordinators' signs of life, as the leading controller takes them.

use crate::kind::Coordinators;
use crate::members::Members;
use crate::quorum::{Quorum, no_leader, refused};
use crate::stream::Signs;
use thalweg_core::metadata::command::CoordinatorRef;
use thalweg_core::metadata::{Command, CoordinatorRegistration, MetadataImage};
use thalweg_core::{CoordinatorEpoch, CoordinatorId, ErrorCode, Retriable};
use thalweg_proto::ApiError;
use thalweg_proto::features::levels;
use thalweg_proto::internal::v1::{CoordinatorSessionRequest, CoordinatorSessionResponse};

/// Takes signs of life.
#[derive(Clone)]
pub struct CoordinatorSigns {
    members: Members<Coordinators>,
}

impl CoordinatorSigns {
    /// Takes those of these coordinators.
    pub fn new(members: Members<Coordinators>) -> CoordinatorSigns {
        CoordinatorSigns { members }
    }

    fn quorum(&self) -> &Quorum {
        self.members.quorum()
    }
}

/// The registration that the caller speaks for.
///
/// Errors: `STALE_COORDINATOR_EPOCH` when another process goes by that id, or none.
fn current<'a>(
    image: &'a MetadataImage,
    sign: &CoordinatorSessionRequest,
) -> Result<&'a CoordinatorRegistration, ApiError> {
    let (id, epoch) = CoordinatorSigns::giver(sign);
    let stale = |message: String| {
        ApiError::new(ErrorCode::StaleCoordinatorEpoch, message).with_field("coordinator_epoch")
    };
    match image.coordinator(id) {
        Some(known) if known.epoch == epoch => Ok(known),
        Some(known) => Err(stale(format!(
            "coordinator {id} is registered under epoch {}, not {epoch}: another process goes by this id",
            known.epoch
        ))),
        None => Err(stale(format!("coordinator {id} is not registered; register again"))),
    }
}

fn has_shards(image: &MetadataImage, id: CoordinatorId) -> bool {
    image.leases().any(|(_, lease)| lease.coordinator == Some(id))
}

impl Signs for CoordinatorSigns {
    type Kind = Coordinators;
    type Request = CoordinatorSessionRequest;
    type Response = CoordinatorSessionResponse;
    type Sign = CoordinatorSessionRequest;
    type Answer = CoordinatorSessionResponse;

    fn members(&self) -> &Members<Coordinators> {
        &self.members
    }

    fn sign(request: CoordinatorSessionRequest) -> Result<CoordinatorSessionRequest, ApiError> {
        Ok(request)
    }

    fn response(answer: CoordinatorSessionResponse) -> CoordinatorSessionResponse {
        answer
    }

    fn giver(sign: &CoordinatorSessionRequest) -> (CoordinatorId, CoordinatorEpoch) {
        (CoordinatorId(sign.coordinator_id), CoordinatorEpoch(sign.coordinator_epoch))
    }

    fn is_goodbye(sign: &CoordinatorSessionRequest) -> bool {
        sign.want_shutdown
    }

    fn is_pending(_: &CoordinatorSessionRequest, _: &CoordinatorSessionResponse) -> bool {
        // It is told at once that it may stop, that it was fenced, and that another process has its id.
        true
    }

    async fn take(&self, sign: CoordinatorSessionRequest) -> Result<CoordinatorSessionResponse, ApiError> {
        if !self.quorum().is_serving() {
            return Err(no_leader());
        }
        let image = self.quorum().published().image();
        let known = current(&image, &sign)?;
        let (id, epoch) = CoordinatorSigns::giver(&sign);
        let supported = levels(sign.feature_levels)?;
        self.members.supports((id, epoch), supported);
        // One that registered behind a raise of the level it does not know is no sign of life: it stays fenced, or is fenced.
        supported.admit(&format!("coordinator {id}"), image.feature_level()).map_err(refused)?;
        self.members.touch((id, epoch));
        // One that is fenced has no shards to give away.
        if sign.want_shutdown && !known.in_controlled_shutdown && !known.fenced {
            let command = Command::BeginCoordinatorShutdown(CoordinatorRef { id, epoch });
            match self.quorum().propose(&command).await {
                Ok(_) => tracing::info!(coordinator = %id, %epoch, "coordinator stops; its shards moved on"),
                Err(error) if error.retriable() == Retriable::No => return Err(error),
                Err(error) => {
                    tracing::warn!(coordinator = %id, %error, "the shards of a coordinator that stops did not move yet");
                }
            }
        }
        self.answer(&sign)
    }

    /// It was let go, and is gone: nobody has to remember it. If this fails, it is fenced when its session is over, and forgotten
    /// with that.
    async fn farewell(&self, sign: CoordinatorSessionRequest, answer: CoordinatorSessionResponse) {
        let (id, epoch) = CoordinatorSigns::giver(&sign);
        let command = Command::UnregisterCoordinator(CoordinatorRef { id, epoch });
        let level = self.quorum().published().image().feature_level();
        if !answer.may_shutdown || command.check_level(level).is_err() {
            return;
        }
        match self.quorum().propose(&command).await {
            Ok(_) => tracing::info!(coordinator = %id, %epoch, "coordinator left"),
            Err(error) => {
                tracing::debug!(coordinator = %id, %error, "coordinator that left not forgotten yet")
            }
        }
    }

    fn answer(&self, sign: &CoordinatorSessionRequest) -> Result<CoordinatorSessionResponse, ApiError> {
        let image = self.quorum().published().image();
        let known = current(&image, sign)?;
        Ok(CoordinatorSessionResponse {
            fenced: known.fenced,
            may_shutdown: sign.want_shutdown && !has_shards(&image, known.id),
        })
    }
}
