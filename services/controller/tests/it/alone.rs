//! A controller that is alone.

use crate::group::{PATIENCE, code};
use std::path::Path;
use std::time::Duration;
use thalweg_controller::{Controller, ControllerConfig};
use thalweg_core::metadata::{MetadataImage, apply, codec};
use thalweg_core::{ErrorCode, MetadataVersion, NodeId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_proto::internal::v1::watch_image_response::Update;
use thalweg_proto::v1;
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_runtime::Shutdown;
use tonic::transport::Channel;
use tonic::{Code, Status};

struct Running {
    controller: Controller,
    shutdown: Shutdown,
    admin: AdminServiceClient<Channel>,
    internal: ControllerServiceClient<Channel>,
}

impl Running {
    async fn start(dir: &Path) -> Running {
        let shutdown = Shutdown::new();
        let config = ControllerConfig::new(NodeId(1), Vec::new(), dir.to_owned());
        let controller = Controller::start(config, shutdown.clone()).await.expect("the controller starts");
        let endpoint = format!("http://{}", controller.listen_addr());
        let channel = Channel::from_shared(endpoint).unwrap().timeout(PATIENCE).connect().await.unwrap();
        let (admin, internal) =
            (AdminServiceClient::new(channel.clone()), ControllerServiceClient::new(channel));
        Running { controller, shutdown, admin, internal }
    }

    async fn stop(self) {
        self.shutdown.trigger();
        drop((self.admin, self.internal));
        self.controller.join().await.expect("the controller stops cleanly");
    }

    /// Registers and unfences broker 0.
    async fn with_broker(&mut self) -> i64 {
        let registration = wire::RegisterBrokerRequest {
            broker_id: 0,
            incarnation_id: vec![7; 16].into(),
            endpoint: "127.0.0.1:9292".into(),
            internal_endpoint: "127.0.0.1:9293".into(),
            log_directory_ids: vec!["dir".into()],
            feature_levels: Some(wire::FeatureLevels::OURS),
            ..Default::default()
        };
        let registered = loop {
            match self.internal.register_broker(registration.clone()).await {
                Ok(registered) => break registered.into_inner(),
                // The cluster is being founded.
                Err(status) if status.code() == Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                Err(status) => panic!("{status}"),
            }
        };
        let heartbeat = wire::BrokerHeartbeatRequest {
            broker_id: 0,
            broker_epoch: registered.broker_epoch,
            metadata_version: registered.metadata_version,
            want_shutdown: false,
            feature_levels: Some(wire::FeatureLevels::OURS),
        };
        assert!(!self.internal.broker_heartbeat(heartbeat).await.unwrap().into_inner().fenced);
        registered.broker_epoch
    }

    async fn create(&mut self, name: &str, partitions: i32) -> Result<v1::Topic, Status> {
        let topic = v1::NewTopic { name: name.into(), partitions: Some(partitions), ..Default::default() };
        let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
        let mut results = self.admin.create_topics(request).await?.into_inner().results;
        Ok(results.remove(0).topic.expect("a topic that was created is described"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path()).await;
    running.with_broker().await;
    let created = running.create("events", 3).await.unwrap();
    assert_eq!(created.partitions.iter().map(|p| p.leader_id).collect::<Vec<_>>(), [0, 0, 0]);
    assert_eq!(code(&running.create("events", 1).await.unwrap_err()), ErrorCode::TopicAlreadyExists);
    running.stop().await;

    let mut running = Running::start(dir.path()).await;
    running.with_broker().await;
    assert_eq!(code(&running.create("events", 1).await.unwrap_err()), ErrorCode::TopicAlreadyExists);
    let grown =
        v1::CreatePartitionsRequest { topic: "events".into(), total_partitions: 5, ..Default::default() };
    let grown = running.admin.create_partitions(grown).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((grown.partitions.len(), grown.topic_id), (5, created.topic_id));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_arrives_at_the_same_image_by_a_snapshot_and_commands() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path()).await;
    running.with_broker().await;
    running.create("before", 1).await.unwrap();
    let mut watch =
        running.internal.watch_image(wire::WatchImageRequest::default()).await.unwrap().into_inner();
    running.create("after", 2).await.unwrap();
    let mut image = MetadataImage::new();
    while image.topic("after").is_none() {
        let update = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
        match update.update.unwrap() {
            Update::Snapshot(bytes) => image = codec::decode_image(&bytes).unwrap(),
            Update::Delta(delta) => {
                for command in delta.commands {
                    let decoded = codec::decode_command(&command.command).unwrap();
                    apply(&mut image, MetadataVersion(command.version), &decoded).unwrap();
                }
            }
        }
    }
    assert!(image.topic("before").is_some());

    // Who holds the newest version gets only what comes next.
    let from = wire::WatchImageRequest { from_version: image.version().get(), ..Default::default() };
    let mut rest = running.internal.watch_image(from).await.unwrap().into_inner();
    running.create("later", 1).await.unwrap();
    let update = tokio::time::timeout(PATIENCE, rest.message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(update.update.unwrap(), Update::Delta(delta) if delta.commands.len() == 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_field() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = Running::start(dir.path()).await;
    let epoch = running.with_broker().await;
    for (name, partitions, expected) in [
        ("bad/name", 1, ErrorCode::InvalidTopicName),
        ("ok", 0, ErrorCode::InvalidPartitions),
        ("ok", -4, ErrorCode::InvalidPartitions),
        ("ok", i32::MAX, ErrorCode::InvalidPartitions),
    ] {
        let status = running.create(name, partitions).await.unwrap_err();
        let error = ApiError::from_status(&status).unwrap();
        assert_eq!((status.code(), error.code), (Code::InvalidArgument, expected), "{name} {partitions}");
        assert!(error.field.is_some(), "{error:?}");
    }
    let two = v1::NewTopic { name: "two".into(), replication_factor: Some(2), ..Default::default() };
    let bad = v1::NewTopic { name: "x y".into(), ..Default::default() };
    // Several at once: each error is a field, and what is right is done.
    let good = v1::NewTopic { name: "good".into(), ..Default::default() };
    let request = v1::CreateTopicsRequest { topics: vec![two, bad, good], validate_only: false };
    let results = running.admin.create_topics(request).await.unwrap().into_inner().results;
    let codes: Vec<i32> = results.iter().map(|r| r.error.as_ref().map_or(0, |e| e.code)).collect();
    assert_eq!(codes, [ErrorCode::InvalidReplicationFactor as i32, ErrorCode::InvalidTopicName as i32, 0]);

    let dry = v1::NewTopic { name: "dry".into(), ..Default::default() };
    let request = v1::CreateTopicsRequest { topics: vec![dry], validate_only: true };
    running.admin.create_topics(request).await.unwrap();
    let delete = v1::DeleteTopicsRequest { names: vec!["dry".into()], validate_only: false };
    assert_eq!(code(&running.admin.delete_topics(delete).await.unwrap_err()), ErrorCode::UnknownTopic);

    let stale = wire::AllocateProducerIdsRequest { broker_id: 0, broker_epoch: epoch - 1 };
    assert_eq!(
        code(&running.internal.allocate_producer_ids(stale).await.unwrap_err()),
        ErrorCode::StaleBrokerEpoch
    );
    let current = wire::AllocateProducerIdsRequest { broker_id: 0, broker_epoch: epoch };
    let first = running.internal.allocate_producer_ids(current).await.unwrap().into_inner();
    let second = running.internal.allocate_producer_ids(current).await.unwrap().into_inner();
    assert_eq!(second.first_id, first.first_id + i64::from(first.count));

    let foreign =
        wire::RegisterBrokerRequest { broker_id: 5, cluster_id: "other".into(), ..Default::default() };
    assert_eq!(
        code(&running.internal.register_broker(foreign).await.unwrap_err()),
        ErrorCode::InconsistentClusterId
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let config = ControllerConfig::new(NodeId(1), Vec::new(), dir.path().to_owned());
    let error = Controller::start(config, Shutdown::new()).await.err().expect("the folder is in use");
    assert!(error.is_in_use(), "{error}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let mut config = ControllerConfig::new(NodeId(1), Vec::new(), dir.path().to_owned());
    config.broker_session = Duration::from_millis(600);
    let controller = Controller::start(config, shutdown.clone()).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", controller.listen_addr()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let (admin, internal) = (AdminServiceClient::new(channel.clone()), ControllerServiceClient::new(channel));
    let mut running = Running { controller, shutdown, admin, internal };
    running.with_broker().await;
    let created = running.create("events", 1).await.unwrap();
    assert_eq!(created.partitions[0].leader_id, 0);
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        // Growing a topic shows its partitions; without a live broker there is nowhere to put them.
        let grow = v1::CreatePartitionsRequest {
            topic: "events".into(),
            total_partitions: 2,
            validate_only: true,
            ..Default::default()
        };
        if running.admin.create_partitions(grow).await.is_err() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the broker was not fenced");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.stop().await;
}
