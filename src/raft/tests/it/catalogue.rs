//! The Raft part of the project's bug catalogue, 25 to 28: set up, break, look.

use crate::harness::{Cluster, identity};
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeV2, Message, MessageType};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use thalweg_core::NodeId;
use thalweg_raft::MembershipChange::AddVoter;
use thalweg_raft::{
    ConfState, EntryKind, HardState, LogEntry, MemDisk, MemStore, RaftConfig, RaftFailure, RaftStore, Role,
    Snapshot, SnapshotMeta, WriteBatch,
};
use tokio::time::sleep;

const ALL: [u64; 3] = [1, 2, 3];

/// Counts the steps of one node; at zero the machine stands still: nothing more is written or sent.
#[derive(Clone)]
struct Fuse(Arc<AtomicI64>);

impl Fuse {
    fn step(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) > 0
    }

    fn is_blown(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 0
    }
}

/// Whatever a message promises must be on its sender's disk when it leaves.
fn check_promise(from: NodeId, bytes: &[u8], disk: &MemDisk) {
    let message = Message::parse_from_bytes(bytes).unwrap();
    let found = disk.summary();
    let stored = found.hard_state;
    match message.get_msg_type() {
        MessageType::MsgRequestVoteResponse if !message.reject => {
            assert_eq!(
                (stored.term, stored.vote),
                (message.term, message.to),
                "{from} sent a vote it may forget"
            );
        }
        MessageType::MsgRequestVote | MessageType::MsgAppend | MessageType::MsgHeartbeat => {
            let own = (message.term, from.get());
            assert_eq!((stored.term, stored.vote), own, "{from} acts in a term it may forget");
        }
        MessageType::MsgAppendResponse if !message.reject => {
            assert!(stored.term >= message.term, "{from} acknowledged in a term it may forget");
            assert!(found.last_index >= message.index, "{from} acknowledged entries it may forget");
        }
        _ => {}
    }
}

fn often(config: &mut RaftConfig) {
    config.snapshot_every_entries = 4;
    config.keep_entries = 2;
}

/// One group whose node `victim` dies at its `steps`-th write or send. Answers whether it came to that.
async fn crash_at(victim: u64, steps: i64) -> bool {
    let mut cluster = Cluster::prepare(&ALL, often);
    let fuse = Fuse(Arc::new(AtomicI64::new(steps)));
    let at_write = fuse.clone();
    let disk = cluster.disks[&victim].clone();
    disk.set_hook(move |_| at_write.step());
    let disks: BTreeMap<NodeId, MemDisk> =
        cluster.disks.iter().map(|(id, disk)| (NodeId(*id), disk.clone())).collect();
    let at_send = fuse.clone();
    cluster.net.watch(move |from, bytes| {
        if from == NodeId(victim) && !at_send.step() {
            return false;
        }
        check_promise(from, bytes, &disks[&from]);
        true
    });
    for id in ALL {
        // The fuse may blow in the very start.
        let _ = cluster.try_boot(id);
    }
    let mut acknowledged = Vec::new();
    for n in 0..6 {
        let command = format!("{n}");
        for _ in 0..40 {
            if fuse.is_blown() {
                break;
            }
            let leader = cluster.nodes.keys().copied().find(|id| cluster.status(*id).serving);
            let Some(leader) = leader else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let handle = cluster.handle(leader).clone();
            let proposal = handle.propose(command.clone().into());
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(5), proposal).await {
                acknowledged.push(command.clone());
                break;
            }
        }
    }
    let blown = fuse.is_blown();
    disk.clear_hook();
    // No fuse from now on, but still no empty promise.
    fuse.0.store(i64::MAX, Ordering::SeqCst);
    if cluster.nodes.contains_key(&victim) {
        cluster.crash(victim).await;
    }
    cluster.boot(victim);
    let last = cluster.propose_anywhere("after").await;
    cluster.converge(&ALL, last).await;
    let texts = cluster.nodes[&victim].machine.texts();
    for command in &acknowledged {
        assert!(texts.contains(command), "victim {victim}, step {steps}: {command} is lost of {texts:?}");
    }
    blown
}

#[tokio::test(start_paused = true)]
async fn c25_a_crash_between_any_two_writes_and_sends_breaks_no_promise() {
    for victim in ALL {
        let mut steps = 0;
        while crash_at(victim, steps).await {
            steps += 1;
            // Random election timeouts make each run another one; this many cover every kind of step.
            if steps == 60 {
                break;
            }
        }
        assert!(steps > 20, "only {steps} steps were tried");
    }
}

#[tokio::test(start_paused = true)]
async fn c25_a_lone_voter_does_not_write_to_its_learner_in_a_term_it_may_forget() {
    let mut cluster = Cluster::start(&[1]);
    cluster.leader().await;
    cluster.boot(2);
    cluster.handle(1).change_membership(thalweg_raft::MembershipChange::AddLearner(NodeId(2))).await.unwrap();
    let (last, _) = cluster.propose(1, "x").await.unwrap();
    cluster.converge(&[1, 2], last).await;
    let disk = cluster.disks[&1].clone();
    let appends = Arc::new(AtomicU64::new(0));
    let seen = appends.clone();
    cluster.net.watch(move |from, bytes| {
        if from == NodeId(1) {
            check_promise(from, bytes, &disk);
            seen.fetch_add(1, Ordering::SeqCst);
        }
        true
    });
    for _ in 0..3 {
        cluster.crash(1).await;
        cluster.boot(1);
        let last = cluster.propose_anywhere("y").await;
        cluster.converge(&[1, 2], last).await;
    }
    assert!(appends.load(Ordering::SeqCst) > 3);
}

/// A new node with an empty disk is given a snapshot and dies at its `steps`-th step, again and again.
async fn join_with_crash_at(steps: i64) -> bool {
    let mut cluster = Cluster::start_tuned(&[1], often);
    for n in 0..25 {
        cluster.propose(1, &format!("{n}")).await.unwrap();
    }
    let fuse = Fuse(Arc::new(AtomicI64::new(steps)));
    let disk = MemDisk::new();
    cluster.disks.insert(2, disk.clone());
    let (at_write, at_send, own) = (fuse.clone(), fuse.clone(), disk.clone());
    disk.set_hook(move |_| at_write.step());
    cluster.net.watch(move |from, bytes| {
        if from == NodeId(2) {
            check_promise(from, bytes, &own);
            return at_send.step();
        }
        true
    });
    let _ = cluster.try_boot(2);
    cluster.handle(1).change_membership(thalweg_raft::MembershipChange::AddLearner(NodeId(2))).await.unwrap();
    let (mut last, _) = cluster.propose(1, "x").await.unwrap();
    for _ in 0..50 {
        let caught_up = cluster.nodes.contains_key(&2) && cluster.status(2).applied >= last;
        if fuse.is_blown() || caught_up {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let blown = fuse.is_blown();
    disk.clear_hook();
    fuse.0.store(i64::MAX, Ordering::SeqCst);
    if cluster.nodes.contains_key(&2) {
        cluster.crash(2).await;
    }
    cluster.boot(2);
    cluster.handle(1).change_membership(AddVoter(NodeId(2))).await.unwrap();
    last = cluster.propose(1, "y").await.unwrap().0;
    cluster.converge(&[1, 2], last).await;
    assert_eq!(cluster.nodes[&2].machine.texts().len(), 27);
    blown
}

#[tokio::test(start_paused = true)]
async fn c26_an_empty_follower_installs_a_snapshot_and_may_crash_at_each_step() {
    let mut steps = 0;
    while steps < 40 && join_with_crash_at(steps).await {
        steps += 1;
    }
    assert!(steps >= 4, "only {steps} steps were tried");
}

#[tokio::test(start_paused = true)]
async fn c26_a_wiped_voter_under_its_old_id_ends_with_the_reason() {
    let mut cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    let mut last = 0;
    for n in 0..10 {
        last = cluster.propose(leader, &format!("{n}")).await.unwrap().0;
    }
    cluster.converge(&ALL, last).await;
    let wiped = ALL.into_iter().find(|id| *id != leader).unwrap();
    cluster.crash(wiped).await;
    cluster.disks.insert(wiped, MemDisk::new());
    cluster.boot(wiped);
    match cluster.end_of(wiped).await {
        Err(failure @ RaftFailure::LostEntries { .. }) => {
            assert!(failure.to_string().contains("under a new id"))
        }
        other => panic!("unexpected end: {other:?}"),
    }
    // Two of three go on.
    cluster.propose(leader, "more").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c27_a_read_right_after_an_election_waits_until_the_leader_knows_what_was_committed() {
    let mut cluster = Cluster::start(&ALL);
    let old = cluster.leader().await;
    let (acknowledged, _) = cluster.propose(old, "acknowledged").await.unwrap();
    // The others hold the entry, but have not been told that it is committed: no append leaves a new leader, while
    // votes and heartbeats do.
    ALL.iter().for_each(|id| cluster.net.mute_appends_of(*id));
    cluster.crash(old).await;
    let new = cluster
        .until("a new leader", || {
            cluster.nodes.keys().copied().find(|id| cluster.status(*id).role == Role::Leader)
        })
        .await;
    assert!(!cluster.status(new).serving);
    assert!(!cluster.nodes[&new].machine.0.lock().unwrap().roles.contains(&Role::Leader));
    let handle = cluster.handle(new).clone();
    let read = tokio::spawn(async move { handle.read_index().await });
    sleep(Duration::from_secs(2)).await;
    assert!(!read.is_finished(), "answered before anything of its own term was committed");
    cluster.net.heal();
    let index = read.await.unwrap().unwrap();
    assert!(index > acknowledged, "{index}");
    assert_eq!(cluster.nodes[&new].machine.texts(), ["acknowledged"]);
}

#[tokio::test(start_paused = true)]
async fn c28_a_node_with_a_committed_but_unapplied_membership_does_not_campaign_in_the_old_one() {
    // The disk of node 1, which was alone when it took its snapshot; node 2 was then added, and that is committed.
    let disk = MemDisk::new();
    let single = ConfChangeSingle { node_id: 2, ..ConfChangeSingle::default() };
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    let data = change.write_to_bytes().unwrap().into();
    let conf = ConfState { voters: vec![1], ..ConfState::default() };
    let mut store = MemStore::open(&disk, identity(1)).unwrap();
    store
        .write(WriteBatch {
            snapshot: Some(Snapshot {
                meta: SnapshotMeta { index: 1, term: 1, conf },
                data: Default::default(),
            }),
            reset_log: true,
            entries: vec![LogEntry { index: 2, term: 2, kind: EntryKind::MembershipV2, data }],
            hard_state: Some(HardState { term: 2, vote: 1, commit: 2 }),
        })
        .unwrap();
    drop(store);
    let mut cluster = Cluster::prepare(&[1], |_| {});
    cluster.disks.insert(1, disk);
    cluster.boot(1);
    sleep(Duration::from_secs(30)).await;
    let status = cluster.status(1);
    assert_eq!(status.voters, [NodeId(1), NodeId(2)]);
    assert_eq!((status.role, status.term), (Role::PreCandidate, 2), "alone it is no majority any more");
}

/// A lone voter adds a second one, which never comes up, and dies at its `steps`-th write or send.
async fn grow_with_crash_at(steps: i64) -> bool {
    let mut cluster = Cluster::start(&[1]);
    cluster.leader().await;
    let fuse = Fuse(Arc::new(AtomicI64::new(steps)));
    let disk = cluster.disks[&1].clone();
    let (at_write, at_send) = (fuse.clone(), fuse.clone());
    disk.set_hook(move |_| at_write.step());
    let told = Arc::new(AtomicU64::new(0));
    let counter = told.clone();
    cluster.net.watch(move |_, _| {
        let runs = at_send.step();
        counter.fetch_add(u64::from(runs), Ordering::SeqCst);
        runs
    });
    let acknowledged = cluster.handle(1).change_membership(AddVoter(NodeId(2))).await.is_ok();
    sleep(Duration::from_secs(2)).await;
    let blown = fuse.is_blown();
    disk.clear_hook();
    fuse.0.store(i64::MAX, Ordering::SeqCst);
    cluster.crash(1).await;
    let counts = acknowledged || told.load(Ordering::SeqCst) > 0;
    cluster.boot(1);
    for _ in 0..100 {
        let leads = cluster.status(1).role == Role::Leader;
        assert!(!(counts && leads), "step {steps}: it was elected with a membership of the past");
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(10)).await;
    if counts {
        assert_eq!(cluster.status(1).voters.len(), 2, "step {steps}");
        assert_ne!(cluster.status(1).role, Role::Leader, "step {steps}");
    }
    blown
}

#[tokio::test(start_paused = true)]
async fn c28_a_membership_that_counts_is_not_forgotten_by_a_crash() {
    let mut steps = 0;
    while steps < 30 && grow_with_crash_at(steps).await {
        steps += 1;
    }
    assert!(steps > 4, "only {steps} steps were tried");
}
