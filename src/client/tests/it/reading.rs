//! What a reader promises, whatever the leader does.

use super::cluster::{Cluster, TOPIC};
use super::wire::Wire;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg_client::{
    OffsetReset, PartitionReader, ProducerConfig, ProducerRecord, ReadError, ReaderConfig, Start,
};
use thalweg_core::batch::{BatchBuilder, ProducerStamp};
use thalweg_core::compression::Compression;
use thalweg_core::{ErrorCode, Offset, PartitionId, Timestamp};

pub async fn fill(cluster: &Arc<Cluster>, partitions: i32, count: i64) {
    let config = ProducerConfig { batch_size: 300, ..ProducerConfig::default() };
    let producer = cluster.client().await.producer(config).await.unwrap();
    for index in 0..count {
        for partition in 0..partitions {
            let value = format!("{partition}/{index}");
            let record = ProducerRecord::new(TOPIC).partition(PartitionId(partition)).value(value.as_bytes());
            drop(producer.send(record).await.unwrap());
        }
    }
    producer.close().await.unwrap();
}

async fn reader(cluster: &Arc<Cluster>, config: ReaderConfig) -> PartitionReader {
    cluster.client().await.reader(config).await.unwrap()
}

/// Reads until every partition has been read to `end`, and checks each record.
async fn read_to(reader: &mut PartitionReader, end: i64, mut next: BTreeMap<i32, i64>) {
    let mut scratch = Vec::new();
    while next.values().any(|offset| *offset < end) {
        // Cut short again and again: nothing may be lost by it.
        let Ok(chunk) = tokio::time::timeout(Duration::from_micros(300), reader.next()).await else {
            continue;
        };
        let chunk = chunk.unwrap();
        assert_eq!(&*chunk.topic, TOPIC);
        let wanted = next.get_mut(&chunk.partition.get()).expect("it is assigned");
        let mut records = chunk.records(&mut scratch);
        while let Some(record) = records.next_record() {
            let record = record.unwrap();
            assert_eq!(record.offset, Offset(*wanted));
            let expected = format!("{}/{wanted}", chunk.partition);
            assert_eq!(record.value.unwrap(), expected.as_bytes());
            *wanted += 1;
        }
        assert_eq!(chunk.next_offset, Offset(*wanted));
    }
}

#[tokio::test]
async fn every_record_comes_once_over_broken_streams_and_moved_leaders() {
    let cluster = Cluster::start(3).await;
    fill(&cluster, 3, 300).await;
    cluster.lock().fetch_limit = 2;
    cluster.move_leader(1);
    let mut reader =
        reader(&cluster, ReaderConfig { max_chunk_bytes: 1_000, ..ReaderConfig::default() }).await;
    for partition in 0..3 {
        reader.assign(TOPIC, PartitionId(partition), Start::Earliest).await.unwrap();
    }
    let mover = {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            for partition in [0, 1, 2, 1, 0] {
                tokio::time::sleep(Duration::from_millis(10)).await;
                cluster.move_leader(partition);
            }
        })
    };
    read_to(&mut reader, 300, (0..3).map(|partition| (partition, 0)).collect()).await;
    mover.await.unwrap();
    assert!(cluster.lock().fetch_streams > 3);
}

#[tokio::test]
async fn credit_bounds_what_is_sent_ahead_and_is_given_back() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 2_000).await;
    let config = ReaderConfig { max_chunk_bytes: 1_000, credit_bytes: 4_000, ..ReaderConfig::default() };
    let mut reader = reader(&cluster, config).await;
    reader.assign(TOPIC, PartitionId(0), Start::Earliest).await.unwrap();
    read_to(&mut reader, 2_000, [(0, 0)].into()).await;
    let overdraft = cluster.lock().overdraft;
    assert!(overdraft <= 1_000, "{overdraft} bytes were sent beyond the credit");
    assert_eq!(cluster.lock().fetch_streams, 1);
}

#[tokio::test]
async fn seek_pause_and_resume_keep_positions() {
    let cluster = Cluster::start(2).await;
    fill(&cluster, 2, 100).await;
    let mut reader = reader(&cluster, ReaderConfig { max_chunk_bytes: 300, ..ReaderConfig::default() }).await;
    let (zero, one) = (PartitionId(0), PartitionId(1));
    reader.assign(TOPIC, zero, Start::Offset(Offset(55))).await.unwrap();
    reader.assign(TOPIC, one, Start::Earliest).await.unwrap();
    let first = reader.next().await.unwrap();
    reader.pause(TOPIC, one);
    reader.seek(TOPIC, zero, Start::Offset(Offset(42))).await.unwrap();
    read_to(&mut reader, 100, [(0, 42)].into()).await;
    let at = reader.position(TOPIC, one).unwrap();
    assert_eq!(at, if first.partition == one { first.next_offset } else { Offset(0) });
    reader.resume(TOPIC, one);
    read_to(&mut reader, 100, [(1, at.get())].into()).await;
    reader.unassign(TOPIC, zero).await.unwrap();
    assert_eq!(reader.position(TOPIC, zero), None);
}

#[tokio::test]
async fn new_records_come_to_a_reader_that_waits() {
    let cluster = Cluster::start(1).await;
    let mut reader = reader(&cluster, ReaderConfig::default()).await;
    reader.assign(TOPIC, PartitionId(0), Start::Latest).await.unwrap();
    let waiting = tokio::spawn(async move { reader.next().await.unwrap().next_offset });
    fill(&cluster, 1, 1).await;
    assert_eq!(waiting.await.unwrap(), Offset(1));
}

#[tokio::test]
async fn an_offset_outside_the_log_is_told_with_the_range_or_reset() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 100).await;
    let start = {
        let mut state = cluster.lock();
        let start = state.logs[0].batches[2].0;
        state.logs[0].start = start;
        start
    };
    let mut strict = reader(&cluster, ReaderConfig::default()).await;
    strict.assign(TOPIC, PartitionId(0), Start::Offset(Offset(0))).await.unwrap();
    let error = strict.next().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OffsetOutOfRange));
    let ReadError::OffsetOutOfRange { log_start, high_watermark, requested, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((requested, log_start, high_watermark), (Offset(0), Offset(start), Offset(100)));
    strict.assign(TOPIC, PartitionId(0), Start::Offset(log_start)).await.unwrap();
    read_to(&mut strict, 100, [(0, start)].into()).await;
    let config = ReaderConfig { offset_reset: OffsetReset::Earliest, ..ReaderConfig::default() };
    let mut lenient = reader(&cluster, config).await;
    lenient.assign(TOPIC, PartitionId(0), Start::Offset(Offset(7_000))).await.unwrap();
    read_to(&mut lenient, 100, [(0, start)].into()).await;
}

#[tokio::test]
async fn what_is_not_there_cannot_be_assigned() {
    let cluster = Cluster::start(1).await;
    let mut reader = reader(&cluster, ReaderConfig::default()).await;
    let topic = reader.assign("nowhere", PartitionId(0), Start::Earliest).await.unwrap_err();
    assert_eq!(topic.code(), Some(ErrorCode::UnknownTopic));
    let partition = reader.assign(TOPIC, PartitionId(4), Start::Earliest).await.unwrap_err();
    assert_eq!(partition.code(), Some(ErrorCode::UnknownPartition));
}

#[tokio::test]
async fn a_broker_that_is_gone_is_told_from_one_without_data() {
    let cluster = Cluster::start(1).await;
    let wire = Wire::default();
    let mut reader = cluster.client_over(wire.clone()).await.reader(ReaderConfig::default()).await.unwrap();
    reader.assign(TOPIC, PartitionId(0), Start::Earliest).await.unwrap();
    fill(&cluster, 1, 1).await;
    reader.next().await.unwrap();
    let failure = async |reader: &mut PartitionReader, wanted: bool| {
        let asked = async {
            while reader.last_failure().is_some() != wanted {
                let _ = tokio::time::timeout(Duration::from_millis(5), reader.next()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asked)
            .await
            .expect("the failure is told, or forgotten");
        reader.last_failure()
    };
    assert_eq!(failure(&mut reader, false).await, None, "no data is no failure");
    wire.cut();
    let told = failure(&mut reader, true).await.unwrap();
    assert!(told.starts_with("t-0 is not read at the moment: "), "{told}");
    wire.mend();
    failure(&mut reader, false).await;
}

#[tokio::test]
async fn many_messages_from_before_a_seek_do_not_hide_what_comes_behind_them() {
    const COUNT: i64 = 1_000;
    let cluster = Cluster::start(1).await;
    {
        let log = &mut cluster.lock().logs[0];
        for index in 0..COUNT {
            let mut batch = BatchBuilder::new(Compression::None, 1 << 10);
            batch.append(Timestamp(1), None, Some(format!("0/{index}").as_bytes()), &[]);
            log.append(&batch.finish(ProducerStamp::NONE)).map_err(|code| code.to_string()).unwrap();
        }
    }
    let mut reader = reader(&cluster, ReaderConfig { max_chunk_bytes: 1, ..ReaderConfig::default() }).await;
    reader.assign(TOPIC, PartitionId(0), Start::Earliest).await.unwrap();
    reader.next().await.unwrap();
    // Time for all of them to come, one batch in each message, with nobody taking them.
    tokio::time::sleep(Duration::from_millis(300)).await;
    reader.seek(TOPIC, PartitionId(0), Start::Offset(Offset(COUNT - 1))).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(20), reader.next()).await;
    assert_eq!(next.expect("the reader hangs").unwrap().next_offset, Offset(COUNT));
}
