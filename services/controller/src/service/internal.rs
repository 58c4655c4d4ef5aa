//! `thalweg.internal.v1.ControllerService`: what brokers ask of the controller.

use crate::feed::MAX_PAGE;
use crate::quorum::Quorum;
use crate::sessions::Sessions;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use thalweg_core::metadata::command::{AllocateProducerIds, BrokerRef, RegisterBroker};
use thalweg_core::metadata::image::Endpoint;
use thalweg_core::metadata::limits::PRODUCER_ID_BLOCK;
use thalweg_core::metadata::{Command, Response as Applied, codec};
use thalweg_core::{BrokerEpoch, BrokerId, ClusterId, ErrorCode, MetadataVersion};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::internal::v1::controller_service_server::ControllerService;
use thalweg_runtime::Shutdown;
use tonic::{Request, Response, Status};

/// Commands that a broker may be behind and still be held for caught up: others go on changing metadata meanwhile.
const CAUGHT_UP_WITHIN: u64 = 100;

/// The service.
pub struct Internal {
    quorum: Quorum,
    sessions: Arc<Mutex<Sessions>>,
    shutdown: Shutdown,
}

impl Internal {
    /// Serves this group's metadata, and notes signs of life in `sessions`.
    pub fn new(quorum: Quorum, sessions: Arc<Mutex<Sessions>>, shutdown: Shutdown) -> Internal {
        Internal { quorum, sessions, shutdown }
    }

    fn check_cluster(&self, theirs: &str) -> Result<ClusterId, ApiError> {
        let image = self.quorum.published().image();
        let Some(ours) = image.cluster_id() else {
            return Err(ApiError::new(
                ErrorCode::ControllerNotAvailable,
                "the cluster is being founded; try again",
            ));
        };
        if !theirs.is_empty() && theirs != &*ours.0 {
            let message = format!("this is cluster {ours}, the caller belongs to cluster {theirs}");
            return Err(ApiError::new(ErrorCode::InconsistentClusterId, message).with_field("cluster_id"));
        }
        Ok(ours.clone())
    }
}

#[tonic::async_trait]
impl ControllerService for Internal {
    async fn register_broker(
        &self,
        request: Request<wire::RegisterBrokerRequest>,
    ) -> Result<Response<wire::RegisterBrokerResponse>, Status> {
        let request = request.into_inner();
        self.quorum.check_current()?;
        let cluster_id = self.check_cluster(&request.cluster_id)?;
        let endpoint = |text: &str, field: &str| {
            text.parse::<Endpoint>().map_err(|error| ApiError::invalid(field, format!("{text:?}: {error}")))
        };
        let incarnation = <[u8; 16]>::try_from(&request.incarnation_id[..])
            .map_err(|_| ApiError::invalid("incarnation_id", "an incarnation id has 16 bytes"))?;
        let id = BrokerId(request.broker_id);
        let command = Command::RegisterBroker(RegisterBroker {
            id,
            cluster_id: Some(cluster_id.clone()).filter(|_| !request.cluster_id.is_empty()),
            incarnation,
            endpoint: endpoint(&request.endpoint, "endpoint")?,
            internal_endpoint: endpoint(&request.internal_endpoint, "internal_endpoint")?,
            rack: Some(request.rack).filter(|rack| !rack.is_empty()),
            log_dirs: request.log_directory_ids,
            clean_shutdown_epoch: request.clean_shutdown_epoch.map(BrokerEpoch),
        });
        let (version, applied) = self.quorum.propose(&command).await?;
        let Applied::BrokerRegistered { epoch } = applied else {
            return Err(ApiError::new(
                ErrorCode::Internal,
                "a registration was answered with something else",
            )
            .to_status());
        };
        tracing::info!(broker = %id, %epoch, endpoint = request.endpoint, "broker registered");
        Ok(Response::new(wire::RegisterBrokerResponse {
            broker_epoch: epoch.get(),
            cluster_id: cluster_id.to_string(),
            metadata_version: version.get(),
        }))
    }

    async fn broker_heartbeat(
        &self,
        request: Request<wire::BrokerHeartbeatRequest>,
    ) -> Result<Response<wire::BrokerHeartbeatResponse>, Status> {
        let request = request.into_inner();
        let broker = BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) };
        if !self.quorum.status().borrow().serving {
            let message = "this controller does not lead; ask another";
            return Err(ApiError::new(ErrorCode::ControllerNotAvailable, message).to_status());
        }
        let image = self.quorum.published().image();
        let Some(known) = image.broker(broker.id) else {
            let message = format!("broker {} is not registered; register again", broker.id);
            return Err(ApiError::new(ErrorCode::BrokerNotRegistered, message).to_status());
        };
        if known.epoch != broker.epoch {
            let message = format!(
                "broker {} is registered under epoch {}, not {}",
                broker.id, known.epoch, broker.epoch
            );
            return Err(ApiError::new(ErrorCode::StaleBrokerEpoch, message).to_status());
        }
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).touch(
            broker.id,
            broker.epoch,
            Instant::now(),
        );
        let caught_up = request.metadata_version + CAUGHT_UP_WITHIN >= image.version().get();
        let command = if request.want_shutdown {
            (!known.in_controlled_shutdown).then_some(Command::BeginControlledShutdown(broker))
        } else {
            (known.fenced && caught_up).then_some(Command::UnfenceBroker(broker))
        };
        if let Some(command) = command {
            self.quorum.propose(&command).await?;
        }
        let image = self.quorum.published().image();
        let leads = || {
            image.topics().flat_map(|topic| &topic.partitions).any(|partition| {
                partition.leader == broker.id && partition.isr.iter().any(|id| *id != broker.id)
            })
        };
        Ok(Response::new(wire::BrokerHeartbeatResponse {
            fenced: image.broker(broker.id).is_none_or(|known| known.fenced),
            // What nobody else can lead it may as well leave.
            may_shutdown: request.want_shutdown && !leads(),
        }))
    }

    type BrokerSessionStream = BoxStream<'static, Result<wire::BrokerSessionResponse, Status>>;

    async fn broker_session(
        &self,
        _: Request<tonic::Streaming<wire::BrokerSessionRequest>>,
    ) -> Result<Response<Self::BrokerSessionStream>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }

    async fn alter_partitions(
        &self,
        _: Request<wire::AlterPartitionsRequest>,
    ) -> Result<Response<wire::AlterPartitionsResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<wire::AllocateProducerIdsRequest>,
    ) -> Result<Response<wire::AllocateProducerIdsResponse>, Status> {
        let request = request.into_inner();
        let broker = BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) };
        let command = Command::AllocateProducerIds(AllocateProducerIds { broker, count: PRODUCER_ID_BLOCK });
        match self.quorum.propose(&command).await? {
            (_, Applied::ProducerIds(block)) => Ok(Response::new(wire::AllocateProducerIdsResponse {
                first_id: block.first.get(),
                count: block.count,
            })),
            _ => Err(ApiError::new(ErrorCode::Internal, "an allocation was answered with something else")
                .to_status()),
        }
    }

    type WatchImageStream = BoxStream<'static, Result<wire::WatchImageResponse, Status>>;

    async fn watch_image(
        &self,
        request: Request<wire::WatchImageRequest>,
    ) -> Result<Response<Self::WatchImageStream>, Status> {
        let request = request.into_inner();
        self.quorum.check_current()?;
        self.check_cluster(&request.cluster_id)?;
        let watch = Watch {
            quorum: self.quorum.clone(),
            changed: self.quorum.published().feed.version(),
            sent: MetadataVersion(request.from_version),
            fresh: request.from_version == 0,
            shutdown: self.shutdown.clone(),
        };
        let updates = stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(update) => Some((Ok(update), Some(watch))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(updates.boxed()))
    }

    async fn describe_quorum(
        &self,
        _: Request<wire::DescribeQuorumRequest>,
    ) -> Result<Response<wire::DescribeQuorumResponse>, Status> {
        let status = self.quorum.status().borrow().clone();
        Ok(Response::new(wire::DescribeQuorumResponse {
            node_id: status.node_id.get(),
            leader_id: status.leader.map_or(0, |id| id.get()),
            term: status.term,
            voters: status.voters.iter().map(|id| id.get()).collect(),
            commit_index: status.commit,
            applied_index: status.applied,
            learners: status.learners.iter().map(|id| id.get()).collect(),
            leader_endpoint: String::new(),
        }))
    }
}

/// One watcher: a snapshot when it holds nothing or too little, then pages of commands.
struct Watch {
    quorum: Quorum,
    changed: tokio::sync::watch::Receiver<MetadataVersion>,
    sent: MetadataVersion,
    fresh: bool,
    shutdown: Shutdown,
}

impl Watch {
    async fn next(&mut self) -> Result<wire::WatchImageResponse, Status> {
        loop {
            // Marked as seen before the feed is read, so that what comes in between wakes the next wait.
            self.changed.borrow_and_update();
            let page = if self.fresh { None } else { self.quorum.published().feed.since(self.sent) };
            match page {
                None => return Ok(self.snapshot()),
                Some(page) if !page.is_empty() => return Ok(self.delta(page)),
                Some(_) => {}
            }
            tokio::select! {
                changed = self.changed.changed() => changed.map_err(|_| stopping())?,
                () = self.shutdown.triggered() => return Err(stopping()),
            }
        }
    }

    fn snapshot(&mut self) -> wire::WatchImageResponse {
        let image = self.quorum.published().image();
        self.sent = image.version();
        self.fresh = false;
        let snapshot = Bytes::from(codec::encode_image(&image));
        wire::WatchImageResponse { update: Some(wire::watch_image_response::Update::Snapshot(snapshot)) }
    }

    fn delta(&mut self, page: Vec<(MetadataVersion, Bytes)>) -> wire::WatchImageResponse {
        debug_assert!(page.len() <= MAX_PAGE);
        let commands = page
            .into_iter()
            .map(|(version, command)| {
                self.sent = version;
                wire::ImageCommand { version: version.get(), command }
            })
            .collect();
        let delta = wire::ImageDelta { commands };
        wire::WatchImageResponse { update: Some(wire::watch_image_response::Update::Delta(delta)) }
    }
}

fn stopping() -> Status {
    ApiError::new(ErrorCode::ShuttingDown, "this controller is stopping; ask another").to_status()
}
