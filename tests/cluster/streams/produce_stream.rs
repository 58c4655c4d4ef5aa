//! ProduceStream: pipelined, answered in order, outliving single refusals.

use crate::harness::{Api, Dev, batch, records, within};
use thalweg_core::ErrorCode;
use thalweg_proto::v1::{
    self, produce_request::Payload, produce_stream_ack::Outcome, produce_stream_response::Event,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Both ends of an open stream.
pub struct Stream {
    pub requests: mpsc::Sender<v1::ProduceStreamRequest>,
    pub answers: Streaming<v1::ProduceStreamResponse>,
}

impl Stream {
    /// Opens one; its first message says what it takes.
    pub async fn open(api: &Api) -> Stream {
        let (requests, receiver) = mpsc::channel(1000);
        let call = api.producer.clone().produce_stream(ReceiverStream::new(receiver)).await;
        let mut stream = Stream { requests, answers: call.unwrap().into_inner() };
        match stream.next().await {
            Some(Event::Opened(opened)) => {
                assert!(opened.max_in_flight_bytes > 0 && opened.max_request_bytes > 0, "{opened:?}");
            }
            other => panic!("the first message is `opened`: {other:?}"),
        }
        stream
    }

    pub async fn send(&self, correlation_id: u64, produce: v1::ProduceRequest) {
        let request =
            v1::ProduceStreamRequest { correlation_id, produce: Some(produce), ..Default::default() };
        within("sending", self.requests.send(request)).await.unwrap();
    }

    /// The next message; none at a clean end.
    pub async fn next(&mut self) -> Option<Event> {
        let message = within("an answer", self.answers.message()).await.unwrap();
        message.map(|message| message.event.expect("a message says what happened"))
    }

    /// The next acknowledgement.
    pub async fn ack(&mut self) -> (u64, Outcome) {
        match self.next().await {
            Some(Event::Ack(ack)) => (ack.correlation_id, ack.outcome.expect("an ack has an outcome")),
            other => panic!("expected an ack: {other:?}"),
        }
    }
}

pub fn write(topic: &str, partition: i32, value: &str) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: topic.into(),
        partition: Some(partition),
        payload: Some(Payload::RecordBatch(batch(&[value.as_bytes()]))),
        acks: v1::Acks::All.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_are_appended_and_answered_in_order() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 2, &[]).await;
    let mut stream = Stream::open(&api).await;
    // More than waits in one window, to two partitions, some as plain records.
    for n in 0..500u64 {
        let value = n.to_string();
        let mut request = write("t", (n % 2) as i32, &value);
        if n % 5 == 0 {
            request.payload = Some(Payload::Records(records(&[&value])));
        }
        stream.send(1000 + n, request).await;
    }
    for n in 0..500u64 {
        let (correlation_id, outcome) = stream.ack().await;
        assert_eq!(correlation_id, 1000 + n);
        let Outcome::Response(response) = outcome else { panic!("{n}: {outcome:?}") };
        let result = &response.results[0];
        assert_eq!((result.partition, result.base_offset), ((n % 2) as i32, (n / 2) as i64));
        let durability = result.durability.as_ref().expect("the ack says what was reached");
        assert_eq!((durability.replicas, durability.fsynced), (1, true), "acks=all waits for stable storage");
    }
    drop(stream.requests);
    let end = within("the end", stream.answers.message()).await.unwrap();
    assert_eq!(end, None, "the half-closed stream ends with OK");
    for partition in 0..2 {
        let expected: Vec<Vec<u8>> = (0..250).map(|n| (2 * n + partition).to_string().into_bytes()).collect();
        assert_eq!(api.values("t", partition).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_refusal_does_not_end_the_stream() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    let mut stream = Stream::open(&api).await;
    let mut broken = write("t", 0, "broken");
    broken.payload = Some(Payload::RecordBatch(vec![0xff; 100].into()));
    let cases = [
        (write("t", 0, "first"), None),
        (write("none", 0, "x"), Some(ErrorCode::UnknownTopic)),
        (write("t", 3, "x"), Some(ErrorCode::UnknownPartition)),
        (broken, Some(ErrorCode::CorruptBatch)),
        (v1::ProduceRequest::default(), None),
        (write("t", 0, "second"), None),
    ];
    for (n, (request, _)) in cases.iter().enumerate() {
        stream.send(n as u64, request.clone()).await;
    }
    for (n, (request, expected)) in cases.iter().enumerate() {
        let (correlation_id, outcome) = stream.ack().await;
        assert_eq!(correlation_id, n as u64);
        match outcome {
            Outcome::Response(_) => {
                assert!(expected.is_none() && request.payload.is_some(), "{n} is not refused")
            }
            Outcome::Error(error) => {
                assert!(!error.message.is_empty());
                if let Some(code) = expected {
                    assert_eq!(error.code, *code as i32, "{error:?}");
                } else {
                    assert!(request.payload.is_none(), "{n}: {error:?}");
                }
            }
        }
    }
    drop(stream.requests);
    assert_eq!(within("the end", stream.answers.message()).await.unwrap(), None);
    assert_eq!(api.values("t", 0).await, [b"first".to_vec(), b"second".to_vec()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn acks_none_is_not_answered_and_acks_leader_is() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    let mut stream = Stream::open(&api).await;
    for (n, acks) in [v1::Acks::None, v1::Acks::Leader, v1::Acks::None, v1::Acks::All].into_iter().enumerate()
    {
        stream
            .send(n as u64, v1::ProduceRequest { acks: acks.into(), ..write("t", 0, &n.to_string()) })
            .await;
    }
    let (first, _) = stream.ack().await;
    let (second, outcome) = stream.ack().await;
    assert_eq!((first, second), (1, 3), "what asks for no ack gets none");
    let Outcome::Response(response) = outcome else { panic!("{outcome:?}") };
    assert_eq!(response.results[0].base_offset, 3, "it is written all the same, in its place");
    assert_eq!(api.values("t", 0).await, [b"0", b"1", b"2", b"3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn plain_records_are_placed_by_key_and_their_places_told() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 7, &[]).await;
    let keys = ["21", "foobar", "a-little-bit-long-string", "abc", "21", "foobar"];
    let record = |key: &&str| v1::Record {
        key: Some(bytes::Bytes::copy_from_slice(key.as_bytes())),
        value: Some("v".into()),
        ..Default::default()
    };
    let request = v1::ProduceRequest {
        topic: "t".into(),
        payload: Some(Payload::Records(v1::RecordSet { records: keys.iter().map(record).collect() })),
        ..Default::default()
    };
    let response = api.produce(request).await.unwrap();
    assert_eq!(response.positions.len(), keys.len());
    for (key, position) in keys.iter().zip(&response.positions) {
        let expected = thalweg_core::partitioner::partition_for_key(key.as_bytes(), 7).get();
        assert_eq!(position.partition, expected, "{key}: murmur2");
        let data = api.fetch("t", position.partition, position.offset).await.unwrap();
        let Some(v1::partition_data::Data::Records(set)) = data.data else { panic!("{data:?}") };
        assert_eq!(set.records[0].key.as_deref(), Some(key.as_bytes()));
    }
}
