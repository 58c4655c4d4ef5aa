//! What a producer promises, whatever the leader does.

use super::cluster::{Cluster, Fault, TOPIC};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_client::{
    Acks, Client, ClientConfig, ClientError, Compression, Delivery, DeliveryError, Header, OwnedHeader,
    OwnedRecord, Producer, ProducerConfig, ProducerInterceptor, ProducerRecord, RecordMetadata, SendError,
    TypedProducer, serializers,
};
use thalweg_core::{ErrorCode, Offset, PartitionId};

fn config() -> ProducerConfig {
    ProducerConfig {
        linger: Duration::from_millis(1),
        batch_size: 300,
        retry_backoff: Duration::from_millis(5),
        retry_backoff_max: Duration::from_millis(20),
        ..ProducerConfig::default()
    }
}

fn value(index: usize) -> Vec<u8> {
    format!("record {index:06}").into_bytes()
}

async fn send_all(producer: &Producer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::with_capacity(count);
    for index in 0..count {
        deliveries.push(producer.send(ProducerRecord::new(TOPIC).value(&value(index))).await.unwrap());
    }
    deliveries
}

/// Sends records under these faults; every one must be there once, in order, where its delivery says.
async fn exactly_once(count: usize, faults: Vec<Fault>) -> Arc<Cluster> {
    let cluster = Cluster::start(1).await;
    cluster.faults(faults);
    let producer = cluster.client().await.producer(config()).await.unwrap();
    let deliveries = send_all(&producer, count).await;
    producer.close().await.unwrap();
    let written = cluster.lock().logs[0].values();
    let expected: Vec<Vec<u8>> = (0..count).map(value).collect();
    assert_eq!(written, expected);
    for (index, delivery) in deliveries.into_iter().enumerate() {
        let offset = delivery.await.unwrap().offset;
        assert!(offset == Offset(index as i64) || offset == Offset::NONE, "record {index} at {offset}");
    }
    cluster
}

#[tokio::test]
async fn records_arrive_in_order_where_their_deliveries_say() {
    exactly_once(500, vec![]).await;
}

#[tokio::test]
async fn a_broken_stream_neither_loses_nor_repeats() {
    use Fault::{Break, None, WriteAndBreak};
    exactly_once(
        500,
        vec![None, None, WriteAndBreak, Break, None, WriteAndBreak, WriteAndBreak, None, Break],
    )
    .await;
}

#[tokio::test]
async fn the_leader_is_followed() {
    use Fault::{Move, None};
    let cluster = exactly_once(500, vec![None, Move, None, None, Move, Move, None, Move]).await;
    assert_eq!(cluster.lock().epochs[0], 4);
}

#[tokio::test]
async fn a_named_leader_is_followed_at_once_whatever_is_in_flight() {
    let cluster = Cluster::start(1).await;
    // Time for other batches to be in flight behind the one that hears of the move.
    cluster.faults([Fault::None, Fault::Wait(300), Fault::Move]);
    let pause = Duration::from_secs(60);
    let config = ProducerConfig { retry_backoff: pause, retry_backoff_max: pause, ..config() };
    let producer = cluster.client().await.producer(config).await.unwrap();
    drop(send_all(&producer, 300).await);
    let closed = tokio::time::timeout(Duration::from_secs(20), producer.close()).await;
    closed.expect("the producer pauses").unwrap();
    assert_eq!(cluster.lock().logs[0].values().len(), 300);
}

#[tokio::test]
async fn what_is_retriable_is_retried_in_order() {
    let refuse = Fault::Refuse(ErrorCode::NotEnoughReplicas);
    let after = Fault::WriteAndRefuse(ErrorCode::NotEnoughReplicasAfterAppend);
    let cluster = exactly_once(300, vec![refuse, Fault::None, after, after, Fault::None, refuse]).await;
    assert_eq!(cluster.lock().producer_epoch, 0, "no new epoch was needed");
}

#[tokio::test]
async fn a_producer_that_the_leader_forgot_goes_on_under_a_new_epoch() {
    let forgot = Fault::Refuse(ErrorCode::UnknownProducerId);
    let cluster = exactly_once(300, vec![Fault::None, Fault::None, forgot]).await;
    assert_eq!(cluster.lock().producer_epoch, 1);
}

#[tokio::test]
async fn new_epochs_are_asked_for_with_pauses_between() {
    let cluster = Cluster::start(1).await;
    cluster.faults(vec![Fault::Refuse(ErrorCode::UnknownProducerId); 10_000]);
    let config = ProducerConfig {
        retry_backoff: Duration::from_millis(100),
        request_timeout: Duration::from_millis(500),
        delivery_timeout: Duration::from_secs(1),
        ..config()
    };
    let config = ProducerConfig { retry_backoff_max: config.retry_backoff, ..config };
    let producer = cluster.client().await.producer(config).await.unwrap();
    let delivery = producer.send(ProducerRecord::new(TOPIC)).await.unwrap();
    assert!(matches!(delivery.await, Err(DeliveryError::TimedOut { .. })));
    // About a dozen pauses go into a second; without them there are hundreds of epochs.
    let epochs = cluster.lock().producer_epoch;
    assert!((1..60).contains(&epochs), "{epochs}");
}

#[tokio::test]
async fn a_refused_batch_fails_alone() {
    let cluster = Cluster::start(1).await;
    cluster.faults([Fault::None, Fault::Refuse(ErrorCode::InvalidTimestamp)]);
    let producer = cluster.client().await.producer(config()).await.unwrap();
    let deliveries = send_all(&producer, 200).await;
    producer.close().await.unwrap();
    let (mut failed, mut written) = (0, Vec::new());
    for (index, delivery) in deliveries.into_iter().enumerate() {
        match delivery.await {
            Ok(_) => written.push(value(index)),
            Err(error) => {
                assert_eq!(error.code(), Some(ErrorCode::InvalidTimestamp));
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && failed < 100, "{failed}");
    let state = cluster.lock();
    assert_eq!(state.logs[0].values(), written);
    assert_eq!(state.producer_epoch, 1);
}

#[tokio::test]
async fn failed_records_are_counted_though_nobody_looks_at_their_deliveries() {
    let cluster = Cluster::start(1).await;
    let refuse = |code| Fault::Refuse(code);
    cluster.faults([refuse(ErrorCode::InvalidTimestamp), Fault::None, refuse(ErrorCode::CorruptBatch)]);
    let producer = cluster.client().await.producer(config()).await.unwrap();
    let clone = producer.clone();
    assert!(clone.failed_records() == 0 && clone.first_failure().is_none());
    drop(send_all(&producer, 200).await);
    producer.close().await.unwrap();
    let written = cluster.lock().logs[0].values().len();
    assert!((1..200).contains(&written), "{written}");
    assert_eq!(clone.failed_records(), 200 - written as u64);
    assert_eq!(clone.first_failure().unwrap().code(), Some(ErrorCode::InvalidTimestamp));
}

#[tokio::test]
async fn records_of_partitions_that_a_new_topic_does_not_have_are_told_so() {
    let cluster = Cluster::start(3).await;
    let config = ProducerConfig { linger: Duration::from_secs(20), ..config() };
    let producer = cluster.client().await.producer(config).await.unwrap();
    let to = |partition| ProducerRecord::new(TOPIC).partition(PartitionId(partition));
    // One waits for its linger; the other is tried again and again.
    let waiting = producer.send(to(1)).await.unwrap();
    cluster.faults(vec![Fault::Refuse(ErrorCode::LeaderNotAvailable); 5_000]);
    let tried = producer.send(to(2).value(&[0; 400])).await.unwrap();
    {
        let mut state = cluster.lock();
        state.topic_id = "2".repeat(32);
        state.leaders.truncate(1);
    }
    for (partition, delivery) in [(1, waiting), (2, tried)] {
        let outcome = tokio::time::timeout(Duration::from_secs(20), delivery).await;
        let error = outcome.expect("nobody tells").unwrap_err();
        let expected = format!("created again with 1 partitions; partition {partition} is gone");
        assert!(error.to_string().contains(&expected), "{error}");
        let error = producer.send(to(partition)).await.unwrap_err();
        assert!(error.to_string().contains("it has 1"), "{error}");
    }
    cluster.lock().faults.clear();
    let left = producer.send(to(0)).await.unwrap();
    producer.close().await.unwrap();
    left.await.unwrap();
}

#[tokio::test]
async fn close_does_not_wait_for_a_stream_that_nobody_needs() {
    let cluster = Cluster::start(2).await;
    cluster.lock().hang_open = true;
    let producer = cluster.client().await.producer(config()).await.unwrap();
    let to = |partition| ProducerRecord::new(TOPIC).partition(PartitionId(partition));
    let waiting = producer.send(to(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    {
        let mut state = cluster.lock();
        state.topic_id = "2".repeat(32);
        state.leaders.truncate(1);
    }
    // The producer asks for the topic again, and learns that the record's partition is gone.
    producer.send(to(5)).await.unwrap_err();
    waiting.await.unwrap_err();
    let closed = tokio::time::timeout(Duration::from_secs(15), producer.close()).await;
    closed.expect("close waits for the stream").unwrap();
}

#[tokio::test]
async fn a_batch_that_is_too_old_to_be_known_counts_as_delivered() {
    let cluster = Cluster::start(1).await;
    cluster.faults([Fault::WriteAndRefuse(ErrorCode::DuplicateSequence)]);
    let producer = cluster.client().await.producer(config()).await.unwrap();
    let delivery = producer.send(ProducerRecord::new(TOPIC)).await.unwrap();
    assert_eq!(delivery.await.unwrap().offset, Offset::NONE);
}

#[tokio::test]
async fn a_batch_above_the_topics_limit_is_split() {
    let cluster = Cluster::start(1).await;
    cluster.lock().max_batch = 200;
    for compression in [Compression::None, Compression::Lz4] {
        let config = ProducerConfig { batch_size: 4_000, compression, ..config() };
        let producer = cluster.client().await.producer(config).await.unwrap();
        let before = cluster.lock().logs[0].values().len();
        let deliveries = send_all(&producer, 60).await;
        let large = ProducerRecord::new(TOPIC).partition(PartitionId(0));
        let noise: Vec<u8> = (0..900u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let large = producer.send(large.value(&noise)).await.unwrap();
        assert_eq!(large.await.unwrap_err().code(), Some(ErrorCode::MessageTooLarge));
        for (index, delivery) in deliveries.into_iter().enumerate() {
            assert_eq!(delivery.await.unwrap().offset, Offset((before + index) as i64));
        }
        let expected: Vec<Vec<u8>> = (0..60).map(value).collect();
        assert_eq!(cluster.lock().logs[0].values()[before..], expected);
    }
}

#[tokio::test]
async fn time_runs_out_with_a_reason() {
    let cluster = Cluster::start(1).await;
    cluster.faults([Fault::Refuse(ErrorCode::StorageError); 500]);
    let config = ProducerConfig {
        delivery_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_millis(200),
        ..config()
    };
    let producer = cluster.client().await.producer(config).await.unwrap();
    let delivery = producer.send(ProducerRecord::new(TOPIC).value(b"late")).await.unwrap();
    let error = delivery.await.unwrap_err();
    assert!(matches!(error, DeliveryError::TimedOut { .. }), "{error}");
    assert_eq!(error.code(), Some(ErrorCode::StorageError));
    cluster.lock().faults.clear();
    let next = producer.send(ProducerRecord::new(TOPIC).value(b"in time")).await.unwrap();
    next.await.unwrap();
    // The first may have been on its way when its time ran out; it is never written behind the second.
    let written = cluster.lock().logs[0].values();
    assert!(
        written == [b"in time".to_vec()] || written == [b"late".to_vec(), b"in time".to_vec()],
        "{written:?}"
    );
}

#[tokio::test]
async fn a_leader_that_never_answers_is_left() {
    let cluster = Cluster::start(1).await;
    cluster.faults([Fault::None, Fault::Hang]);
    let config = ProducerConfig { request_timeout: Duration::from_millis(100), ..config() };
    let producer = cluster.client().await.producer(config).await.unwrap();
    let deliveries = send_all(&producer, 100).await;
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    let expected: Vec<Vec<u8>> = (0..100).map(value).collect();
    assert_eq!(cluster.lock().logs[0].values(), expected);
}

#[tokio::test]
async fn a_full_buffer_is_told_or_waited_for() {
    let cluster = Cluster::start(1).await;
    cluster.faults([Fault::Wait(300)]);
    let config = ProducerConfig { buffer_memory: 1_500, max_block: Duration::from_millis(50), ..config() };
    let producer = cluster.client().await.producer(config).await.unwrap();
    let record = value(0);
    let record = ProducerRecord::new(TOPIC).value(&record);
    let not_ready = producer.try_send(record).unwrap_err();
    assert!(matches!(not_ready, SendError::MetadataNotReady { .. }) && not_ready.retriable());
    producer.prepare(TOPIC).await.unwrap();
    let mut taken = 0;
    while producer.try_send(record).is_ok() {
        taken += 1;
    }
    assert!((10..200).contains(&taken), "{taken}");
    let full = producer.send(record).await.unwrap_err();
    assert!(
        matches!(full, SendError::BufferFull { waited, .. } if waited >= Duration::from_millis(50)),
        "{full}"
    );
    producer.flush().await.unwrap();
    producer.send(record).await.unwrap();
    producer.close().await.unwrap();
    assert_eq!(cluster.lock().logs[0].values().len(), taken + 1);
}

#[tokio::test]
async fn memory_pressure_sends_what_lingers() {
    let cluster = Cluster::start(8).await;
    let config = ProducerConfig { linger: Duration::from_secs(20), buffer_memory: 1_000, ..config() };
    let producer = cluster.client().await.producer(config).await.unwrap();
    // Three batches fill the memory; none of them is full, and none has lingered long enough.
    for partition in 0..8 {
        let record = ProducerRecord::new(TOPIC).partition(PartitionId(partition));
        drop(producer.send(record).await.unwrap());
    }
    producer.close().await.unwrap();
    assert!(cluster.lock().logs.iter().all(|log| log.end == 1));
}

#[tokio::test]
async fn without_acks_offsets_are_unknown_and_close_loses_nothing() {
    let cluster = Cluster::start(1).await;
    let config = ProducerConfig { acks: Acks::None, ..config() };
    let producer = cluster.client().await.producer(config).await.unwrap();
    let deliveries = send_all(&producer, 300).await;
    producer.close().await.unwrap();
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap().offset, Offset::NONE);
    }
    assert_eq!(cluster.lock().logs[0].values().len(), 300);
}

#[tokio::test]
async fn what_is_dropped_without_close_is_still_sent_and_a_closed_one_takes_nothing() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let slow = ProducerConfig { linger: Duration::from_secs(20), ..config() };
    let producer = client.producer(slow.clone()).await.unwrap();
    let delivery = producer.send(ProducerRecord::new(TOPIC).value(b"left")).await.unwrap();
    drop(producer);
    delivery.await.unwrap();
    let producer = client.producer(slow).await.unwrap();
    let clone = producer.clone();
    let delivery = producer.send(ProducerRecord::new(TOPIC).value(b"flushed")).await.unwrap();
    producer.close().await.unwrap();
    assert!(delivery.try_outcome().expect("close waits").is_ok());
    assert!(matches!(clone.send(ProducerRecord::new(TOPIC)).await, Err(SendError::Closed)));
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client().await;
    let producer = client.producer(ProducerConfig { max_request_size: 1_000, ..config() }).await.unwrap();
    let unknown = producer.send(ProducerRecord::new("nowhere")).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::UnknownTopic), "{unknown}");
    let partition = producer.send(ProducerRecord::new(TOPIC).partition(PartitionId(2))).await.unwrap_err();
    assert!(partition.to_string().contains("no partition 2; it has 2"), "{partition}");
    let large = producer.send(ProducerRecord::new(TOPIC).value(&[0; 1_000])).await.unwrap_err();
    assert_eq!(large.code(), Some(ErrorCode::MessageTooLarge));
    let refused = client.producer(ProducerConfig { max_in_flight: 6, ..config() }).await;
    assert!(matches!(refused, Err(ClientError::Config(_))));
    let mut nobody = ClientConfig::new(["127.0.0.1:1"]);
    nobody.connect_timeout = Duration::from_millis(200);
    let error = Client::connect(nobody).await.err().expect("nobody listens on port 1");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

struct Stamp(Mutex<Vec<Offset>>);

impl ProducerInterceptor for Stamp {
    fn on_send(&self, mut record: OwnedRecord) -> OwnedRecord {
        record.value = record.value.map(|value| [b"seen ".as_slice(), &value].concat());
        record.headers.push(OwnedHeader { key: b"by".to_vec(), value: None });
        record
    }

    fn on_acknowledgement(&self, outcome: &Result<RecordMetadata, DeliveryError>) {
        self.0.lock().unwrap().push(outcome.as_ref().unwrap().offset);
    }
}

#[tokio::test]
async fn interceptors_see_records_and_answers_and_serializers_make_bytes() {
    let cluster = Cluster::start(1).await;
    let stamp = Arc::new(Stamp(Mutex::default()));
    let config = ProducerConfig { interceptors: vec![stamp.clone()], ..config() };
    let producer = cluster.client().await.producer(config).await.unwrap();
    let typed: TypedProducer<i64, str> =
        TypedProducer::new(producer.clone(), serializers::BigEndian, serializers::Utf8);
    typed.send(TOPIC, Some(&5), Some("typed")).await.unwrap().await.unwrap();
    let (told, asked) = tokio::sync::oneshot::channel();
    let headers = [Header { key: b"h", value: Some(b"v") }];
    let record = ProducerRecord::new(TOPIC).value(b"called").headers(&headers);
    producer.send_with(record, |outcome| told.send(outcome.unwrap().offset).unwrap()).await.unwrap();
    assert_eq!(asked.await.unwrap(), Offset(1));
    assert_eq!(*stamp.0.lock().unwrap(), [Offset(0), Offset(1)]);
    assert_eq!(cluster.lock().logs[0].values(), [b"seen typed".to_vec(), b"seen called".to_vec()]);
}

#[tokio::test]
async fn keys_choose_partitions_as_kafka_does() {
    let cluster = Cluster::start(7).await;
    let producer = cluster.client().await.producer(config()).await.unwrap();
    for index in 0..50 {
        let key = format!("key {index}");
        let delivery = producer.send(ProducerRecord::new(TOPIC).key(key.as_bytes())).await.unwrap();
        let expected = thalweg_core::partitioner::partition_for_key(key.as_bytes(), 7);
        assert_eq!(delivery.partition(), expected);
    }
    let first = producer.send(ProducerRecord::new(TOPIC)).await.unwrap().partition();
    let sticky = send_all(&producer, 100).await;
    assert_eq!(sticky[0].partition(), first, "a few bytes do not move it");
    assert!(sticky.iter().any(|delivery| delivery.partition() != first), "a full batch does");
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        8 => Just(Fault::None),
        1 => Just(Fault::Break),
        1 => Just(Fault::WriteAndBreak),
        1 => Just(Fault::Move),
        1 => Just(Fault::Refuse(ErrorCode::LeaderNotAvailable)),
        1 => Just(Fault::WriteAndRefuse(ErrorCode::RequestTimedOut)),
        1 => Just(Fault::Wait(2)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_row_of_faults_leaves_every_record_once_and_in_order(
        faults in proptest::collection::vec(fault(), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(exactly_once(600, faults));
    }
}
