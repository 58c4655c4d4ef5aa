//! How brokers come, go and are found out.

use crate::brokers::*;
use crate::gate::GatedStorage;
use crate::harness::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use thalweg_broker::{Broker, BrokerSeams, Port, WallClock};
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::{BrokerRef, RegisterBroker};
use thalweg_core::{BrokerEpoch, BrokerId, ErrorCode};
use thalweg_log::CommitMode;
use thalweg_proto::v1;
use thalweg_runtime::{Dialer, Incoming, Shutdown};

async fn until(what: impl Fn() -> bool) {
    let reached = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, reached).await.expect("it comes in time");
}

fn count(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_session_moves_to_the_controller_that_leads() {
    let controller = crate::controller::FakeController::new("the-cluster");
    let shutdown = Shutdown::new();
    let first = controller.listen(shutdown.clone()).await;
    let second = controller.listen(shutdown.clone()).await;
    // It is told of the second one only: the first is found by asking, and by the metadata.
    let mut config = config(&[second]);
    config.intervals.heartbeat = Duration::from_millis(20);
    let storage = GatedStorage::new();
    let stop = Shutdown::new();
    let broker = run(config, &storage, &stop).await.unwrap();
    let on_session = count(&controller.beats);
    assert!(on_session > 0);
    until(|| count(&controller.beats) > on_session + 3).await;
    // Nobody leads: single heartbeats are tried.
    let single = count(&controller.single_beats);
    controller.elect(0);
    until(|| count(&controller.single_beats) > single + 2).await;
    controller.elect(2);
    let before = count(&controller.beats);
    until(|| count(&controller.beats) > before + 3).await;
    let single = count(&controller.single_beats);
    until(|| count(&controller.beats) > before + 6).await;
    assert_eq!(count(&controller.single_beats), single, "a session is enough");
    // One that breaks is followed by a sign of life before the next is tried.
    controller.elect(1);
    until(|| count(&controller.single_beats) > single).await;
    let described = broker.metadata().image().controllers().map(|(_, at)| at.to_string()).collect::<Vec<_>>();
    assert!(described.contains(&first));
    stop.trigger();
    broker.join().await.unwrap();
    shutdown.trigger();
}

#[tokio::test]
async fn controllers_without_sessions_get_single_heartbeats() {
    let controller = crate::controller::FakeController::new("the-cluster");
    controller.without_sessions.store(true, Ordering::Relaxed);
    let shutdown = Shutdown::new();
    let mut config = config(&[controller.listen(shutdown.clone()).await]);
    config.intervals.heartbeat = Duration::from_millis(20);
    let stop = Shutdown::new();
    let broker = run(config, &GatedStorage::new(), &stop).await.unwrap();
    assert!(count(&controller.single_beats) > 0 && count(&controller.beats) == 0);
    stop.trigger();
    broker.join().await.unwrap();
    assert_eq!(count(&controller.goodbyes), 1);
    shutdown.trigger();
}

#[tokio::test]
async fn a_registration_tells_whether_the_logs_were_closed() {
    let mut brokers = Brokers::start(1).await;
    brokers.topic("t", &[&[0]]).await;
    let epoch = |brokers: &Brokers| brokers.controller.image().broker(BrokerId(0)).unwrap().epoch.get();
    let first = epoch(&brokers);
    brokers.stop(0).await.unwrap();
    let storage = brokers.members[&0].storage.clone();
    brokers.add(0, storage.clone()).await;
    let second = epoch(&brokers);
    brokers.produce(0, produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    storage.sim.cut_after_ops(0);
    assert!(brokers.stop(0).await.is_err(), "it cannot close its logs any more");
    storage.sim.power_cut();
    brokers.add(0, storage).await;
    assert!(second > first && epoch(&brokers) > second);
    assert_eq!(*brokers.controller.clean_epochs.lock().unwrap(), [None, Some(first), None]);
    assert_eq!(brokers.values(0, "t", &[]).await, [(0, 0, "a".into())]);
}

#[tokio::test]
async fn a_second_broker_of_the_same_id_is_refused() {
    let brokers = Brokers::start(1).await;
    let mut config = brokers.config(0);
    config.intervals.start = Duration::from_secs(3);
    let refused = run(config, &GatedStorage::new(), &Shutdown::new()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DuplicateBrokerId, "{refused}");
    assert!(refused.to_string().contains("broker 0 is alive"), "{refused}");
    brokers.topic("t", &[&[0]]).await;
    brokers.produce(0, produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
}

/// Another process takes the broker's id, with another disk.
fn replace(brokers: &Brokers, id: i32) {
    brokers.controller.fence(id);
    let register = RegisterBroker {
        id: BrokerId(id),
        cluster_id: None,
        incarnation: [9; 16],
        endpoint: "127.0.0.1:1".parse().unwrap(),
        internal_endpoint: "127.0.0.1:2".parse().unwrap(),
        rack: None,
        log_dirs: vec!["another-disk".into()],
        clean_shutdown_epoch: None,
        damaged: false,
    };
    let (version, _) = brokers.controller.propose(Command::RegisterBroker(register)).unwrap();
    let epoch = BrokerEpoch(version as i64);
    brokers.controller.propose(Command::UnfenceBroker(BrokerRef { id: BrokerId(id), epoch })).unwrap();
}

#[tokio::test]
async fn a_broker_that_was_replaced_does_not_pass_for_its_successor() {
    let mut brokers = Brokers::start(1).await;
    // It does not hear of it for as long as the test lasts, as if it slept.
    let (storage, shutdown) = (GatedStorage::new(), Shutdown::new());
    let mut config = brokers.config(1);
    config.intervals.heartbeat = LONG * 2;
    config.intervals.session = LONG * 4;
    let handle = run(config, &storage, &shutdown).await.unwrap();
    let channel = connect(&handle.listen_addr().to_string()).await;
    brokers.members.insert(1, Member { storage, handle: Some(handle), shutdown, channel });
    brokers.topic("t", &[&[0, 1]]).await;
    brokers.produce(0, produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    let isr = || brokers.controller.image().topic("t").unwrap().partitions[0].isr.clone();
    assert_eq!(isr(), [BrokerId(0), BrokerId(1)]);

    replace(&brokers, 1);
    assert_eq!(isr(), [BrokerId(0)], "its successor has another disk");
    let leader = brokers.controller.image().topic("t").unwrap().partitions[0].clone();
    brokers.produce(0, produce_batch("t", 0, batch(&["b"]), v1::Acks::All)).await.unwrap();
    let applied = brokers.handle(1).replicas().watch().borrow().get();
    // Long enough for it to follow under the other's epoch, if it did, and to be taken into the ISR.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(isr(), [BrokerId(0)]);
    let after = brokers.controller.image().topic("t").unwrap().partitions[0].clone();
    assert_eq!(after, leader, "nothing was asked for in its name");
    assert!(applied < brokers.controller.image().broker(BrokerId(1)).unwrap().epoch.get() as u64);
    assert_eq!(
        brokers.handle(1).replicas().watch().borrow().get(),
        applied,
        "no role of the other's is taken"
    );
}

#[tokio::test]
async fn a_broker_that_was_replaced_ends() {
    let mut brokers = Brokers::start(1).await;
    replace(&brokers, 0);
    // Its next heartbeat is refused, and so is its attempt to register again.
    let handle = brokers.members.get_mut(&0).unwrap().handle.take().unwrap();
    let ended = tokio::time::timeout(LONG, handle.join()).await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("heartbeats"), "{ended}");
    assert!(ended.to_string().contains("broker 0 is alive"), "{ended}");
}

#[tokio::test]
async fn a_broker_that_was_forgotten_registers_again() {
    let brokers = Brokers::start(2).await;
    let image = brokers.controller.image();
    let before = image.broker(BrokerId(1)).unwrap().epoch;
    brokers.controller.keeps_fenced.store(true, Ordering::Relaxed);
    brokers.controller.fence(1);
    let request = v1::UnregisterBrokerRequest { broker_id: 1 };
    brokers.admin(0).unregister_broker(request).await.unwrap();
    brokers.controller.keeps_fenced.store(false, Ordering::Relaxed);
    until(|| {
        let image = brokers.controller.image();
        image.broker(BrokerId(1)).is_some_and(|broker| broker.epoch > before && !broker.fenced)
    })
    .await;
    // Nothing was lost in between.
    let told = brokers.controller.clean_epochs.lock().unwrap().last().copied();
    assert_eq!(told, Some(Some(before.get())));
    // It takes roles, and copies, under its new registration.
    brokers.topic("t", &[&[0, 1], &[1, 0]]).await;
    for partition in 0..2 {
        let request = produce_batch("t", partition, batch(&["a"]), v1::Acks::All);
        let answer = brokers.produce(partition, request).await.unwrap();
        assert_eq!(answer.results[0].durability.as_ref().unwrap().replicas, 2);
    }
}

#[tokio::test]
async fn a_stop_waits_to_be_let_go_and_serves_meanwhile() {
    let mut brokers = Brokers::start(1).await;
    brokers.topic("t", &[&[0]]).await;
    brokers.controller.deaf.store(true, Ordering::Relaxed);
    brokers.controller.holds_back.store(true, Ordering::Relaxed);
    brokers.members[&0].shutdown.trigger();
    until(|| count(&brokers.controller.goodbyes) > 2).await;
    brokers.produce(0, produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    brokers.controller.holds_back.store(false, Ordering::Relaxed);
    brokers.stop(0).await.unwrap();
}

#[tokio::test]
async fn a_broker_runs_on_what_it_is_given() {
    let controller = crate::controller::FakeController::new("the-cluster");
    let shutdown = Shutdown::new();
    let config = config(&[controller.listen(shutdown.clone()).await]);
    let port = || {
        let listener = thalweg_runtime::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        Port { incoming: Incoming::from_listener(listener, true), address }
    };
    let dialled = Arc::new(AtomicU32::new(0));
    let dialler = Arc::clone(&dialled);
    let storage = GatedStorage::new();
    let seams = BrokerSeams {
        clock: Arc::new(WallClock),
        storage: Arc::new(storage.clone()),
        dialer: Dialer::from_fn(move |address| {
            dialler.fetch_add(1, Ordering::Relaxed);
            tokio::net::TcpStream::connect(address)
        }),
        public: port(),
        internal: port(),
        commit_mode: CommitMode::Manual,
    };
    let stop = Shutdown::new();
    let broker = Broker::start_with(config, seams, stop.clone()).await.unwrap();
    assert!(count(&dialled) >= 3, "calls, session and watch have a connection each");
    let mut brokers = Brokers::start(0).await;
    let channel = connect(&broker.listen_addr().to_string()).await;
    let member = Member { storage, handle: Some(broker), shutdown: stop, channel };
    brokers.members.insert(0, member);
    let topic = v1::NewTopic { name: "t".into(), ..Default::default() };
    let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
    brokers.admin(0).create_topics(request).await.unwrap();
    // The committers run although nobody else calls them.
    brokers.produce(0, produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    brokers.stop(0).await.unwrap();
    shutdown.trigger();
}

#[tokio::test]
async fn a_wrong_address_of_a_controller_is_named() {
    let mut wrong = config(&["127.0.0.1:1".to_owned()]);
    wrong.data_dirs = vec![PathBuf::from("/data")];
    wrong.internal_advertise = Some("nowhere".into());
    let error = run(wrong, &GatedStorage::new(), &Shutdown::new()).await.unwrap_err();
    assert!(error.to_string().contains("internal_advertise"), "{error}");
}

#[tokio::test]
async fn what_is_decided_by_the_controllers_goes_to_them_and_is_awaited() {
    let brokers = Brokers::start(2).await;
    brokers.topic("t", &[&[0], &[1], &[0]]).await;
    let mut admin = brokers.admin(1);
    let request = v1::DrainBrokerRequest { broker_id: 1, cancel: false };
    let drained = admin.drain_broker(request).await.unwrap().into_inner();
    let image = brokers.handle(1).metadata().snapshot();
    assert!(image.version().get() >= drained.metadata_version);
    assert!(image.broker(BrokerId(1)).unwrap().draining);
    let unknown = v1::DrainBrokerRequest { broker_id: 9, cancel: false };
    let refused = api_error(&admin.drain_broker(unknown).await.unwrap_err());
    assert_eq!((refused.code, refused.field.as_deref()), (ErrorCode::UnknownBroker, Some("broker_id")));
    admin.elect_leaders(v1::ElectLeadersRequest::default()).await.unwrap();
    assert_eq!(*brokers.controller.noted.lock().unwrap(), ["elect 0"]);
    let request = v1::AddVoterRequest { node_id: 7, endpoint: "x:1".into() };
    assert_eq!(admin.add_voter(request).await.unwrap().into_inner().voters, [1, 7]);
    let refused = admin.remove_voter(v1::RemoveVoterRequest { node_id: 1 }).await.unwrap_err();
    assert_eq!(api_error(&refused).code, ErrorCode::InvalidVoters);

    let found =
        brokers.cluster(0).describe_cluster(v1::DescribeClusterRequest {}).await.unwrap().into_inner();
    let counts: Vec<_> =
        found.brokers.iter().map(|b| (b.replica_count, b.leader_count, b.draining)).collect();
    assert_eq!(counts, [(2, 2, false), (1, 1, true)]);
    assert_eq!(found.controllers[0].endpoint, brokers.controllers[0]);
}

#[tokio::test]
async fn a_reassignment_is_followed_from_any_broker_to_its_end() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", &[&[0]]).await;
    let values: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    for value in &values {
        brokers.produce(2, produce_batch("t", 0, batch(&[value]), v1::Acks::All)).await.unwrap();
    }
    // The one that is added cannot write yet, so the move cannot end.
    brokers.members[&1].storage.close_gate();
    let mut admin = brokers.admin(2);
    let to = vec![v1::PartitionReassignment { topic: "t".into(), partition: 0, replicas: vec![1] }];
    let request = v1::ReassignPartitionsRequest { reassignments: to, validate_only: false };
    let noted = admin.reassign_partitions(request).await.unwrap().into_inner();
    assert_eq!(noted.results[0].error, None);
    brokers.settled(noted.metadata_version).await;
    let listed = || async {
        let request = v1::ListReassignmentsRequest { topics: vec!["t".into()] };
        brokers.admin(2).list_reassignments(request).await.unwrap().into_inner().reassignments
    };
    let first = listed().await.remove(0);
    assert_eq!((first.adding_replicas, first.removing_replicas), (vec![1], vec![0]));
    assert!(
        first.log_bytes.unwrap() > 0 && first.lag.unwrap() <= 50,
        "the leader, another broker, was asked"
    );
    brokers.members[&1].storage.open_gate();
    until(|| {
        let image = brokers.controller.image();
        let partition = &image.topic("t").unwrap().partitions[0];
        partition.replicas == [BrokerId(1)] && partition.leader == BrokerId(1)
    })
    .await;
    brokers.settled(brokers.controller.image().version().get()).await;
    assert_eq!(listed().await, []);
    brokers.produce(2, produce_batch("t", 0, batch(&["moved"]), v1::Acks::All)).await.unwrap();
    let found: Vec<_> = brokers.values(0, "t", &[]).await.into_iter().map(|(.., value)| value).collect();
    assert_eq!(found, values.into_iter().chain(["moved".to_owned()]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stop_in_good_order_loses_nothing_and_is_hardly_noticed() {
    let mut brokers = Brokers::start(3).await;
    brokers.topic("t", &[&[0, 1, 2]]).await;
    let write = async |brokers: &Brokers, n: i64| {
        let request = produce_batch("t", 0, batch(&[&n.to_string()]), v1::Acks::All);
        brokers.produce(2, request).await.unwrap().results[0].base_offset
    };
    for n in 0..20 {
        assert_eq!(write(&brokers, n).await, n);
    }
    brokers.stop(0).await.unwrap();
    for n in 20..40 {
        assert_eq!(write(&brokers, n).await, n);
    }
    let storage = brokers.members[&0].storage.clone();
    brokers.add(0, storage).await;
    until(|| brokers.controller.image().topic("t").unwrap().partitions[0].isr.len() == 3).await;
    let expected: Vec<_> = (0..40).map(|n| (0, n, n.to_string())).collect();
    assert_eq!(brokers.values(0, "t", &[]).await, expected);
}
