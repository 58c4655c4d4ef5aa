//! What every store must do, run against each of them.

use crate::harness::identity;
use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;
use thalweg_core::{ClusterId, NodeId};
use thalweg_raft::{
    ConfState, EntryKind, HardState, Identity, LogEntry, MemDisk, MemStore, RaftStore, SledStore, Snapshot,
    SnapshotMeta, StoreError, Summary, WriteBatch,
};

type Opened = Result<Box<dyn RaftStore>, StoreError>;

/// Opens the same store again and again; a store must be dropped before the next one is opened.
trait Opener {
    fn open(&self, identity: Identity) -> Opened;
}

struct InMemory(MemDisk);
impl Opener for InMemory {
    fn open(&self, identity: Identity) -> Opened {
        Ok(Box::new(MemStore::open(&self.0, identity)?))
    }
}

struct OnDisk<'a>(&'a Path);
impl Opener for OnDisk<'_> {
    fn open(&self, identity: Identity) -> Opened {
        Ok(Box::new(SledStore::open(self.0, identity)?))
    }
}

pub fn entry(index: u64, term: u64, bytes: usize) -> LogEntry {
    let data: Vec<u8> = (0..bytes).map(|at| (at as u64 ^ index) as u8).collect();
    LogEntry { index, term, kind: EntryKind::Command, data: data.into() }
}

pub fn snapshot(index: u64, term: u64, bytes: usize) -> Snapshot {
    let conf = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    Snapshot { meta: SnapshotMeta { index, term, conf }, data: Bytes::from(vec![index as u8; bytes]) }
}

fn hard_state(term: u64, commit: u64) -> Option<HardState> {
    Some(HardState { term, vote: 2, commit })
}

fn append(entries: Vec<LogEntry>, hard_state: Option<HardState>) -> WriteBatch {
    WriteBatch { entries, hard_state, ..WriteBatch::default() }
}

fn everything(opener: &dyn Opener) {
    let reopen = || opener.open(identity(1)).unwrap();

    // Empty.
    let mut store = reopen();
    assert_eq!(store.summary().unwrap(), Summary::default());
    assert_eq!(store.snapshot().unwrap(), None);
    assert_eq!(store.begin_incarnation().unwrap(), 1);
    assert_eq!(store.begin_incarnation().unwrap(), 2);

    // Entries of all sizes, with the hard state.
    let sizes = [0, 1, 4095, 4096, 4097, 100_000];
    let entries: Vec<LogEntry> = sizes.iter().zip(1..).map(|(size, index)| entry(index, 1, *size)).collect();
    store.write(append(entries.clone(), hard_state(1, 3))).unwrap();
    drop(store);
    let mut store = reopen();
    let summary = store.summary().unwrap();
    assert_eq!(summary.last_index, 6);
    assert_eq!(summary.hard_state, HardState { term: 1, vote: 2, commit: 3 });
    assert_eq!(store.entries(1, 7, u64::MAX).unwrap(), entries);
    assert_eq!(store.entries(3, 5, u64::MAX).unwrap(), entries[2..4]);
    assert_eq!(store.entries(3, 7, 4096).unwrap().len(), 1, "no more than the limit");
    assert_eq!(store.entries(6, 7, 1).unwrap().len(), 1, "but at least one");
    assert!(store.entries(1, 8, u64::MAX).is_err(), "there is no entry 7");
    assert_eq!(store.begin_incarnation().unwrap(), 3);

    // Another leader's entries replace the tail, shorter ones too.
    let kinds = [EntryKind::Membership, EntryKind::MembershipV2];
    let newer: Vec<LogEntry> =
        kinds.iter().zip(5..).map(|(kind, index)| LogEntry { kind: *kind, ..entry(index, 2, 10) }).collect();
    store.write(append(vec![newer[0].clone()], hard_state(2, 3))).unwrap();
    assert_eq!(store.summary().unwrap().last_index, 5);
    assert!(store.term(6).is_err(), "the old tail is gone");
    store.write(append(vec![newer[1].clone()], None)).unwrap();
    drop(store);
    let mut store = reopen();
    assert_eq!(store.entries(5, 7, u64::MAX).unwrap(), newer);
    assert_eq!((store.term(4).unwrap(), store.term(5).unwrap()), (1, 2));

    // A snapshot of our own leaves the log alone; compaction then cuts it.
    let first = snapshot(4, 1, 3_000_000);
    store
        .write(WriteBatch {
            snapshot: Some(first.clone()),
            hard_state: hard_state(2, 4),
            ..WriteBatch::default()
        })
        .unwrap();
    assert_eq!(store.summary().unwrap().last_index, 6);
    store.compact(2).unwrap();
    store.compact(1).unwrap();
    for _ in 0..2 {
        let summary = store.summary().unwrap();
        assert_eq!((summary.log_start, summary.last_index), ((2, 1), 6));
        assert_eq!(summary.snapshot.as_ref(), Some(&first.meta));
        assert_eq!(store.snapshot().unwrap(), Some(first.clone()));
        assert!(store.entries(2, 3, u64::MAX).is_err());
        assert_eq!(store.entries(3, 4, u64::MAX).unwrap(), entries[2..3]);
        drop(store);
        store = reopen();
    }

    // A smaller snapshot takes the place of a larger one.
    let second = snapshot(5, 2, 10);
    store
        .write(WriteBatch {
            snapshot: Some(second.clone()),
            hard_state: hard_state(2, 5),
            ..WriteBatch::default()
        })
        .unwrap();
    assert_eq!(store.snapshot().unwrap(), Some(second));

    // A snapshot from the leader replaces everything, and entries behind it may come along.
    let third = snapshot(20, 5, 100);
    store
        .write(WriteBatch {
            snapshot: Some(third.clone()),
            reset_log: true,
            entries: vec![entry(21, 5, 8)],
            hard_state: hard_state(5, 20),
        })
        .unwrap();
    for _ in 0..2 {
        let summary = store.summary().unwrap();
        assert_eq!((summary.log_start, summary.last_index), ((20, 5), 21));
        assert_eq!(summary.hard_state.commit, 20);
        assert_eq!(store.snapshot().unwrap(), Some(third.clone()));
        assert!(store.term(6).is_err());
        drop(store);
        store = reopen();
    }

    // A snapshot from the leader that is behind the end of a log that went another way.
    store.write(append((22..40).map(|index| entry(index, 5, 5_000)).collect(), None)).unwrap();
    store
        .write(WriteBatch {
            snapshot: Some(snapshot(30, 6, 0)),
            reset_log: true,
            entries: Vec::new(),
            hard_state: hard_state(6, 30),
        })
        .unwrap();
    for _ in 0..2 {
        assert_eq!(store.summary().unwrap().last_index, 30);
        assert!(store.term(35).is_err());
        assert_eq!(store.snapshot().unwrap().unwrap().data.len(), 0);
        drop(store);
        store = reopen();
    }

    // Exclusive, and only for its owner.
    assert!(matches!(opener.open(identity(1)), Err(StoreError::InUse { .. })));
    drop(store);
    let other_cluster = Identity { cluster_id: Some(ClusterId("other".into())), node_id: NodeId(1) };
    assert!(matches!(opener.open(other_cluster), Err(StoreError::Identity { .. })));
    assert!(matches!(opener.open(identity(2)), Err(StoreError::Identity { .. })));
    let mut store = reopen();
    assert_eq!(store.summary().unwrap().last_index, 30, "a refused opener changes nothing");
    assert!(store.learn_cluster(&ClusterId("test".into())).is_ok());
    let other = store.learn_cluster(&ClusterId("other".into()));
    assert!(matches!(other, Err(StoreError::Identity { .. })), "a cluster is for life");
}

fn a_cluster_is_learned_later(opener: &dyn Opener) {
    let unknown = || Identity { cluster_id: None, node_id: NodeId(1) };
    let test = ClusterId("test".into());
    let mut store = opener.open(unknown()).unwrap();
    assert_eq!(store.identity().cluster_id, None);
    store.write(append(vec![entry(1, 1, 10)], hard_state(1, 1))).unwrap();
    drop(store);
    let mut store = opener.open(unknown()).unwrap();
    store.learn_cluster(&test).unwrap();
    assert_eq!(store.identity().cluster_id.as_ref(), Some(&test));
    drop(store);
    let store = opener.open(unknown()).unwrap();
    assert_eq!(store.identity().cluster_id.as_ref(), Some(&test), "it is kept");
    assert_eq!(store.summary().unwrap().last_index, 1);
    drop(store);
    let other_node = Identity { cluster_id: None, node_id: NodeId(2) };
    assert!(matches!(opener.open(other_node), Err(StoreError::Identity { .. })));
    let other_cluster = Identity { cluster_id: Some(ClusterId("other".into())), node_id: NodeId(1) };
    assert!(matches!(opener.open(other_cluster), Err(StoreError::Identity { .. })));
}

#[test]
fn a_store_in_memory_learns_its_cluster_later() {
    a_cluster_is_learned_later(&InMemory(MemDisk::new()));
}

#[test]
fn a_store_in_sled_learns_its_cluster_later() {
    let folder = tempfile::tempdir().unwrap();
    a_cluster_is_learned_later(&OnDisk(folder.path()));
}

#[test]
fn the_store_in_memory_does_what_a_store_must() {
    everything(&InMemory(MemDisk::new()));
}

#[test]
fn the_store_in_sled_does_what_a_store_must() {
    let folder = tempfile::tempdir().unwrap();
    everything(&OnDisk(&folder.path().join("deep/raft")));
}

/// What a node may do to its store.
#[derive(Debug, Clone)]
enum Step {
    /// Appends entries, `back` of the old ones overwritten first.
    Append { back: u64, sizes: Vec<usize> },
    /// Takes a snapshot `behind` the end of the log.
    Snapshot { behind: u64, bytes: usize },
    /// Installs a snapshot `ahead` of the end of the log (or behind it, if negative).
    Install { ahead: i64, bytes: usize },
    /// Compacts to `behind` the snapshot.
    Compact { behind: u64 },
    /// Closes and opens.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0usize..50, 4_000usize..9_000];
    prop_oneof![
        4 => (0u64..4, proptest::collection::vec(size, 1..6)).prop_map(|(back, sizes)| Step::Append { back, sizes }),
        2 => (0u64..4, 0usize..20_000).prop_map(|(behind, bytes)| Step::Snapshot { behind, bytes }),
        1 => (-3i64..10, 0usize..20_000).prop_map(|(ahead, bytes)| Step::Install { ahead, bytes }),
        2 => (0u64..4).prop_map(|behind| Step::Compact { behind }),
        1 => Just(Step::Reopen),
    ]
}

fn take(store: &mut dyn RaftStore, term: u64, step: &Step) {
    let summary = store.summary().unwrap();
    let snapshot_index = summary.snapshot.as_ref().map_or(0, |meta| meta.index);
    let (start, last) = (summary.log_start.0, summary.last_index);
    match step {
        Step::Append { back, sizes } => {
            let first = (last + 1).saturating_sub(*back).max(snapshot_index.max(start) + 1);
            let entries: Vec<LogEntry> =
                sizes.iter().zip(first..).map(|(size, index)| entry(index, term, *size)).collect();
            let hard_state = hard_state(term, snapshot_index.max(first - 1));
            store.write(append(entries, hard_state)).unwrap();
        }
        Step::Snapshot { behind, bytes } => {
            let index = last.saturating_sub(*behind);
            if index > snapshot_index {
                let snapshot = Some(snapshot(index, store.term(index).unwrap(), *bytes));
                let hard_state = hard_state(term, index);
                store.write(WriteBatch { snapshot, hard_state, ..WriteBatch::default() }).unwrap();
            }
        }
        Step::Install { ahead, bytes } => {
            let index = last.saturating_add_signed(*ahead);
            if index > snapshot_index {
                let snapshot = Some(snapshot(index, term, *bytes));
                let hard_state = hard_state(term, index);
                store
                    .write(WriteBatch { snapshot, reset_log: true, entries: Vec::new(), hard_state })
                    .unwrap();
            }
        }
        Step::Compact { behind } => {
            store.compact(snapshot_index.saturating_sub(*behind)).unwrap();
        }
        Step::Reopen => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_hold_the_same_after_any_steps(steps in proptest::collection::vec(step(), 1..25)) {
        let (disk, folder) = (MemDisk::new(), tempfile::tempdir().unwrap());
        let openers: [&dyn Opener; 2] = [&InMemory(disk), &OnDisk(folder.path())];
        let mut stores = openers.map(|opener| Some(opener.open(identity(1)).unwrap()));
        for (term, step) in (1..).zip(&steps) {
            for (store, opener) in stores.iter_mut().zip(openers) {
                if let Step::Reopen = step {
                    *store = None;
                    *store = Some(opener.open(identity(1)).unwrap());
                }
                take(&mut **store.as_mut().unwrap(), term, step);
            }
            let views = stores.each_ref().map(|store| {
                let store = store.as_ref().unwrap();
                let summary = store.summary().unwrap();
                let entries = store.entries(summary.log_start.0 + 1, summary.last_index + 1, u64::MAX).unwrap();
                (summary, entries, store.snapshot().unwrap())
            });
            prop_assert_eq!(&views[0], &views[1]);
        }
    }
}
