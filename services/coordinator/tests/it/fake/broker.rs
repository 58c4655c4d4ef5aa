//! A broker's internal port: the shards' logs, and the ends of all others.

use super::Fake;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::{BrokerId, ErrorCode, LeaseEpoch, PartitionId};
use thalweg_proto::v1::consumer_service_server::ConsumerService;
use thalweg_proto::v1::produce_request::Payload;
use thalweg_proto::v1::produce_stream_ack::Outcome;
use thalweg_proto::v1::produce_stream_response::Event;
use thalweg_proto::v1::producer_service_server::ProducerService;
use thalweg_proto::{ApiError, LEASE_EPOCH_HEADER, v1};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone)]
pub struct FakeBroker {
    pub fake: Fake,
    pub id: BrokerId,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn refused<T>(code: ErrorCode) -> Result<T, ApiError> {
    Err(ApiError::new(code, "the fake refuses"))
}

fn unsupported<T>() -> Result<T, Status> {
    Err(ApiError::new(ErrorCode::Unsupported, "not played").to_status())
}

impl FakeBroker {
    fn check_leader(&self, shard: i32) -> Result<(), ApiError> {
        if self.fake.leader_of(shard) == self.id { Ok(()) } else { refused(ErrorCode::NotLeader) }
    }

    fn append(&self, request: &v1::ProduceRequest, epoch: Option<LeaseEpoch>) -> Result<i64, ApiError> {
        assert_eq!(request.topic, OFFSETS_TOPIC);
        assert_eq!(request.acks, v1::Acks::All as i32);
        assert_eq!(request.routing, v1::Routing::LeaderOnly as i32);
        let shard = request.partition.unwrap();
        self.check_leader(shard)?;
        if epoch.is_none_or(|epoch| epoch < self.fake.lease(shard).epoch) {
            return refused(ErrorCode::StaleCoordinatorEpoch);
        }
        if let Some(code) = self.fake.refusals.lock().unwrap().pop_front() {
            return refused(code);
        }
        let Some(Payload::RecordBatch(batch)) = &request.payload else { panic!("{request:?}") };
        let mut logs = self.fake.logs.lock().unwrap();
        logs.entry(shard).or_default().append(batch).or_else(refused)
    }

    async fn produce_on(
        self,
        mut requests: Streaming<v1::ProduceStreamRequest>,
        epoch: Option<LeaseEpoch>,
        answers: mpsc::Sender<Result<v1::ProduceStreamResponse, Status>>,
    ) {
        let mut silent = self.fake.silent.subscribe();
        let mut cuts = self.fake.cuts.subscribe();
        let mut open = VecDeque::new();
        loop {
            let is_silent = *silent.borrow_and_update();
            while !is_silent && let Some((correlation_id, outcome)) = open.pop_front() {
                let outcome = match outcome {
                    Ok(base_offset) => {
                        let result = v1::ProduceResult { base_offset, ..Default::default() };
                        Outcome::Response(v1::ProduceResponse { results: vec![result], ..Default::default() })
                    }
                    Err(error) => Outcome::Error(ApiError::to_proto(&error)),
                };
                let ack = v1::ProduceStreamAck { correlation_id, outcome: Some(outcome) };
                let answer = v1::ProduceStreamResponse { event: Some(Event::Ack(ack)) };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else { return };
                    let outcome = self.append(&request.produce.unwrap(), epoch);
                    open.push_back((request.correlation_id, outcome));
                    self.fake.most_in_flight.fetch_max(open.len(), Ordering::Relaxed);
                }
                _ = silent.changed() => {}
                _ = cuts.changed() => return,
            }
        }
    }
}

#[tonic::async_trait]
impl ProducerService for FakeBroker {
    async fn produce(&self, _: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        unsupported()
    }

    type ProduceStreamStream = Answers<v1::ProduceStreamResponse>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let epoch = request.metadata().get(LEASE_EPOCH_HEADER);
        let epoch = epoch.map(|epoch| LeaseEpoch(epoch.to_str().unwrap().parse().unwrap()));
        let (answers, answered) = mpsc::channel(64);
        tokio::spawn(self.clone().produce_on(request.into_inner(), epoch, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        unsupported()
    }
}

#[tonic::async_trait]
impl ConsumerService for FakeBroker {
    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let request = request.into_inner();
        let wanted = &request.partitions[0];
        self.fake.fetches.fetch_add(1, Ordering::Relaxed);
        let _ = self.fake.unreadable.subscribe().wait_for(|unreadable| !unreadable).await;
        self.check_leader(wanted.partition)?;
        let logs = self.fake.logs.lock().unwrap();
        let Some(log) = logs.get(&wanted.partition) else { return Ok(Response::new(Default::default())) };
        let (batches, next_offset) = log.read(wanted.offset, wanted.max_bytes.unwrap() as usize);
        let data = v1::PartitionData {
            topic: wanted.topic.clone(),
            partition: wanted.partition,
            next_offset,
            high_watermark: log.end(),
            data: Some(v1::partition_data::Data::RecordBatches(batches)),
            ..Default::default()
        };
        let partitions = if next_offset > wanted.offset { vec![data] } else { Vec::new() };
        Ok(Response::new(v1::FetchResponse { partitions }))
    }

    type FetchStreamStream = Answers<v1::FetchStreamResponse>;

    async fn fetch_stream(
        &self,
        _: Request<Streaming<v1::FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        unsupported()
    }

    type TailStream = Answers<v1::TailResponse>;

    async fn tail(&self, _: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        unsupported()
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        self.fake.questions.fetch_add(1, Ordering::Relaxed);
        let ends = self.fake.ends.lock().unwrap();
        let image = self.fake.image();
        let results = request.into_inner().partitions.into_iter().map(|wanted| {
            let partition =
                image.topic(&wanted.topic).and_then(|topic| topic.partition(PartitionId(wanted.partition)));
            assert_eq!(partition.map(|partition| partition.leader), Some(self.id));
            let error = ApiError::new(ErrorCode::OffsetNotAvailable, "not known yet").to_proto();
            let end = ends.get(&(wanted.topic.clone(), wanted.partition)).copied();
            v1::ListOffsetsResult {
                topic: wanted.topic,
                partition: wanted.partition,
                offset: end.unwrap_or(-1),
                error: if end.is_none() { Some(error) } else { None },
                ..Default::default()
            }
        });
        Ok(Response::new(v1::ListOffsetsResponse { results: results.collect() }))
    }
}
