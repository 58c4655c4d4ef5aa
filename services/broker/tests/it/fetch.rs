//! Fetch, FetchStream, Tail, ListOffsets and DeleteRecords.

use crate::harness::*;
use bytes::Bytes;
use std::time::{Duration, Instant};
use thalweg_core::ErrorCode;
use thalweg_core::batch::{BatchIter, ProducerStamp};
use thalweg_core::compression::Compression;
use thalweg_proto::v1;
use thalweg_proto::v1::fetch_stream_request::Command;
use thalweg_proto::v1::partition_data::Data;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

fn partition(topic: &str, partition: i32, offset: i64) -> v1::FetchPartition {
    v1::FetchPartition { topic: topic.into(), partition, offset, ..Default::default() }
}

fn values(data: &v1::PartitionData) -> Vec<Bytes> {
    match &data.data {
        Some(Data::Records(set)) => set.records.iter().filter_map(|record| record.value.clone()).collect(),
        Some(Data::RecordBatches(bytes)) => {
            let mut values = Vec::new();
            for batch in BatchIter::new(bytes) {
                let batch = batch.unwrap();
                batch.verify().unwrap();
                for record in batch.records(&mut Vec::new(), 1 << 20).unwrap() {
                    values.push(Bytes::copy_from_slice(record.unwrap().value.unwrap()));
                }
            }
            values
        }
        None => Vec::new(),
    }
}

async fn fill(cluster: &Cluster, topic: &str, partition: i32, values: &[&str]) {
    for value in values {
        cluster.produce(produce_batch(topic, partition, batch(&[value]), v1::Acks::All)).await.unwrap();
    }
}

#[tokio::test]
async fn a_long_poll_waits_for_its_bytes_and_no_longer() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 2, &[]).await;
    let poll = v1::FetchRequest {
        partitions: vec![partition("t", 0, 0), partition("t", 1, 0)],
        min_bytes: Some(200),
        max_wait_ms: Some(30_000),
        format: v1::RecordFormat::Batches as i32,
        ..Default::default()
    };
    let waiting = tokio::spawn({
        let mut consumer = cluster.consumer();
        async move { consumer.fetch(poll).await.unwrap().into_inner() }
    });
    fill(&cluster, "t", 0, &["a"]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished(), "one small batch is not enough");
    fill(&cluster, "t", 1, &["b", "c"]).await;
    let mut answer = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    answer.partitions.sort_by_key(|data| data.partition);
    assert_eq!(values(&answer.partitions[0]), ["a"]);
    assert!(values(&answer.partitions[1]).starts_with(&["b".into()]));

    let started = Instant::now();
    let empty = v1::FetchRequest {
        partitions: vec![partition("t", 0, 1)],
        max_wait_ms: Some(30),
        ..Default::default()
    };
    let answer = cluster.consumer().fetch(empty.clone()).await.unwrap().into_inner();
    assert_eq!(answer.partitions, []);
    assert!(started.elapsed() >= Duration::from_millis(30));
    let at_once = v1::FetchRequest { min_bytes: Some(0), max_wait_ms: Some(300_000), ..empty };
    assert_eq!(cluster.consumer().fetch(at_once).await.unwrap().into_inner().partitions, []);
}

#[tokio::test]
async fn reads_never_see_above_the_high_watermark() {
    // Catalogue 5: HW = LEO, then a segment roll, then uncommitted bytes in the new segment.
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[("segment.bytes", "1048576")]).await;
    let large = "x".repeat(700_000);
    fill(&cluster, "t", 0, &[&large]).await;
    cluster.storage.close_gate();
    for _ in 0..3 {
        cluster.produce(produce_batch("t", 0, batch(&[&large]), v1::Acks::Leader)).await.unwrap();
    }
    let log = cluster.broker.as_ref().unwrap().replicas().logs().logs().remove(0);
    assert!(log.segment_count() > 1 && log.log_end_offset().get() == 4);
    for format in [v1::RecordFormat::Records, v1::RecordFormat::Batches] {
        let request = v1::FetchRequest {
            partitions: vec![partition("t", 0, 0)],
            max_wait_ms: Some(0),
            format: format as i32,
            ..Default::default()
        };
        let answer = cluster.consumer().fetch(request).await.unwrap().into_inner();
        let data = &answer.partitions[0];
        assert_eq!((values(data).len(), data.next_offset, data.high_watermark), (1, 1, 1));
    }
    assert_eq!(cluster.end_offset("t", 0).await, 1);
    assert_eq!(cluster.values("t", 0).await.len(), 1);
    cluster.storage.open_gate();
}

#[tokio::test]
async fn the_first_batch_comes_whole_and_the_bounds_hold_for_the_rest() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let value = "x".repeat(1000);
    fill(&cluster, "t", 0, &[&value, &value, &value]).await;
    for (max_bytes, batches) in [(1, 1), (2500, 2), (100_000, 3)] {
        let mut wanted = partition("t", 0, 0);
        wanted.max_bytes = Some(max_bytes);
        let format = v1::RecordFormat::Batches as i32;
        let request = v1::FetchRequest { partitions: vec![wanted], format, ..Default::default() };
        let answer = cluster.consumer().fetch(request).await.unwrap().into_inner();
        assert_eq!(values(&answer.partitions[0]).len(), batches, "{max_bytes} bytes");
    }
}

#[tokio::test]
async fn a_compressed_batch_is_served_in_bounded_pieces() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let value = vec![0u8; 100_000];
    let sent = batch_with(&vec![&value[..]; 50], Compression::Zstd, ProducerStamp::NONE);
    assert!(sent.len() < 100_000);
    cluster.produce(produce_batch("t", 0, sent, v1::Acks::All)).await.unwrap();
    let (mut offset, mut pieces) = (0, 0);
    while offset < 50 {
        let request = v1::FetchRequest { partitions: vec![partition("t", 0, offset)], ..Default::default() };
        let answer = cluster.consumer().fetch(request).await.unwrap().into_inner();
        let data = &answer.partitions[0];
        assert!((1..=12).contains(&values(data).len()));
        (offset, pieces) = (data.next_offset, pieces + 1);
    }
    assert!(pieces >= 5);
}

struct Stream {
    commands: Option<mpsc::Sender<v1::FetchStreamRequest>>,
    answers: Streaming<v1::FetchStreamResponse>,
}

impl Stream {
    async fn open(cluster: &Cluster) -> Stream {
        let (commands, inbound) = mpsc::channel(16);
        let answers =
            cluster.consumer().fetch_stream(ReceiverStream::new(inbound)).await.unwrap().into_inner();
        Stream { commands: Some(commands), answers }
    }

    async fn start(cluster: &Cluster, max_chunk_bytes: u32) -> Stream {
        let mut stream = Stream::open(cluster).await;
        let format = v1::RecordFormat::Batches as i32;
        let max_chunk_bytes = Some(max_chunk_bytes);
        stream
            .say(Command::Start(v1::FetchStreamStart { format, max_chunk_bytes, ..Default::default() }))
            .await;
        stream
    }

    async fn say(&mut self, command: Command) {
        let request = v1::FetchStreamRequest { command: Some(command) };
        self.commands.as_ref().unwrap().send(request).await.unwrap();
    }

    async fn assign(&mut self, topic: &str, partition: i32, offset: i64, tag: u64) {
        let partition = v1::FetchStreamPartition { topic: topic.into(), partition, offset, tag };
        self.say(Command::Assign(v1::FetchStreamAssign { partitions: vec![partition] })).await;
    }

    async fn credit(&mut self, bytes: u64, records: Option<u64>) {
        self.say(Command::Credit(v1::FetchStreamCredit { bytes, records })).await;
    }

    async fn next(&mut self) -> Result<Option<v1::PartitionData>, Status> {
        let message = tokio::time::timeout(LONG, self.answers.message()).await.expect("data in time")?;
        Ok(message.and_then(|message| message.data))
    }

    async fn data(&mut self) -> v1::PartitionData {
        self.next().await.unwrap().expect("the stream goes on")
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.answers.message()).await.is_err()
    }
}

#[tokio::test]
async fn credits_are_respected() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let value = "x".repeat(1000);
    fill(&cluster, "t", 0, &[value.as_str(); 6]).await;
    let mut stream = Stream::start(&cluster, 1).await;
    stream.assign("t", 0, 0, 1).await;
    assert!(stream.is_silent().await, "no credit yet");
    // One message each: the first is whole and overdraws.
    stream.credit(1, None).await;
    assert_eq!(stream.data().await.next_offset, 1);
    assert!(stream.is_silent().await);
    // The overdraft first.
    stream.credit(1000, None).await;
    assert!(stream.is_silent().await);
    stream.credit(1 << 20, Some(2)).await;
    assert_eq!((stream.data().await.next_offset, stream.data().await.next_offset), (2, 3));
    assert!(stream.is_silent().await, "no records left");
    stream.credit(0, None).await;
    for next in 4..=6 {
        assert_eq!(stream.data().await.next_offset, next);
    }
    stream.commands = None;
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_waiting_stream_is_woken_by_what_is_committed() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 3, &[]).await;
    let mut stream = Stream::start(&cluster, 1 << 20).await;
    for index in 0..3 {
        stream.assign("t", index, 0, 10 + index as u64).await;
    }
    stream.credit(1 << 30, None).await;
    for (round, index) in [2, 0, 1, 2].into_iter().enumerate() {
        let value = format!("v{round}");
        fill(&cluster, "t", index, &[&value]).await;
        let data = stream.data().await;
        assert_eq!((data.partition, data.tag, values(&data)), (index, 10 + index as u64, vec![value.into()]));
    }
}

#[tokio::test]
async fn partitions_take_turns() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 2, &[]).await;
    for index in 0..2 {
        fill(&cluster, "t", index, &["a", "b", "c"]).await;
    }
    let mut stream = Stream::start(&cluster, 1).await;
    stream.assign("t", 0, 0, 0).await;
    stream.assign("t", 1, 0, 0).await;
    stream.credit(1 << 20, None).await;
    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(stream.data().await.partition);
    }
    assert_eq!(order, [0, 1, 0, 1, 0, 1]);
}

#[tokio::test]
async fn a_stream_seeks_unassigns_and_reports_each_partitions_error() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.topic("doomed", 1, &[]).await;
    fill(&cluster, "t", 0, &["a", "b"]).await;
    let mut stream = Stream::start(&cluster, 1).await;
    stream.credit(1 << 20, None).await;
    stream.assign("t", 9, 0, 5).await;
    let data = stream.data().await;
    assert_eq!((data.tag, data.error.unwrap().code()), (5, v1::ErrorCode::UnknownPartition));
    stream.assign("t", 0, 77, 6).await;
    let data = stream.data().await;
    let error = data.error.unwrap();
    assert_eq!((data.tag, error.code()), (6, v1::ErrorCode::OffsetOutOfRange));
    let range = error.offset_range.unwrap();
    assert_eq!((range.requested, range.log_start_offset, range.high_watermark), (77, 0, 2));
    // Read to the end, then back.
    stream.assign("t", 0, 1, 7).await;
    assert_eq!(stream.data().await.next_offset, 2);
    stream.assign("t", 0, 0, 8).await;
    let (first, second) = (stream.data().await, stream.data().await);
    assert_eq!((first.tag, first.next_offset, second.next_offset), (8, 1, 2));
    stream
        .say(Command::Unassign(v1::FetchStreamUnassign {
            partitions: vec![v1::UnassignedPartition { topic: "t".into(), partition: 0 }],
        }))
        .await;
    // The next assignment's answer shows that the command before was taken.
    stream.assign("doomed", 0, 0, 9).await;
    fill(&cluster, "doomed", 0, &["x"]).await;
    assert_eq!(stream.data().await.tag, 9);
    fill(&cluster, "t", 0, &["c"]).await;
    assert!(stream.is_silent().await, "unassigned");
    let names = vec!["doomed".to_owned()];
    cluster.admin().delete_topics(v1::DeleteTopicsRequest { names, validate_only: false }).await.unwrap();
    let data = stream.data().await;
    assert_eq!((data.tag, data.error.unwrap().code()), (9, v1::ErrorCode::UnknownTopic));
}

#[tokio::test]
async fn a_stream_must_begin_with_start() {
    let cluster = Cluster::start().await;
    let mut stream = Stream::open(&cluster).await;
    stream.credit(1, None).await;
    let error = api_error(&stream.next().await.unwrap_err());
    assert_eq!((error.code, error.field.as_deref()), (ErrorCode::InvalidRequest, Some("start")));
}

#[tokio::test]
async fn tail_starts_and_ends_where_it_is_told() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let at = now().as_millis() - 10_000;
    for n in 0..5 {
        let mut record = record(None, &n.to_string());
        record.timestamp_ms = Some(at + n * 1000);
        cluster.produce(produce_records("t", Some(0), vec![record])).await.unwrap();
    }
    let tail = |start: v1::TailStart, offset, timestamp_ms, max_records| {
        let request = v1::TailRequest {
            topic: "t".into(),
            start: start as i32,
            offset,
            timestamp_ms,
            max_records,
            until_end: true,
            ..Default::default()
        };
        let mut consumer = cluster.consumer();
        async move {
            let mut stream = consumer.tail(request).await?.into_inner();
            let mut offsets = Vec::new();
            while let Some(message) = stream.message().await? {
                assert!(!message.records.is_empty());
                offsets.extend(message.records.iter().map(|record| record.offset));
            }
            Ok::<_, Status>(offsets)
        }
    };
    use v1::TailStart as S;
    assert_eq!(tail(S::Earliest, 0, 0, 0).await.unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(tail(S::Earliest, 0, 0, 2).await.unwrap(), [0, 1]);
    assert_eq!(tail(S::Latest, 0, 0, 0).await.unwrap(), [] as [i64; 0]);
    assert_eq!(tail(S::Offset, 3, 0, 0).await.unwrap(), [3, 4]);
    assert_eq!(tail(S::Timestamp, 0, at + 1500, 0).await.unwrap(), [2, 3, 4]);
    assert_eq!(tail(S::Timestamp, 0, at + 99_000, 0).await.unwrap(), [] as [i64; 0]);
    let error = api_error(&tail(S::Offset, 9, 0, 0).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::OffsetOutOfRange);

    // From the end on, only what comes.
    let request = v1::TailRequest { topic: "t".into(), max_records: 1, ..Default::default() };
    let mut stream = cluster.consumer().tail(request).await.unwrap().into_inner();
    fill(&cluster, "t", 0, &["new"]).await;
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!((message.records[0].offset, message.records.len()), (5, 1));
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test]
async fn offsets_are_found_by_end_time_and_largest_time() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let at = now().as_millis() - 10_000;
    for (n, later) in [0, 2000, 1000].into_iter().enumerate() {
        let mut record = record(None, &n.to_string());
        record.timestamp_ms = Some(at + later);
        cluster.produce(produce_records("t", Some(0), vec![record])).await.unwrap();
    }
    let list = |spec: v1::OffsetSpec, timestamp_ms| {
        let wanted = v1::ListOffsetsPartition {
            topic: "t".into(),
            partition: 0,
            spec: spec as i32,
            timestamp_ms,
            min_leader_epoch: None,
        };
        let request = v1::ListOffsetsRequest { partitions: vec![wanted], ..Default::default() };
        let mut consumer = cluster.consumer();
        async move {
            let result = consumer.list_offsets(request).await.unwrap().into_inner().results.remove(0);
            (result.offset, result.timestamp_ms)
        }
    };
    use v1::OffsetSpec as S;
    assert_eq!(list(S::Earliest, 0).await, (0, -1));
    assert_eq!(list(S::Latest, 0).await, (3, -1));
    assert_eq!(list(S::Timestamp, at + 1).await, (1, at + 2000));
    assert_eq!(list(S::Timestamp, at + 5000).await, (-1, -1));
    assert_eq!(list(S::MaxTimestamp, 0).await, (1, at + 2000));
    // What is not committed is not found.
    cluster.storage.close_gate();
    let mut newest = record(None, "n");
    newest.timestamp_ms = Some(at + 9000);
    let mut request = produce_records("t", Some(0), vec![newest]);
    request.acks = v1::Acks::Leader as i32;
    cluster.produce(request).await.unwrap();
    assert_eq!(list(S::Timestamp, at + 5000).await, (-1, -1));
}

#[tokio::test]
async fn deleted_records_are_out_of_range() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    fill(&cluster, "t", 0, &["a", "b", "c"]).await;
    let delete_of = |topic: &str, before_offset| {
        let wanted = v1::DeleteRecordsPartition { topic: topic.into(), partition: 0, before_offset };
        let request = v1::DeleteRecordsRequest { partitions: vec![wanted], ..Default::default() };
        let mut admin = cluster.admin();
        async move {
            let answer = admin.delete_records(request).await.map_err(|status| api_error(&status));
            answer.map(|answer| answer.into_inner().results[0].log_start_offset)
        }
    };
    let delete = |before_offset| delete_of("t", before_offset);
    assert_eq!(delete(2).await.unwrap(), 2);
    assert_eq!(cluster.values("t", 0).await, [(2, "c".into())]);
    let request = v1::FetchRequest { partitions: vec![partition("t", 0, 0)], ..Default::default() };
    let error = api_error(&cluster.consumer().fetch(request).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::OffsetOutOfRange);
    assert_eq!(code(delete(4).await), ErrorCode::OffsetOutOfRange);
    assert_eq!(code(delete(-2).await), ErrorCode::InvalidRequest);
    assert_eq!(delete(-1).await.unwrap(), 3);
    // What is in force in a compacted topic may be old.
    cluster.topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    assert_eq!(code(delete_of("compacted", -1).await), ErrorCode::PolicyViolation);
    cluster.topic("both", 1, &[("cleanup.policy", "compact,delete")]).await;
    assert_eq!(delete_of("both", -1).await.unwrap(), 0);
}

#[tokio::test]
async fn answers_share_a_budget_and_give_it_back_when_they_are_sent() {
    let cluster = Cluster::start_with(|config| config.limits.fetch_answers_bytes = 1).await;
    cluster.topic("t", 2, &[]).await;
    for partition in 0..2 {
        cluster.produce(produce_batch("t", partition, batch(&["a"]), v1::Acks::All)).await.unwrap();
    }
    let wanted =
        |partition| v1::FetchPartition { topic: "t".into(), partition, offset: 0, ..Default::default() };
    let request = v1::FetchRequest { partitions: vec![wanted(0), wanted(1)], ..Default::default() };
    for _ in 0..3 {
        let fetched = async {
            loop {
                match cluster.consumer().fetch(request.clone()).await {
                    Ok(answer) => break answer.into_inner(),
                    // The one before is on its last way out.
                    Err(status) => assert_eq!(api_error(&status).code, ErrorCode::Throttled),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let answer = tokio::time::timeout(LONG, fetched).await.unwrap();
        let found: Vec<_> = answer.partitions.iter().map(|data| data.partition).collect();
        assert_eq!(found, [0], "the first read uses the budget up");
    }
}

/// A leader that was cut off does not know what others have written since; readers that know more must not be told to begin anew.
#[tokio::test]
async fn an_offset_beyond_the_end_is_told_only_by_a_leader_that_is_sure_to_lead() {
    use std::sync::atomic::Ordering;
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    fill(&cluster, "t", 0, &["a", "b"]).await;
    let routing = v1::Routing::LeaderOnly as i32;
    let mut stream = Stream::open(&cluster).await;
    stream.say(Command::Start(v1::FetchStreamStart { routing, ..Default::default() })).await;
    stream.credit(1 << 20, None).await;
    let fetch = |offset| {
        let mut consumer = cluster.consumer();
        let partitions = vec![partition("t", 0, offset)];
        let request = v1::FetchRequest { partitions, max_wait_ms: Some(0), routing, ..Default::default() };
        async move { consumer.fetch(request).await.map(drop).map_err(|status| api_error(&status).code) }
    };
    // Its heartbeats are answered as ever. But nobody can say how far the metadata is, or it is further than this broker's.
    let troubles: [fn(&Cluster, bool); 2] = [
        |cluster, on| cluster.controller.uncertain.store(on, Ordering::Relaxed),
        |cluster, on| cluster.controller.ahead.store(u64::from(on) * 1_000, Ordering::Relaxed),
    ];
    for (tag, trouble) in (0..).zip(troubles) {
        trouble(&cluster, true);
        stream.assign("t", 0, 77, tag).await;
        let told = stream.data().await;
        let code = told.error.unwrap().code();
        assert_eq!((told.tag, code), (tag, v1::ErrorCode::OffsetNotAvailable));
        assert_eq!(fetch(77).await, Err(ErrorCode::OffsetNotAvailable));
        // What is there is there, whoever leads.
        assert_eq!(fetch(1).await, Ok(()));
        trouble(&cluster, false);
        let begun = Instant::now();
        while fetch(77).await != Err(ErrorCode::OffsetOutOfRange) {
            assert!(begun.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stream.assign("t", 0, 77, tag).await;
        assert_eq!(stream.data().await.error.unwrap().code(), v1::ErrorCode::OffsetOutOfRange);
    }
}

/// Controllers from before the question, as in the middle of an upgrade: then heartbeats have to do.
#[tokio::test]
async fn an_offset_beyond_the_end_is_told_with_old_controllers_as_well() {
    use std::sync::atomic::Ordering;
    let cluster = Cluster::start().await;
    cluster.controller.old.store(true, Ordering::Relaxed);
    cluster.topic("t", 1, &[]).await;
    fill(&cluster, "t", 0, &["a"]).await;
    let fetched = |code: ErrorCode| {
        let mut consumer = cluster.consumer();
        let routing = v1::Routing::LeaderOnly as i32;
        let partitions = vec![partition("t", 0, 77)];
        let request = v1::FetchRequest { partitions, max_wait_ms: Some(0), routing, ..Default::default() };
        let fetched = async move {
            while api_error(&consumer.fetch(request.clone()).await.unwrap_err()).code != code {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LONG, fetched)
    };
    fetched(ErrorCode::OffsetOutOfRange).await.unwrap();
}

#[tokio::test]
async fn refusals_come_for_many_partitions_at_once() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 100, &[]).await;
    let partitions: Vec<_> = (0..100).map(|index| partition("t", index, 77)).collect();
    let routing = v1::Routing::LeaderOnly as i32;
    let request = v1::FetchRequest { partitions, max_wait_ms: Some(0), routing, ..Default::default() };
    let answer = cluster.consumer().fetch(request).await.unwrap().into_inner();
    let out_of_range = |data: &v1::PartitionData| {
        data.error.as_ref().is_some_and(|error| error.code() == v1::ErrorCode::OffsetOutOfRange)
    };
    assert_eq!(answer.partitions.iter().filter(|data| out_of_range(data)).count(), 100);
}

#[tokio::test]
async fn a_refusal_does_not_wait_behind_the_data_of_other_partitions() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 2, &[]).await;
    // More than lies on the way between a broker and a slow client.
    let (batches, large) = (64, "x".repeat(256 * 1024));
    for _ in 0..batches {
        fill(&cluster, "t", 0, &[&large]).await;
    }
    let mut stream = Stream::open(&cluster).await;
    let (routing, format) = (v1::Routing::LeaderOnly as i32, v1::RecordFormat::Batches as i32);
    let max_chunk_bytes = Some(256 * 1024);
    let start = v1::FetchStreamStart { routing, format, max_chunk_bytes, ..Default::default() };
    stream.say(Command::Start(start)).await;
    stream.credit(1 << 30, None).await;
    stream.assign("t", 0, 0, 0).await;
    stream.assign("t", 1, 77, 1).await;
    let mut next_offset = 0;
    loop {
        let data = stream.data().await;
        if data.partition == 1 {
            assert_eq!(data.error.unwrap().code(), v1::ErrorCode::OffsetOutOfRange);
            break;
        }
        next_offset = data.next_offset;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(next_offset < batches, "it came behind all the data");
}
