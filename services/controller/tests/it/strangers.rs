//! Controllers that do not belong together.

use crate::group::{Group, code, settled, until};
use thalweg_core::ErrorCode;
use thalweg_proto::internal::v1::deliver_request::Kind;
use thalweg_proto::internal::v1::raft_service_client::RaftServiceClient;
use thalweg_proto::internal::v1::{DeliverRequest, FoundingVoter, MessageChunk, RaftHello};
use thalweg_proto::v1;
use tonic::Status;

const ALL: [u64; 3] = [1, 2, 3];

async fn deliver(group: &Group, kinds: Vec<Kind>) -> Result<(), Status> {
    let requests = kinds.into_iter().map(|kind| DeliverRequest { kind: Some(kind) });
    let mut client = RaftServiceClient::new(group.channel(1));
    client.deliver(futures_util::stream::iter(requests.collect::<Vec<_>>())).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_rubbish_are_refused() {
    let group = Group::start(&ALL).await;
    group.register(1, 0).await;
    let ours = group.image_in_the_end(1).await.cluster_id().unwrap().to_string();
    let hello = |cluster: &str, from, to, voters: &[u64]| {
        let voter = |id: &u64| FoundingVoter { node_id: *id, endpoint: String::new() };
        Kind::Hello(RaftHello {
            cluster_id: cluster.into(),
            from,
            to,
            founding_voters: voters.iter().map(voter).collect(),
            endpoint: "127.0.0.1:1".into(),
            min_feature_level: 1,
            max_feature_level: 2,
        })
    };
    let good = || hello(&ours, 9, 1, &[]);
    deliver(&group, vec![good()]).await.unwrap();
    for (kinds, expected) in [
        (vec![hello("other", 2, 1, &ALL)], ErrorCode::InconsistentClusterId),
        (vec![hello("", 2, 1, &[1, 2])], ErrorCode::InvalidVoters),
        (vec![hello(&ours, 2, 3, &ALL)], ErrorCode::InvalidVoters),
        (vec![hello(&ours, 1, 1, &ALL)], ErrorCode::InvalidVoters),
        (vec![Kind::Message("too early".into())], ErrorCode::InvalidRequest),
        (vec![good(), good()], ErrorCode::InvalidRequest),
        (
            vec![good(), Kind::Chunk(MessageChunk { data: "x".into(), total: u64::MAX })],
            ErrorCode::InvalidRequest,
        ),
        (vec![good(), Kind::Chunk(MessageChunk { data: "xyz".into(), total: 2 })], ErrorCode::InvalidRequest),
        (
            vec![good(), Kind::Chunk(MessageChunk { data: "x".into(), total: 2 }), Kind::Message("y".into())],
            ErrorCode::InvalidRequest,
        ),
    ] {
        let refused = deliver(&group, kinds.clone()).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{kinds:?}: {refused}");
    }
    // Rubbish from a caller that was let in, and a message that claims to be another's.
    deliver(&group, vec![good(), Kind::Message(vec![0xff; 100].into()), Kind::Message(Vec::new().into())])
        .await
        .unwrap();
    group.create_in_the_end(1, "still-here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_another_voter_list_is_left_out_and_the_others_go_on() {
    let mut group = Group::prepare(&ALL, |_| {});
    group.boot(1).await;
    group.boot(2).await;
    let mut config = group.config(3);
    config.voters = group.list(&[1, 2, 3, 4]);
    group.boot_with(3, config).await;
    group.register(1, 0).await;
    group.create_in_the_end(2, "events").await;
    let status = group.status(3);
    assert_eq!((status.leader, status.applied), (None, 1), "nothing has reached it");
    assert_eq!(code(&group.image(3).await.unwrap_err()), ErrorCode::ControllerNotAvailable);
    // With the right list and an empty folder it is taken in: it has never been.
    group.kill(3);
    std::fs::remove_dir_all(group.config(3).data_dir).unwrap();
    group.boot(3).await;
    let same = || async { (group.image(3).await.ok()? == group.image(1).await.ok()?).then_some(()) };
    until("it to be let in", same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_cluster_is_not_taken_in() {
    let mut group = Group::start(&ALL).await;
    group.register(1, 0).await;
    let mut alone = Group::prepare(&[3], |_| {});
    alone.boot(3).await;
    alone.register(3, 0).await;
    alone.stop(3).await;
    // Controller 3 is started on the folder of a controller 3 that founded a cluster of its own.
    group.kill(3);
    let mut config = group.config(3);
    config.data_dir = alone.config(3).data_dir;
    group.boot_with(3, config).await;
    let theirs = group.image_in_the_end(3).await;
    group.create_in_the_end(1, "events").await;
    let ours = group.image_in_the_end(1).await;
    assert_ne!(theirs.cluster_id(), ours.cluster_id());
    assert!(group.image_in_the_end(3).await.topic("events").is_none(), "the two never mix");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_lost_its_volume_is_kept_out_and_replaced_under_a_new_id() {
    let mut group = Group::start(&ALL).await;
    group.register(1, 0).await;
    let noted = || async {
        let image = group.image(1).await.ok()?;
        (image.controllers().len() == 3).then_some(())
    };
    until("all controllers to be noted", noted).await;
    let wiped = group.followers().await[0];
    group.kill(wiped);
    std::fs::remove_dir_all(group.config(wiped).data_dir).unwrap();
    // The others are new too: nobody remembers from memory how far the wiped one was.
    let others: Vec<u64> = ALL.into_iter().filter(|id| *id != wiped).collect();
    for id in &others {
        group.kill(*id);
    }
    for id in ALL {
        group.boot(id).await;
    }
    group.create_in_the_end(others[0], "events").await;
    assert!(group.image(wiped).await.is_err(), "it is told nothing");
    let leader = group.leader_other_than(&[wiped]).await;
    let request = v1::RemoveVoterRequest { node_id: wiped };
    settled(|| async { group.admin(leader).remove_voter(request).await }).await.unwrap();
    group.kill(wiped);
    group.boot(4).await;
    let request = v1::AddVoterRequest { node_id: 4, endpoint: group.address(4) };
    settled(|| async { group.admin(leader).add_voter(request.clone()).await }).await.unwrap();
    assert!(group.image_in_the_end(4).await.topic("events").is_some());
}
