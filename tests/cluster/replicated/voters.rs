//! Controllers come and go, and most of them are lost for a while.

use crate::harness::{Cluster, Pace, Steady, eventually, refused};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::v1;
use tonic::Code;

#[test]
fn a_controller_whose_disk_is_lost_is_replaced_by_a_new_one() {
    let mut cluster = Cluster::start();
    cluster.create_topic("t", 1, &[]);
    let lost = cluster.leading_controller();
    cluster.controller(lost).kill();
    let left: Vec<u64> = cluster.controller_ids().into_iter().filter(|id| *id != lost).collect();
    eventually("another leads", || {
        let leader = cluster.describe_cluster()["controller_leader_id"].as_u64()?;
        left.contains(&leader).then_some(())
    });
    let endpoint = cluster.join_controller(4);
    let added = cluster.cli(&["cluster", "add-voter", &format!("4@{endpoint}"), "-o", "json"]).run().ok();
    assert!(added.text().contains('4'), "{}", added.text());
    let removed = cluster.cli(&["cluster", "remove-voter", &lost.to_string(), "-o", "json"]).run().ok();
    let removed: serde_json::Value = serde_json::from_slice(&removed.stdout).unwrap();
    let mut voters: Vec<u64> =
        removed["voters"].as_array().unwrap().iter().filter_map(|id| id.as_u64()).collect();
    voters.sort_unstable();
    assert_eq!(voters, [left[0], left[1], 4]);

    // The new one counts: with it and one of the old ones the group decides.
    cluster.controller(left[0]).kill();
    cluster.cli(&["topic", "create", "after"]).run().ok();
    let described = cluster.cli(&["cluster", "describe"]).run().text();
    assert!(described.contains("Controller: 4"), "{described}");
    cluster.controller(left[0]).start();
    let listed = cluster.cli(&["topic", "list"]).run().ok().text();
    assert_eq!(listed, "after\nt\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_changes_and_everything_is_served() {
    let mut cluster = Cluster::start();
    cluster.create_topic("t", 3, &[]);
    let mut producer = Steady::start(&cluster.bootstrap(), None, "t", 3, "steady", Pace::EVEN);
    let partitions = producer.partitions();
    producer.await_acks(200);
    let leader = cluster.leading_controller();
    let other = cluster.controller_ids().into_iter().find(|id| *id != leader).unwrap();
    for controller in [leader, other] {
        cluster.controller(controller).kill();
    }
    let api = cluster.api(1).await;
    let mut request = tonic::Request::new(v1::CreateTopicsRequest {
        topics: vec![v1::NewTopic { name: "new".into(), ..Default::default() }],
        validate_only: false,
    });
    request.set_timeout(Duration::from_secs(40));
    let answer = crate::harness::within("CreateTopics", api.admin.clone().create_topics(request)).await;
    refused(answer, Code::Unavailable, ErrorCode::ControllerNotAvailable);
    // Longer than a broker's session: nobody is fenced by a group that cannot decide.
    producer.longest_gaps(Duration::from_secs(11));
    producer.next_acks(&partitions);
    api.produce_values("t", 0, &["still served"]).await.unwrap();
    assert!(api.end_offset("t", 0).await > 0);
    let health = cluster.cli(&["cluster", "health"]).run();
    assert_eq!(health.code, 1, "{}", health.text());

    cluster.controller(leader).start();
    cluster.cli(&["topic", "create", "new"]).run().ok();
    cluster.controller(other).start();
    producer.next_acks(&partitions);
    producer.finish(false);
}
