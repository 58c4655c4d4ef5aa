//! Two brokers on loopback ports that share their logs, and do what a test's list of faults says.

use super::groups::{Groups, Service};
use super::log::Log;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use thalweg_client::proto::cluster_service_server::{ClusterService, ClusterServiceServer};
use thalweg_client::proto::consumer_service_server::{ConsumerService, ConsumerServiceServer};
use thalweg_client::proto::fetch_stream_request::Command;
use thalweg_client::proto::group_service_server::GroupServiceServer;
use thalweg_client::proto::partition_data::Data;
use thalweg_client::proto::produce_request::Payload;
use thalweg_client::proto::produce_stream_ack::Outcome;
use thalweg_client::proto::produce_stream_response::Event;
use thalweg_client::proto::producer_service_server::{ProducerService, ProducerServiceServer};
use thalweg_client::proto::{self, *};
use thalweg_client::{Client, ClientConfig, Connector, TcpConnector};
use thalweg_core::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use thalweg_proto::{ApiError, Detail};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub const TOPIC: &str = "t";

/// What happens to one produce request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// The stream breaks, nothing written.
    Break,
    /// It is written, then the stream breaks.
    WriteAndBreak,
    Refuse(ErrorCode),
    WriteAndRefuse(ErrorCode),
    /// The other broker leads from now on.
    Move,
    /// It is never answered.
    Hang,
    Wait(u64),
}

#[derive(Default)]
pub struct State {
    pub logs: Vec<Log>,
    pub leaders: Vec<usize>,
    pub epochs: Vec<i32>,
    pub faults: VecDeque<Fault>,
    pub endpoints: Vec<String>,
    pub topic_id: String,
    /// Produce streams are taken, and never opened.
    pub hang_open: bool,
    pub max_batch: usize,
    pub producer_epoch: i32,
    /// Each fetch stream breaks after so many messages.
    pub fetch_limit: usize,
    pub requests: usize,
    /// The most that any fetch stream sent beyond its credit.
    pub overdraft: i64,
    pub fetch_streams: usize,
}

#[derive(Default)]
pub struct Cluster {
    state: Mutex<State>,
    written: Notify,
    pub groups: Groups,
}

#[derive(Clone)]
struct Broker {
    index: usize,
    cluster: Arc<Cluster>,
}

impl Cluster {
    pub async fn start(partitions: usize) -> Arc<Cluster> {
        let cluster = Arc::new(Cluster::default());
        {
            let mut state = cluster.lock();
            state.logs.resize_with(partitions, Log::default);
            state.leaders = vec![0; partitions];
            state.epochs = vec![0; partitions];
            state.max_batch = usize::MAX;
            state.fetch_limit = usize::MAX;
            cluster.groups.lock().partitions = partitions as i32;
        }
        for index in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.lock().endpoints.push(listener.local_addr().unwrap().to_string());
            let broker = Broker { index, cluster: Arc::clone(&cluster) };
            let server = tonic::transport::Server::builder()
                .add_service(ProducerServiceServer::new(broker.clone()))
                .add_service(ConsumerServiceServer::new(broker.clone()))
                .add_service(GroupServiceServer::new(Service(Arc::clone(&cluster))))
                .add_service(ClusterServiceServer::new(broker))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(server);
        }
        cluster
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub async fn client(&self) -> Client {
        self.client_over(TcpConnector).await
    }

    pub async fn client_over(&self, connector: impl Connector) -> Client {
        let mut config = ClientConfig::new(self.lock().endpoints.clone());
        config.retry_backoff = Duration::from_millis(5);
        config.retry_backoff_max = Duration::from_millis(20);
        Client::connect_with(config, connector).await.unwrap()
    }

    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    pub fn move_leader(&self, partition: usize) {
        let mut state = self.lock();
        state.leaders[partition] ^= 1;
        state.epochs[partition] += 1;
        drop(state);
        self.written.notify_waiters();
    }
}

impl State {
    fn not_leader(&self, partition: usize) -> ApiError {
        let leader = self.leaders[partition];
        ApiError::new(ErrorCode::NotLeader, "moved").with_detail(Detail::NotLeader {
            leader: BrokerId(leader as i32),
            endpoint: self.endpoints[leader].clone(),
            epoch: LeaderEpoch(self.epochs[partition]),
        })
    }

    fn write(&mut self, partition: usize, bytes: &Bytes) -> Result<ProduceResponse, ApiError> {
        if bytes.len() > self.max_batch {
            return Err(ApiError::new(ErrorCode::MessageTooLarge, "too large"));
        }
        let appended = self.logs[partition].append(bytes).map_err(|code| ApiError::new(code, "refused"))?;
        let result = ProduceResult {
            partition: partition as i32,
            base_offset: appended.base,
            last_offset: appended.last,
            log_append_time_ms: -1,
            duplicate: appended.duplicate,
            ..Default::default()
        };
        Ok(ProduceResponse { results: vec![result], positions: Vec::new() })
    }
}

impl Broker {
    /// The answer to a request; `None` breaks the stream.
    async fn serve(&self, request: &ProduceRequest) -> Option<Result<ProduceResponse, ApiError>> {
        let partition = request.partition.unwrap() as usize;
        let Some(Payload::RecordBatch(bytes)) = &request.payload else { panic!("the client sends batches") };
        let fault = {
            let mut state = self.cluster.lock();
            state.requests += 1;
            if partition >= state.leaders.len() {
                return Some(Err(ApiError::new(ErrorCode::UnknownPartition, "no such partition")));
            }
            if state.leaders[partition] != self.index {
                return Some(Err(state.not_leader(partition)));
            }
            state.faults.pop_front().unwrap_or(Fault::None)
        };
        match fault {
            Fault::Hang => std::future::pending().await,
            Fault::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Fault::Move => self.cluster.move_leader(partition),
            _ => {}
        }
        let answer = {
            let mut state = self.cluster.lock();
            match fault {
                Fault::Break => return None,
                Fault::Refuse(code) => Err(ApiError::new(code, "a fault")),
                Fault::Move => Err(state.not_leader(partition)),
                Fault::WriteAndBreak => {
                    let _ = state.write(partition, bytes);
                    return None;
                }
                Fault::WriteAndRefuse(code) => {
                    state.write(partition, bytes).and(Err(ApiError::new(code, "a fault")))
                }
                _ => state.write(partition, bytes),
            }
        };
        self.cluster.written.notify_waiters();
        Some(answer)
    }
}

pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ProducerService for Broker {
    type ProduceStreamStream = Answers<ProduceStreamResponse>;

    async fn produce(&self, _: Request<ProduceRequest>) -> Result<Response<ProduceResponse>, Status> {
        Err(Status::unimplemented("the client streams"))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        if self.cluster.lock().hang_open {
            std::future::pending::<()>().await;
        }
        let (answers, receiver) = mpsc::channel(64);
        let broker = self.clone();
        tokio::spawn(async move {
            let mut requests = request.into_inner();
            let opened = ProduceStreamOpened { max_in_flight_bytes: 1 << 20, max_request_bytes: 1 << 20 };
            let opened = ProduceStreamResponse { event: Some(Event::Opened(opened)) };
            let _ = answers.send(Ok(opened)).await;
            while let Ok(Some(request)) = requests.message().await {
                let produce = request.produce.unwrap();
                let acks = produce.acks();
                let Some(outcome) = broker.serve(&produce).await else {
                    let _ = answers.send(Err(Status::unavailable("connection reset"))).await;
                    return;
                };
                if acks == proto::Acks::None {
                    continue;
                }
                let outcome = match outcome {
                    Ok(response) => Outcome::Response(response),
                    Err(error) => Outcome::Error(error.to_proto()),
                };
                let ack = ProduceStreamAck { correlation_id: request.correlation_id, outcome: Some(outcome) };
                let _ = answers.send(Ok(ProduceStreamResponse { event: Some(Event::Ack(ack)) })).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn init_producer(
        &self,
        request: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let mut state = self.cluster.lock();
        if request.get_ref().producer_id.is_some() {
            state.producer_epoch += 1;
        }
        Ok(Response::new(InitProducerResponse { producer_id: 7, producer_epoch: state.producer_epoch }))
    }
}

#[tonic::async_trait]
impl ConsumerService for Broker {
    type FetchStreamStream = Answers<FetchStreamResponse>;
    type TailStream = Answers<TailResponse>;

    async fn fetch(&self, _: Request<FetchRequest>) -> Result<Response<FetchResponse>, Status> {
        Err(Status::unimplemented("the client streams"))
    }

    async fn tail(&self, _: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        Err(Status::unimplemented("the client streams"))
    }

    async fn fetch_stream(
        &self,
        request: Request<Streaming<FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(fetch(self.clone(), request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        let asked = &request.get_ref().partitions[0];
        let state = self.cluster.lock();
        let log = &state.logs[asked.partition as usize];
        let offset = match asked.spec() {
            OffsetSpec::Earliest => log.start,
            OffsetSpec::Timestamp => -1,
            _ => log.end,
        };
        let result = ListOffsetsResult { topic: asked.topic.clone(), offset, ..Default::default() };
        Ok(Response::new(ListOffsetsResponse { results: vec![result] }))
    }
}

async fn fetch(
    broker: Broker,
    mut commands: Streaming<FetchStreamRequest>,
    answers: mpsc::Sender<Result<FetchStreamResponse, Status>>,
) {
    let (mut credit, mut sent, mut max) = (0i64, 0, 1 << 20);
    let mut assigned: HashMap<i32, (i64, u64)> = HashMap::new();
    broker.cluster.lock().fetch_streams += 1;
    loop {
        let written = broker.cluster.written.notified();
        let next = {
            let mut state = broker.cluster.lock();
            let ready = assigned.iter().find_map(|(partition, (offset, tag))| {
                let index = *partition as usize;
                let data = PartitionData {
                    topic: TOPIC.into(),
                    partition: *partition,
                    tag: *tag,
                    high_watermark: state.logs[index].end,
                    ..Default::default()
                };
                let refuse =
                    |error: ApiError| Some(PartitionData { error: Some(error.to_proto()), ..data.clone() });
                let log = &state.logs[index];
                if state.leaders[index] != broker.index {
                    return refuse(state.not_leader(index));
                }
                if *offset < log.start || *offset > log.end {
                    let range = Detail::OffsetRange {
                        requested: Offset(*offset),
                        log_start: Offset(log.start),
                        high_watermark: Offset(log.end),
                    };
                    return refuse(ApiError::new(ErrorCode::OffsetOutOfRange, "gone").with_detail(range));
                }
                if *offset == log.end || credit <= 0 {
                    return None;
                }
                let (bytes, next_offset) = log.read(*offset, max);
                Some(PartitionData { next_offset, data: Some(Data::RecordBatches(bytes)), ..data })
            });
            if let Some(PartitionData { data: Some(Data::RecordBatches(bytes)), .. }) = &ready {
                state.overdraft = state.overdraft.max(bytes.len() as i64 - credit);
            }
            ready.map(|data| (data, state.fetch_limit))
        };
        if let Some((data, limit)) = next {
            if sent == limit {
                let _ = answers.send(Err(Status::unavailable("connection reset"))).await;
                return;
            }
            sent += 1;
            match &data.data {
                Some(Data::RecordBatches(bytes)) => {
                    credit -= bytes.len() as i64;
                    assigned.insert(data.partition, (data.next_offset, data.tag));
                }
                _ => {
                    assigned.remove(&data.partition);
                }
            }
            if answers.send(Ok(FetchStreamResponse { data: Some(data) })).await.is_err() {
                return;
            }
            continue;
        }
        let command = tokio::select! {
            command = commands.message() => command,
            () = written => continue,
        };
        match command.ok().flatten().and_then(|command| command.command) {
            Some(Command::Start(start)) => max = start.max_chunk_bytes() as usize,
            Some(Command::Credit(more)) => credit += more.bytes as i64,
            Some(Command::Assign(assign)) => {
                assigned.extend(assign.partitions.into_iter().map(|p| (p.partition, (p.offset, p.tag))));
            }
            Some(Command::Unassign(unassign)) => {
                assigned.retain(|partition, _| unassign.partitions.iter().all(|p| p.partition != *partition));
            }
            None => return,
        }
    }
}

#[tonic::async_trait]
impl ClusterService for Broker {
    type WatchMetadataStream = Answers<WatchMetadataResponse>;

    async fn describe_cluster(
        &self,
        _: Request<DescribeClusterRequest>,
    ) -> Result<Response<DescribeClusterResponse>, Status> {
        Ok(Response::new(DescribeClusterResponse { brokers: self.brokers(), ..Default::default() }))
    }

    async fn describe_broker(
        &self,
        _: Request<DescribeBrokerRequest>,
    ) -> Result<Response<DescribeBrokerResponse>, Status> {
        Ok(Response::new(DescribeBrokerResponse { id: self.index as i32, ..Default::default() }))
    }

    async fn metadata(
        &self,
        request: Request<MetadataRequest>,
    ) -> Result<Response<MetadataResponse>, Status> {
        let name = request.into_inner().topics.remove(0);
        let state = self.cluster.lock();
        let partition = |(index, leader): (usize, &usize)| Partition {
            partition: index as i32,
            leader_id: *leader as i32,
            leader_epoch: state.epochs[index],
            ..Default::default()
        };
        let topic = proto::Topic {
            name: name.clone(),
            topic_id: state.topic_id.clone(),
            partitions: state.leaders.iter().enumerate().map(partition).collect(),
            ..Default::default()
        };
        let result = match name.as_str() {
            TOPIC => DescribeTopicResult { name, topic: Some(topic), error: None },
            _ => {
                let error = ApiError::new(ErrorCode::UnknownTopic, "no such topic").to_proto();
                DescribeTopicResult { name, topic: None, error: Some(error) }
            }
        };
        drop(state);
        let (brokers, topics) = (self.brokers(), vec![result]);
        Ok(Response::new(MetadataResponse { brokers, topics, ..Default::default() }))
    }

    async fn watch_metadata(
        &self,
        _: Request<WatchMetadataRequest>,
    ) -> Result<Response<Self::WatchMetadataStream>, Status> {
        Err(Status::unimplemented("the client asks"))
    }
}

impl Broker {
    fn brokers(&self) -> Vec<proto::Broker> {
        let state = self.cluster.lock();
        let endpoints = state.endpoints.iter().enumerate();
        endpoints
            .map(|(id, endpoint)| proto::Broker {
                id: id as i32,
                endpoint: endpoint.clone(),
                ..Default::default()
            })
            .collect()
    }
}
