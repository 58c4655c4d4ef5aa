//! Three controllers that elect, agree, die and return.

use crate::group::{Group, code, heartbeat, until};
use std::collections::BTreeSet;
use thalweg_core::ErrorCode;
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::v1;
use tonic::Code;

const ALL: [u64; 3] = [1, 2, 3];

async fn same_images(group: &Group) {
    until("equal images", || async {
        let mut images = Vec::new();
        for id in group.running() {
            images.push(group.image(id).await.ok()?);
        }
        images.windows(2).all(|two| two[0] == two[1]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_killed_again_and_again_and_nothing_acknowledged_is_lost() {
    let mut group = Group::start(&ALL).await;
    group.register(1, 0).await;
    let mut topics = BTreeSet::new();
    let mut clusters = BTreeSet::new();
    for round in 0..3 {
        let leader = group.leader().await;
        let name = format!("before-{round}");
        group.create_in_the_end(leader, &name).await;
        topics.insert(name);
        group.kill(leader);
        let survivor = group.running()[0];
        let name = format!("after-{round}");
        group.create_in_the_end(survivor, &name).await;
        topics.insert(name);
        group.boot(leader).await;
        for id in ALL {
            let image = group.image_in_the_end(id).await;
            let found: BTreeSet<String> = image.topics().map(|topic| topic.name.to_string()).collect();
            assert_eq!(found, topics, "controller {id}, round {round}");
            clusters.insert(image.cluster_id().unwrap().to_string());
        }
    }
    assert_eq!(clusters.len(), 1, "a cluster's id is for life: {clusters:?}");
    // All of them at once, and from their disks alone.
    ALL.iter().for_each(|id| group.kill(*id));
    for id in ALL {
        group.boot(id).await;
    }
    let image = group.image_in_the_end(2).await;
    assert_eq!(image.topics().len(), topics.len());
    assert_eq!(clusters.first().cloned(), image.cluster_id().map(ToString::to_string));
    same_images(&group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_controller_takes_any_call() {
    let group = Group::start(&ALL).await;
    let followers = group.followers().await;
    let (one, other) = (followers[0], followers[1]);
    let epoch = group.register(one, 0).await;
    let created = group.create(other, "events", 2).await.unwrap();
    let topic = created.results[0].topic.clone().unwrap();
    assert_eq!(topic.partitions.len(), 2);
    let twice = group.create(one, "events", 2).await.unwrap_err();
    assert_eq!(code(&twice), ErrorCode::TopicAlreadyExists, "the leader's own words");
    let bad = group.create(one, "a b", 2).await.unwrap_err();
    assert_eq!((code(&bad), bad.code()), (ErrorCode::InvalidTopicName, Code::InvalidArgument));

    let ask = wire::AllocateProducerIdsRequest { broker_id: 0, broker_epoch: epoch };
    let first = group.internal(one).allocate_producer_ids(ask).await.unwrap().into_inner();
    let second = group.internal(other).allocate_producer_ids(ask).await.unwrap().into_inner();
    assert_eq!(second.first_id, first.first_id + i64::from(first.count));

    let image = group.image_in_the_end(one).await;
    let id = image.topic("events").unwrap().id;
    let change = |partition_epoch: i32| wire::PartitionChange {
        topic_id: id.0.to_vec().into(),
        partition: 0,
        leader_epoch: 0,
        partition_epoch,
        isr: vec![wire::IsrMember { broker_id: 0, broker_epoch: epoch }],
    };
    let request = wire::AlterPartitionsRequest {
        broker_id: 0,
        broker_epoch: epoch,
        changes: vec![change(0), change(7)],
    };
    let answer = group.internal(one).alter_partitions(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.results.len(), 2);
    assert!(answer.results[0].error.is_none() && answer.results[0].isr == [0], "{answer:?}");
    assert!(answer.results[1].error.is_some(), "of another partition epoch: {answer:?}");
    let stale = wire::AlterPartitionsRequest { broker_epoch: epoch - 1, ..request };
    let refused = group.internal(other).alter_partitions(stale).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::StaleBrokerEpoch);

    let election = v1::ElectLeadersRequest::default();
    assert!(group.admin(one).elect_leaders(election).await.unwrap().into_inner().elected.is_empty());
    assert!(!group.internal(one).broker_heartbeat(heartbeat(0, epoch)).await.unwrap().into_inner().fenced);
    let left = group.admin(one).drain_broker(v1::DrainBrokerRequest { broker_id: 0, cancel: false }).await;
    assert_eq!(left.unwrap().into_inner().replicas_left, 2);
    let unknown = group.admin(one).drain_broker(v1::DrainBrokerRequest { broker_id: 9, cancel: false }).await;
    assert_eq!(code(&unknown.unwrap_err()), ErrorCode::UnknownBroker);
    let alive = group.admin(one).unregister_broker(v1::UnregisterBrokerRequest { broker_id: 0 }).await;
    assert_eq!(code(&alive.unwrap_err()), ErrorCode::PolicyViolation);
    let unknown = group.admin(one).unregister_broker(v1::UnregisterBrokerRequest { broker_id: 9 }).await;
    assert_eq!(code(&unknown.unwrap_err()), ErrorCode::UnknownBroker);
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_knows_the_leader_and_where_all_are() {
    let mut group = Group::start(&ALL).await;
    let leader = group.leader().await;
    group.followers().await;
    for id in ALL {
        let quorum = group
            .internal(id)
            .describe_quorum(wire::DescribeQuorumRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!((quorum.node_id, quorum.leader_id, quorum.voters), (id, leader, ALL.to_vec()));
        assert_eq!(quorum.leader_endpoint, group.address(leader));
    }
    let noted = async |group: &Group, id| {
        let image = group.image(id).await.ok()?;
        Some(image.controllers().map(|(id, at)| (id.get(), at.to_string())).collect::<Vec<_>>())
    };
    let expected = |group: &Group| ALL.map(|id| (id, group.address(id))).to_vec();
    let right = || async { (noted(&group, leader).await? == expected(&group)).then_some(()) };
    until("the addresses to be noted", right).await;

    // One that comes back elsewhere is found and noted.
    let moved = group.followers().await[0];
    group.kill(moved);
    group.move_away(moved);
    group.boot(moved).await;
    let right = || async { (noted(&group, moved).await? == expected(&group)).then_some(()) };
    until("the new address to be noted", right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over() {
    let mut group = Group::start(&ALL).await;
    group.register(1, 0).await;
    let leader = group.leader().await;
    let term = group.status(leader).term;
    group.stop(leader).await;
    let next = group.leader().await;
    assert_eq!(group.status(next).term, term + 1, "without an election that had to be repeated");
    group.create_in_the_end(next, "events").await;
    group.boot(leader).await;
    same_images(&group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_changes_and_reads_are_unavailable_and_return_with_it() {
    let mut group = Group::start(&ALL).await;
    group.register(1, 0).await;
    group.create_in_the_end(1, "before").await;
    let mut watch =
        group.internal(3).watch_image(wire::WatchImageRequest::default()).await.unwrap().into_inner();
    group.kill(1);
    group.kill(2);
    let refused = until("the refusal", || async {
        let status = group.create(3, "during", 1).await.expect_err("nobody agrees");
        // What was under way when the quorum went may still happen.
        (code(&status) != ErrorCode::RequestTimedOut).then_some(status)
    })
    .await;
    assert_eq!((code(&refused), refused.code()), (ErrorCode::ControllerNotAvailable, Code::Unavailable));
    let dry = v1::CreateTopicsRequest {
        topics: vec![v1::NewTopic { name: "dry".into(), ..Default::default() }],
        validate_only: true,
    };
    assert_eq!(
        code(&group.admin(3).create_topics(dry).await.unwrap_err()),
        ErrorCode::ControllerNotAvailable
    );
    // A watcher is sent to another controller rather than left with an old image.
    let end = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a watch ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(code(&end), ErrorCode::ControllerNotAvailable);
    group.boot(1).await;
    group.create_in_the_end(3, "after").await;
    assert!(group.image_in_the_end(1).await.topic("before").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_decides_nothing_more() {
    let group = Group::start(&ALL).await;
    group.register(1, 0).await;
    let old = group.leader().await;
    let follower = group.followers().await[0];
    group.net.isolate(old, &ALL);
    // Asked while it still takes the old one for the leader, a follower does not wait for it for ever.
    group.create_in_the_end(follower, "events").await;
    group.leader_other_than(&[old]).await;
    // Whatever the old one answers, it is no success: it cannot know of the topic, and must not create another.
    let other = group.create(old, "events", 7).await.expect_err("it leads nobody");
    assert!(
        matches!(code(&other), ErrorCode::ControllerNotAvailable | ErrorCode::RequestTimedOut),
        "{other}"
    );
    group.net.heal();
    same_images(&group).await;
    let image = group.image_in_the_end(old).await;
    assert_eq!(image.topic("events").unwrap().partitions.len(), 1);
}

/// Catalogue 27, over gRPC: whoever is asked right after an election answers with all that was acknowledged, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn c27_a_read_right_after_an_election_sees_everything_acknowledged_before() {
    let mut group = Group::start(&ALL).await;
    group.register(1, 0).await;
    for round in 0..3 {
        let leader = group.leader().await;
        let name = format!("events-{round}");
        group.create_in_the_end(leader, &name).await;
        group.kill(leader);
        let mut answered = BTreeSet::new();
        let mut asked = 0;
        while answered.len() < 2 {
            asked += 1;
            for id in group.running() {
                let topic = v1::NewTopic { name: name.clone(), ..Default::default() };
                let dry = v1::CreateTopicsRequest { topics: vec![topic], validate_only: true };
                let status = group.admin(id).create_topics(dry).await.expect_err("the topic exists");
                match code(&status) {
                    ErrorCode::TopicAlreadyExists => _ = answered.insert(id),
                    ErrorCode::ControllerNotAvailable | ErrorCode::RequestTimedOut => {}
                    other => panic!("{other}: {status}"),
                }
                if let Ok(image) = group.image(id).await {
                    assert!(image.topic(&name).is_some(), "controller {id} told of the past");
                }
            }
            assert!(asked < 100_000, "nobody leads");
        }
        group.boot(leader).await;
    }
}
