//! Reassignments (KIP-455) and draining.

use super::*;

fn two_of_five() -> Cluster {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3, 4, 5]);
    cluster.run(create("a", explicit(&[&[1, 2]]))).unwrap();
    cluster
}

#[test]
fn a_reassignment_begins_goes_on_and_ends() {
    let mut cluster = two_of_five();
    cluster.reassign("a", 0, Some(&[3, 2, 4])).unwrap();
    assert_eq!(
        (cluster.replicas("a", 0).as_str(), cluster.state("a", 0).as_str()),
        ("3 2 4 1 +3 +4 -1", "1 [2 1] 0/1")
    );
    let under_way: Vec<_> =
        cluster.image.reassignments().map(|(topic, id, _)| (topic.name.to_string(), id)).collect();
    assert_eq!(under_way, [("a".to_owned(), PartitionId(0))]);
    let topic = cluster.image.topic("a").unwrap();
    assert_eq!((topic.replication_factor(), topic.partitions[0].is_under_replicated()), (3, false));
    // The same again changes nothing.
    cluster.reassign("a", 0, Some(&[3, 2, 4])).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [2 1] 0/1");
    // One that is fenced while it is added stays.
    cluster.fence(4);
    assert_eq!(cluster.replicas("a", 0), "3 2 4 1 +3 +4 -1");
    cluster.set_isr("a", 0, &[1, 2, 3]);
    assert_eq!(cluster.replicas("a", 0), "3 2 4 1 +3 +4 -1");
    cluster.unfence(4);
    let change = cluster.isr_change("a", 0, &[1, 2, 3, 4]);
    let answer = Response::Partition(PartitionState {
        leader_epoch: LeaderEpoch(1),
        partition_epoch: PartitionEpoch(3),
        isr: vec![BrokerId(3), BrokerId(2), BrokerId(4)],
    });
    assert_eq!(cluster.run(Command::AlterPartition(change)), Ok(answer));
    assert_eq!(
        (cluster.replicas("a", 0).as_str(), cluster.state("a", 0).as_str()),
        ("3 2 4", "3 [3 2 4] 1/3")
    );
    assert_eq!(cluster.image.reassignments().count(), 0);
}

#[test]
fn a_reassignment_is_replaced_or_cancelled() {
    let mut cluster = two_of_five();
    cluster.reassign("a", 0, Some(&[3, 4])).unwrap();
    cluster.set_isr("a", 0, &[1, 2, 3]);
    assert_eq!(cluster.state("a", 0), "1 [3 1 2] 0/2");
    // Broker 3 is no longer wanted, broker 5 is.
    cluster.reassign("a", 0, Some(&[5, 4])).unwrap();
    assert_eq!(
        (cluster.replicas("a", 0).as_str(), cluster.state("a", 0).as_str()),
        ("5 4 1 2 +5 +4 -1 -2", "1 [1 2] 0/3")
    );
    cluster.reassign("a", 0, None).unwrap();
    assert_eq!((cluster.replicas("a", 0).as_str(), cluster.state("a", 0).as_str()), ("1 2", "1 [1 2] 0/4"));
    let refusal = cluster.reassign("a", 0, None).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::NoReassignmentInProgress);
    // Fewer replicas, or another order, need no one to catch up.
    cluster.reassign("a", 0, Some(&[2, 1])).unwrap();
    assert_eq!((cluster.replicas("a", 0).as_str(), cluster.state("a", 0).as_str()), ("2 1", "1 [2 1] 0/5"));
    cluster.reassign("a", 0, Some(&[2])).unwrap();
    assert_eq!((cluster.replicas("a", 0).as_str(), cluster.state("a", 0).as_str()), ("2", "2 [2] 1/6"));
}

#[test]
fn what_would_be_left_without_anyone_in_sync_is_refused() {
    let mut cluster = two_of_five();
    cluster.reassign("a", 0, Some(&[3, 4])).unwrap();
    cluster.set_isr("a", 0, &[1, 3]);
    cluster.fence(1);
    assert_eq!(cluster.state("a", 0), "3 [3] 1/3");
    for to in [None, Some(&[4, 5][..])] {
        let refusal = cluster.reassign("a", 0, to).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidRequest);
        assert!(refusal.message.contains("keep one of [3]"), "{refusal}");
    }
    cluster.reassign("a", 0, Some(&[3, 5])).unwrap();
    cluster.set_isr("a", 0, &[3, 5]);
    assert_eq!((cluster.replicas("a", 0).as_str(), cluster.state("a", 0).as_str()), ("3 5", "3 [3 5] 1/5"));
}

#[test]
fn a_cancelled_reassignment_takes_the_lead_from_a_replica_that_goes() {
    let mut cluster = two_of_five();
    cluster.reassign("a", 0, Some(&[3, 4])).unwrap();
    cluster.set_isr("a", 0, &[1, 2, 3]);
    cluster.run(Command::BeginControlledShutdown(cluster.broker(1))).unwrap();
    assert_eq!(cluster.state("a", 0), "3 [3 2] 1/3");
    cluster.reassign("a", 0, None).unwrap();
    assert_eq!((cluster.replicas("a", 0).as_str(), cluster.state("a", 0).as_str()), ("1 2", "2 [2] 2/4"));
}

#[test]
fn moves_that_cannot_be_are_refused_each_by_itself() {
    let mut cluster = two_of_five();
    cluster.fence(5);
    cluster.run(Command::DrainBroker(DrainBroker { id: BrokerId(4), cancel: false })).unwrap();
    let cases: &[(&[i32], ErrorCode)] = &[
        (&[], ErrorCode::InvalidRequest),
        (&[1, 3, 1], ErrorCode::InvalidRequest),
        (&[1, 9], ErrorCode::UnknownBroker),
        (&[1, 5], ErrorCode::InvalidRequest),
        (&[1, 4], ErrorCode::InvalidRequest),
    ];
    for (to, code) in cases {
        assert_eq!(cluster.reassign("a", 0, Some(to)).unwrap_err().code, *code, "{to:?}");
    }
    let wide: Vec<i32> = (0..=limits::MAX_REPLICATION_FACTOR as i32).collect();
    assert_eq!(cluster.reassign("a", 0, Some(&wide)).unwrap_err().code, ErrorCode::InvalidRequest);
    assert_eq!(cluster.reassign("a", 1, Some(&[3])).unwrap_err().code, ErrorCode::UnknownPartition);
    assert_eq!(cluster.reassign("b", 0, Some(&[3])).unwrap_err().code, ErrorCode::UnknownTopic);
    assert_eq!(cluster.replicas("a", 0), "1 2");
    // Those that are there may stay, whatever became of them.
    cluster.fence(2);
    cluster.reassign("a", 0, Some(&[2, 1, 3])).unwrap();
    assert_eq!(cluster.replicas("a", 0), "2 1 3 +3");
    let partition = TopicPartition::new(name("a"), PartitionId(0));
    let moves = vec![PartitionMove { partition, replicas: None }; limits::MAX_PARTITION_CHANGES + 1];
    let too_many = Command::ReassignPartitions(ReassignPartitions { moves });
    assert_eq!(cluster.refused(too_many).0, ErrorCode::InvalidRequest);
}

#[test]
fn a_draining_broker_gets_nothing_new() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    let drain = |id, cancel| Command::DrainBroker(DrainBroker { id: BrokerId(id), cancel });
    assert_eq!(cluster.refused(drain(9, false)).0, ErrorCode::UnknownBroker);
    cluster.run(drain(3, false)).unwrap();
    cluster.run(drain(3, false)).unwrap();
    cluster.run(create("a", counts(20, 2))).unwrap();
    cluster.run(grow("a", 30)).unwrap();
    assert_eq!(cluster.image.replicas_of(BrokerId(3)), 0);
    let (code, message) = cluster.refused(create("b", counts(1, 3)));
    assert_eq!(code, ErrorCode::InvalidReplicationFactor);
    assert_eq!(
        message,
        "replication factor 3 needs as many active brokers and there are 2 that are not being drained; \
         use 2 or less, or start more brokers"
    );
    assert_eq!(cluster.refused(create("b", explicit(&[&[1, 3]]))).0, ErrorCode::InvalidRequest);
    // It stays so across restarts, until it is cancelled.
    cluster.start(3, 2);
    assert!(cluster.image.broker(BrokerId(3)).unwrap().draining);
    cluster.run(drain(3, true)).unwrap();
    cluster.run(create("b", counts(1, 3))).unwrap();
    for id in [1, 2, 3] {
        cluster.run(drain(id, false)).unwrap();
    }
    let (_, message) = cluster.refused(create("c", counts(1, 1)));
    assert_eq!(message, "every active broker is being drained; cancel that or start another");
}

#[test]
fn controllers_are_noted_and_forgotten() {
    let mut cluster = Cluster::with_brokers(&[]);
    let put = |id, port| {
        let endpoint = Endpoint { host: "controller.example".to_owned(), port };
        Command::PutController(PutController { id: NodeId(id), endpoint })
    };
    for (bad, code) in [(put(0, 9), ErrorCode::InvalidRequest), (put(1, 0), ErrorCode::InvalidRequest)] {
        assert_eq!(cluster.refused(bad).0, code);
    }
    cluster.run(put(2, 9)).unwrap();
    cluster.run(put(1, 9)).unwrap();
    cluster.run(put(2, 10)).unwrap();
    let noted: Vec<_> = cluster.image.controllers().map(|(id, at)| (id.get(), at.to_string())).collect();
    assert_eq!(noted, [(1, "controller.example:9".to_owned()), (2, "controller.example:10".to_owned())]);
    for id in 3..=limits::MAX_CONTROLLERS as u64 {
        cluster.run(put(id, 9)).unwrap();
    }
    assert_eq!(cluster.refused(put(99, 9)).0, ErrorCode::PolicyViolation);
    cluster.run(put(2, 11)).unwrap();
    cluster.run(Command::RemoveController(NodeId(2))).unwrap();
    cluster.run(Command::RemoveController(NodeId(2))).unwrap();
    cluster.run(put(99, 9)).unwrap();
}
