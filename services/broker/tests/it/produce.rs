//! The unary Produce.

use crate::harness::*;
use std::collections::BTreeMap;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::compression::Compression;
use thalweg_core::partitioner::partition_for_key;
use thalweg_proto::v1;

#[tokio::test]
async fn plain_records_come_back_byte_for_byte_with_every_codec() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let value = b"a\r\n\0\xff".to_vec();
    for codec in 0..=5 {
        let mut record = record(Some("k"), "");
        record.value = Some(value.clone().into());
        record.headers = vec![v1::Header { key: "h".into(), value: None }];
        record.timestamp_ms = Some(now().as_millis() - 5);
        let mut request = produce_records("t", Some(0), vec![record; 3]);
        request.compression = codec;
        let answer = cluster.produce(request).await.unwrap();
        let base = i64::from(codec) * 3;
        assert_eq!((answer.results[0].base_offset, answer.results[0].last_offset), (base, base + 2));
        let durability = answer.results[0].durability.unwrap();
        assert_eq!((durability.replicas, durability.fsynced, durability.leader_epoch >= 0), (1, true, true));
        let positions: Vec<_> = answer.positions.iter().map(|p| (p.partition, p.offset)).collect();
        assert_eq!(positions, [(0, base), (0, base + 1), (0, base + 2)]);
    }
    let values = cluster.values("t", 0).await;
    assert_eq!(values.len(), 18);
    assert!(values.iter().enumerate().all(|(i, (offset, v))| *offset == i as i64 && *v == value));
}

#[tokio::test]
async fn keys_choose_their_partition_and_keyless_records_share_one() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 4, &[]).await;
    let keys = ["a", "b", "c", "d", "e", "f", "g"];
    let mut records: Vec<_> = keys.iter().map(|key| record(Some(key), key)).collect();
    records.extend([record(None, "x"), record(None, "y")]);
    let answer = cluster.produce(produce_records("t", None, records)).await.unwrap();
    for (key, position) in keys.iter().zip(&answer.positions) {
        assert_eq!(position.partition, partition_for_key(key.as_bytes(), 4).get());
        let values = cluster.values("t", position.partition).await;
        assert!(values.contains(&(position.offset, key.as_bytes().into())));
    }
    assert_eq!(answer.positions[7].partition, answer.positions[8].partition);
    let written: i64 = answer.results.iter().map(|r| r.last_offset - r.base_offset + 1).sum();
    assert_eq!(written, 9);
}

#[tokio::test]
async fn acks_say_what_was_reached() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let leader = cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::Leader)).await.unwrap();
    assert!(!leader.results[0].durability.unwrap().fsynced);
    let none = cluster.produce(produce_batch("t", 0, batch(&["b"]), v1::Acks::None)).await.unwrap();
    assert_eq!((none.results[0].base_offset, none.results[0].durability), (-1, None));
    // Not below the high watermark yet, so nobody sees them.
    assert_eq!(cluster.end_offset("t", 0).await, 0);
    cluster.storage.open_gate();
    let all = cluster.produce(produce_batch("t", 0, batch(&["c"]), v1::Acks::All)).await.unwrap();
    assert_eq!((all.results[0].base_offset, all.results[0].durability.unwrap().fsynced), (2, true));
    assert_eq!(cluster.end_offset("t", 0).await, 3);
}

#[tokio::test]
async fn an_ack_that_does_not_come_is_a_timeout_and_never_false() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let mut request = produce_batch("t", 0, batch(&["a"]), v1::Acks::All);
    request.timeout_ms = 50;
    assert_eq!(code(cluster.produce(request).await), ErrorCode::RequestTimedOut);
    cluster.storage.open_gate();
    cluster.produce(produce_batch("t", 0, batch(&["b"]), v1::Acks::All)).await.unwrap();
    assert_eq!(cluster.end_offset("t", 0).await, 2);
}

#[tokio::test]
async fn a_failed_fsync_is_no_ack_and_ends_the_broker() {
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    cluster.storage.sim.fail_next_sync();
    // Refused by the log, or by a broker or a connection that ends.
    let mut producer = cluster.producer();
    for (value, acks) in [("b", v1::Acks::All), ("c", v1::Acks::Leader)] {
        assert!(producer.produce(produce_batch("t", 0, batch(&[value]), acks)).await.is_err(), "{value}");
    }
    let broker = cluster.broker.take().unwrap();
    assert!(tokio::time::timeout(LONG, broker.join()).await.unwrap().is_err());
    // What was committed is served after a restart.
    cluster.restart().await;
    assert_eq!(cluster.values("t", 0).await[0], (0, "a".into()));
}

#[tokio::test]
async fn a_duplicate_is_answered_with_its_first_offset() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let sent = |sequence, value: &[u8]| {
        produce_batch("t", 0, batch_with(&[value], Compression::None, stamp(9, 0, sequence)), v1::Acks::All)
    };
    cluster.produce(sent(0, b"a")).await.unwrap();
    cluster.produce(sent(1, b"b")).await.unwrap();
    let again = cluster.produce(sent(0, b"a")).await.unwrap();
    assert_eq!((again.results[0].base_offset, again.results[0].duplicate), (0, true));
    assert_eq!(cluster.end_offset("t", 0).await, 2);
}

#[tokio::test]
async fn sequence_gaps_and_old_epochs_are_refused() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let sent = |id, epoch, sequence| {
        let batch = batch_with(&[b"v"], Compression::None, stamp(id, epoch, sequence));
        cluster.produce(produce_batch("t", 0, batch, v1::Acks::Leader))
    };
    assert_eq!(code(sent(8, 0, 5).await), ErrorCode::UnknownProducerId);
    sent(9, 1, 0).await.unwrap();
    assert_eq!(code(sent(9, 1, 2).await), ErrorCode::OutOfOrderSequence);
    assert_eq!(code(sent(9, 0, 1).await), ErrorCode::InvalidProducerEpoch);
    sent(9, 1, 1).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    let big = "x".repeat(900_000);
    cluster.storage.sim.set_capacity(Some(cluster.storage.sim.used_bytes() + 1_000));
    let mut refused = None;
    // The log had reserved some space already.
    for _ in 0..200 {
        if let Err(error) = cluster.produce(produce_batch("t", 0, batch(&[&big]), v1::Acks::Leader)).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("the disk is full");
    assert_eq!(refused.code, ErrorCode::StorageError);
    assert!(refused.message.contains("full"), "{}", refused.message);
    cluster.storage.sim.set_capacity(None);
    let next = cluster.produce(produce_batch("t", 0, batch(&["b"]), v1::Acks::All)).await.unwrap();
    let values = cluster.values("t", 0).await;
    assert_eq!(values.last(), Some(&(next.results[0].base_offset, "b".into())));
    assert!(values.iter().enumerate().all(|(i, (offset, _))| *offset == i as i64));
}

#[tokio::test]
async fn the_topics_codec_and_clock_win() {
    let cluster = Cluster::start().await;
    cluster.topic("z", 1, &[("compression.type", "zstd")]).await;
    cluster.topic("c", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let before = now().as_millis();
    for topic in ["z", "c"] {
        let answer =
            cluster.produce(produce_batch(topic, 0, batch(&["a", "b"]), v1::Acks::All)).await.unwrap();
        assert_eq!(answer.results[0].log_append_time_ms >= before, topic == "c");
        let partitions = vec![v1::FetchPartition { topic: topic.into(), ..Default::default() }];
        let format = v1::RecordFormat::Batches as i32;
        let request = v1::FetchRequest { partitions, format, ..Default::default() };
        let data = cluster.consumer().fetch(request).await.unwrap().into_inner().partitions.remove(0);
        let Some(v1::partition_data::Data::RecordBatches(bytes)) = data.data else { panic!("no batches") };
        let attributes = bytes[22];
        assert_eq!(attributes, if topic == "z" { 4 } else { 8 });
    }
}

#[tokio::test]
async fn producer_ids_are_unique_and_epochs_go_up() {
    let cluster = Cluster::start().await;
    let init = |producer_id, producer_epoch| {
        let request = v1::InitProducerRequest { producer_id, producer_epoch };
        let mut producer = cluster.producer();
        async move { producer.init_producer(request).await.unwrap().into_inner() }
    };
    let (first, second) = (init(None, None).await, init(None, None).await);
    assert_ne!(first.producer_id, second.producer_id);
    assert_eq!(first.producer_epoch, 0);
    let kept = init(Some(first.producer_id), Some(0)).await;
    assert_eq!((kept.producer_id, kept.producer_epoch), (first.producer_id, 1));
    let rotated = init(Some(first.producer_id), Some(32_766)).await;
    assert_eq!((rotated.producer_id > second.producer_id, rotated.producer_epoch), (true, 0));
}

#[tokio::test]
async fn requests_beyond_the_budget_are_throttled_and_let_in_again() {
    let cluster = Cluster::start_with(|config| config.limits.in_flight_bytes = 1).await;
    cluster.topic("t", 1, &[]).await;
    cluster.storage.close_gate();
    let first = tokio::spawn({
        let mut producer = cluster.producer();
        async move { producer.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await }
    });
    // Until the first call is in flight the second may get through; it does not wait for an ack.
    let throttled = tokio::time::timeout(LONG, async {
        loop {
            match cluster.produce(produce_batch("t", 0, batch(&["b"]), v1::Acks::Leader)).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return error,
            }
        }
    });
    assert_eq!(throttled.await.unwrap().code, ErrorCode::Throttled);
    cluster.storage.open_gate();
    first.await.unwrap().unwrap();
    cluster.produce(produce_batch("t", 0, batch(&["c"]), v1::Acks::All)).await.unwrap();
}

#[tokio::test]
async fn a_retry_after_write_caching_ended_waits_for_the_disk() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[("write.caching", "true")]).await;
    cluster.storage.close_gate();
    let stamped = || batch_with(&[b"a"], Compression::None, stamp(7, 0, 0));
    let cached = cluster.produce(produce_batch("t", 0, stamped(), v1::Acks::All)).await.unwrap();
    assert!(!cached.results[0].durability.unwrap().fsynced);
    let set = BTreeMap::from([("write.caching".to_owned(), "false".to_owned())]);
    let request = v1::AlterConfigsRequest { topic: "t".into(), set, ..Default::default() };
    cluster.admin().alter_configs(request).await.unwrap();
    // The high watermark is behind the batch already, the disk is not.
    let mut retry = produce_batch("t", 0, stamped(), v1::Acks::All);
    retry.timeout_ms = 100;
    assert_eq!(code(cluster.produce(retry).await), ErrorCode::RequestTimedOut);
    cluster.storage.open_gate();
    let retried = cluster.produce(produce_batch("t", 0, stamped(), v1::Acks::All)).await.unwrap();
    assert!(retried.results[0].duplicate && retried.results[0].durability.unwrap().fsynced);
}

#[tokio::test]
async fn a_flush_interval_below_the_housekeeping_s_is_kept() {
    let cluster = Cluster::start_with(|config| config.intervals.housekeeping = LONG * 10).await;
    cluster.topic("t", 1, &[("write.caching", "true"), ("flush.ms", "100")]).await;
    cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    let broker = cluster.broker.as_ref().unwrap();
    let log = broker.replicas().logs().logs().remove(0);
    let flushed = async {
        while log.flushed_offset() < log.log_end_offset() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, flushed).await.unwrap();
}
