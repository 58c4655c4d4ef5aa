//! Controllers join and leave.

use crate::group::{Group, code, settled, until};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::v1;
use tonic::{Code, Status};

const ALL: [u64; 3] = [1, 2, 3];

async fn add(group: &Group, by: u64, id: u64) -> Result<Vec<u64>, Status> {
    add_at(group, by, id, group.address(id)).await
}

async fn add_at(group: &Group, by: u64, id: u64, endpoint: String) -> Result<Vec<u64>, Status> {
    let request = v1::AddVoterRequest { node_id: id, endpoint };
    settled(|| async {
        group.admin(by).add_voter(request.clone()).await.map(|answer| answer.into_inner().voters)
    })
    .await
}

async fn remove(group: &Group, by: u64, id: u64) -> Result<Vec<u64>, Status> {
    let request = v1::RemoveVoterRequest { node_id: id };
    settled(|| async { group.admin(by).remove_voter(request).await.map(|answer| answer.into_inner().voters) })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_controller_gets_everything_and_replaces_the_leader() {
    let mut group = Group::start(&ALL).await;
    group.register(1, 0).await;
    // More metadata than fits into one piece of a message.
    group.create(1, "many", 10_000).await.unwrap();
    let by = group.followers().await[0];
    group.boot(4).await;
    assert_eq!(add(&group, by, 4).await.unwrap(), [1, 2, 3, 4]);
    assert_eq!(add(&group, by, 4).await.unwrap(), [1, 2, 3, 4], "asked twice, done once");
    let image = group.image_in_the_end(4).await;
    assert_eq!(image.topic("many").unwrap().partitions.len(), 10_000);
    assert!(image.controllers().any(|(id, at)| id.get() == 4 && at.to_string() == group.address(4)));

    let leader = group.leader().await;
    let by = group.followers().await[0];
    let left: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != leader).collect();
    assert_eq!(remove(&group, by, leader).await.unwrap(), left);
    group.kill(leader);
    group.create_in_the_end(4, "events").await;
    let image = group.image_in_the_end(4).await;
    assert!(image.controllers().all(|(id, _)| id.get() != leader), "its address is forgotten");
    // The new one votes: with one more of the old gone, two of three are left.
    let gone = left.iter().copied().find(|id| *id != 4).unwrap();
    group.kill(gone);
    group.create_in_the_end(4, "more").await;
    // And it comes back from its disk.
    group.kill(4);
    group.boot(4).await;
    group.create_in_the_end(4, "again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_asked_to_remove_itself_hands_over_first() {
    let group = Group::start(&ALL).await;
    let leader = group.leader().await;
    group.followers().await;
    let left: Vec<u64> = ALL.into_iter().filter(|id| *id != leader).collect();
    assert_eq!(remove(&group, leader, leader).await.unwrap(), left);
    let next = group.leader_other_than(&[leader]).await;
    assert!(left.contains(&next));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_would_break_the_group_are_refused() {
    let mut group = Group::start_tuned(&ALL, |config| config.catch_up = Duration::from_secs(1)).await;
    let leader = group.leader().await;
    let invalid = |answer: Result<Vec<u64>, Status>| {
        let status = answer.unwrap_err();
        assert_eq!(
            (code(&status), status.code()),
            (ErrorCode::InvalidVoters, Code::FailedPrecondition),
            "{status}"
        );
    };
    invalid(remove(&group, leader, 9).await);
    let zero = remove(&group, leader, 0).await.unwrap_err();
    assert_eq!(code(&zero), ErrorCode::InvalidRequest);
    let nowhere = add_at(&group, leader, 4, "nowhere".into()).await.unwrap_err();
    assert_eq!(code(&nowhere), ErrorCode::InvalidRequest);
    let noted = || async { (group.image(leader).await.ok()?.controllers().len() == 3).then_some(()) };
    until("the addresses to be noted", noted).await;
    invalid(add_at(&group, leader, 4, group.address(leader)).await);
    invalid(add_at(&group, leader, 2, group.address(5)).await);

    // Nobody is at that address: the attempt is undone.
    invalid(add(&group, leader, 5).await);
    let undone = || async {
        let image = group.image(leader).await.ok()?;
        (group.status(leader).learners.is_empty() && image.controllers().len() == 3).then_some(())
    };
    until("the attempt to be undone", undone).await;

    // With one of three dead, only the dead one may go.
    let followers = group.followers().await;
    let (dead, other) = (followers[0], followers[1]);
    group.kill(dead);
    let refused = || async { remove(&group, leader, other).await.err() };
    // As long as the dead one is not missed, the other may go; that would end the group, which is what is tried here.
    tokio::time::sleep(Duration::from_secs(5)).await;
    invalid(Err(until("the removal to be refused", refused).await));
    let mut left = vec![leader, other];
    left.sort();
    assert_eq!(remove(&group, leader, dead).await.unwrap(), left);
    assert_eq!(remove(&group, leader, other).await.unwrap(), [leader]);
    invalid(remove(&group, leader, leader).await);
    group.register(leader, 0).await;
    group.create_in_the_end(leader, "events").await;
}
