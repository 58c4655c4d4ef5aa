//! Controllers without Raft: they share one state, apply each command at once and remember it. One of them leads.

mod admin;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use thalweg_core::metadata::command::{
    AllocateProducerIds, AlterPartitions, BrokerRef, InitCluster, IsrChange, PartitionState, ProducerIdBlock,
    PutController, RegisterBroker,
};
use thalweg_core::metadata::{Command, MetadataImage, Refusal, Response, apply, codec, limits};
use thalweg_core::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode, LeaderEpoch, MetadataVersion, NodeId, PartitionEpoch,
    PartitionId, TopicId,
};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::controller_service_server::{ControllerService, ControllerServiceServer};
use thalweg_proto::v1::admin_service_server::AdminServiceServer;
use thalweg_runtime::{GrpcServer, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response as Answer, Status};

/// Shared with the test, which may change the metadata behind the brokers' back.
#[derive(Clone)]
pub struct FakeController {
    shared: Arc<Shared>,
    // Which of them this is.
    node: u64,
}

pub struct Shared {
    state: Mutex<MetadataImage>,
    commands: watch::Sender<Vec<(u64, Vec<u8>)>>,
    // Where they are, from node 1 on.
    addresses: Mutex<Vec<String>>,
    leader: watch::Sender<u64>,
    /// Heartbeats that asked to stop.
    pub goodbyes: AtomicU32,
    /// Heartbeats on sessions, and by single calls.
    pub beats: AtomicU32,
    pub single_beats: AtomicU32,
    /// Sessions are refused, as by an old controller.
    pub without_sessions: AtomicBool,
    /// Nobody may stop.
    pub holds_back: AtomicBool,
    /// Who stops keeps its leaderships, as if its controllers had not noticed.
    pub deaf: AtomicBool,
    /// Whoever is fenced stays so.
    pub keeps_fenced: AtomicBool,
    /// What was asked of the controllers and is not played.
    pub noted: Mutex<Vec<String>>,
    /// The clean-shutdown epochs that registrations told.
    pub clean_epochs: Mutex<Vec<Option<i64>>>,
    pub damaged: Mutex<Vec<bool>>,
    /// How far the metadata is nobody can say for sure.
    pub uncertain: AtomicBool,
    /// So much further than what brokers are sent.
    pub ahead: AtomicU64,
    /// Nor can they be asked for it: they are old.
    pub old: AtomicBool,
    term: AtomicU64,
}

impl std::ops::Deref for FakeController {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl FakeController {
    pub fn new(cluster_id: &str) -> FakeController {
        let shared = Shared {
            state: Mutex::default(),
            commands: watch::Sender::new(Vec::new()),
            addresses: Mutex::default(),
            leader: watch::Sender::new(1),
            goodbyes: AtomicU32::new(0),
            beats: AtomicU32::new(0),
            single_beats: AtomicU32::new(0),
            without_sessions: AtomicBool::new(false),
            holds_back: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            keeps_fenced: AtomicBool::new(false),
            noted: Mutex::default(),
            clean_epochs: Mutex::default(),
            damaged: Mutex::default(),
            uncertain: AtomicBool::new(false),
            ahead: AtomicU64::new(0),
            old: AtomicBool::new(false),
            term: AtomicU64::new(3),
        };
        let fake = FakeController { shared: Arc::new(shared), node: 1 };
        let cluster_id = ClusterId(cluster_id.into());
        fake.propose(Command::InitCluster(InitCluster { cluster_id, feature_level: 1 })).unwrap();
        fake
    }

    /// One more of them, from node 1 on. The first one leads.
    pub async fn listen(&self, shutdown: Shutdown) -> String {
        let listener = thalweg_runtime::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = {
            let mut addresses = self.addresses.lock().unwrap();
            addresses.push(address.clone());
            addresses.len() as u64
        };
        let put = PutController { id: NodeId(node), endpoint: address.parse().unwrap() };
        self.propose(Command::PutController(put)).unwrap();
        let fake = FakeController { shared: Arc::clone(&self.shared), node };
        let server = GrpcServer::builder("controller")
            .service(ControllerServiceServer::new(fake.clone()))
            .service(AdminServiceServer::new(fake))
            .build()
            .unwrap();
        tokio::spawn(server.serve_listener(listener, shutdown));
        address
    }

    /// Another one leads; 0 for none. Sessions end.
    pub fn elect(&self, node: u64) {
        self.term.fetch_add(1, Ordering::Relaxed);
        self.leader.send_replace(node);
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

    pub fn fence(&self, broker: i32) {
        let epoch = self.image().broker(BrokerId(broker)).unwrap().epoch;
        self.propose(Command::FenceBroker(BrokerRef { id: BrokerId(broker), epoch })).unwrap();
    }

    fn answer(&self, command: Command) -> Result<(u64, Response), Status> {
        self.propose(command).map_err(|refusal| api_error(&refusal).to_status())
    }

    fn note(&self, what: String) {
        self.noted.lock().unwrap().push(what);
    }

    /// A change that changes nothing.
    fn bump(&self) -> u64 {
        let cluster_id = self.image().cluster_id().unwrap().clone();
        self.propose(Command::InitCluster(InitCluster { cluster_id, feature_level: 1 })).unwrap().0
    }

    fn lead(&self) -> Result<(), Status> {
        if *self.leader.borrow() == self.node {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::ControllerNotAvailable, "this controller does not lead").to_status())
    }

    fn heartbeat(
        &self,
        request: internal::BrokerHeartbeatRequest,
    ) -> Result<internal::BrokerHeartbeatResponse, Status> {
        let broker = BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) };
        let image = self.image();
        let Some(known) = image.broker(broker.id) else {
            return Err(ApiError::new(ErrorCode::BrokerNotRegistered, "who are you?").to_status());
        };
        if known.epoch != broker.epoch {
            return Err(ApiError::new(ErrorCode::StaleBrokerEpoch, "you were replaced").to_status());
        }
        if request.want_shutdown {
            self.goodbyes.fetch_add(1, Ordering::Relaxed);
            if !self.deaf.load(Ordering::Relaxed) {
                self.answer(Command::BeginControlledShutdown(broker))?;
            }
            let may_shutdown = !self.holds_back.load(Ordering::Relaxed);
            return Ok(internal::BrokerHeartbeatResponse { fenced: false, may_shutdown });
        }
        let returns = !self.keeps_fenced.load(Ordering::Relaxed);
        if returns && known.fenced && request.metadata_version >= known.epoch.get() as u64 {
            self.answer(Command::UnfenceBroker(broker))?;
        }
        let fenced = self.image().broker(broker.id).unwrap().fenced;
        Ok(internal::BrokerHeartbeatResponse { fenced, may_shutdown: false })
    }
}

fn api_error(refusal: &Refusal) -> ApiError {
    let error = ApiError::new(refusal.code, refusal.message.clone());
    match &refusal.field {
        Some(field) => error.with_field(field.clone()),
        None => error,
    }
}

fn unsupported<T>() -> Result<T, Status> {
    Err(ApiError::new(ErrorCode::Unsupported, "brokers answer this themselves").to_status())
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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
            clean_shutdown_epoch: request.clean_shutdown_epoch.map(BrokerEpoch),
            damaged: request.damaged,
        }))?;
        self.damaged.lock().unwrap().push(request.damaged);
        self.clean_epochs.lock().unwrap().push(request.clean_shutdown_epoch);
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
        self.single_beats.fetch_add(1, Ordering::Relaxed);
        Ok(Answer::new(self.heartbeat(request.into_inner())?))
    }

    type BrokerSessionStream = Answers<internal::BrokerSessionResponse>;

    async fn broker_session(
        &self,
        request: Request<tonic::Streaming<internal::BrokerSessionRequest>>,
    ) -> Result<Answer<Self::BrokerSessionStream>, Status> {
        if self.without_sessions.load(Ordering::Relaxed) {
            return unsupported();
        }
        self.lead()?;
        let (fake, mut beats) = (self.clone(), request.into_inner());
        let (answers, answered) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut leader = fake.leader.subscribe();
            loop {
                let beat = tokio::select! {
                    beat = beats.message() => beat,
                    _ = leader.wait_for(|leader| *leader != fake.node) => Err(fake.lead().unwrap_err()),
                };
                let answer = match beat {
                    Ok(Some(beat)) => {
                        fake.beats.fetch_add(1, Ordering::Relaxed);
                        fake.heartbeat(beat.heartbeat.unwrap())
                    }
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                let over = answer.is_err();
                let answer = answer.map(|h| internal::BrokerSessionResponse { heartbeat: Some(h) });
                if answers.send(answer).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Answer::new(Box::pin(ReceiverStream::new(answered))))
    }

    async fn alter_partitions(
        &self,
        request: Request<internal::AlterPartitionsRequest>,
    ) -> Result<Answer<internal::AlterPartitionsResponse>, Status> {
        let request = request.into_inner();
        let broker = BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) };
        let member = |member: &internal::IsrMember| BrokerRef {
            id: BrokerId(member.broker_id),
            epoch: BrokerEpoch(member.broker_epoch),
        };
        let change = |change: &internal::PartitionChange| IsrChange {
            topic_id: TopicId(change.topic_id.as_ref().try_into().unwrap()),
            partition: PartitionId(change.partition),
            leader_epoch: LeaderEpoch(change.leader_epoch),
            partition_epoch: PartitionEpoch(change.partition_epoch),
            isr: change.isr.iter().map(member).collect(),
        };
        let changes = request.changes.iter().map(change).collect();
        let command = Command::AlterPartitions(AlterPartitions { broker, changes });
        let (metadata_version, response) = self.answer(command)?;
        let Response::Partitions(results) = response else { panic!("{response:?}") };
        let result = |result: Result<PartitionState, Refusal>| match result {
            Ok(state) => internal::PartitionChangeResult {
                leader_epoch: state.leader_epoch.get(),
                partition_epoch: state.partition_epoch.get(),
                isr: state.isr.iter().map(|id| id.get()).collect(),
                error: None,
            },
            Err(refusal) => internal::PartitionChangeResult {
                error: Some(api_error(&refusal).to_proto()),
                ..Default::default()
            },
        };
        let results = results.into_iter().map(result).collect();
        Ok(Answer::new(internal::AlterPartitionsResponse { results, metadata_version }))
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

    async fn register_coordinator(
        &self,
        _: Request<internal::RegisterCoordinatorRequest>,
    ) -> Result<Answer<internal::RegisterCoordinatorResponse>, Status> {
        unsupported()
    }

    type CoordinatorSessionStream = Answers<internal::CoordinatorSessionResponse>;

    async fn coordinator_session(
        &self,
        _: Request<tonic::Streaming<internal::CoordinatorSessionRequest>>,
    ) -> Result<Answer<Self::CoordinatorSessionStream>, Status> {
        unsupported()
    }

    type WatchImageStream = Answers<internal::WatchImageResponse>;

    async fn watch_image(
        &self,
        _: Request<internal::WatchImageRequest>,
    ) -> Result<Answer<Self::WatchImageStream>, Status> {
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

    async fn renew_shard_lease(
        &self,
        _: Request<internal::RenewShardLeaseRequest>,
    ) -> Result<Answer<internal::RenewShardLeaseResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "no coordinator is played here").to_status())
    }

    async fn describe_quorum(
        &self,
        request: Request<internal::DescribeQuorumRequest>,
    ) -> Result<Answer<internal::DescribeQuorumResponse>, Status> {
        let current = request.into_inner().current;
        if current && self.uncertain.load(Ordering::Relaxed) {
            return Err(ApiError::new(ErrorCode::ControllerNotAvailable, "no quorum").to_status());
        }
        let version = self.image().version().get() + self.ahead.load(Ordering::Relaxed);
        let addresses = self.addresses.lock().unwrap().clone();
        let leader_id = *self.leader.borrow();
        let leader_endpoint = (leader_id as usize).checked_sub(1).map(|at| addresses[at].clone());
        Ok(Answer::new(internal::DescribeQuorumResponse {
            node_id: self.node,
            leader_id,
            leader_endpoint: leader_endpoint.unwrap_or_default(),
            term: self.term.load(Ordering::Relaxed),
            voters: (1..=addresses.len() as u64).collect(),
            metadata_version: (current && !self.old.load(Ordering::Relaxed)).then_some(version),
            ..Default::default()
        }))
    }
}
