//! A broker, its fake controller and clients of it.

use crate::controller::FakeController;
use crate::gate::GatedStorage;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thalweg_broker::{Broker, BrokerConfig, BrokerError, BrokerHandle, StartError, WallClock};
use thalweg_core::batch::{BatchBuilder, ProducerStamp};
use thalweg_core::compression::Compression;
use thalweg_core::{BrokerId, ErrorCode, ProducerEpoch, ProducerId, Sequence, Timestamp};
use thalweg_log::storage::Storage;
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_proto::v1::cluster_service_client::ClusterServiceClient;
use thalweg_proto::v1::consumer_service_client::ConsumerServiceClient;
use thalweg_proto::v1::producer_service_client::ProducerServiceClient;
use thalweg_proto::{ApiError, v1};
use thalweg_runtime::Shutdown;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// For waits that only end early: a test that hangs fails here.
pub const LONG: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub controller: FakeController,
    pub controllers: Vec<String>,
    pub storage: GatedStorage,
    pub broker: Option<BrokerHandle>,
    pub shutdown: Shutdown,
    pub channel: Channel,
    controller_shutdown: Shutdown,
}

impl Cluster {
    pub async fn start() -> Cluster {
        Cluster::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut BrokerConfig)) -> Cluster {
        let controller = FakeController::new("the-cluster");
        let controller_shutdown = Shutdown::new();
        let controllers = vec![controller.listen(controller_shutdown.clone()).await];
        let storage = GatedStorage::new();
        let mut config = config(&controllers);
        change(&mut config);
        let shutdown = Shutdown::new();
        let broker = run(config, &storage, &shutdown).await.unwrap();
        let channel = connect(&broker).await;
        Cluster {
            controller,
            controllers,
            storage,
            broker: Some(broker),
            shutdown,
            channel,
            controller_shutdown,
        }
    }

    /// Stops the broker in good order.
    pub async fn stop(&mut self) -> Result<(), BrokerError> {
        self.shutdown.trigger();
        let broker = self.broker.take().unwrap();
        tokio::time::timeout(LONG, broker.join()).await.unwrap()
    }

    /// Starts it again on the same disk.
    pub async fn restart(&mut self) {
        self.shutdown = Shutdown::new();
        let broker = run(config(&self.controllers), &self.storage, &self.shutdown).await.unwrap();
        self.channel = connect(&broker).await;
        self.broker = Some(broker);
    }

    /// A shutdown for the next broker, which [`stop`](Cluster::stop) triggers.
    pub fn shutdown_anew(&mut self) -> Shutdown {
        self.shutdown = Shutdown::new();
        self.shutdown.clone()
    }

    pub fn producer(&self) -> ProducerServiceClient<Channel> {
        ProducerServiceClient::new(self.channel.clone())
    }

    pub fn consumer(&self) -> ConsumerServiceClient<Channel> {
        ConsumerServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    pub async fn topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let configs: BTreeMap<_, _> =
            configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let topic =
            v1::NewTopic { name: name.into(), partitions: Some(partitions), configs, ..Default::default() };
        let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
        let answer = self.admin().create_topics(request).await.unwrap().into_inner();
        assert_eq!(answer.results[0].error, None);
    }

    pub async fn produce(&self, request: v1::ProduceRequest) -> Result<v1::ProduceResponse, ApiError> {
        self.producer().produce(request).await.map(tonic::Response::into_inner).map_err(|s| api_error(&s))
    }

    /// Every value of a partition, by Tail.
    pub async fn values(&self, topic: &str, partition: i32) -> Vec<(i64, Bytes)> {
        let request = v1::TailRequest {
            topic: topic.into(),
            partitions: vec![partition],
            start: v1::TailStart::Earliest as i32,
            until_end: true,
            ..Default::default()
        };
        let mut stream = self.consumer().tail(request).await.unwrap().into_inner();
        let mut values = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            values.extend(message.records.into_iter().map(|r| (r.offset, r.value.unwrap_or_default())));
        }
        values
    }

    pub async fn end_offset(&self, topic: &str, partition: i32) -> i64 {
        let wanted = v1::ListOffsetsPartition { topic: topic.into(), partition, ..Default::default() };
        let request = v1::ListOffsetsRequest { partitions: vec![wanted], ..Default::default() };
        self.consumer().list_offsets(request).await.unwrap().into_inner().results[0].offset
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.storage.open_gate();
        self.shutdown.trigger();
        self.controller_shutdown.trigger();
    }
}

pub fn config(controllers: &[String]) -> BrokerConfig {
    let mut config = BrokerConfig::new(BrokerId(0), controllers.to_vec(), vec![PathBuf::from("/data")]);
    config.intervals.start = LONG;
    config
}

pub async fn run(
    config: BrokerConfig,
    storage: &GatedStorage,
    shutdown: &Shutdown,
) -> Result<BrokerHandle, StartError> {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    Broker::start(config, Arc::new(WallClock), storage, shutdown.clone()).await
}

async fn connect(broker: &BrokerHandle) -> Channel {
    Endpoint::from_shared(format!("http://{}", broker.listen_addr())).unwrap().connect().await.unwrap()
}

pub fn api_error(status: &Status) -> ApiError {
    ApiError::from_status(status).unwrap_or_else(|| panic!("not one of our errors: {status:?}"))
}

pub fn code<T: std::fmt::Debug>(result: Result<T, ApiError>) -> ErrorCode {
    result.unwrap_err().code
}

pub fn now() -> Timestamp {
    Timestamp(thalweg_runtime::SystemClock.now_millis())
}

pub fn stamp(id: i64, epoch: i16, sequence: i32) -> ProducerStamp {
    ProducerStamp {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(sequence),
        transactional: false,
    }
}

pub fn batch_with(values: &[&[u8]], codec: Compression, stamp: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(codec, 1 << 20);
    for value in values {
        builder.append(now(), None, Some(value), &[]);
    }
    builder.finish(stamp)
}

pub fn batch(values: &[&str]) -> Bytes {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    batch_with(&values, Compression::None, ProducerStamp::NONE)
}

pub fn produce_batch(topic: &str, partition: i32, batch: Bytes, acks: v1::Acks) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: topic.into(),
        partition: Some(partition),
        payload: Some(v1::produce_request::Payload::RecordBatch(batch)),
        acks: acks as i32,
        ..Default::default()
    }
}

pub fn record(key: Option<&str>, value: &str) -> v1::Record {
    v1::Record {
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..Default::default()
    }
}

pub fn produce_records(topic: &str, partition: Option<i32>, records: Vec<v1::Record>) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: topic.into(),
        partition,
        payload: Some(v1::produce_request::Payload::Records(v1::RecordSet { records })),
        ..Default::default()
    }
}
