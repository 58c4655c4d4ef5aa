//! Who takes part, and how that changes.

use crate::harness::{Cluster, ids};
use thalweg_core::NodeId;
use thalweg_raft::MembershipChange::{AddLearner, AddVoter, Remove};
use thalweg_raft::{RaftConfig, RaftError, Role};

fn often(config: &mut RaftConfig) {
    config.snapshot_every_entries = 10;
    config.keep_entries = 3;
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_grows_to_three_and_shrinks_to_the_other_two() {
    let mut cluster = Cluster::start_tuned(&[1], often);
    let mut last = 0;
    for n in 0..30 {
        last = cluster.propose(1, &format!("{n}")).await.unwrap().0;
    }
    for id in [2, 3] {
        cluster.boot(id);
        let learning = cluster.handle(1).change_membership(AddLearner(NodeId(id))).await.unwrap();
        assert_eq!(learning.learners, ids(&[id]));
        cluster.until("the learner to catch up", || (cluster.status(id).applied >= last).then_some(())).await;
        let voting = cluster.handle(1).change_membership(AddVoter(NodeId(id))).await.unwrap();
        assert_eq!((voting.voters.len() as u64, voting.learners), (id, ids(&[])));
    }
    let (last, _) = cluster.propose(1, "three").await.unwrap();
    cluster.converge(&[1, 2, 3], last).await;

    // The leader goes: it steps down, and the others lead on.
    let left = cluster.handle(1).change_membership(Remove(NodeId(1))).await.unwrap();
    assert_eq!(left.voters, ids(&[2, 3]));
    let leader = cluster.leader_other_than(&[1]).await;
    assert_eq!(cluster.status(1).role, Role::Follower);
    cluster.crash(1).await;
    let (last, _) = cluster.propose(leader, "two").await.unwrap();
    cluster.converge(&[2, 3], last).await;

    // Started again, they still know who they are.
    for id in [2, 3] {
        cluster.crash(id).await;
        cluster.boot(id);
    }
    let leader = cluster.leader().await;
    assert_eq!(cluster.status(leader).voters, ids(&[2, 3]));
    assert_eq!(cluster.nodes[&leader].machine.texts().len(), 32);
}

#[tokio::test(start_paused = true)]
async fn changes_that_make_no_sense_are_refused() {
    let cluster = Cluster::start(&[1]);
    cluster.leader().await;
    let change = async |change| cluster.handle(1).change_membership(change).await;
    for nonsense in [
        Remove(NodeId(1)),
        AddLearner(NodeId(1)),
        AddVoter(NodeId(1)),
        Remove(NodeId(9)),
        AddVoter(NodeId(0)),
    ] {
        let answer = change(nonsense).await;
        assert!(matches!(answer, Err(RaftError::MembershipChangeRefused { .. })), "{nonsense:?}: {answer:?}");
    }
    assert_eq!(cluster.status(1).voters, ids(&[1]));
}

#[tokio::test(start_paused = true)]
async fn one_change_at_a_time_and_only_by_the_leader() {
    let cluster = Cluster::start(&[1, 2, 3]);
    let leader = cluster.leader().await;
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let refused = cluster.handle(follower).change_membership(AddLearner(NodeId(4))).await;
    assert!(matches!(refused, Err(RaftError::NotLeader { .. })));
    let (first, second) = tokio::join!(
        cluster.handle(leader).change_membership(AddLearner(NodeId(4))),
        cluster.handle(leader).change_membership(AddLearner(NodeId(5))),
    );
    assert_eq!(first.unwrap().learners, ids(&[4]));
    assert_eq!(second, Err(RaftError::MembershipChangeInProgress));
}
