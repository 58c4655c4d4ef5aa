//! What the leading controller does by itself.

use crate::group::{Group, until};
use thalweg_core::BrokerId;
use thalweg_core::metadata::{MetadataImage, PartitionImage};
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::v1;

const ALL: [u64; 3] = [1, 2, 3];

/// As the leaders of partitions do: says that every replica being added is in sync.
async fn catch_up(group: &Group, image: &MetadataImage) {
    for topic in image.topics() {
        for (index, partition) in topic.partitions() {
            let Some(leader) = image.broker(partition.leader).filter(|_| !partition.adding.is_empty()) else {
                continue;
            };
            let member = |id: &BrokerId| wire::IsrMember {
                broker_id: id.get(),
                broker_epoch: image.broker(*id).map_or(-1, |broker| broker.epoch.get()),
            };
            let change = wire::PartitionChange {
                topic_id: topic.id.0.to_vec().into(),
                partition: index.get(),
                leader_epoch: partition.leader_epoch.get(),
                partition_epoch: partition.partition_epoch.get(),
                isr: partition.replicas.iter().map(member).collect(),
            };
            let request = wire::AlterPartitionsRequest {
                broker_id: leader.id.get(),
                broker_epoch: leader.epoch.get(),
                changes: vec![change],
            };
            // Refused when the partition has changed since; the next round sees it anew.
            let _ = group.internal(1).alter_partitions(request).await;
        }
    }
}

fn partitions(image: &MetadataImage) -> impl Iterator<Item = &PartitionImage> {
    image.topics().flat_map(|topic| topic.partitions.iter().map(|partition| &**partition))
}

fn held(image: &MetadataImage, broker: i32) -> (usize, usize) {
    let id = BrokerId(broker);
    let replicas = partitions(image).filter(|partition| partition.replicas.contains(&id)).count();
    (replicas, image.leaderships_of(id))
}

/// Lets moves happen until the image is as wanted and nothing moves any more.
async fn settle(group: &Group, what: &str, wanted: impl Fn(&MetadataImage) -> bool) -> MetadataImage {
    until(what, || async {
        let image = group.image(1).await.ok()?;
        catch_up(group, &image).await;
        let still = partitions(&image).all(|partition| partition.adding.is_empty());
        (still && wanted(&image)).then_some(image)
    })
    .await
}

fn quiet(config: &mut thalweg_controller::ControllerConfig) {
    config.broker_session = std::time::Duration::from_secs(600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_broker_gets_its_share_and_a_drained_one_loses_all() {
    let group = Group::start_tuned(&ALL, quiet).await;
    for broker in 0..3 {
        group.register(1, broker).await;
    }
    let topic = v1::NewTopic {
        name: "events".into(),
        partitions: Some(12),
        replication_factor: Some(2),
        ..Default::default()
    };
    let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
    group.admin(2).create_topics(request).await.unwrap();
    let image = group.image_in_the_end(1).await;
    assert_eq!((0..3).map(|broker| held(&image, broker).0).collect::<Vec<_>>(), [8, 8, 8]);

    // Nobody asks for it.
    group.register(3, 3).await;
    let image = settle(&group, "the new broker to have its share", |image| {
        let (replicas, leaders) = held(image, 3);
        replicas >= 5 && leaders >= 2
    })
    .await;
    assert!(partitions(&image).all(|partition| partition.replicas.len() == 2 && partition.isr.len() == 2));

    let drain = v1::DrainBrokerRequest { broker_id: 0, cancel: false };
    let left = group.admin(3).drain_broker(drain).await.unwrap().into_inner().replicas_left;
    assert!(left > 0);
    settle(&group, "the broker to be empty", |image| held(image, 0) == (0, 0)).await;
    let left = group.admin(3).drain_broker(drain).await.unwrap().into_inner().replicas_left;
    assert_eq!(left, 0, "now it can go");
}

#[tokio::test(flavor = "multi_thread")]
async fn reassignments_are_listed_cancelled_and_refused_by_name() {
    let group = Group::start_tuned(&ALL, |config| {
        quiet(config);
        config.auto_balance = false;
    })
    .await;
    for broker in 0..3 {
        group.register(1, broker).await;
    }
    let assignments = vec![v1::ReplicaAssignment { broker_ids: vec![0] }];
    let topic = v1::NewTopic { name: "events".into(), assignments, ..Default::default() };
    let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
    group.admin(2).create_topics(request).await.unwrap();
    let ask = |topic: &str, replicas: &[i32]| v1::ReassignPartitionsRequest {
        reassignments: vec![v1::PartitionReassignment {
            topic: topic.into(),
            partition: 0,
            replicas: replicas.to_vec(),
        }],
        validate_only: false,
    };
    use thalweg_core::ErrorCode as E;
    for (request, expected) in [
        (ask("events", &[7]), E::UnknownBroker),
        (ask("nothing", &[1]), E::UnknownTopic),
        (ask("events", &[1, 1]), E::InvalidRequest),
        (ask("events", &[]), E::NoReassignmentInProgress),
        (v1::ReassignPartitionsRequest::default(), E::InvalidRequest),
    ] {
        let status = group.admin(2).reassign_partitions(request).await.unwrap_err();
        assert_eq!(crate::group::code(&status), expected, "{status}");
    }
    let dry = v1::ReassignPartitionsRequest { validate_only: true, ..ask("events", &[1, 2]) };
    group.admin(3).reassign_partitions(dry).await.unwrap();
    let listed = async || {
        let request = v1::ListReassignmentsRequest::default();
        group.admin(3).list_reassignments(request).await.unwrap().into_inner().reassignments
    };
    assert!(listed().await.is_empty());
    group.admin(2).reassign_partitions(ask("events", &[1, 2])).await.unwrap();
    let under_way = listed().await;
    assert_eq!(under_way.len(), 1);
    assert_eq!(
        (&under_way[0].adding_replicas[..], &under_way[0].removing_replicas[..]),
        (&[1, 2][..], &[0][..])
    );
    group.admin(2).reassign_partitions(ask("events", &[])).await.unwrap();
    assert!(listed().await.is_empty());
    group.admin(2).reassign_partitions(ask("events", &[1, 2])).await.unwrap();
    let image = settle(&group, "the move", |image| held(image, 0) == (0, 0)).await;
    let partition = partitions(&image).next().unwrap();
    assert_eq!(partition.replicas, [BrokerId(1), BrokerId(2)]);
}
