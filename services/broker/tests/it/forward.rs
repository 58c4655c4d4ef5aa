//! One endpoint is enough: every call at any broker of three.

use crate::brokers::*;
use crate::harness::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thalweg_core::{ErrorCode, partitioner};
use thalweg_proto::v1;
use thalweg_proto::v1::consumer_service_client::ConsumerServiceClient;
use thalweg_proto::v1::fetch_stream_request::Command;
use thalweg_proto::v1::partition_data::Data;
use thalweg_proto::v1::producer_service_client::ProducerServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const THREE: &[&[i32]] = &[&[0], &[1], &[2]];

fn keyed(count: usize) -> Vec<v1::Record> {
    (0..count).map(|n| record(Some(&format!("k{n}")), &n.to_string())).collect()
}

#[tokio::test]
async fn a_batch_reaches_its_leader_from_any_broker() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    for via in 0..3 {
        for partition in 0..3 {
            let value = format!("{via}{partition}");
            let request = produce_batch("t", partition, batch(&[&value]), v1::Acks::All);
            let answer = brokers.produce(via, request).await.unwrap();
            assert_eq!(
                (answer.results[0].partition, answer.results[0].base_offset),
                (partition, i64::from(via))
            );
        }
    }
    let expected: Vec<_> =
        (0..3).flat_map(|p| (0..3).map(move |v| (p, i64::from(v), format!("{v}{p}")))).collect();
    for via in 0..3 {
        assert_eq!(brokers.values(via, "t", &[]).await, expected, "at {via}");
    }
}

#[tokio::test]
async fn keyed_records_are_split_over_the_leaders_and_told_where_they_went() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", &[&[0], &[1], &[2], &[0], &[1]]).await;
    let answer = brokers.produce(1, produce_records("t", None, keyed(50))).await.unwrap();
    assert!(answer.results.iter().all(|result| result.error.is_none()));
    let values = brokers.values(2, "t", &[]).await;
    assert_eq!(values.len(), 50);
    for (n, position) in answer.positions.iter().enumerate() {
        let partition = partitioner::partition_for_key(format!("k{n}").as_bytes(), 5).get();
        assert_eq!(position.partition, partition);
        assert!(values.contains(&(position.partition, position.offset, n.to_string())), "{n}");
    }
    // Records without key go to one partition, wherever that is led.
    for _ in 0..8 {
        let records = vec![record(None, "x"), record(None, "y")];
        let answer = brokers.produce(0, produce_records("t", None, records)).await.unwrap();
        assert_eq!((answer.results.len(), answer.positions.len()), (1, 2));
        assert_eq!(answer.positions[0].offset + 1, answer.positions[1].offset);
    }
}

#[tokio::test]
async fn one_leader_that_refuses_does_not_hide_what_the_others_wrote() {
    let brokers = Brokers::start(2).await;
    brokers.topic("t", &[&[0], &[1]]).await;
    brokers.members[&1].storage.sim.set_capacity(Some(brokers.members[&1].storage.sim.used_bytes()));
    let large: Vec<_> = (0..20).map(|n| record(Some(&format!("k{n}")), &"x".repeat(40_000))).collect();
    let answer = brokers.produce(0, produce_records("t", None, large)).await.unwrap();
    let failed: Vec<_> = answer.results.iter().map(|r| (r.partition, r.error.is_some())).collect();
    assert!(failed.contains(&(0, false)) && failed.contains(&(1, true)), "{failed:?}");
    assert!(answer.positions.iter().all(|at| (at.offset < 0) == (at.partition == 1)));
}

#[tokio::test]
async fn leader_only_calls_and_what_another_broker_sent_are_never_forwarded() {
    let brokers = Brokers::start(2).await;
    brokers.topic("t", &[&[0], &[1]]).await;
    let any = produce_batch("t", 1, batch(&["a"]), v1::Acks::All);
    let only = v1::ProduceRequest { routing: v1::Routing::LeaderOnly as i32, ..any.clone() };
    let refused = brokers.produce(0, only).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotLeader);
    assert!(refused.detail.is_some());

    let internal = connect(&brokers.handle(0).internal_addr().to_string()).await;
    let mut producer = ProducerServiceClient::new(internal.clone());
    let refused = api_error(&producer.produce(any).await.unwrap_err());
    assert_eq!(refused.code, ErrorCode::NotLeader);
    let wanted = v1::FetchPartition { topic: "t".into(), partition: 1, ..Default::default() };
    let request = v1::FetchRequest { partitions: vec![wanted], ..Default::default() };
    let refused = api_error(&ConsumerServiceClient::new(internal).fetch(request).await.unwrap_err());
    assert_eq!(refused.code, ErrorCode::NotLeader);
}

#[tokio::test]
async fn bad_requests_are_refused_the_same_at_any_broker() {
    let brokers = Brokers::start(2).await;
    brokers.topic("t", &[&[0], &[1]]).await;
    for via in 0..2 {
        let produce = |request| brokers.produce(via, request);
        let unknown = produce_batch("nowhere", 0, batch(&["a"]), v1::Acks::All);
        assert_eq!(code(produce(unknown).await), ErrorCode::UnknownTopic);
        let missing = produce_batch("t", 7, batch(&["a"]), v1::Acks::All);
        assert_eq!(code(produce(missing).await), ErrorCode::UnknownPartition);
        let mut broken = batch(&["a"]).to_vec();
        broken[20] ^= 1;
        for partition in 0..2 {
            let broken = produce_batch("t", partition, broken.clone().into(), v1::Acks::All);
            assert_eq!(code(produce(broken).await), ErrorCode::CorruptBatch);
        }
        let mut without = produce_batch("t", 0, batch(&["a"]), v1::Acks::All);
        without.partition = None;
        assert_eq!(code(produce(without).await), ErrorCode::InvalidRequest);
        let wanted = v1::FetchPartition { topic: "t".into(), partition: 1, offset: 99, ..Default::default() };
        let request = v1::FetchRequest { partitions: vec![wanted], ..Default::default() };
        let refused = api_error(&brokers.consumer(via).fetch(request).await.unwrap_err());
        assert_eq!(refused.code, ErrorCode::OffsetOutOfRange);
        assert!(refused.detail.is_some(), "the valid range comes along");
    }
    assert_eq!(brokers.values(0, "t", &[]).await, []);
}

#[tokio::test]
async fn a_write_waits_for_a_leader_and_is_made_once() {
    let brokers = Brokers::start(2).await;
    brokers.topic("t", &[&[0], &[1]]).await;
    brokers.controller.keeps_fenced.store(true, Ordering::Relaxed);
    brokers.controller.fence(1);
    let version = brokers.controller.image().version().get();
    brokers.settled(version).await;
    let short =
        v1::ProduceRequest { timeout_ms: 100, ..produce_batch("t", 1, batch(&["late"]), v1::Acks::All) };
    assert_eq!(code(brokers.produce(0, short).await), ErrorCode::LeaderNotAvailable);
    let waiting = brokers.produce(0, produce_batch("t", 1, batch(&["a"]), v1::Acks::All));
    let returns = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        brokers.controller.keeps_fenced.store(false, Ordering::Relaxed);
    };
    let (answer, ()) = tokio::join!(waiting, returns);
    assert_eq!(answer.unwrap().results[0].base_offset, 0);
    assert_eq!(brokers.values(0, "t", &[1]).await, [(1, 0, "a".into())]);
}

#[tokio::test]
async fn a_leader_that_is_gone_is_an_error_by_the_deadline() {
    let mut brokers = Brokers::start(2).await;
    brokers.topic("t", &[&[0], &[1]]).await;
    // The controllers do not notice.
    brokers.controller.deaf.store(true, Ordering::Relaxed);
    brokers.stop(1).await.unwrap();
    assert_eq!(brokers.controller.image().topic("t").unwrap().partitions[1].leader.get(), 1);
    let request =
        v1::ProduceRequest { timeout_ms: 300, ..produce_batch("t", 1, batch(&["a"]), v1::Acks::All) };
    let refused = brokers.produce(0, request).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::LeaderNotAvailable, "{refused}");
}

struct Produced {
    requests: Option<mpsc::Sender<v1::ProduceStreamRequest>>,
    answers: Streaming<v1::ProduceStreamResponse>,
}

impl Produced {
    async fn open(brokers: &Brokers, via: i32) -> Produced {
        let (requests, queued) = mpsc::channel(1000);
        let answers = brokers.producer(via).produce_stream(ReceiverStream::new(queued)).await.unwrap();
        let mut stream = Produced { requests: Some(requests), answers: answers.into_inner() };
        let opened = stream.answers.message().await.unwrap().unwrap().event;
        assert!(matches!(opened, Some(v1::produce_stream_response::Event::Opened(_))));
        stream
    }

    async fn send(&self, correlation_id: u64, produce: v1::ProduceRequest) {
        let request =
            v1::ProduceStreamRequest { correlation_id, produce: Some(produce), ..Default::default() };
        self.requests.as_ref().unwrap().send(request).await.unwrap();
    }

    /// Half-closes, and returns every answer: its name, and the base offset or the code.
    async fn finish(mut self) -> Vec<(u64, Result<i64, i32>)> {
        self.requests = None;
        let mut acks = Vec::new();
        while let Some(message) = tokio::time::timeout(LONG, self.answers.message()).await.unwrap().unwrap() {
            let Some(v1::produce_stream_response::Event::Ack(ack)) = message.event else { panic!() };
            let outcome = match ack.outcome.unwrap() {
                v1::produce_stream_ack::Outcome::Response(response) => Ok(response.results[0].base_offset),
                v1::produce_stream_ack::Outcome::Error(error) => Err(error.code),
            };
            acks.push((ack.correlation_id, outcome));
        }
        acks
    }
}

#[tokio::test]
async fn a_produce_stream_writes_to_every_leader_in_order() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    let stream = Produced::open(&brokers, 0).await;
    // Runs of one partition, and changes of it at every step.
    let partitions: Vec<i32> = (0..60).map(|n| if n < 30 { n / 10 } else { n % 3 }).collect();
    for (n, partition) in partitions.iter().enumerate() {
        let request = produce_batch("t", *partition, batch(&[&format!("{n:02}")]), v1::Acks::All);
        stream.send(n as u64, request).await;
    }
    stream.send(60, produce_batch("nowhere", 0, batch(&["x"]), v1::Acks::All)).await;
    stream.send(61, produce_batch("t", 1, batch(&["silent"]), v1::Acks::None)).await;
    stream.send(62, produce_records("t", None, keyed(9))).await;
    let acks = stream.finish().await;
    let names: Vec<_> = acks.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, (0..61).chain([62]).collect::<Vec<u64>>(), "in order, and none for acks=none");
    assert_eq!(acks[60].1, Err(ErrorCode::UnknownTopic as i32));
    assert!(acks.iter().all(|(name, outcome)| *name == 60 || outcome.is_ok()), "{acks:?}");
    for partition in 0..3 {
        let values = brokers.values(1, "t", &[partition]).await;
        let sent = partitions.iter().enumerate().filter(|(_, p)| **p == partition);
        let sent: Vec<_> = sent.map(|(n, _)| format!("{n:02}")).collect();
        let written: Vec<_> = values.iter().map(|(.., value)| value.clone()).take(sent.len()).collect();
        assert_eq!(written, sent);
    }
    assert_eq!(brokers.values(2, "t", &[]).await.len(), 60 + 1 + 9);
}

#[tokio::test]
async fn a_produce_stream_outlives_a_change_of_the_leader() {
    let brokers = Brokers::start(3).await;
    // The replicas are empty, so that any of them may lead.
    brokers.topic("t", &[&[1, 2]]).await;
    brokers.controller.fence(2);
    brokers.settled(brokers.controller.image().version().get()).await;
    let stream = Produced::open(&brokers, 0).await;
    stream.send(0, produce_batch("t", 0, batch(&["a"]), v1::Acks::Leader)).await;
    stream.send(1, produce_batch("t", 0, batch(&["b"]), v1::Acks::Leader)).await;
    let acks = stream.finish().await;
    assert_eq!(acks, [(0, Ok(0)), (1, Ok(1))]);
}

#[tokio::test]
async fn a_fetch_gathers_what_several_leaders_have() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    for partition in 0..3 {
        let value = partition.to_string();
        brokers.produce(0, produce_batch("t", partition, batch(&[&value]), v1::Acks::All)).await.unwrap();
    }
    let wanted = |partition| v1::FetchPartition { topic: "t".into(), partition, ..Default::default() };
    let request = |partitions: Vec<_>| v1::FetchRequest { partitions, ..Default::default() };
    let all = request(vec![wanted(2), wanted(0), wanted(1), wanted(9)]);
    let answer = brokers.consumer(1).fetch(all).await.unwrap().into_inner();
    let mut found: Vec<_> = answer.partitions.iter().map(|p| (p.partition, p.next_offset)).collect();
    found.sort_unstable();
    assert_eq!(found, [(0, 1), (1, 1), (2, 1), (9, -1)]);
    for data in answer.partitions.iter().filter(|data| data.error.is_none()) {
        let Some(Data::Records(set)) = &data.data else { panic!("{data:?}") };
        assert_eq!(value(&set.records[0]), data.partition.to_string());
    }
}

#[tokio::test]
async fn a_long_poll_ends_with_what_any_leader_gets() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    for partitions in [vec![1], vec![0, 1, 2]] {
        let start = brokers.values(0, "t", &[1]).await.len() as i64;
        let wanted = |partition: &i32| {
            let offset = if *partition == 1 { start } else { 0 };
            v1::FetchPartition { topic: "t".into(), partition: *partition, offset, ..Default::default() }
        };
        let request = v1::FetchRequest {
            partitions: partitions.iter().map(wanted).collect(),
            max_wait_ms: Some(20_000),
            ..Default::default()
        };
        let mut consumer = brokers.consumer(0);
        let produce = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            brokers.produce(2, produce_batch("t", 1, batch(&["a"]), v1::Acks::All)).await.unwrap();
        };
        let (answer, ()) = tokio::join!(tokio::time::timeout(LONG, consumer.fetch(request)), produce);
        let answer = answer.unwrap().unwrap().into_inner();
        let found: Vec<_> = answer.partitions.iter().map(|p| (p.partition, p.next_offset)).collect();
        assert_eq!(found, [(1, start + 1)]);
    }
}

#[tokio::test]
async fn offsets_are_listed_and_records_deleted_in_the_order_of_the_request() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    for partition in 0..3 {
        let values = vec!["x"; 1 + partition as usize];
        brokers.produce(0, produce_batch("t", partition, batch(&values), v1::Acks::All)).await.unwrap();
    }
    let order = [2, 0, 9, 1];
    let wanted = |partition| v1::ListOffsetsPartition { topic: "t".into(), partition, ..Default::default() };
    let request = v1::ListOffsetsRequest { partitions: order.map(wanted).into(), ..Default::default() };
    let listed = brokers.consumer(1).list_offsets(request).await.unwrap().into_inner().results;
    let offsets: Vec<_> = listed.iter().map(|result| (result.partition, result.offset)).collect();
    assert_eq!(offsets, [(2, 3), (0, 1), (9, -1), (1, 2)]);
    assert_eq!(listed[2].error.as_ref().unwrap().code, ErrorCode::UnknownPartition as i32);

    let cut = |partition| v1::DeleteRecordsPartition { topic: "t".into(), partition, before_offset: -1 };
    let request = v1::DeleteRecordsRequest { partitions: order.map(cut).into(), ..Default::default() };
    let deleted = brokers.admin(0).delete_records(request).await.unwrap().into_inner().results;
    let starts: Vec<_> = deleted.iter().map(|result| (result.partition, result.log_start_offset)).collect();
    assert_eq!(starts, [(2, 3), (0, 1), (9, -1), (1, 2)]);
    let request = v1::ListOffsetsRequest { partitions: vec![wanted(2)], ..Default::default() };
    assert_eq!(brokers.consumer(0).list_offsets(request).await.unwrap().into_inner().results[0].offset, 3);
    let too_far = v1::DeleteRecordsPartition { topic: "t".into(), partition: 1, before_offset: 7 };
    let request = v1::DeleteRecordsRequest { partitions: vec![too_far], ..Default::default() };
    let refused = api_error(&brokers.admin(0).delete_records(request).await.unwrap_err());
    assert_eq!(refused.code, ErrorCode::OffsetOutOfRange);
}

#[tokio::test]
async fn a_tail_follows_every_leader_and_stops_where_it_was_told() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    let tail = |max_records, start: v1::TailStart, offset| v1::TailRequest {
        topic: "t".into(),
        start: start as i32,
        offset,
        max_records,
        ..Default::default()
    };
    let mut latest = brokers.consumer(0).tail(tail(6, v1::TailStart::Latest, 0)).await.unwrap().into_inner();
    for n in 0..2 {
        for partition in 0..3 {
            let value = format!("{partition}{n}");
            brokers.produce(1, produce_batch("t", partition, batch(&[&value]), v1::Acks::All)).await.unwrap();
        }
    }
    let mut values = Vec::new();
    while let Some(message) = tokio::time::timeout(LONG, latest.message()).await.unwrap().unwrap() {
        values.extend(message.records.iter().map(|r| (message.partition, value(r))));
    }
    values.sort();
    let expected: Vec<_> = (0..3).flat_map(|p| (0..2).map(move |n| (p, format!("{p}{n}")))).collect();
    assert_eq!(values, expected);
    let mut second = brokers.consumer(2).tail(tail(3, v1::TailStart::Offset, 1)).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(message) = tokio::time::timeout(LONG, second.message()).await.unwrap().unwrap() {
        assert!(message.records.iter().all(|record| record.offset == 1));
        count += message.records.len();
    }
    assert_eq!(count, 3);
    let refused = brokers.consumer(1).tail(tail(0, v1::TailStart::Offset, 9)).await.unwrap_err();
    assert_eq!(api_error(&refused).code, ErrorCode::OffsetOutOfRange);
}

struct Fetched {
    commands: mpsc::Sender<v1::FetchStreamRequest>,
    answers: Streaming<v1::FetchStreamResponse>,
}

impl Fetched {
    async fn open(brokers: &Brokers, via: i32, format: v1::RecordFormat) -> Fetched {
        let (commands, queued) = mpsc::channel(100);
        let start = v1::FetchStreamStart { format: format as i32, ..Default::default() };
        let start = v1::FetchStreamRequest { command: Some(Command::Start(start)) };
        commands.send(start).await.unwrap();
        let answers = brokers.consumer(via).fetch_stream(ReceiverStream::new(queued)).await.unwrap();
        Fetched { commands, answers: answers.into_inner() }
    }

    async fn say(&self, command: Command) {
        self.commands.send(v1::FetchStreamRequest { command: Some(command) }).await.unwrap();
    }

    async fn assign(&self, partition: i32, offset: i64, tag: u64) {
        let wanted = v1::FetchStreamPartition { topic: "t".into(), partition, offset, tag };
        self.say(Command::Assign(v1::FetchStreamAssign { partitions: vec![wanted] })).await;
    }

    async fn allow(&self, bytes: u64) {
        self.say(Command::Credit(v1::FetchStreamCredit { bytes, records: None })).await;
    }

    async fn next(&mut self) -> v1::PartitionData {
        tokio::time::timeout(LONG, self.answers.message()).await.unwrap().unwrap().unwrap().data.unwrap()
    }
}

#[tokio::test]
async fn a_fetch_stream_reads_every_leader_as_far_as_its_credit_goes() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    for format in [v1::RecordFormat::Records, v1::RecordFormat::Batches] {
        let mut stream = Fetched::open(&brokers, 0, format).await;
        let from = brokers.values(0, "t", &[0]).await.len() as i64;
        for partition in 0..3 {
            stream.assign(partition, from, 10 + partition as u64).await;
        }
        for n in 0..20 {
            for partition in 0..3 {
                let value = format!("{partition}{n}");
                brokers
                    .produce(1, produce_batch("t", partition, batch(&[&value]), v1::Acks::All))
                    .await
                    .unwrap();
            }
        }
        // Without credit nothing comes.
        assert!(tokio::time::timeout(Duration::from_millis(50), stream.answers.message()).await.is_err());
        let mut next = [from; 3];
        while next != [from + 20; 3] {
            stream.allow(1).await;
            let data = stream.next().await;
            assert_eq!((data.error.clone(), data.tag), (None, 10 + data.partition as u64));
            assert!(data.next_offset > next[data.partition as usize]);
            next[data.partition as usize] = data.next_offset;
            // The last message overdrew: that has to be paid first.
            let paid = match data.data.unwrap() {
                Data::Records(set) => {
                    let sizes = set.records.iter().map(|record| 24 + record.value.as_ref().unwrap().len());
                    sizes.sum::<usize>()
                }
                Data::RecordBatches(bytes) => bytes.len(),
            };
            stream.allow(paid as u64 - 1).await;
        }
        stream.assign(2, 3, 99).await;
        stream.allow(1).await;
        let data = stream.next().await;
        assert_eq!((data.partition, data.tag), (2, 99), "a seek");
        stream.assign(7, 0, 5).await;
        let refused = stream.next().await;
        assert_eq!((refused.tag, refused.error.unwrap().code), (5, ErrorCode::UnknownPartition as i32));
    }
}

#[tokio::test]
async fn a_fetch_stream_follows_its_partition_to_another_leader() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", &[&[1, 2]]).await;
    let mut stream = Fetched::open(&brokers, 0, v1::RecordFormat::Records).await;
    stream.assign(0, 0, 7).await;
    stream.allow(1 << 20).await;
    // Nobody has written yet, so the second replica may take over as it is.
    brokers.controller.fence(1);
    brokers.settled(brokers.controller.image().version().get()).await;
    let request = produce_batch("t", 0, batch(&["a"]), v1::Acks::Leader);
    let answer = brokers.produce(0, request).await.unwrap();
    assert_eq!(answer.results[0].base_offset, 0);
    let leader = brokers.controller.image().topic("t").unwrap().partitions[0].leader;
    assert_eq!(leader.get(), 2);
    // What it wrote is committed once the first replica is out of the ISR, or has it.
    let data = stream.next().await;
    assert_eq!((data.partition, data.tag, data.next_offset), (0, 7, 1));
}

#[tokio::test]
async fn many_commands_at_once_are_all_obeyed() {
    const PARTITIONS: i32 = 200;
    let brokers = Brokers::start(2).await;
    let replicas: Vec<[i32; 1]> = (0..PARTITIONS).map(|n| [n % 2]).collect();
    brokers.topic("t", &replicas.iter().map(|ids| ids.as_slice()).collect::<Vec<_>>()).await;
    let written = brokers.produce(0, produce_records("t", None, keyed(3000))).await.unwrap();
    assert!(written.results.len() == PARTITIONS as usize, "every partition has some");
    let mut stream = Fetched::open(&brokers, 0, v1::RecordFormat::Records).await;
    for tag in 1..4 {
        for partition in 0..PARTITIONS {
            stream.assign(partition, 0, tag).await;
        }
        let all = (0..PARTITIONS).map(|partition| v1::UnassignedPartition { topic: "t".into(), partition });
        stream.say(Command::Unassign(v1::FetchStreamUnassign { partitions: all.collect() })).await;
    }
    for partition in 0..PARTITIONS {
        stream.assign(partition, 0, 9).await;
    }
    stream.allow(1 << 30).await;
    let mut seen = vec![0; PARTITIONS as usize];
    while seen.iter().sum::<usize>() < 3000 {
        let data = stream.next().await;
        assert_eq!((data.tag, data.error), (9, None));
        let Some(Data::Records(set)) = data.data else { panic!() };
        seen[data.partition as usize] += set.records.len();
    }
    assert!(seen.iter().all(|records| *records > 0));
}
