//! A group of one.

use crate::harness::{Cluster, Machine, identity, ids, until};
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use thalweg_core::NodeId;
use thalweg_raft::{
    MAX_COMMAND_BYTES, MemDisk, MemStore, NoTransport, RaftConfig, RaftError, RaftFailure, RaftNode, Role,
    SledStore, WritePoint,
};

#[tokio::test(start_paused = true)]
async fn it_leads_at_once_and_answers_after_applying() {
    let cluster = Cluster::start(&[1]);
    let before = tokio::time::Instant::now();
    let (first, count) = cluster.propose(1, "a").await.unwrap();
    assert_eq!(count, 1);
    assert!(before.elapsed().as_millis() < 100, "no election timeout was waited for");
    let (second, count) = cluster.propose(1, "b").await.unwrap();
    assert_eq!((count, second), (2, first + 1));
    assert_eq!(cluster.handle(1).read_index().await.unwrap(), second);
    assert_eq!(cluster.nodes[&1].machine.texts(), ["a", "b"]);
    let status = cluster.status(1);
    assert_eq!((status.role, status.serving, status.leader), (Role::Leader, true, Some(NodeId(1))));
    assert_eq!((status.commit, status.applied, status.voters), (second, second, ids(&[1])));
    assert_eq!(cluster.nodes[&1].machine.0.lock().unwrap().roles, [Role::Leader]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start(&[1]);
    for round in 0..5 {
        for n in 0..10 {
            cluster.propose(1, &format!("{round}-{n}")).await.unwrap();
        }
        cluster.crash(1).await;
        cluster.boot(1);
        cluster.leader().await;
        assert_eq!(cluster.nodes[&1].machine.texts().len(), (round + 1) * 10);
    }
}

#[tokio::test(start_paused = true)]
async fn proposals_that_wait_together_share_one_sync() {
    let cluster = Cluster::start(&[1]);
    cluster.leader().await;
    let before = cluster.disks[&1].writes();
    let answers: Vec<_> = (0..500)
        .map(|n| {
            let handle = cluster.handle(1).clone();
            tokio::spawn(async move { handle.propose(Bytes::from(format!("{n}"))).await.unwrap() })
        })
        .collect();
    for answer in answers {
        answer.await.unwrap();
    }
    let syncs = cluster.disks[&1].writes() - before;
    assert!(syncs <= 3, "500 proposals took {syncs} syncs");
    assert_eq!(cluster.nodes[&1].machine.texts().len(), 500);
}

#[tokio::test(start_paused = true)]
async fn commands_that_cannot_be_taken_are_refused() {
    let cluster = Cluster::start(&[1]);
    assert_eq!(cluster.propose(1, "").await, Err(RaftError::EmptyCommand));
    let large = Bytes::from(vec![1; MAX_COMMAND_BYTES + 1]);
    assert!(matches!(cluster.handle(1).propose(large).await, Err(RaftError::CommandTooLarge { .. })));
    let largest = Bytes::from(vec![1; MAX_COMMAND_BYTES]);
    cluster.handle(1).propose(largest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_node_and_is_seen_by_its_callers() {
    let mut cluster = Cluster::start(&[1]);
    cluster.propose(1, "a").await.unwrap();
    let handle = cluster.handle(1).clone();
    handle.shutdown();
    cluster.end_of(1).await.unwrap();
    assert_eq!(handle.propose(Bytes::from_static(b"b")).await, Err(RaftError::Stopped));
    assert_eq!(handle.read_index().await, Err(RaftError::Stopped));
    cluster.boot(1);
    // The commit index was left on the disk.
    assert_eq!(cluster.status(1).commit, 3);
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_ends_the_node_and_answers_nobody_with_success() {
    let mut cluster = Cluster::start(&[1]);
    cluster.propose(1, "a").await.unwrap();
    cluster.disks[&1].set_hook(|point| point != WritePoint::BeforeWrite);
    assert_eq!(cluster.propose(1, "b").await, Err(RaftError::Stopped));
    assert!(matches!(cluster.end_of(1).await, Err(RaftFailure::Store(_))));
    cluster.disks[&1].clear_hook();
    cluster.boot(1);
    cluster.leader().await;
    assert_eq!(cluster.nodes[&1].machine.texts(), ["a"]);
}

#[tokio::test]
async fn a_node_of_another_id_does_not_take_the_store() {
    let store = MemStore::open(&MemDisk::new(), identity(1)).unwrap();
    let config = RaftConfig::new(NodeId(2), ids(&[2]));
    assert!(matches!(
        RaftNode::start(config, store, Machine::default(), NoTransport),
        Err(RaftFailure::Store(_))
    ));
}

#[tokio::test]
async fn on_its_own_thread_over_sled_it_comes_back_with_everything() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let store = SledStore::open(folder.path(), identity(1)).unwrap();
        let machine = Machine::default();
        let mut config = RaftConfig::new(NodeId(1), ids(&[1]));
        config.snapshot_every_entries = 7;
        config.keep_entries = 2;
        let (node, handle) = RaftNode::start(config, store, machine.clone(), NoTransport).unwrap();
        let thread = node.spawn_thread().unwrap();
        until("the node to lead", || handle.status().borrow().serving.then_some(())).await;
        assert_eq!(machine.texts().len(), round * 20);
        for n in 0..20 {
            let command = Bytes::from(format!("{round}-{n}"));
            assert_eq!(handle.propose(command).await.unwrap().1, round * 20 + n + 1);
        }
        handle.shutdown();
        thread.join().await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_in_the_state_machine_reaches_the_owner() {
    struct Bomb(Arc<Mutex<Machine>>);
    impl thalweg_raft::StateMachine for Bomb {
        type Output = ();
        fn apply(&mut self, _index: u64, _command: &[u8]) {
            panic!("boom");
        }
        fn snapshot(&self) -> Bytes {
            self.0.lock().unwrap().snapshot()
        }
        fn restore(&mut self, _index: u64, _snapshot: &[u8]) -> Result<(), thalweg_raft::RestoreError> {
            Ok(())
        }
    }
    let store = MemStore::open(&MemDisk::new(), identity(1)).unwrap();
    let config = RaftConfig::new(NodeId(1), ids(&[1]));
    let (node, handle) = RaftNode::start(config, store, Bomb(Arc::default()), NoTransport).unwrap();
    let thread = node.spawn_thread().unwrap();
    assert_eq!(handle.propose(Bytes::from_static(b"x")).await, Err(RaftError::Stopped));
    match thread.join().await {
        Err(RaftFailure::Panicked { message }) => assert_eq!(message, "boom"),
        other => panic!("unexpected end: {other:?}"),
    }
}
