//! ProduceStream.

use crate::harness::*;
use futures_util::FutureExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::v1;
use thalweg_proto::v1::produce_stream_ack::Outcome;
use thalweg_proto::v1::produce_stream_response::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

struct Stream {
    requests: Option<mpsc::Sender<v1::ProduceStreamRequest>>,
    answers: Streaming<v1::ProduceStreamResponse>,
    next: u64,
}

impl Stream {
    async fn open(cluster: &Cluster) -> (Stream, v1::ProduceStreamOpened) {
        let (requests, inbound) = mpsc::channel(1);
        let answers = cluster.producer().produce_stream(ReceiverStream::new(inbound)).await.unwrap();
        let mut stream = Stream { requests: Some(requests), answers: answers.into_inner(), next: 0 };
        match stream.event().await.unwrap() {
            Some(Event::Opened(opened)) => (stream, opened),
            other => panic!("{other:?}"),
        }
    }

    async fn send(&mut self, produce: v1::ProduceRequest) -> u64 {
        let correlation_id = self.next;
        self.next += 1;
        let request =
            v1::ProduceStreamRequest { correlation_id, produce: Some(produce), ..Default::default() };
        self.requests.as_ref().unwrap().send(request).await.unwrap();
        correlation_id
    }

    async fn event(&mut self) -> Result<Option<Event>, Status> {
        let message = tokio::time::timeout(LONG, self.answers.message()).await.expect("an answer in time");
        Ok(message?.and_then(|message| message.event))
    }

    /// The next ack: its correlation id, and the base offset or the code.
    async fn ack(&mut self) -> (u64, Result<i64, ErrorCode>) {
        match self.event().await.unwrap() {
            Some(Event::Ack(ack)) => {
                let outcome = match ack.outcome.unwrap() {
                    Outcome::Response(response) => Ok(response.results[0].base_offset),
                    Outcome::Error(error) => Err(ErrorCode::from_number(error.code).unwrap()),
                };
                (ack.correlation_id, outcome)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn acks_come_in_order_and_a_refusal_does_not_end_the_stream() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let (mut stream, opened) = Stream::open(&cluster).await;
    assert!(opened.max_in_flight_bytes > 0 && opened.max_request_bytes > 8 << 20);
    stream.send(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await;
    stream.send(produce_batch("nowhere", 0, batch(&["b"]), v1::Acks::All)).await;
    stream.send(produce_batch("t", 0, batch(&["c"]), v1::Acks::None)).await;
    stream.send(produce_batch("t", 7, batch(&["d"]), v1::Acks::None)).await;
    stream.send(produce_batch("t", 0, batch(&["e"]), v1::Acks::Leader)).await;
    assert_eq!(stream.ack().await, (0, Ok(0)));
    assert_eq!(stream.ack().await, (1, Err(ErrorCode::UnknownTopic)));
    assert_eq!(stream.ack().await, (4, Ok(2)));
    stream.requests = None;
    assert_eq!(stream.event().await.unwrap(), None);
}

#[tokio::test]
async fn a_weaker_ack_waits_for_the_stronger_one_before_it() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let (mut stream, _) = Stream::open(&cluster).await;
    stream.send(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await;
    stream.send(produce_batch("t", 0, batch(&["b"]), v1::Acks::Leader)).await;
    let early = tokio::time::timeout(Duration::from_millis(50), stream.answers.message()).await;
    assert!(early.is_err(), "nothing is stable yet");
    cluster.storage.open_gate();
    assert_eq!((stream.ack().await, stream.ack().await), ((0, Ok(0)), (1, Ok(1))));
}

#[tokio::test]
async fn a_half_closed_stream_answers_what_is_open() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let (mut stream, _) = Stream::open(&cluster).await;
    for value in ["a", "b", "c"] {
        stream.send(produce_batch("t", 0, batch(&[value]), v1::Acks::All)).await;
    }
    stream.requests = None;
    cluster.storage.open_gate();
    for n in 0..3 {
        assert_eq!(stream.ack().await, (n, Ok(n as i64)));
    }
    assert_eq!(stream.event().await.unwrap(), None);
}

#[tokio::test]
async fn a_timeout_on_a_stream_is_one_refused_request() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let (mut stream, _) = Stream::open(&cluster).await;
    let mut request = produce_batch("t", 0, batch(&["a"]), v1::Acks::All);
    request.timeout_ms = 20;
    stream.send(request).await;
    assert_eq!(stream.ack().await, (0, Err(ErrorCode::RequestTimedOut)));
    cluster.storage.open_gate();
    stream.send(produce_batch("t", 0, batch(&["b"]), v1::Acks::All)).await;
    assert_eq!(stream.ack().await, (1, Ok(1)));
}

#[tokio::test]
async fn backpressure_bounds_what_is_in_flight() {
    const BATCH: usize = 256 * 1024;
    const LIMIT: usize = 1024 * 1024;
    const COUNT: u64 = 64;
    // Small windows, so that the transport itself holds little.
    let cluster = Cluster::start_with(|config| {
        config.limits.stream_in_flight_bytes = LIMIT;
        config.server.stream_window = 64 * 1024;
        config.server.connection_window = 128 * 1024;
    })
    .await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let (mut stream, opened) = Stream::open(&cluster).await;
    assert_eq!(opened.max_in_flight_bytes, LIMIT as u64);
    let sent = Arc::new(AtomicUsize::new(0));
    let requests = stream.requests.take().unwrap();
    let sender = tokio::spawn({
        let sent = Arc::clone(&sent);
        async move {
            let sent_batch = batch(&[&"x".repeat(BATCH)]);
            for correlation_id in 0..COUNT {
                let produce = Some(produce_batch("t", 0, sent_batch.clone(), v1::Acks::All));
                requests
                    .send(v1::ProduceStreamRequest { correlation_id, produce, ..Default::default() })
                    .await
                    .unwrap();
                sent.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let in_flight = || async {
        let request = v1::DescribeBrokerRequest {};
        let broker = cluster.cluster().describe_broker(request).await.unwrap().into_inner();
        broker.in_flight_bytes as usize
    };
    while in_flight().await < LIMIT {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Time enough for more, if nothing held it back.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(in_flight().await <= LIMIT + 2 * BATCH, "{} in flight", in_flight().await);
    // In flight, on the way in the transport's buffers, and in the client's channel.
    let count = sent.load(Ordering::SeqCst);
    assert!(count <= LIMIT / BATCH + 8, "{count} sent");
    cluster.storage.open_gate();
    for n in 0..COUNT {
        assert_eq!(stream.ack().await, (n, Ok(n as i64)));
    }
    sender.await.unwrap();
}

#[tokio::test]
async fn the_whole_brokers_budget_stops_streams_from_being_read() {
    let cluster = Cluster::start_with(|config| config.limits.in_flight_bytes = 1).await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let (mut first, _) = Stream::open(&cluster).await;
    let (mut second, _) = Stream::open(&cluster).await;
    second.send(produce_batch("t", 0, batch(&["z"]), v1::Acks::Leader)).await;
    assert_eq!(second.ack().await, (0, Ok(0)));
    first.send(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await;
    let in_flight = || async {
        let request = v1::DescribeBrokerRequest {};
        cluster.cluster().describe_broker(request).await.unwrap().into_inner().in_flight_bytes
    };
    while in_flight().await == 0 {
        tokio::task::yield_now().await;
    }
    // It waited for this message already when there was room; the next one it does not read.
    second.send(produce_batch("t", 0, batch(&["b"]), v1::Acks::Leader)).await;
    assert_eq!(second.ack().await, (1, Ok(2)));
    second.send(produce_batch("t", 0, batch(&["c"]), v1::Acks::Leader)).await;
    let early = tokio::time::timeout(Duration::from_millis(50), second.answers.message()).await;
    assert!(early.is_err(), "not read before the first is answered");
    cluster.storage.open_gate();
    assert_eq!(first.ack().await, (0, Ok(1)));
    assert_eq!(second.ack().await, (2, Ok(3)));
    while in_flight().await > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_shutdown_answers_what_was_appended_and_says_why_it_ends() {
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let (mut stream, _) = Stream::open(&cluster).await;
    stream.send(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await;
    let broker = cluster.broker.take().unwrap();
    while broker.replicas().logs().logs()[0].log_end_offset().get() == 0 {
        tokio::task::yield_now().await;
    }
    cluster.shutdown.trigger();
    let joined = tokio::spawn(broker.join());
    assert!(stream.answers.message().now_or_never().is_none(), "not stable yet");
    cluster.storage.open_gate();
    assert_eq!(stream.ack().await, (0, Ok(0)));
    let end = api_error(&stream.event().await.unwrap_err());
    assert_eq!(end.code, ErrorCode::ShuttingDown);
    joined.await.unwrap().unwrap();
    cluster.restart().await;
    assert_eq!(cluster.values("t", 0).await, [(0, "a".into())]);
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_the_stream_with_the_reason() {
    let cluster = Cluster::start_with(|config| config.limits.max_request_bytes = 4096).await;
    cluster.topic("t", 1, &[]).await;
    let (mut stream, _) = Stream::open(&cluster).await;
    stream.send(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await;
    stream.send(produce_batch("t", 0, batch(&[&"x".repeat(5000)]), v1::Acks::All)).await;
    assert_eq!(stream.ack().await, (0, Ok(0)));
    assert_eq!(api_error(&stream.event().await.unwrap_err()).code, ErrorCode::MessageTooLarge);
    let unary = cluster.produce(produce_batch("t", 0, batch(&[&"x".repeat(5000)]), v1::Acks::All)).await;
    assert_eq!(code(unary), ErrorCode::MessageTooLarge);
}
