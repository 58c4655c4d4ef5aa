//! FetchStream: as far as the credits go.

use crate::harness::{Api, Dev, batch, within};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::v1::{
    self, FetchStreamAssign, FetchStreamCredit, FetchStreamPartition, FetchStreamStart, FetchStreamUnassign,
    fetch_stream_request::Command, partition_data::Data,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Long enough for anything that would come against the credits to come.
const SILENCE: Duration = Duration::from_millis(400);

pub struct Stream {
    commands: Option<mpsc::Sender<v1::FetchStreamRequest>>,
    pub answers: Streaming<v1::FetchStreamResponse>,
}

impl Stream {
    /// Opens one that gets one stored batch a message.
    pub async fn open(api: &Api, format: v1::RecordFormat) -> Stream {
        let (commands, receiver) = mpsc::channel(100);
        let start =
            FetchStreamStart { format: format.into(), max_chunk_bytes: Some(1), ..Default::default() };
        let first = v1::FetchStreamRequest { command: Some(Command::Start(start)) };
        commands.send(first).await.unwrap();
        let call =
            within("FetchStream", api.consumer.clone().fetch_stream(ReceiverStream::new(receiver))).await;
        Stream { commands: Some(commands), answers: call.unwrap().into_inner() }
    }

    pub async fn send(&self, command: Command) {
        let commands = self.commands.as_ref().expect("the stream is open");
        commands.send(v1::FetchStreamRequest { command: Some(command) }).await.unwrap();
    }

    pub async fn assign(&self, topic: &str, partition: i32, offset: i64, tag: u64) {
        let partition = FetchStreamPartition { topic: topic.into(), partition, offset, tag };
        self.send(Command::Assign(FetchStreamAssign { partitions: vec![partition] })).await;
    }

    pub async fn credit(&self, bytes: u64, records: Option<u64>) {
        self.send(Command::Credit(FetchStreamCredit { bytes, records })).await;
    }

    pub async fn next(&mut self) -> v1::PartitionData {
        let message = within("data", self.answers.message()).await.unwrap().expect("the stream goes on");
        message.data.expect("a message has data")
    }

    pub async fn nothing_comes(&mut self) {
        let early = tokio::time::timeout(SILENCE, self.answers.message()).await;
        assert!(early.is_err(), "nothing may come now: {early:?}");
    }

    /// Half-closes it; the server ends it with OK. Data may come before that.
    pub async fn close(mut self) {
        self.commands = None;
        while within("the end", self.answers.message()).await.unwrap().is_some() {}
    }
}

fn values(data: &v1::PartitionData) -> Vec<&[u8]> {
    match &data.data {
        Some(Data::Records(set)) => {
            set.records.iter().map(|record| record.value.as_deref().unwrap()).collect()
        }
        other => panic!("plain records: {other:?}"),
    }
}

/// A topic with batches of one record each: "0", "1", ...
async fn numbered(api: &Api, topic: &str, count: usize) {
    api.create_topic(topic, 2, &[]).await;
    for n in 0..count {
        api.produce_batch(topic, 0, batch(&[n.to_string().as_bytes()])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_is_sent_beyond_the_credits() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    numbered(&api, "t", 30).await;
    let mut stream = Stream::open(&api, v1::RecordFormat::Records).await;
    stream.assign("t", 0, 3, 77).await;
    stream.nothing_comes().await;

    stream.credit(1 << 20, Some(5)).await;
    for n in 3..8 {
        let data = stream.next().await;
        assert_eq!((data.tag, data.partition, data.next_offset), (77, 0, n + 1));
        assert_eq!(values(&data), [n.to_string().as_bytes()]);
        assert_eq!((data.log_start_offset, data.high_watermark), (0, 30));
    }
    stream.nothing_comes().await;
    stream.credit(0, Some(2)).await;
    for n in 8..10 {
        assert_eq!(values(&stream.next().await), [n.to_string().as_bytes()]);
    }
    stream.nothing_comes().await;

    // Without a number of records only bytes count; the last message may overdraw.
    stream
        .send(Command::Unassign(FetchStreamUnassign {
            partitions: vec![v1::UnassignedPartition { topic: "t".into(), partition: 0 }],
        }))
        .await;
    stream.credit(1 << 20, None).await;
    stream.nothing_comes().await;
    stream.assign("t", 0, 28, 78).await;
    for n in 28..30 {
        let data = stream.next().await;
        assert_eq!((data.tag, values(&data)), (78, vec![n.to_string().as_bytes()]));
    }
    stream.nothing_comes().await;
    api.produce_values("t", 0, &["fresh"]).await.unwrap();
    assert_eq!(values(&stream.next().await), [b"fresh"], "it goes on as records come");
    stream.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn byte_credits_end_too() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    for _ in 0..10 {
        api.produce_batch("t", 0, batch(&[&[b'x'; 1000]])).await.unwrap();
    }
    let mut stream = Stream::open(&api, v1::RecordFormat::Batches).await;
    stream.assign("t", 0, 0, 1).await;
    stream.credit(2500, None).await;
    for n in 0..3 {
        let data = stream.next().await;
        let Some(Data::RecordBatches(bytes)) = &data.data else {
            panic!("batches as they are stored: {data:?}")
        };
        let header = thalweg_core::batch::check_crc(bytes).unwrap();
        assert_eq!((header.base_offset.get(), header.record_count), (n, 1));
    }
    stream.nothing_comes().await;
    stream.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn seeking_and_bad_partitions_leave_the_others_alone() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    numbered(&api, "t", 5).await;
    let mut stream = Stream::open(&api, v1::RecordFormat::Records).await;
    stream.credit(1 << 30, None).await;
    for (topic, partition, offset, reason) in [
        ("none", 0, 0, ErrorCode::UnknownTopic),
        ("t", 9, 0, ErrorCode::UnknownPartition),
        ("t", 0, 6, ErrorCode::OffsetOutOfRange),
    ] {
        stream.assign(topic, partition, offset, 5).await;
        let data = stream.next().await;
        let error = data.error.expect("it says why");
        assert_eq!((data.topic.as_str(), data.partition, data.tag), (topic, partition, 5));
        assert_eq!(error.code, reason as i32, "{error:?}");
        if reason == ErrorCode::OffsetOutOfRange {
            let range = error.offset_range.expect("it says what may be asked for");
            assert_eq!((range.requested, range.log_start_offset, range.high_watermark), (6, 0, 5));
        }
    }
    stream.assign("t", 0, 4, 6).await;
    assert_eq!(stream.next().await.tag, 6);
    stream.assign("t", 0, 0, 7).await;
    for n in 0..5 {
        let data = stream.next().await;
        assert_eq!((data.tag, values(&data)), (7, vec![n.to_string().as_bytes()]), "back to the beginning");
    }
    stream.assign("t", 1, 0, 8).await;
    api.produce_values("t", 1, &["in the other"]).await.unwrap();
    let data = stream.next().await;
    assert_eq!((data.partition, data.tag), (1, 8));
    stream.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_that_does_not_begin_with_start_is_refused() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let (commands, receiver) = mpsc::channel(1);
    let credit = FetchStreamCredit { bytes: 1, records: None };
    commands.send(v1::FetchStreamRequest { command: Some(Command::Credit(credit)) }).await.unwrap();
    let call = within("FetchStream", api.consumer.clone().fetch_stream(ReceiverStream::new(receiver))).await;
    let status = match call {
        Err(status) => status,
        Ok(answers) => within("a refusal", answers.into_inner().message()).await.unwrap_err(),
    };
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
}
