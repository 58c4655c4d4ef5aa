//! A controller without Raft: it applies each command at once and remembers it.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use thalweg_core::metadata::command::{
    AllocateProducerIds, AlterTopicConfig, BrokerRef, CreatePartitions, CreateTopic, DeleteTopic,
    InitCluster, PlacementSpec, ProducerIdBlock, RegisterBroker, TopicRef,
};
use thalweg_core::metadata::{Command, MetadataImage, Refusal, Response, apply, codec, limits};
use thalweg_core::{BrokerEpoch, BrokerId, ClusterId, ErrorCode, MetadataVersion, TopicId, TopicName};
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::controller_service_server::{ControllerService, ControllerServiceServer};
use thalweg_proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use thalweg_proto::{ApiError, v1};
use thalweg_runtime::{GrpcServer, Shutdown};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response as Answer, Status};

/// Shared with the test, which may change the metadata behind the broker's back.
#[derive(Clone)]
pub struct FakeController {
    state: Arc<Mutex<MetadataImage>>,
    commands: watch::Sender<Vec<(u64, Vec<u8>)>>,
    /// Heartbeats that asked to stop.
    pub goodbyes: Arc<Mutex<u32>>,
}

impl FakeController {
    pub fn new(cluster_id: &str) -> FakeController {
        let fake = FakeController {
            state: Arc::default(),
            commands: watch::Sender::new(Vec::new()),
            goodbyes: Arc::default(),
        };
        let cluster_id = ClusterId(cluster_id.into());
        fake.propose(Command::InitCluster(InitCluster { cluster_id, feature_level: 1 })).unwrap();
        fake
    }

    pub async fn listen(&self, shutdown: Shutdown) -> String {
        let listener = thalweg_runtime::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = GrpcServer::builder("controller")
            .service(ControllerServiceServer::new(self.clone()))
            .service(AdminServiceServer::new(self.clone()))
            .build()
            .unwrap();
        tokio::spawn(server.serve_listener(listener, shutdown));
        address
    }

    pub fn propose(&self, command: Command) -> Result<(u64, Response), Refusal> {
        let mut image = self.state.lock().unwrap();
        let version = MetadataVersion(image.version().get() + 1);
        let outcome = apply(&mut image, version, &command);
        let encoded = codec::encode_command(&command).unwrap();
        self.commands.send_modify(|commands| commands.push((version.get(), encoded)));
        outcome.map(|response| (version.get(), response))
    }

    pub fn image(&self) -> MetadataImage {
        self.state.lock().unwrap().clone()
    }

    fn answer(&self, command: Command) -> Result<(u64, Response), Status> {
        self.propose(command).map_err(|refusal| status(&refusal))
    }
}

fn api_error(refusal: &Refusal) -> ApiError {
    let error = ApiError::new(refusal.code, refusal.message.clone());
    match &refusal.field {
        Some(field) => error.with_field(field.clone()),
        None => error,
    }
}

fn status(refusal: &Refusal) -> Status {
    api_error(refusal).to_status()
}

type Images = Pin<Box<dyn Stream<Item = Result<internal::WatchImageResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ControllerService for FakeController {
    async fn register_broker(
        &self,
        request: Request<internal::RegisterBrokerRequest>,
    ) -> Result<Answer<internal::RegisterBrokerResponse>, Status> {
        let request = request.into_inner();
        let (version, response) = self.answer(Command::RegisterBroker(RegisterBroker {
            id: BrokerId(request.broker_id),
            cluster_id: Some(ClusterId(request.cluster_id.as_str().into())),
            incarnation: request.incarnation_id.as_ref().try_into().unwrap(),
            endpoint: request.endpoint.parse().unwrap(),
            internal_endpoint: request.internal_endpoint.parse().unwrap(),
            rack: None,
            log_dirs: request.log_directory_ids,
            clean_shutdown_epoch: None,
        }))?;
        let Response::BrokerRegistered { epoch } = response else { panic!("{response:?}") };
        Ok(Answer::new(internal::RegisterBrokerResponse {
            broker_epoch: epoch.get(),
            cluster_id: self.image().cluster_id().unwrap().to_string(),
            metadata_version: version,
        }))
    }

    async fn broker_heartbeat(
        &self,
        request: Request<internal::BrokerHeartbeatRequest>,
    ) -> Result<Answer<internal::BrokerHeartbeatResponse>, Status> {
        let request = request.into_inner();
        let broker = BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) };
        if request.want_shutdown {
            *self.goodbyes.lock().unwrap() += 1;
            return Ok(Answer::new(internal::BrokerHeartbeatResponse { fenced: false, may_shutdown: true }));
        }
        let image = self.image();
        let known = image.broker(broker.id).unwrap();
        if known.fenced && request.metadata_version >= known.epoch.get() as u64 {
            self.answer(Command::UnfenceBroker(broker))?;
        }
        let fenced = self.image().broker(broker.id).unwrap().fenced;
        Ok(Answer::new(internal::BrokerHeartbeatResponse { fenced, may_shutdown: false }))
    }

    type BrokerSessionStream =
        Pin<Box<dyn Stream<Item = Result<internal::BrokerSessionResponse, Status>> + Send>>;

    async fn broker_session(
        &self,
        _: Request<tonic::Streaming<internal::BrokerSessionRequest>>,
    ) -> Result<Answer<Self::BrokerSessionStream>, Status> {
        unsupported()
    }

    async fn alter_partitions(
        &self,
        _: Request<internal::AlterPartitionsRequest>,
    ) -> Result<Answer<internal::AlterPartitionsResponse>, Status> {
        unsupported()
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<internal::AllocateProducerIdsRequest>,
    ) -> Result<Answer<internal::AllocateProducerIdsResponse>, Status> {
        let request = request.into_inner();
        let broker = BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) };
        let command = AllocateProducerIds { broker, count: limits::PRODUCER_ID_BLOCK };
        let (_, response) = self.answer(Command::AllocateProducerIds(command))?;
        let Response::ProducerIds(ProducerIdBlock { first, count }) = response else {
            panic!("{response:?}")
        };
        Ok(Answer::new(internal::AllocateProducerIdsResponse { first_id: first.get(), count }))
    }

    type WatchImageStream = Images;

    async fn watch_image(&self, _: Request<internal::WatchImageRequest>) -> Result<Answer<Images>, Status> {
        use internal::watch_image_response::Update;
        let commands = self.commands.subscribe();
        let image = self.image();
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
        Ok(Answer::new(Box::pin(first.chain(deltas))))
    }

    async fn describe_quorum(
        &self,
        _: Request<internal::DescribeQuorumRequest>,
    ) -> Result<Answer<internal::DescribeQuorumResponse>, Status> {
        Ok(Answer::new(internal::DescribeQuorumResponse {
            node_id: 1,
            leader_id: 1,
            term: 3,
            voters: vec![1],
            ..Default::default()
        }))
    }
}

fn unsupported<T>() -> Result<T, Status> {
    Err(ApiError::new(ErrorCode::Unsupported, "brokers answer this themselves").to_status())
}

#[tonic::async_trait]
impl AdminService for FakeController {
    async fn create_topics(
        &self,
        request: Request<v1::CreateTopicsRequest>,
    ) -> Result<Answer<v1::CreateTopicsResponse>, Status> {
        let mut answer = v1::CreateTopicsResponse::default();
        for topic in request.into_inner().topics {
            let mut id = [7; 16];
            id[..8].copy_from_slice(&self.image().version().get().to_be_bytes());
            let created = self.propose(Command::CreateTopic(CreateTopic {
                name: TopicName::new(&topic.name).unwrap(),
                id: TopicId(id),
                placement: PlacementSpec::Counts {
                    partitions: topic.partitions.unwrap_or(1),
                    replication_factor: 1,
                },
                overrides: topic.configs,
                seed: 0,
                internal: false,
            }));
            let error = created.as_ref().err().map(|refusal| api_error(refusal).to_proto());
            answer.results.push(v1::CreateTopicResult { name: topic.name, topic: None, error });
            answer.metadata_version = self.image().version().get();
        }
        Ok(Answer::new(answer))
    }

    async fn delete_topics(
        &self,
        request: Request<v1::DeleteTopicsRequest>,
    ) -> Result<Answer<v1::DeleteTopicsResponse>, Status> {
        let mut answer = v1::DeleteTopicsResponse::default();
        for name in request.into_inner().names {
            let topic = TopicRef::Name(TopicName::new(&name).unwrap());
            let (version, _) = self.answer(Command::DeleteTopic(DeleteTopic { topic }))?;
            answer.results.push(v1::DeleteTopicResult { name, error: None });
            answer.metadata_version = version;
        }
        Ok(Answer::new(answer))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Answer<v1::CreatePartitionsResponse>, Status> {
        let request = request.into_inner();
        let (metadata_version, _) = self.answer(Command::CreatePartitions(CreatePartitions {
            name: TopicName::new(&request.topic).unwrap(),
            new_total: request.total_partitions,
            assignments: None,
            seed: 0,
        }))?;
        let topic = Some(v1::Topic { name: request.topic, ..Default::default() });
        Ok(Answer::new(v1::CreatePartitionsResponse { topic, metadata_version }))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Answer<v1::AlterConfigsResponse>, Status> {
        let request = request.into_inner();
        let (metadata_version, _) = self.answer(Command::AlterTopicConfig(AlterTopicConfig {
            name: TopicName::new(&request.topic).unwrap(),
            set: request.set.clone(),
            remove: request.unset,
        }))?;
        Ok(Answer::new(v1::AlterConfigsResponse { configs: request.set, metadata_version }))
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Answer<v1::ListTopicsResponse>, Status> {
        unsupported()
    }

    async fn describe_topics(
        &self,
        _: Request<v1::DescribeTopicsRequest>,
    ) -> Result<Answer<v1::DescribeTopicsResponse>, Status> {
        unsupported()
    }

    async fn describe_configs(
        &self,
        _: Request<v1::DescribeConfigsRequest>,
    ) -> Result<Answer<v1::DescribeConfigsResponse>, Status> {
        unsupported()
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Answer<v1::DeleteRecordsResponse>, Status> {
        unsupported()
    }

    async fn elect_leaders(
        &self,
        _: Request<v1::ElectLeadersRequest>,
    ) -> Result<Answer<v1::ElectLeadersResponse>, Status> {
        unsupported()
    }

    async fn reassign_partitions(
        &self,
        _: Request<v1::ReassignPartitionsRequest>,
    ) -> Result<Answer<v1::ReassignPartitionsResponse>, Status> {
        unsupported()
    }

    async fn list_reassignments(
        &self,
        _: Request<v1::ListReassignmentsRequest>,
    ) -> Result<Answer<v1::ListReassignmentsResponse>, Status> {
        unsupported()
    }

    async fn drain_broker(
        &self,
        _: Request<v1::DrainBrokerRequest>,
    ) -> Result<Answer<v1::DrainBrokerResponse>, Status> {
        unsupported()
    }

    async fn unregister_broker(
        &self,
        _: Request<v1::UnregisterBrokerRequest>,
    ) -> Result<Answer<v1::UnregisterBrokerResponse>, Status> {
        unsupported()
    }

    async fn add_voter(
        &self,
        _: Request<v1::AddVoterRequest>,
    ) -> Result<Answer<v1::AddVoterResponse>, Status> {
        unsupported()
    }

    async fn remove_voter(
        &self,
        _: Request<v1::RemoveVoterRequest>,
    ) -> Result<Answer<v1::RemoveVoterResponse>, Status> {
        unsupported()
    }
}
