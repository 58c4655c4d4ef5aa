//! A thousand partitions on one server.

use crate::harness::{Api, Dev, within};
use thalweg_proto::v1;

const PARTITIONS: i32 = 1000;
/// Far above what a release build takes; a leak of a buffer for each partition would still show.
const MAX_RESIDENT: u64 = 512 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_partitions_are_created_and_serve_again_after_a_restart() {
    let mut dev = Dev::start();
    let before = dev.resident_bytes();
    let api = Api::connect(&dev).await;
    api.create_topic("wide", PARTITIONS, &[]).await;
    let some: Vec<i32> = (0..PARTITIONS).step_by(111).collect();
    for partition in &some {
        api.produce_values("wide", *partition, &["first", "second"]).await.unwrap();
    }
    println!(
        "resident: {} KiB before, {} KiB with {PARTITIONS} partitions",
        before >> 10,
        dev.resident_bytes() >> 10
    );
    assert!(dev.resident_bytes() < MAX_RESIDENT, "{}", dev.resident_bytes());

    dev.stop();
    dev.restart();
    let api = Api::connect(&dev).await;
    check(&api, &some).await;
    println!("resident after a restart: {} KiB", dev.resident_bytes() >> 10);
    assert!(dev.resident_bytes() < MAX_RESIDENT, "{}", dev.resident_bytes());

    dev.kill();
    dev.restart();
    let api = Api::connect(&dev).await;
    check(&api, &some).await;
    api.produce_values("wide", 500, &["third"]).await.unwrap();
    assert_eq!(api.values("wide", 500).await, [b"third"]);
}

async fn check(api: &Api, some: &[i32]) {
    let request = v1::MetadataRequest { topics: vec!["wide".into()] };
    let metadata = within("Metadata", api.cluster.clone().metadata(request)).await.unwrap().into_inner();
    let topic = metadata.topics[0].topic.as_ref().expect("the topic is there");
    assert_eq!(topic.partitions.len(), PARTITIONS as usize);
    assert!(
        topic.partitions.iter().all(|partition| partition.leader_id >= 0),
        "every partition has a leader"
    );
    // Those of the topic of consumer groups come on top.
    assert!(api.broker().await.partition_count >= PARTITIONS as u32);
    for partition in some {
        assert_eq!(api.values("wide", *partition).await, [b"first".to_vec(), b"second".to_vec()]);
    }
}
