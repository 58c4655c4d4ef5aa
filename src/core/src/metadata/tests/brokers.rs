//! Registration, fencing, shutdown, ISR changes and elections.

use super::*;

#[test]
fn a_cluster_is_initialised_once() {
    let mut cluster = Cluster { image: MetadataImage::new() };
    assert_eq!(cluster.refused(create("a", counts(1, 1))).0, ErrorCode::ControllerNotAvailable);
    assert_eq!(cluster.refused(init("")).0, ErrorCode::InvalidRequest);
    let newer = InitCluster { cluster_id: ClusterId("c1".into()), feature_level: 999 };
    assert_eq!(cluster.refused(Command::InitCluster(newer)).0, ErrorCode::Unsupported);
    assert_eq!(cluster.run(init("c1")), Ok(Response::Done));
    assert_eq!(cluster.run(init("c1")), Ok(Response::Done), "the answer may have been lost");
    let (code, message) = cluster.refused(init("c2"));
    assert_eq!(code, ErrorCode::InconsistentClusterId);
    assert_eq!(message, "this cluster is c1, not c2; use its own data folder");
}

#[test]
fn an_index_is_applied_once() {
    let mut image = MetadataImage::new();
    apply(&mut image, MetadataVersion(5), &init("c1")).unwrap();
    let before = image.clone();
    for index in [0, 4, 5] {
        let refusal = apply(&mut image, MetadataVersion(index), &register(1, 1)).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Internal);
        assert_eq!(image, before);
    }
}

#[test]
fn who_may_register() {
    let other_disk = || RegisterBroker { log_dirs: vec!["other".to_owned()], ..registration(1, 2) };
    type Setup = fn(&mut Cluster);
    let alive: Setup = |_| {};
    let fenced: Setup = |cluster| cluster.fence(1);
    let stopping: Setup = |cluster| {
        cluster.run(Command::BeginControlledShutdown(cluster.broker(1))).unwrap();
    };
    let cases = [
        // The same process again, however the broker stands: the same epoch.
        (alive, registration(1, 1), Ok(false)),
        (fenced, registration(1, 1), Ok(false)),
        // Another process with the same disk: the first one must have ended.
        (alive, registration(1, 2), Ok(true)),
        // Another process with another disk: only if the first one is gone or going.
        (alive, other_disk(), Err(ErrorCode::DuplicateBrokerId)),
        (fenced, other_disk(), Ok(true)),
        (stopping, other_disk(), Ok(true)),
        (alive, registration(2, 9), Ok(true)),
        (
            alive,
            RegisterBroker { cluster_id: Some(ClusterId("c2".into())), ..registration(2, 1) },
            Err(ErrorCode::InconsistentClusterId),
        ),
        (alive, RegisterBroker { cluster_id: None, ..registration(2, 1) }, Ok(true)),
        (alive, registration(-1, 1), Err(ErrorCode::InvalidRequest)),
        (alive, RegisterBroker { log_dirs: vec![], ..registration(2, 1) }, Err(ErrorCode::InvalidRequest)),
        (
            alive,
            RegisterBroker { log_dirs: vec!["a".into(), "a".into()], ..registration(2, 1) },
            Err(ErrorCode::InvalidRequest),
        ),
        (
            alive,
            RegisterBroker { rack: Some("r".repeat(129)), ..registration(2, 1) },
            Err(ErrorCode::InvalidRequest),
        ),
        (
            alive,
            RegisterBroker { endpoint: Endpoint { host: String::new(), port: 1 }, ..registration(2, 1) },
            Err(ErrorCode::InvalidRequest),
        ),
    ];
    for (setup, command, wanted) in cases {
        let mut cluster = Cluster::with_brokers(&[1]);
        setup(&mut cluster);
        let id = command.id;
        let old = cluster.image.broker(id).map(|broker| broker.epoch);
        let outcome = cluster.run(Command::RegisterBroker(command.clone()));
        match wanted {
            Ok(new_epoch) => {
                let now = cluster.image.broker(id).unwrap();
                assert_eq!(outcome, Ok(Response::BrokerRegistered { epoch: now.epoch }));
                assert_eq!(Some(now.epoch) != old, new_epoch, "{command:?}");
                let version = cluster.image.version().get() as i64;
                assert!(!new_epoch || (now.fenced && now.epoch.get() == version), "{command:?}");
            }
            Err(code) => assert_eq!(outcome.unwrap_err().code, code, "{command:?}"),
        }
    }
}

#[test]
fn a_restarted_process_gets_its_leaderships_back_in_a_new_epoch() {
    let mut cluster = Cluster::with_brokers(&[1]);
    cluster.run(create("a", counts(1, 1))).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1] 0/0");
    let old = cluster.broker(1);
    cluster.run(register(1, 2)).unwrap();
    assert_eq!(cluster.state("a", 0), "-1 [1] 1/1");
    let (code, message) = cluster.refused(Command::UnfenceBroker(old));
    assert_eq!(code, ErrorCode::StaleBrokerEpoch);
    assert!(message.ends_with("this process was replaced and must register anew"), "{message}");
    cluster.unfence(1);
    assert_eq!(cluster.state("a", 0), "1 [1] 2/2");
}

#[test]
fn leaderships_follow_the_brokers_that_live() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("a", explicit(&[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]))).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1 2 3] 0/0");
    cluster.fence(1);
    cluster.fence(1);
    assert_eq!(cluster.state("a", 0), "2 [2 3] 1/1");
    assert_eq!(cluster.state("a", 1), "2 [2 3] 0/1");
    assert_eq!(cluster.state("a", 2), "3 [3 2] 0/1");
    cluster.fence(2);
    assert_eq!(cluster.state("a", 0), "3 [3] 2/2");
    cluster.fence(3);
    assert_eq!(cluster.state("a", 0), "-1 [3] 3/3");
    // Only the last one in sync may bring the partition back.
    cluster.unfence(1);
    cluster.unfence(2);
    assert_eq!(cluster.state("a", 0), "-1 [3] 3/3");
    cluster.unfence(3);
    assert_eq!(cluster.state("a", 0), "3 [3] 4/4");
}

#[test]
fn unclean_elections_happen_only_where_they_are_asked_for() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    cluster.run(create("safe", explicit(&[&[1, 2]]))).unwrap();
    let config = [("unclean.leader.election.enable", "true")];
    cluster.run(Command::CreateTopic(topic("eager", explicit(&[&[1, 2]]), &config))).unwrap();
    cluster.fence(2);
    cluster.fence(1);
    cluster.unfence(2);
    assert_eq!(cluster.state("safe", 0), "-1 [1] 1/2");
    assert_eq!(cluster.state("eager", 0), "2 [2] 2/3");
    // The setting revives what is down.
    cluster.run(alter("safe", &config, &[])).unwrap();
    assert_eq!(cluster.state("safe", 0), "2 [2] 2/3");
}

#[test]
fn a_broker_that_asks_to_stop_hands_over_what_it_can() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    cluster.run(create("a", explicit(&[&[1, 2]]))).unwrap();
    cluster.run(create("b", explicit(&[&[1]]))).unwrap();
    cluster.run(Command::BeginControlledShutdown(cluster.broker(1))).unwrap();
    assert_eq!(cluster.state("a", 0), "2 [2] 1/1");
    assert_eq!(cluster.state("b", 0), "1 [1] 0/0");
    assert_eq!([1, 2].map(|id| cluster.image.leaderships_of(BrokerId(id))), [1, 1]);
    assert_eq!(cluster.refused(Command::UnfenceBroker(cluster.broker(1))).0, ErrorCode::InvalidRequest);
    let (code, message) = cluster.refused(create("c", counts(1, 2)));
    assert_eq!(code, ErrorCode::InvalidReplicationFactor);
    assert_eq!(
        message,
        "replication factor 2 needs as many active brokers and there are 1; use 1 or less, or start more brokers"
    );
    cluster.fence(1);
    assert_eq!(cluster.state("b", 0), "-1 [1] 1/1");
    cluster.start(1, 2);
    assert_eq!(cluster.state("b", 0), "1 [1] 2/2");
}

#[test]
fn only_a_broker_without_replicas_is_forgotten() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    cluster.run(create("a", explicit(&[&[1], &[1]]))).unwrap();
    let (code, message) = cluster.refused(Command::UnregisterBroker(cluster.broker(1)));
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert_eq!(message, "broker 1 holds replicas of 2 partitions; move or delete them first");
    cluster.run(Command::UnregisterBroker(cluster.broker(2))).unwrap();
    assert!(cluster.image.broker(BrokerId(2)).is_none());
    let gone = cluster.broker(2);
    assert_eq!(cluster.refused(Command::FenceBroker(gone)).0, ErrorCode::BrokerNotRegistered);
}

fn change(cluster: &Cluster, broker: i32, epochs: (i32, i32), isr: &[i32]) -> AlterPartition {
    AlterPartition {
        broker: cluster.broker(broker),
        topic_id: topic_id("a"),
        partition: PartitionId(0),
        leader_epoch: LeaderEpoch(epochs.0),
        partition_epoch: PartitionEpoch(epochs.1),
        isr: isr.iter().map(|id| cluster.broker(*id)).collect(),
    }
}

#[test]
fn a_leader_changes_its_isr() {
    let mut cluster = Cluster::with_brokers(&[1, 2, 3]);
    cluster.run(create("a", explicit(&[&[1, 2, 3]]))).unwrap();
    let shrink = change(&cluster, 1, (0, 0), &[3, 1]);
    let answer = Response::Partition(PartitionState {
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(1),
        isr: vec![BrokerId(1), BrokerId(3)],
    });
    assert_eq!(cluster.run(Command::AlterPartition(shrink)), Ok(answer.clone()));
    assert_eq!(cluster.state("a", 0), "1 [1 3] 0/1");
    let same = change(&cluster, 1, (0, 1), &[1, 3]);
    assert_eq!(cluster.run(Command::AlterPartition(same)), Ok(answer), "nothing to change");
    let expand = change(&cluster, 1, (0, 1), &[1, 2, 3]);
    cluster.run(Command::AlterPartition(expand)).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1 2 3] 0/2");
}

#[test]
fn an_isr_change_is_refused_unless_everything_is_current() {
    use ErrorCode::*;
    let mut cluster = Cluster::with_brokers(&[1, 2, 3, 4]);
    cluster.run(create("a", explicit(&[&[1, 2, 3]]))).unwrap();
    // Broker 2 comes back as another process: its old epoch is the one of the process that had caught up.
    let old_two = cluster.broker(2);
    cluster.start(2, 2);
    cluster.fence(3);
    assert_eq!(cluster.state("a", 0), "1 [1] 0/2");
    let good = change(&cluster, 1, (0, 2), &[1, 2]);
    let one = cluster.broker(1);
    let stale = BrokerRef { epoch: BrokerEpoch(1), ..one };
    let unknown_topic = TopicId([9; 16]);
    let cases = [
        (AlterPartition { broker: stale, ..good.clone() }, StaleBrokerEpoch),
        (
            AlterPartition { broker: BrokerRef { id: BrokerId(9), ..one }, ..good.clone() },
            BrokerNotRegistered,
        ),
        (AlterPartition { topic_id: unknown_topic, ..good.clone() }, UnknownTopic),
        (AlterPartition { partition: PartitionId(1), ..good.clone() }, UnknownPartition),
        (AlterPartition { partition: PartitionId(-1), ..good.clone() }, UnknownPartition),
        (AlterPartition { leader_epoch: LeaderEpoch(-1), ..good.clone() }, FencedLeaderEpoch),
        (AlterPartition { leader_epoch: LeaderEpoch(1), ..good.clone() }, UnknownLeaderEpoch),
        (change(&cluster, 2, (0, 2), &[1, 2]), NotLeader),
        (change(&cluster, 1, (0, 1), &[1, 2]), InvalidPartitionEpoch),
        (change(&cluster, 1, (0, 3), &[1, 2]), InvalidPartitionEpoch),
        (change(&cluster, 1, (0, 2), &[2]), InvalidRequest),
        (change(&cluster, 1, (0, 2), &[]), InvalidRequest),
        (change(&cluster, 1, (0, 2), &[1, 1]), InvalidRequest),
        (change(&cluster, 1, (0, 2), &[1, 4]), InvalidRequest),
        (change(&cluster, 1, (0, 2), &[1, 3]), InvalidRequest),
        (AlterPartition { isr: vec![one, old_two], ..good.clone() }, InvalidRequest),
    ];
    for (command, wanted) in cases {
        let (code, message) = cluster.refused(Command::AlterPartition(command.clone()));
        assert_eq!(code, wanted, "{command:?}: {message}");
    }
    cluster.run(Command::AlterPartition(good)).unwrap();
    assert_eq!(cluster.state("a", 0), "1 [1 2] 0/3");
}

#[test]
fn leaders_are_elected_on_request() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    cluster.run(create("a", explicit(&[&[1, 2], &[1, 2], &[1]]))).unwrap_err();
    cluster.run(create("a", explicit(&[&[1, 2], &[1, 2]]))).unwrap();
    cluster.fence(1);
    cluster.unfence(1);
    for partition in [0, 1] {
        let mut back = change(&cluster, 2, (1, 1), &[1, 2]);
        back.partition = PartitionId(partition);
        cluster.run(Command::AlterPartition(back)).unwrap();
    }
    assert_eq!(cluster.state("a", 0), "2 [1 2] 1/2");
    let at = |topic: &str, partition| TopicPartition::new(name(topic), PartitionId(partition));
    let elect = |partitions: Vec<TopicPartition>, unclean| {
        Command::ElectLeaders(ElectLeaders { partitions, unclean })
    };
    for (bad, code) in [(at("b", 0), ErrorCode::UnknownTopic), (at("a", 2), ErrorCode::UnknownPartition)] {
        assert_eq!(cluster.refused(elect(vec![at("a", 0), bad], false)).0, code);
    }
    let one = elect(vec![at("a", 0), at("a", 0)], false);
    assert_eq!(cluster.run(one.clone()), Ok(Response::Elected(vec![at("a", 0)])));
    assert_eq!(cluster.run(one), Ok(Response::Elected(vec![])), "it leads already");
    assert_eq!(cluster.run(elect(vec![], false)), Ok(Response::Elected(vec![at("a", 1)])));
    assert_eq!(cluster.state("a", 1), "1 [1 2] 2/3");

    cluster.fence(2);
    cluster.fence(1);
    cluster.unfence(2);
    assert_eq!(cluster.run(elect(vec![], false)), Ok(Response::Elected(vec![])));
    assert_eq!(cluster.run(elect(vec![], true)), Ok(Response::Elected(vec![at("a", 0), at("a", 1)])));
    assert_eq!(cluster.state("a", 0), "2 [2] 4/6");
}

#[test]
fn producer_ids_are_given_once() {
    let mut cluster = Cluster::with_brokers(&[1, 2]);
    let ask = |broker, count| Command::AllocateProducerIds(AllocateProducerIds { broker, count });
    let block = |first, count| Ok(Response::ProducerIds(ProducerIdBlock { first: ProducerId(first), count }));
    let (one, two) = (cluster.broker(1), cluster.broker(2));
    assert_eq!(cluster.run(ask(one, 1000)), block(0, 1000));
    assert_eq!(cluster.run(ask(two, 10)), block(1000, 10));
    for count in [0, -1, 1_000_001] {
        assert_eq!(cluster.refused(ask(one, count)).0, ErrorCode::InvalidRequest);
    }
    let stale = BrokerRef { epoch: BrokerEpoch(0), ..one };
    assert_eq!(cluster.refused(ask(stale, 10)).0, ErrorCode::StaleBrokerEpoch);
    assert_eq!(cluster.run(ask(one, 1)), block(1010, 1));
    cluster.image.next_producer_id = i64::MAX - 5;
    assert_eq!(cluster.refused(ask(one, 10)).0, ErrorCode::Internal);
}

#[test]
fn endpoints_parse_and_print() {
    for text in ["localhost:9292", "10.0.0.1:1", "[::1]:65535", "a-b.c_d:80"] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
    }
    for text in
        ["", ":1", "host", "host:", "host:0", "host:65536", "::1:80", "[::1:80", "[x]y:1", "a b:1", "[a:b]:1"]
    {
        assert!(text.parse::<Endpoint>().is_err(), "{text}");
    }
    assert!(Endpoint::new(&"h".repeat(255), 1).is_err());
}
