//! Starts, stops and what survives them.

use crate::harness::*;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thalweg_broker::StartError;
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::{BrokerRef, DeleteTopic, TopicRef};
use thalweg_core::{BrokerId, ErrorCode, TopicName};
use thalweg_log::storage::{OpenMode, Storage};
use thalweg_proto::v1;
use thalweg_runtime::Shutdown;

#[tokio::test]
async fn a_restart_serves_the_same_data_and_the_watermark_does_not_go_back() {
    // Catalogue 6, as far as one replica shows it: right after the start, all that was committed is seen.
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    for n in 0..20 {
        cluster.produce(produce_batch("t", 0, batch(&[&n.to_string()]), v1::Acks::All)).await.unwrap();
    }
    cluster.stop().await.unwrap();
    assert_eq!(cluster.controller.goodbyes.load(Ordering::Relaxed), 1);
    cluster.restart().await;
    assert_eq!(cluster.end_offset("t", 0).await, 20);
    assert_eq!(cluster.values("t", 0).await.len(), 20);
}

#[tokio::test]
async fn acknowledged_records_survive_a_power_cut() {
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    for n in 0..20 {
        cluster.produce(produce_batch("t", 0, batch(&[&n.to_string()]), v1::Acks::All)).await.unwrap();
    }
    cluster.produce(produce_batch("t", 0, batch(&["maybe"]), v1::Acks::Leader)).await.unwrap();
    cluster.storage.sim.cut_after_ops(0);
    // It cannot close its logs any more.
    assert!(cluster.stop().await.is_err());
    cluster.storage.sim.power_cut();
    cluster.restart().await;
    let end = cluster.end_offset("t", 0).await;
    assert!((20..=21).contains(&end), "{end}");
    let values = cluster.values("t", 0).await;
    assert!((0..20).all(|n: i64| values[n as usize] == (n, n.to_string().into())));
}

#[tokio::test]
async fn committed_offsets_stay_visible_through_each_change_of_the_leader_epoch() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    let broker = cluster.broker.as_ref().unwrap();
    let epoch = broker.metadata().image().broker(BrokerId(0)).unwrap().epoch;
    let me = BrokerRef { id: BrokerId(0), epoch };
    for round in 1..5 {
        let before = cluster.controller.image().topic("t").unwrap().partitions[0].leader_epoch;
        cluster.controller.propose(Command::FenceBroker(me)).unwrap();
        let (version, _) = cluster.controller.propose(Command::UnfenceBroker(me)).unwrap();
        let mut applied = broker.replicas().watch();
        applied.wait_for(|applied| applied.get() >= version).await.unwrap();
        assert!(cluster.controller.image().topic("t").unwrap().partitions[0].leader_epoch > before);
        assert_eq!(cluster.end_offset("t", 0).await, round);
        cluster.produce(produce_batch("t", 0, batch(&["b"]), v1::Acks::All)).await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_deleted_while_the_broker_was_down_is_gone_after_the_start() {
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.topic("kept", 1, &[]).await;
    cluster.produce(produce_batch("kept", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
    cluster.stop().await.unwrap();
    let topic = TopicRef::Name(TopicName::new("t").unwrap());
    cluster.controller.propose(Command::DeleteTopic(DeleteTopic { topic })).unwrap();
    cluster.restart().await;
    let logs = cluster.broker.as_ref().unwrap().replicas().logs().logs();
    let names: Vec<_> = logs.iter().map(|log| log.topic_partition().to_string()).collect();
    assert_eq!(names, ["kept-0"]);
    assert_eq!(cluster.values("kept", 0).await, [(0, "a".into())]);
}

#[tokio::test]
async fn a_folder_in_use_or_of_another_cluster_is_refused_with_the_reason() {
    let mut cluster = Cluster::start().await;
    let other_node = |controllers: &[String]| {
        let mut config = config(controllers);
        config.node_id = BrokerId(7);
        config
    };
    let second = run(other_node(&cluster.controllers), &cluster.storage, &Shutdown::new()).await.unwrap_err();
    assert!(second.to_string().contains("in use"), "{second}");
    cluster.stop().await.unwrap();

    let shutdown = Shutdown::new();
    let other = crate::controller::FakeController::new("another-cluster");
    let controllers = vec![other.listen(shutdown.clone()).await];
    let foreign = run(config(&controllers), &cluster.storage, &Shutdown::new()).await.unwrap_err();
    assert_eq!(foreign.code(), ErrorCode::InconsistentClusterId, "{foreign}");

    let mut wanted = config(&cluster.controllers);
    wanted.cluster_id = Some(thalweg_core::ClusterId("elsewhere".into()));
    let refused = run(wanted, &cluster.storage, &Shutdown::new()).await.unwrap_err();
    assert!(matches!(refused, StartError::OtherCluster { .. }), "{refused}");
    shutdown.trigger();
    cluster.restart().await;
}

#[tokio::test]
async fn without_controllers_the_start_fails_and_says_whom_it_asked() {
    let mut config = config(&["127.0.0.1:1".to_owned()]);
    config.intervals.start = std::time::Duration::from_millis(200);
    let storage = crate::gate::GatedStorage::new();
    let error = run(config, &storage, &Shutdown::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ControllerNotAvailable);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_partition_that_could_not_be_opened_is_tried_again_without_a_change_of_metadata() {
    let cluster = Cluster::start_with(|config| config.intervals.reopen = Duration::from_millis(20)).await;
    cluster.storage.sim.set_capacity(Some(cluster.storage.sim.used_bytes()));
    cluster.topic("t", 1, &[]).await;
    let produce = || cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::All));
    assert_eq!(code(produce().await), ErrorCode::StorageError);
    assert_eq!(cluster.broker.as_ref().unwrap().replicas().len(), 0);
    cluster.storage.sim.set_capacity(None);
    let opened = async {
        while produce().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, opened).await.unwrap();
    assert_eq!(cluster.values("t", 0).await, [(0, "a".into())]);
}

#[tokio::test]
async fn a_recovery_may_take_longer_than_a_registration_may() {
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    cluster.stop().await.unwrap();
    let mut config = config(&cluster.controllers);
    config.intervals.start = Duration::from_secs(2);
    cluster.storage.close_gate_for_lists();
    let storage = cluster.storage.clone();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(2500));
        storage.open_gate();
    });
    let shutdown = cluster.shutdown_anew();
    let broker = run(config, &cluster.storage, &shutdown).await.unwrap();
    assert_eq!(broker.replicas().len(), 1);
    opener.join().unwrap();
    cluster.broker = Some(broker);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_ends_at_once_when_told_to_stop_while_the_logs_are_opened() {
    let mut cluster = Cluster::start().await;
    cluster.stop().await.unwrap();
    cluster.storage.close_gate_for_lists();
    let shutdown = cluster.shutdown_anew();
    let (config, storage) = (config(&cluster.controllers), cluster.storage.clone());
    let starting = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { run(config, &storage, &shutdown).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    shutdown.trigger();
    let stopped = tokio::time::timeout(LONG, starting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(stopped, StartError::Stopped), "{stopped}");
    cluster.storage.open_gate();
}

#[tokio::test]
async fn a_thousand_partitions_are_created_and_opened() {
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1000, &[]).await;
    cluster.produce(produce_batch("t", 999, batch(&["a"]), v1::Acks::All)).await.unwrap();
    cluster.stop().await.unwrap();
    cluster.restart().await;
    assert_eq!(cluster.broker.as_ref().unwrap().replicas().len(), 1000);
    assert_eq!(cluster.values("t", 999).await, [(0, "a".into())]);
}

#[tokio::test]
async fn a_failed_disk_ends_the_broker_with_the_reason_and_a_full_one_does_not() {
    // Catalogue 12: a broker that cannot append must not go on leading.
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let produce = |value: &'static str| {
        let request = produce_batch("t", 0, batch(&[value]), v1::Acks::All);
        let producer = cluster.producer();
        async move { { producer }.produce(request).await }
    };
    produce("a").await.unwrap();
    let sim = cluster.storage.sim.clone();
    sim.set_capacity(Some(sim.used_bytes()));
    let large: &'static str = Box::leak("x".repeat(900_000).into_boxed_str());
    // The first may fit into what is reserved.
    let _ = produce(large).await;
    assert_eq!(api_error(&produce(large).await.unwrap_err()).code, ErrorCode::StorageError);
    sim.set_capacity(None);
    produce("b").await.unwrap();
    sim.fail_next_sync();
    // Either the failure or the end of the broker is told.
    assert!(produce("c").await.is_err());
    // Nobody asked it to stop.
    let broker = cluster.broker.take().unwrap();
    let error = tokio::time::timeout(LONG, broker.join()).await.unwrap().unwrap_err();
    assert!(matches!(error, thalweg_broker::BrokerError::Task(_)), "{error}");
    assert!(error.to_string().contains("the data directory /data failed"), "{error}");
    assert_eq!(cluster.controller.goodbyes.load(Ordering::Relaxed), 0, "it is fenced, it does not leave");
    cluster.restart().await;
    assert_eq!(cluster.controller.clean_epochs.lock().unwrap().last(), Some(&None), "no clean stop");
    let values: Vec<_> = cluster.values("t", 0).await.into_iter().map(|(_, value)| value).collect();
    assert!(["a", "b"].iter().all(|value| values.iter().any(|found| found == value)), "{}", values.len());
}

#[tokio::test]
async fn a_broker_whose_disk_lost_what_was_stable_says_so_once() {
    // Catalogue 11: it must not be taken for one that has everything.
    let mut cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    for n in 0..10 {
        cluster.produce(produce_batch("t", 0, batch(&[&n.to_string()]), v1::Acks::All)).await.unwrap();
    }
    cluster.stop().await.unwrap();
    let sim = &cluster.storage.sim;
    let path = Path::new("/data/t-0/00000000000000000000.log");
    let len = sim.open(path, OpenMode::Read).unwrap().len().unwrap();
    sim.flip_bit(path, len / 2 + 5, 1).unwrap();
    // After a clean stop nothing is looked through.
    sim.remove_file(Path::new("/data/.kafka_cleanshutdown")).unwrap();
    cluster.restart().await;
    assert_eq!(*cluster.controller.damaged.lock().unwrap(), [false, true]);
    // Nobody else has the records, so what is left is served.
    let left = cluster.values("t", 0).await.len();
    assert!((1..10).contains(&left), "{left}");
    cluster.produce(produce_batch("t", 0, batch(&["new"]), v1::Acks::All)).await.unwrap();
    cluster.stop().await.unwrap();
    cluster.restart().await;
    assert_eq!(*cluster.controller.damaged.lock().unwrap(), [false, true, false]);
}
