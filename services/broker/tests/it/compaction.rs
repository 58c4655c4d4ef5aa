//! Compacted topics, over the wire.

use crate::harness::*;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::v1;

const COMPACT: (&str, &str) = ("cleanup.policy", "compact");

#[tokio::test]
async fn a_compacted_topic_refuses_records_without_a_key() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[COMPACT]).await;
    let records = vec![record(Some("k"), "v"), record(None, "v")];
    let refused = cluster.produce(produce_records("t", Some(0), records)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    assert!(refused.field.is_some() && refused.message.contains("key"), "{refused:?}");
    let refused = cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    assert_eq!(cluster.end_offset("t", 0).await, 0);
    cluster.produce(produce_records("t", Some(0), vec![record(Some("k"), "v")])).await.unwrap();
}

#[tokio::test]
async fn a_compacted_topic_keeps_the_last_value_of_each_key() {
    let short = Duration::from_millis(20);
    let mut cluster = Cluster::start_with(|config| config.cleaner.backoff = short).await;
    cluster.topic("t", 1, &[COMPACT, ("segment.bytes", "1048576")]).await;
    let filler = "x".repeat(100_000);
    for n in 0..30 {
        let records = vec![record(Some("large"), &filler), record(Some(["a", "b"][n % 2]), &format!("{n}"))];
        cluster.produce(produce_records("t", Some(0), records)).await.unwrap();
    }
    let log = cluster.broker.as_ref().unwrap().replicas().logs().logs().remove(0);
    let cleaned = async {
        while log.cleaned_offset().is_none_or(|cleaned| cleaned.get() < 36) {
            tokio::time::sleep(short).await;
        }
    };
    tokio::time::timeout(LONG, cleaned).await.unwrap();
    drop(log);
    let left = cluster.values("t", 0).await;
    assert!(left.len() < 30, "{} records", left.len());
    assert_eq!(left.last().unwrap(), &(59, "29".into()));
    assert!(left.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(left.iter().any(|(offset, value)| *offset == 57 && value == "28"));
    cluster.stop().await.unwrap();
    cluster.restart().await;
    assert_eq!(cluster.values("t", 0).await, left);
}
