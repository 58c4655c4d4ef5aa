//! Who may write to the cluster's own topics.

use crate::harness::*;
use thalweg_core::group::{OFFSETS_TOPIC, lease_marker};
use thalweg_core::metadata::Command;
use thalweg_core::metadata::ShardLease;
use thalweg_core::metadata::command::{CreateTopic, PlacementSpec, RegisterCoordinator};
use thalweg_core::{CoordinatorId, ErrorCode, LeaseEpoch, TopicId, TopicName, TopicPartition};
use thalweg_proto::v1::produce_stream_ack::Outcome;
use thalweg_proto::v1::produce_stream_response::Event;
use thalweg_proto::v1::producer_service_client::ProducerServiceClient;
use thalweg_proto::{ApiError, LEASE_EPOCH_HEADER, v1};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// A cluster with the topic of groups, whose one shard a coordinator has.
async fn with_groups() -> (Cluster, ProducerServiceClient<Channel>) {
    let cluster = Cluster::start().await;
    own(&cluster, 1);
    let create = CreateTopic {
        name: TopicName::new(OFFSETS_TOPIC).unwrap(),
        id: TopicId([7; 16]),
        placement: PlacementSpec::Counts { partitions: 1, replication_factor: 1 },
        overrides: Default::default(),
        seed: 0,
        internal: true,
    };
    let (version, _) = cluster.controller.propose(Command::CreateTopic(create)).unwrap();
    applied(&cluster, version).await;
    let internal = cluster.broker.as_ref().unwrap().internal_addr();
    let channel = Endpoint::from_shared(format!("http://{internal}")).unwrap().connect().await.unwrap();
    (cluster, ProducerServiceClient::new(channel))
}

/// Another process of the coordinator: the shard's lease gets a new epoch.
fn own(cluster: &Cluster, incarnation: u8) -> u64 {
    let register = RegisterCoordinator {
        id: CoordinatorId(1),
        cluster_id: None,
        incarnation: [incarnation; 16],
        endpoint: "127.0.0.1:1".parse().unwrap(),
        rack: None,
    };
    cluster.controller.propose(Command::RegisterCoordinator(register)).unwrap().0
}

async fn applied(cluster: &Cluster, version: u64) {
    let mut versions = cluster.broker.as_ref().unwrap().replicas().watch();
    let reached = versions.wait_for(|applied| applied.get() >= version);
    tokio::time::timeout(LONG, reached).await.unwrap().unwrap();
}

fn lease(cluster: &Cluster) -> ShardLease {
    let at = TopicPartition::new(TopicName::new(OFFSETS_TOPIC).unwrap(), Default::default());
    *cluster.controller.image().lease(&at).unwrap()
}

fn marker(lease: &ShardLease, sequence: i32) -> v1::ProduceRequest {
    let (key, value) = lease_marker(lease.epoch, CoordinatorId(1));
    let mut builder =
        thalweg_core::batch::BatchBuilder::new(thalweg_core::compression::Compression::None, 4096);
    builder.append(now(), Some(&key), Some(&value), &[]);
    let stamp = stamp(lease.producer_id.get(), lease.producer_epoch.get(), sequence);
    v1::ProduceRequest {
        routing: v1::Routing::LeaderOnly as i32,
        ..produce_batch(OFFSETS_TOPIC, 0, builder.finish(stamp), v1::Acks::All)
    }
}

fn leased<T>(message: T, epoch: Option<LeaseEpoch>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(epoch) = epoch {
        request.metadata_mut().insert(LEASE_EPOCH_HEADER, epoch.get().into());
    }
    request
}

async fn unary(
    client: &ProducerServiceClient<Channel>,
    request: v1::ProduceRequest,
    epoch: Option<LeaseEpoch>,
) -> Result<i64, ErrorCode> {
    let answer = client.clone().produce(leased(request, epoch)).await;
    answer.map(|answer| answer.into_inner().results[0].base_offset).map_err(|status| api_error(&status).code)
}

async fn streamed(
    client: &ProducerServiceClient<Channel>,
    request: v1::ProduceRequest,
    epoch: Option<LeaseEpoch>,
) -> Result<i64, ErrorCode> {
    let request =
        v1::ProduceStreamRequest { correlation_id: 1, produce: Some(request), ..Default::default() };
    let requests = tokio_stream::iter([request]);
    let mut answers = client.clone().produce_stream(leased(requests, epoch)).await.unwrap().into_inner();
    loop {
        let answer = tokio::time::timeout(LONG, answers.message()).await.unwrap().unwrap().unwrap();
        let Some(Event::Ack(ack)) = answer.event else { continue };
        return match ack.outcome.unwrap() {
            Outcome::Response(response) => Ok(response.results[0].base_offset),
            Outcome::Error(error) => Err(ApiError::from_proto(&error).code),
        };
    }
}

#[tokio::test]
async fn only_the_lease_opens_an_internal_topic() {
    let (cluster, internal) = with_groups().await;
    let public = cluster.producer();
    let first = lease(&cluster);
    let write = || marker(&first, 0);
    for epoch in [None, Some(first.epoch)] {
        assert_eq!(unary(&public, write(), epoch).await, Err(ErrorCode::PolicyViolation));
        assert_eq!(streamed(&public, write(), epoch).await, Err(ErrorCode::PolicyViolation));
        let any = v1::ProduceRequest { routing: v1::Routing::AnyBroker as i32, ..write() };
        assert_eq!(streamed(&public, any.clone(), epoch).await, Err(ErrorCode::PolicyViolation));
        assert_eq!(unary(&public, any, epoch).await, Err(ErrorCode::PolicyViolation));
        let plain = produce_records(OFFSETS_TOPIC, None, vec![record(Some("k"), "v")]);
        assert_eq!(unary(&public, plain, epoch).await, Err(ErrorCode::PolicyViolation));
    }
    assert_eq!(unary(&internal, write(), None).await, Err(ErrorCode::PolicyViolation));
    assert_eq!(streamed(&internal, write(), None).await, Err(ErrorCode::PolicyViolation));
    assert_eq!(cluster.end_offset(OFFSETS_TOPIC, 0).await, 0, "nothing was written");
    assert_eq!(streamed(&internal, write(), Some(first.epoch)).await, Ok(0));
    assert_eq!(unary(&internal, marker(&first, 1), Some(first.epoch)).await, Ok(1));
}

#[tokio::test]
async fn a_former_owner_is_refused_by_the_metadata_and_by_the_log() {
    let (cluster, internal) = with_groups().await;
    let first = lease(&cluster);
    assert_eq!(unary(&internal, marker(&first, 0), Some(first.epoch)).await, Ok(0));
    let version = own(&cluster, 2);
    let second = lease(&cluster);
    assert!(second.epoch > first.epoch && second.producer_epoch > first.producer_epoch);
    // A coordinator may hear of its lease before the broker does.
    assert_eq!(unary(&internal, marker(&second, 0), Some(second.epoch)).await, Ok(1));
    // Whatever epoch it claims: the log has the next owner's marker.
    let late = marker(&first, 1);
    assert_eq!(
        unary(&internal, late.clone(), Some(second.epoch)).await,
        Err(ErrorCode::InvalidProducerEpoch)
    );
    applied(&cluster, version).await;
    assert_eq!(
        unary(&internal, late.clone(), Some(first.epoch)).await,
        Err(ErrorCode::StaleCoordinatorEpoch)
    );
    assert_eq!(streamed(&internal, late, Some(first.epoch)).await, Err(ErrorCode::StaleCoordinatorEpoch));
}

#[tokio::test]
async fn a_lease_that_ends_under_an_open_stream_closes_it_to_further_writes() {
    let (cluster, internal) = with_groups().await;
    let first = lease(&cluster);
    let (requests, queued) = tokio::sync::mpsc::channel(4);
    let queued = tokio_stream::wrappers::ReceiverStream::new(queued);
    let request = leased(queued, Some(first.epoch));
    let mut answers = internal.clone().produce_stream(request).await.unwrap().into_inner();
    let mut codes = Vec::new();
    for sequence in 0..2 {
        let produce = Some(marker(&first, sequence));
        let correlation_id = u64::try_from(sequence).unwrap();
        requests
            .send(v1::ProduceStreamRequest { correlation_id, produce, ..Default::default() })
            .await
            .unwrap();
        let outcome = loop {
            let answer = tokio::time::timeout(LONG, answers.message()).await.unwrap().unwrap().unwrap();
            if let Some(Event::Ack(ack)) = answer.event {
                break ack.outcome.unwrap();
            }
        };
        codes.push(match outcome {
            Outcome::Response(_) => None,
            Outcome::Error(error) => Some(ApiError::from_proto(&error).code),
        });
        applied(&cluster, own(&cluster, 2)).await;
    }
    assert_eq!(codes, [None, Some(ErrorCode::StaleCoordinatorEpoch)]);
}
