//! The controller: applies commands at once. It fences nobody by itself.

use super::Fake;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use thalweg_core::metadata::command::{CoordinatorRef, RegisterCoordinator, RenewShardLease};
use thalweg_core::metadata::{Command, Response as Applied, codec};
use thalweg_core::{
    ClusterId, CoordinatorEpoch, CoordinatorId, ErrorCode, LeaseEpoch, PartitionId, TopicName, TopicPartition,
};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::controller_service_server::ControllerService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

pub struct FakeController {
    pub fake: Fake,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn unsupported<T>() -> Result<T, Status> {
    Err(ApiError::new(ErrorCode::Unsupported, "not played").to_status())
}

fn heartbeat(
    fake: &Fake,
    beat: internal::CoordinatorSessionRequest,
) -> Result<internal::CoordinatorSessionResponse, Status> {
    let id = CoordinatorId(beat.coordinator_id);
    let epoch = CoordinatorEpoch(beat.coordinator_epoch);
    let image = fake.image();
    let known = image.coordinator(id).filter(|known| known.epoch == epoch);
    let Some(known) = known else {
        return Err(ApiError::new(ErrorCode::StaleCoordinatorEpoch, "who are you?").to_status());
    };
    if beat.want_shutdown {
        let command = Command::BeginCoordinatorShutdown(CoordinatorRef { id, epoch });
        fake.propose(command).unwrap();
        return Ok(internal::CoordinatorSessionResponse { fenced: false, may_shutdown: true });
    }
    Ok(internal::CoordinatorSessionResponse { fenced: known.fenced, may_shutdown: false })
}

#[tonic::async_trait]
impl ControllerService for FakeController {
    async fn register_coordinator(
        &self,
        request: Request<internal::RegisterCoordinatorRequest>,
    ) -> Result<Response<internal::RegisterCoordinatorResponse>, Status> {
        let request = request.into_inner();
        let register = RegisterCoordinator {
            id: CoordinatorId(request.coordinator_id),
            cluster_id: Some(ClusterId(request.cluster_id.as_str().into())),
            incarnation: request.incarnation_id.as_ref().try_into().unwrap(),
            endpoint: request.endpoint.parse().unwrap(),
            rack: Some(request.rack).filter(|rack| !rack.is_empty()),
        };
        let applied = self.fake.propose(Command::RegisterCoordinator(register));
        let (metadata_version, applied) =
            applied.map_err(|refusal| ApiError::new(refusal.code, refusal.message).to_status())?;
        let Applied::CoordinatorRegistered { epoch } = applied else { panic!("{applied:?}") };
        Ok(Response::new(internal::RegisterCoordinatorResponse {
            coordinator_epoch: epoch.get(),
            cluster_id: self.fake.image().cluster_id().unwrap().to_string(),
            metadata_version,
        }))
    }

    type CoordinatorSessionStream = Answers<internal::CoordinatorSessionResponse>;

    async fn coordinator_session(
        &self,
        request: Request<tonic::Streaming<internal::CoordinatorSessionRequest>>,
    ) -> Result<Response<Self::CoordinatorSessionStream>, Status> {
        let (fake, mut beats) = (self.fake.clone(), request.into_inner());
        let (answers, answered) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(beat)) = beats.message().await {
                fake.beats.fetch_add(1, Ordering::Relaxed);
                if fake.deaf.load(Ordering::Relaxed) {
                    continue;
                }
                let answer = heartbeat(&fake, beat);
                let over = answer.is_err();
                if answers.send(answer).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }

    type WatchImageStream = Answers<internal::WatchImageResponse>;

    async fn watch_image(
        &self,
        _: Request<internal::WatchImageRequest>,
    ) -> Result<Response<Self::WatchImageStream>, Status> {
        use internal::watch_image_response::Update;
        let commands = self.fake.commands.subscribe();
        let image = self.fake.image();
        let mut sent = image.version().get();
        let snapshot = Update::Snapshot(codec::encode_image(&image).into());
        let first = tokio_stream::once(Ok(internal::WatchImageResponse { update: Some(snapshot) }));
        let deltas = WatchStream::new(commands).map(move |commands| {
            let new = commands.into_iter().filter(|(version, _)| *version > sent);
            let commands: Vec<_> = new
                .map(|(version, command)| internal::ImageCommand { version, command: command.into() })
                .collect();
            sent = commands.last().map_or(sent, |last| last.version);
            let update = Update::Delta(internal::ImageDelta { commands });
            Ok(internal::WatchImageResponse { update: Some(update) })
        });
        Ok(Response::new(Box::pin(first.chain(deltas))))
    }

    async fn renew_shard_lease(
        &self,
        request: Request<internal::RenewShardLeaseRequest>,
    ) -> Result<Response<internal::RenewShardLeaseResponse>, Status> {
        let request = request.into_inner();
        let coordinator = CoordinatorRef {
            id: CoordinatorId(request.coordinator_id),
            epoch: CoordinatorEpoch(request.coordinator_epoch),
        };
        let topic = TopicName::new(&request.topic).unwrap();
        let renew = RenewShardLease {
            coordinator,
            shard: TopicPartition::new(topic, PartitionId(request.partition)),
            lease_epoch: LeaseEpoch(request.lease_epoch),
        };
        let applied = self.fake.propose(Command::RenewShardLease(renew));
        let (metadata_version, _) =
            applied.map_err(|refusal| ApiError::new(refusal.code, refusal.message).to_status())?;
        Ok(Response::new(internal::RenewShardLeaseResponse { metadata_version }))
    }

    async fn describe_quorum(
        &self,
        _: Request<internal::DescribeQuorumRequest>,
    ) -> Result<Response<internal::DescribeQuorumResponse>, Status> {
        Ok(Response::new(internal::DescribeQuorumResponse {
            node_id: 1,
            leader_id: 1,
            leader_endpoint: self.fake.controller_address.lock().unwrap().clone(),
            term: 1,
            voters: vec![1],
            ..Default::default()
        }))
    }

    async fn register_broker(
        &self,
        _: Request<internal::RegisterBrokerRequest>,
    ) -> Result<Response<internal::RegisterBrokerResponse>, Status> {
        unsupported()
    }

    type BrokerSessionStream = Answers<internal::BrokerSessionResponse>;

    async fn broker_session(
        &self,
        _: Request<tonic::Streaming<internal::BrokerSessionRequest>>,
    ) -> Result<Response<Self::BrokerSessionStream>, Status> {
        unsupported()
    }

    async fn alter_partitions(
        &self,
        _: Request<internal::AlterPartitionsRequest>,
    ) -> Result<Response<internal::AlterPartitionsResponse>, Status> {
        unsupported()
    }

    async fn broker_heartbeat(
        &self,
        _: Request<internal::BrokerHeartbeatRequest>,
    ) -> Result<Response<internal::BrokerHeartbeatResponse>, Status> {
        unsupported()
    }

    async fn allocate_producer_ids(
        &self,
        _: Request<internal::AllocateProducerIdsRequest>,
    ) -> Result<Response<internal::AllocateProducerIdsResponse>, Status> {
        unsupported()
    }
}
