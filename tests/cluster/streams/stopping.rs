//! A clean stop ends every stream and loses nothing that was acknowledged.

use super::fetch_stream;
use super::produce_stream::{self, write};
use crate::harness::{Api, Dev, batch, dump_verify_all, fetch_request, within};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use thalweg_proto::v1::{self, produce_stream_ack::Outcome, produce_stream_response::Event};
use tonic::{Code, Status};

/// The pace of a reader that the server is always ahead of.
const SLOWLY: Duration = Duration::from_millis(5);

/// How a stream may end that the server ends: cleanly, or with a status that says to go elsewhere.
fn check_end(what: &str, end: Result<(), Status>) {
    let Err(status) = end else { return };
    println!("{what} ended with {:?}: {}", status.code(), status.message());
    assert!(matches!(status.code(), Code::Unavailable | Code::Cancelled), "{what}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_all_streams_and_keeps_what_was_acknowledged() {
    let mut dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    api.create_topic("quiet", 1, &[]).await;

    // One of each kind is open: a producer in full swing, and readers that wait.
    let mut producer = produce_stream::Stream::open(&api).await;
    let requests = producer.requests.clone();
    let feeder = tokio::spawn(async move {
        for n in 0.. {
            let request = v1::ProduceStreamRequest {
                correlation_id: n,
                produce: Some(write("t", 0, &n.to_string())),
                ..Default::default()
            };
            if requests.send(request).await.is_err() {
                break;
            }
        }
    });
    let mut reader = fetch_stream::Stream::open(&api, v1::RecordFormat::Records).await;
    reader.assign("quiet", 0, 0, 1).await;
    reader.credit(1 << 20, None).await;
    let tail = v1::TailRequest { topic: "quiet".into(), ..Default::default() };
    let mut tail = within("Tail", api.consumer.clone().tail(tail)).await.unwrap().into_inner();
    let watch = v1::WatchMetadataRequest::default();
    let mut watch =
        within("WatchMetadata", api.cluster.clone().watch_metadata(watch)).await.unwrap().into_inner();
    let poll =
        v1::FetchRequest { min_bytes: Some(1), max_wait_ms: Some(300_000), ..fetch_request("quiet", 0, 0) };
    let mut waiting = api.consumer.clone();
    let poll = tokio::spawn(async move { waiting.fetch(poll).await });

    let mut acknowledged = 0;
    while acknowledged < 200 {
        let (n, Outcome::Response(response)) = producer.ack().await else { panic!("all is well so far") };
        assert_eq!((n, response.results[0].base_offset), (acknowledged, acknowledged as i64));
        acknowledged += 1;
    }
    dev.terminate();

    let end = loop {
        match within("the producer's end", producer.answers.message()).await {
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
            Ok(Some(v1::ProduceStreamResponse { event: Some(Event::Ack(ack)) })) => {
                match ack.outcome.unwrap() {
                    Outcome::Response(response) => {
                        assert_eq!(
                            response.results[0].base_offset, acknowledged as i64,
                            "in order to the last"
                        );
                        acknowledged += 1;
                    }
                    Outcome::Error(error) => {
                        assert_eq!(error.code, ErrorCode::ShuttingDown as i32, "{error:?}")
                    }
                }
            }
            Ok(Some(other)) => panic!("{other:?}"),
        }
    };
    check_end("ProduceStream", end);
    check_end("FetchStream", within("the reader's end", reader.answers.message()).await.map(drop));
    check_end("Tail", within("the tail's end", tail.message()).await.map(drop));
    let end = loop {
        match within("the watch's end", watch.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    check_end("WatchMetadata", end);
    match within("the long poll's end", poll).await.unwrap() {
        Ok(_) => {}
        Err(status) => {
            let code = ApiError::from_status(&status).map(|error| error.code);
            assert!(code.is_none_or(|code| code == ErrorCode::ShuttingDown), "{status:?}");
            check_end("Fetch", Err(status));
        }
    }
    drop(producer);
    within("the feeder's end", feeder).await.unwrap();
    let status = dev.wait();
    assert!(status.success(), "{status}: {}", dev.stderr_tail());
    println!("{acknowledged} acknowledged");
    let log = dev.stderr_tail();
    assert!(!log.contains("cut connections"), "the streams ended by themselves: {log}");

    dump_verify_all(dev.data_dir());
    dev.restart();
    let api = Api::connect(&dev).await;
    let values = api.values("t", 0).await;
    assert!(values.len() as u64 >= acknowledged, "{} of {acknowledged} acknowledged are there", values.len());
    for (n, value) in values.iter().enumerate() {
        assert_eq!(value, n.to_string().as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_with_a_long_way_to_go_are_stopped_on_their_way() {
    const BATCHES: usize = 300;
    const BATCH: usize = 100_000;
    let mut dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[("write.caching", "true")]).await;
    for _ in 0..BATCHES {
        api.produce_batch("t", 0, batch(&[&[b'x'; BATCH]])).await.unwrap();
    }
    let mut reader = fetch_stream::Stream::open(&api, v1::RecordFormat::Batches).await;
    reader.credit(u64::MAX / 2, None).await;
    reader.assign("t", 0, 0, 1).await;
    let tail =
        v1::TailRequest { topic: "t".into(), start: v1::TailStart::Earliest.into(), ..Default::default() };
    let other = Api::connect(&dev).await;
    let mut tail = within("Tail", other.consumer.clone().tail(tail)).await.unwrap().into_inner();
    reader.next().await;
    within("a message", tail.message()).await.unwrap();
    dev.terminate();

    let (mut chunks, mut records) = (1, 1);
    while let Ok(Some(_)) = within("data or the end", reader.answers.message()).await {
        chunks += 1;
        tokio::time::sleep(SLOWLY).await;
    }
    while let Ok(Some(message)) = within("data or the end", tail.message()).await {
        records += message.records.len();
        tokio::time::sleep(SLOWLY).await;
    }
    println!("{chunks} chunks and {records} records were on their way");
    assert!(
        chunks < BATCHES && records < BATCHES,
        "{chunks} chunks, {records} records of {BATCHES}: all were sent"
    );
    drop((reader, tail, api, other));
    let status = dev.wait();
    assert!(status.success(), "{status}: {}", dev.stderr_tail());
    let log = dev.stderr_tail();
    assert!(!log.contains("cut connections"), "they ended by themselves: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_when_nobody_is_there_is_clean_and_repeatable() {
    let mut dev = Dev::start();
    for _ in 0..3 {
        dev.stop();
        assert!(
            dev.data_dir().join("logs").join(".kafka_cleanshutdown").is_file(),
            "the marker of a clean stop"
        );
        dev.restart();
        assert!(!dev.data_dir().join("logs").join(".kafka_cleanshutdown").exists(), "it counts once");
    }
}
