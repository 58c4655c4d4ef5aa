//! Snapshots and compaction.

use crate::harness::{Cluster, Machine, identity, ids, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thalweg_core::{ClusterId, NodeId};
use thalweg_raft::{
    ConfState, HardState, Identity, LogEntry, MemDisk, MemStore, MessageClass, NoTransport, RaftConfig,
    RaftNode, RaftStore, Snapshot, StoreError, Summary, WriteBatch,
};
use tokio::time::sleep;

const ALL: [u64; 3] = [1, 2, 3];

fn often(config: &mut RaftConfig) {
    config.snapshot_every_entries = 10;
    config.keep_entries = 3;
    config.snapshot_retry_ticks = 20;
}

#[tokio::test(start_paused = true)]
async fn the_log_stays_short_and_a_restart_replays_only_its_end() {
    let mut cluster = Cluster::start_tuned(&[1], often);
    for n in 0..105 {
        cluster.propose(1, &format!("{n}")).await.unwrap();
    }
    let summary = cluster.disks[&1].summary();
    let snapshot = summary.snapshot.unwrap().index;
    assert!(snapshot > 95, "{snapshot}");
    assert_eq!(summary.log_start.0, snapshot - 3);
    assert!(summary.last_index - summary.log_start.0 < 14);
    cluster.crash(1).await;
    cluster.boot(1);
    cluster.leader().await;
    assert_eq!(cluster.nodes[&1].machine.texts(), (0..105).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn bytes_make_a_snapshot_due_too() {
    let cluster = Cluster::start_tuned(&[1], |config| config.snapshot_every_bytes = 1000);
    for _ in 0..5 {
        cluster.propose(1, &"x".repeat(400)).await.unwrap();
    }
    assert!(cluster.disks[&1].summary().snapshot.unwrap().index > 3);
}

#[tokio::test(start_paused = true)]
async fn a_follower_far_behind_gets_a_snapshot() {
    let cluster = Cluster::start_tuned(&ALL, often);
    let leader = cluster.leader().await;
    let behind = ALL.into_iter().find(|id| *id != leader).unwrap();
    cluster.net.isolate(behind, &ALL);
    let mut last = 0;
    for n in 0..50 {
        last = cluster.propose(leader, &format!("{n}")).await.unwrap().0;
    }
    cluster.net.heal();
    cluster.converge(&ALL, last).await;
    assert!(cluster.net.sent(leader, MessageClass::Snapshot) >= 1);
    assert!(cluster.nodes[&behind].machine.0.lock().unwrap().restores >= 2, "at the founding, and now");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_lost_on_the_way_is_sent_again() {
    let cluster = Cluster::start_tuned(&ALL, often);
    let leader = cluster.leader().await;
    let behind = ALL.into_iter().find(|id| *id != leader).unwrap();
    cluster.net.isolate(behind, &ALL);
    let mut last = 0;
    for n in 0..50 {
        last = cluster.propose(leader, &format!("{n}")).await.unwrap().0;
    }
    let lost = Arc::new(AtomicU64::new(0));
    let counter = lost.clone();
    cluster.net.watch(move |_, bytes| {
        let is_snapshot = bytes.starts_with(&[8, 7]);
        !is_snapshot || counter.fetch_add(1, Ordering::Relaxed) >= 2
    });
    cluster.net.heal();
    cluster.converge(&ALL, last).await;
    assert!(lost.load(Ordering::Relaxed) >= 3, "two lost, one that arrived");
}

/// Notes the longest read of entries.
struct Measured {
    inner: MemStore,
    longest: Arc<AtomicU64>,
}

impl RaftStore for Measured {
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }
    fn learn_cluster(&mut self, cluster_id: &ClusterId) -> Result<(), StoreError> {
        self.inner.learn_cluster(cluster_id)
    }
    fn begin_incarnation(&mut self) -> Result<u64, StoreError> {
        self.inner.begin_incarnation()
    }
    fn summary(&self) -> Result<Summary, StoreError> {
        self.inner.summary()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<LogEntry>, StoreError> {
        let entries = self.inner.entries(low, high, max_bytes)?;
        let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
        self.longest.fetch_max(bytes, Ordering::Relaxed);
        Ok(entries)
    }
    fn term(&self, index: u64) -> Result<u64, StoreError> {
        self.inner.term(index)
    }
    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        self.inner.snapshot()
    }
    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        self.inner.write(batch)
    }
    fn compact(&mut self, index: u64) -> Result<(), StoreError> {
        self.inner.compact(index)
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_unapplied_log_is_read_a_page_at_a_time() {
    const ENTRIES: u64 = 20_000;
    for voters in [ids(&[1]), ids(&[1, 2])] {
        let mut inner = MemStore::open(&MemDisk::new(), identity(1)).unwrap();
        let mut founding = crate::store_suite::snapshot(1, 1, 0);
        founding.meta.conf =
            ConfState { voters: voters.iter().map(|id| id.get()).collect(), ..ConfState::default() };
        let entries = (2..ENTRIES).map(|index| crate::store_suite::entry(index, 1, 100)).collect();
        let hard_state = Some(HardState { term: 1, vote: 1, commit: ENTRIES - 1 });
        inner.write(WriteBatch { snapshot: Some(founding), reset_log: true, entries, hard_state }).unwrap();

        let longest = Arc::new(AtomicU64::new(0));
        let store = Measured { inner, longest: longest.clone() };
        let machine = Machine::default();
        let mut config = RaftConfig::new(NodeId(1), voters);
        config.max_committed_size_per_ready = 10_000;
        config.snapshot_every_entries = u64::MAX;
        let (node, handle) = RaftNode::start(config, store, machine.clone(), NoTransport).unwrap();
        tokio::spawn(node.run());
        until("everything to be applied", || (handle.status().borrow().applied >= ENTRIES - 1).then_some(()))
            .await;
        sleep(Duration::from_secs(10)).await;
        assert_eq!(machine.commands().len() as u64, ENTRIES - 2);
        let longest = longest.load(Ordering::Relaxed);
        assert!(longest <= 10_100, "{longest} bytes were read at once");
    }
}
