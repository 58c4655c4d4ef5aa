//! The rest of the cluster, in memory.

mod broker;
mod controller;
mod log;

pub use log::Log;

use broker::FakeBroker;
use controller::FakeController;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::metadata::command::{
    BrokerRef, CoordinatorRef, CreateTopic, InitCluster, PlacementSpec, PutController, RegisterBroker,
    RegisterCoordinator,
};
use thalweg_core::metadata::image::FEATURE_LEVEL;
use thalweg_core::metadata::{Command, MetadataImage, Refusal, Response, ShardLease, apply, codec};
use thalweg_core::{
    BrokerId, ClusterId, CoordinatorId, ErrorCode, MetadataVersion, NodeId, PartitionId, TopicId, TopicName,
    TopicPartition,
};
use thalweg_proto::internal::v1::controller_service_server::ControllerServiceServer;
use thalweg_proto::v1::consumer_service_server::ConsumerServiceServer;
use thalweg_proto::v1::producer_service_server::ProducerServiceServer;
use thalweg_runtime::{GrpcServer, Shutdown};
use tokio::sync::watch;

/// Two brokers and a controller, shared with the test.
#[derive(Clone)]
pub struct Fake(Arc<Shared>);

pub struct Shared {
    state: Mutex<MetadataImage>,
    commands: watch::Sender<Vec<(u64, Vec<u8>)>>,
    pub controller_address: Mutex<String>,
    /// The shards' logs, as every replica has them.
    pub logs: Mutex<BTreeMap<i32, Log>>,
    /// The high watermarks of all other partitions.
    pub ends: Mutex<BTreeMap<(String, i32), i64>>,
    /// How the next writes are refused, before they are appended.
    pub refusals: Mutex<VecDeque<ErrorCode>>,
    /// Writes are appended, and not acknowledged.
    pub silent: watch::Sender<bool>,
    /// Counts how often all produce streams were cut.
    pub cuts: watch::Sender<u64>,
    /// Reads of the shards' logs wait.
    pub unreadable: watch::Sender<bool>,
    pub fetches: AtomicUsize,
    pub questions: AtomicUsize,
    /// The most batches that were sent and not answered, on any stream.
    pub most_in_flight: AtomicUsize,
    /// Heartbeats are not answered.
    pub deaf: AtomicBool,
    beats: AtomicU64,
    shutdown: Shutdown,
}

impl std::ops::Deref for Fake {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Fake {
    /// A cluster with two brokers, and groups in so many shards; 0: without their topic.
    pub async fn start(shards: i32) -> Fake {
        Fake::start_at_level(FEATURE_LEVEL, shards).await
    }

    /// The same at a feature level.
    pub async fn start_at_level(feature_level: u16, shards: i32) -> Fake {
        let shared = Shared {
            state: Mutex::default(),
            commands: watch::Sender::new(Vec::new()),
            controller_address: Mutex::default(),
            logs: Mutex::default(),
            ends: Mutex::default(),
            refusals: Mutex::default(),
            silent: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
            unreadable: watch::Sender::new(false),
            fetches: AtomicUsize::new(0),
            questions: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            deaf: AtomicBool::new(false),
            beats: AtomicU64::new(0),
            shutdown: Shutdown::new(),
        };
        let fake = Fake(Arc::new(shared));
        let init = InitCluster { cluster_id: ClusterId("the-cluster".into()), feature_level };
        fake.propose(Command::InitCluster(init)).unwrap();
        let address = fake.serve_controller().await;
        let put = PutController { id: NodeId(1), endpoint: address.parse().unwrap() };
        fake.propose(Command::PutController(put)).unwrap();
        *fake.controller_address.lock().unwrap() = address;
        for id in 0..2 {
            fake.add_broker(id).await;
        }
        if shards > 0 {
            fake.create(OFFSETS_TOPIC, shards, true);
        }
        fake
    }

    async fn serve_controller(&self) -> String {
        let listener = thalweg_runtime::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let controller = FakeController { fake: self.clone() };
        let server = GrpcServer::builder("controller")
            .service(ControllerServiceServer::new(controller))
            .build()
            .unwrap();
        tokio::spawn(server.serve_listener(listener, self.shutdown.clone()));
        address
    }

    async fn add_broker(&self, id: i32) {
        let listener = thalweg_runtime::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let broker = FakeBroker { fake: self.clone(), id: BrokerId(id) };
        let server = GrpcServer::builder("broker-internal")
            .service(ProducerServiceServer::new(broker.clone()))
            .service(ConsumerServiceServer::new(broker))
            .build()
            .unwrap();
        tokio::spawn(server.serve_listener(listener, self.shutdown.clone()));
        let id = BrokerId(id);
        let register = RegisterBroker {
            id,
            cluster_id: None,
            incarnation: [1; 16],
            // Nobody may come here.
            endpoint: "127.0.0.1:1".parse().unwrap(),
            internal_endpoint: address.parse().unwrap(),
            rack: None,
            log_dirs: vec![format!("dir-{id}")],
            clean_shutdown_epoch: None,
            damaged: false,
        };
        self.propose(Command::RegisterBroker(register)).unwrap();
        self.unfence(id.get());
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

    /// A topic on both brokers; broker 0 leads.
    pub fn create(&self, name: &str, partitions: i32, internal: bool) {
        let mut id = [0; 16];
        id[..name.len().min(16)].copy_from_slice(&name.as_bytes()[..name.len().min(16)]);
        let replicas = vec![vec![BrokerId(0), BrokerId(1)]; usize::try_from(partitions).unwrap()];
        let create = CreateTopic {
            name: TopicName::new(name).unwrap(),
            id: TopicId(id),
            placement: PlacementSpec::Explicit(replicas),
            overrides: Default::default(),
            seed: 0,
            internal,
        };
        self.propose(Command::CreateTopic(create)).unwrap();
    }

    fn broker(&self, id: i32) -> BrokerRef {
        let epoch = self.image().broker(BrokerId(id)).unwrap().epoch;
        BrokerRef { id: BrokerId(id), epoch }
    }

    /// The other broker leads everything.
    pub fn fence(&self, broker: i32) {
        self.propose(Command::FenceBroker(self.broker(broker))).unwrap();
    }

    pub fn unfence(&self, broker: i32) {
        self.propose(Command::UnfenceBroker(self.broker(broker))).unwrap();
    }

    /// The cluster holds a coordinator for gone.
    pub fn fence_coordinator(&self, id: i32) {
        let id = CoordinatorId(id);
        let epoch = self.image().coordinator(id).unwrap().epoch;
        self.propose(Command::FenceCoordinator(CoordinatorRef { id, epoch })).unwrap();
    }

    /// A coordinator that nobody runs.
    pub fn register_ghost(&self, id: i32) {
        let register = RegisterCoordinator {
            id: CoordinatorId(id),
            cluster_id: None,
            incarnation: [9; 16],
            endpoint: "127.0.0.1:1".parse().unwrap(),
            rack: None,
        };
        self.propose(Command::RegisterCoordinator(register)).unwrap();
    }

    pub fn lease(&self, shard: i32) -> ShardLease {
        *self.image().lease(&shard_at(shard)).unwrap()
    }

    pub fn leader_of(&self, shard: i32) -> BrokerId {
        self.image().partition(&shard_at(shard)).unwrap().leader
    }

    /// How many batches a shard's log has.
    pub fn batches(&self, shard: i32) -> usize {
        self.logs.lock().unwrap().get(&shard).map_or(0, Log::batches)
    }

    /// Every stream to a broker breaks.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

pub fn shard_at(shard: i32) -> TopicPartition {
    TopicPartition::new(TopicName::new(OFFSETS_TOPIC).unwrap(), PartitionId(shard))
}
