//! A caller with generated stubs and nothing of ours behind them.

use super::dev::Dev;
use bytes::Bytes;
use std::future::Future;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use thalweg_proto::v1::{
    self, admin_service_client::AdminServiceClient, cluster_service_client::ClusterServiceClient,
    consumer_service_client::ConsumerServiceClient, group_service_client::GroupServiceClient,
    produce_request::Payload, producer_service_client::ProducerServiceClient,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long anything may take that is expected to happen, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer that the caller takes.
const MAX_ANSWER: usize = 64 << 20;

/// Waits for what is expected to happen.
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: {what}: not within {PATIENCE:?}"),
        }
    }
}

/// Checks that a call was refused with this status and this reason, and gives the error that it carries.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: ErrorCode) -> ApiError {
    let status = match result {
        Ok(answer) => panic!("not refused: {answer:?}"),
        Err(status) => status,
    };
    assert_eq!(status.code(), code, "{status:?}");
    let error =
        ApiError::from_status(&status).unwrap_or_else(|| panic!("no google.rpc.ErrorInfo: {status:?}"));
    assert_eq!(error.code, reason, "{error}");
    assert!(!error.message.is_empty(), "a refusal says why");
    error
}

/// The services of one server.
#[derive(Clone)]
pub struct Api {
    pub channel: Channel,
    pub producer: ProducerServiceClient<Channel>,
    pub consumer: ConsumerServiceClient<Channel>,
    pub groups: GroupServiceClient<Channel>,
    pub admin: AdminServiceClient<Channel>,
    pub cluster: ClusterServiceClient<Channel>,
}

impl Api {
    /// Connects.
    pub async fn connect(dev: &Dev) -> Api {
        Api::at(&dev.addr().to_string()).await
    }

    /// Connects to `host:port`.
    pub async fn at(endpoint: &str) -> Api {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
        let channel = within("connecting", endpoint.connect()).await.unwrap();
        Api {
            producer: ProducerServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            consumer: ConsumerServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            groups: GroupServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            admin: AdminServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Creates topics, one call for all of them.
    pub async fn create(&self, topic: v1::NewTopic) -> Result<v1::CreateTopicsResponse, Status> {
        let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
        within("CreateTopics", self.admin.clone().create_topics(request))
            .await
            .map(tonic::Response::into_inner)
    }

    /// Creates a topic that is allowed.
    pub async fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let topic = v1::NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            configs: configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Default::default()
        };
        let answer = self.create(topic).await.unwrap();
        assert!(answer.results.iter().all(|result| result.error.is_none()), "{answer:?}");
    }

    /// One Produce call.
    pub async fn produce(&self, request: v1::ProduceRequest) -> Result<v1::ProduceResponse, Status> {
        within("Produce", self.producer.clone().produce(request)).await.map(tonic::Response::into_inner)
    }

    /// Writes one encoded batch with acks=all.
    pub async fn produce_batch(
        &self,
        topic: &str,
        partition: i32,
        batch: impl Into<Bytes>,
    ) -> Result<v1::ProduceResult, Status> {
        let request = v1::ProduceRequest {
            topic: topic.to_owned(),
            partition: Some(partition),
            payload: Some(Payload::RecordBatch(batch.into())),
            acks: v1::Acks::All.into(),
            ..Default::default()
        };
        let mut results = self.produce(request).await?.results;
        assert_eq!(results.len(), 1, "a request with a partition has exactly one result: {results:?}");
        Ok(results.remove(0))
    }

    /// Writes plain records with acks=all.
    pub async fn produce_values(
        &self,
        topic: &str,
        partition: i32,
        values: &[&str],
    ) -> Result<v1::ProduceResult, Status> {
        let request = v1::ProduceRequest {
            topic: topic.to_owned(),
            partition: Some(partition),
            payload: Some(Payload::Records(records(values))),
            acks: v1::Acks::All.into(),
            ..Default::default()
        };
        let mut results = self.produce(request).await?.results;
        assert_eq!(results.len(), 1, "a request with a partition has exactly one result: {results:?}");
        Ok(results.remove(0))
    }

    /// One Fetch call for one partition, as plain records.
    pub async fn fetch(&self, topic: &str, partition: i32, offset: i64) -> Result<v1::PartitionData, Status> {
        let request = fetch_request(topic, partition, offset);
        let mut data = within("Fetch", self.consumer.clone().fetch(request)).await?.into_inner().partitions;
        assert!(data.len() <= 1, "{data:?}");
        Ok(data.pop().unwrap_or_default())
    }

    /// All values of a partition, from its first offset to the end as it is now; their offsets have no gap.
    pub async fn values(&self, topic: &str, partition: i32) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        let end = self.end_offset(topic, partition).await;
        let mut next = 0;
        while next < end {
            let data = self.fetch(topic, partition, next).await.unwrap();
            assert!(data.error.is_none(), "{data:?}");
            let Some(v1::partition_data::Data::Records(set)) = data.data else {
                panic!("plain records: {data:?}")
            };
            assert!(!set.records.is_empty(), "nothing at offset {next} of {end}");
            for record in set.records {
                assert_eq!(record.offset, next, "{topic}-{partition}: a gap or a repeat");
                next += 1;
                values.push(record.value.unwrap_or_default().to_vec());
            }
        }
        values
    }

    /// The offset behind the last record.
    pub async fn end_offset(&self, topic: &str, partition: i32) -> i64 {
        let request = v1::ListOffsetsRequest {
            partitions: vec![v1::ListOffsetsPartition {
                topic: topic.to_owned(),
                partition,
                spec: v1::OffsetSpec::Latest.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer =
            within("ListOffsets", self.consumer.clone().list_offsets(request)).await.unwrap().into_inner();
        assert!(answer.results[0].error.is_none(), "{answer:?}");
        answer.results[0].offset
    }

    /// An id for an idempotent producer; with one that it has, that one with the next epoch.
    pub async fn init_producer(&self, keep: Option<(i64, i32)>) -> (i64, i32) {
        let request =
            v1::InitProducerRequest { producer_id: keep.map(|k| k.0), producer_epoch: keep.map(|k| k.1) };
        let answer = within("InitProducer", self.producer.clone().init_producer(request)).await;
        let answer = answer.unwrap().into_inner();
        (answer.producer_id, answer.producer_epoch)
    }

    /// What the server says of itself.
    pub async fn broker(&self) -> v1::DescribeBrokerResponse {
        let mut cluster = self.cluster.clone();
        within("DescribeBroker", cluster.describe_broker(v1::DescribeBrokerRequest {}))
            .await
            .unwrap()
            .into_inner()
    }
}

/// Plain records of these values.
pub fn records(values: &[&str]) -> v1::RecordSet {
    let record = |value: &&str| v1::Record {
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..Default::default()
    };
    v1::RecordSet { records: values.iter().map(record).collect() }
}

/// Asks for one partition's plain records, without a wait.
pub fn fetch_request(topic: &str, partition: i32, offset: i64) -> v1::FetchRequest {
    v1::FetchRequest {
        partitions: vec![v1::FetchPartition {
            topic: topic.to_owned(),
            partition,
            offset,
            ..Default::default()
        }],
        min_bytes: Some(0),
        ..Default::default()
    }
}
