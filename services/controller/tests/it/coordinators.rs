//! Coordinators register, hold sessions and get shards.

use crate::group::{Group, PATIENCE, code, heartbeat, until};
use std::time::Duration;
use thalweg_controller::ControllerConfig;
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::{CoordinatorId, ErrorCode};
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::v1;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

const ALL: [u64; 3] = [1, 2, 3];
const SHARDS: i32 = 6;

/// Silence alone fences nobody here, and one broker is enough for the topic.
fn tuned(config: &mut ControllerConfig) {
    config.broker_session = Duration::from_secs(600);
    config.coordinator_session = Duration::from_secs(600);
    config.offsets_topic_partitions = SHARDS;
    config.offsets_topic_replication_factor = 1;
}

fn short_sessions(config: &mut ControllerConfig) {
    tuned(config);
    config.coordinator_session = Duration::from_secs(4);
}

fn registration(coordinator: i32, incarnation: u8) -> wire::RegisterCoordinatorRequest {
    wire::RegisterCoordinatorRequest {
        coordinator_id: coordinator,
        incarnation_id: vec![incarnation; 16].into(),
        endpoint: format!("127.0.0.1:{}", 9700 + coordinator),
        feature_levels: Some(wire::FeatureLevels::OURS),
        ..Default::default()
    }
}

async fn register(group: &Group, by: u64, coordinator: i32, incarnation: u8) -> i64 {
    let request = registration(coordinator, incarnation);
    let registered = until("the registration", || async {
        match group.internal(by).register_coordinator(request.clone()).await {
            Ok(registered) => Some(registered.into_inner()),
            Err(status) if status.code() == tonic::Code::Unavailable => None,
            Err(status) => panic!("{status}"),
        }
    })
    .await;
    assert!(!registered.cluster_id.is_empty() && registered.metadata_version > 0);
    registered.coordinator_epoch
}

fn sign(coordinator: i32, epoch: i64) -> wire::CoordinatorSessionRequest {
    wire::CoordinatorSessionRequest {
        coordinator_id: coordinator,
        coordinator_epoch: epoch,
        want_shutdown: false,
        feature_levels: Some(wire::FeatureLevels::OURS),
    }
}

struct Session {
    requests: mpsc::Sender<wire::CoordinatorSessionRequest>,
    answers: Streaming<wire::CoordinatorSessionResponse>,
}

impl Session {
    async fn open(group: &Group, id: u64) -> Result<Session, Status> {
        let (requests, receiver) = mpsc::channel(4);
        let outbound = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let answers = group.internal(id).coordinator_session(outbound).await?.into_inner();
        Ok(Session { requests, answers })
    }

    async fn next(&mut self) -> Result<wire::CoordinatorSessionResponse, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.unwrap()?;
        Ok(answer.expect("the controller says why it ends a session"))
    }

    async fn beat(
        &mut self,
        sign: wire::CoordinatorSessionRequest,
    ) -> Result<wire::CoordinatorSessionResponse, Status> {
        self.requests.send(sign).await.unwrap();
        self.next().await
    }
}

/// A session of a coordinator that is alive.
async fn alive(group: &Group, leader: u64, coordinator: i32, epoch: i64) -> Session {
    let mut session = Session::open(group, leader).await.unwrap();
    let answer = session.beat(sign(coordinator, epoch)).await.unwrap();
    assert_eq!(answer, wire::CoordinatorSessionResponse { fenced: false, may_shutdown: false });
    session
}

/// How many shards each of these has.
fn shards<const N: usize>(image: &MetadataImage, coordinators: [i32; N]) -> [usize; N] {
    coordinators
        .map(|id| image.leases().filter(|(_, lease)| lease.coordinator == Some(CoordinatorId(id))).count())
}

/// Waits until the shards are spread like that.
async fn until_shards<const N: usize>(
    group: &Group,
    coordinators: [i32; N],
    wanted: [usize; N],
) -> MetadataImage {
    until("the shards to be spread", || async {
        let image = group.image(*group.running().first()?).await.ok()?;
        (shards(&image, coordinators) == wanted).then_some(image)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_follow_whoever_comes_goes_and_breaks() {
    let group = Group::start_tuned(&ALL, tuned).await;
    let leader = group.leader().await;
    let follower = group.followers().await[0];
    group.register(follower, 0).await;
    let mut epochs = Vec::new();
    let mut sessions = Vec::new();
    for coordinator in [5, 6, 7] {
        let epoch = register(&group, follower, coordinator, 1).await;
        sessions.push(alive(&group, leader, coordinator, epoch).await);
        epochs.push(epoch);
    }
    let image = until_shards(&group, [5, 6, 7], [2, 2, 2]).await;
    let topic = image.topic(OFFSETS_TOPIC).unwrap();
    assert!(topic.internal);
    assert_eq!((topic.partitions.len(), topic.replication_factor()), (6, 1));
    assert_eq!(topic.overrides["cleanup.policy"], "compact");

    // 5 is killed.
    drop(sessions.remove(0));
    until_shards(&group, [5, 6, 7], [0, 3, 3]).await;
    // 6 stops: it may when it has nothing left, and is forgotten then.
    let goodbye = wire::CoordinatorSessionRequest { want_shutdown: true, ..sign(6, epochs[1]) };
    let mut answer = sessions[0].beat(goodbye).await.unwrap();
    while !answer.may_shutdown {
        answer = sessions[0].next().await.unwrap();
    }
    until_shards(&group, [5, 6, 7], [0, 0, 6]).await;
    drop(sessions.remove(0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let image = group.image(leader).await.unwrap();
    let fenced = [5, 6, 7].map(|id| image.coordinator(CoordinatorId(id)).map(|it| it.fenced));
    assert_eq!(fenced, [Some(true), None, Some(false)], "killed, gone with a goodbye, alive");
    // 5 comes back.
    let back = register(&group, follower, 5, 2).await;
    assert!(back > epochs[0]);
    until_shards(&group, [5, 6, 7], [3, 0, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_the_same_id_takes_over_and_the_former_one_hears_it() {
    let group = Group::start_tuned(&[1], tuned).await;
    group.register(1, 0).await;
    let epoch = register(&group, 1, 0, 1).await;
    assert_eq!(register(&group, 1, 0, 1).await, epoch, "the same process, asking twice");
    let mut former = alive(&group, 1, 0, epoch).await;
    let before = until_shards(&group, [0], [6]).await;
    let next = register(&group, 1, 0, 2).await;
    let told = former.next().await.unwrap_err();
    assert_eq!(code(&told), ErrorCode::StaleCoordinatorEpoch);
    let mut now = alive(&group, 1, 0, next).await;
    let after = group.image(1).await.unwrap();
    assert!(after.leases().zip(before.leases()).all(|((_, after), (_, before))| {
        after.coordinator == before.coordinator
            && after.epoch.get() == before.epoch.get() + 1
            && after.producer_epoch.get() == before.producer_epoch.get() + 1
    }));
    // A stream of the former one that breaks is a sign of an earlier life.
    drop(former);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!now.beat(sign(0, next)).await.unwrap().fenced);
    let image = group.image(1).await.unwrap();
    assert!(image.leases().eq(after.leases()), "nothing has moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_fences_and_a_fenced_one_registers_anew() {
    let group = Group::start_tuned(&[1], short_sessions).await;
    group.register(1, 0).await;
    let epoch = register(&group, 1, 3, 1).await;
    let mut session = alive(&group, 1, 3, epoch).await;
    until_shards(&group, [3], [6]).await;
    // The stream stays open, and nothing comes on it. It is told without asking.
    let told = session.next().await.unwrap();
    assert_eq!(told, wire::CoordinatorSessionResponse { fenced: true, may_shutdown: false });
    until_shards(&group, [3], [0]).await;
    assert!(
        session.beat(sign(3, epoch)).await.unwrap().fenced,
        "a sign of life alone does not bring it back"
    );
    let next = register(&group, 1, 3, 1).await;
    assert!(next > epoch, "the same process, newly");
    let mut session = alive(&group, 1, 3, next).await;
    until_shards(&group, [3], [6]).await;
    // As long as it beats, it stays.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!session.beat(sign(3, next)).await.unwrap().fenced);
    }
    until_shards(&group, [3], [6]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_gives_coordinators_a_whole_session() {
    let mut group = Group::start_tuned(&ALL, |config| {
        tuned(config);
        config.coordinator_session = Duration::from_secs(8);
    })
    .await;
    let leader = group.leader().await;
    group.register(leader, 0).await;
    let epoch = register(&group, leader, 0, 1).await;
    let session = alive(&group, leader, 0, epoch).await;
    until_shards(&group, [0], [6]).await;
    group.kill(leader);
    let next = group.leader().await;
    let image = group.image_in_the_end(next).await;
    assert_eq!(shards(&image, [0]), [6], "that a controller is gone says nothing of the coordinator");
    drop(session);
    // It finds the new leader, with the registration that it has.
    let mut session = alive(&group, next, 0, epoch).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!session.beat(sign(0, epoch)).await.unwrap().fenced);
    assert_eq!(shards(&group.image(next).await.unwrap(), [0]), [6]);
    // Nobody else comes: silence counts with the new leader too.
    drop(session);
    until_shards(&group, [0], [0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_name() {
    let group = Group::start_tuned(&ALL, tuned).await;
    let leader = group.leader().await;
    let follower = group.followers().await[0];
    let epoch = register(&group, follower, 0, 1).await;
    for (request, expected) in [
        (
            wire::RegisterCoordinatorRequest { cluster_id: "other".into(), ..registration(1, 1) },
            ErrorCode::InconsistentClusterId,
        ),
        (
            wire::RegisterCoordinatorRequest { endpoint: "nowhere".into(), ..registration(1, 1) },
            ErrorCode::InvalidRequest,
        ),
        (
            wire::RegisterCoordinatorRequest { incarnation_id: vec![1].into(), ..registration(1, 1) },
            ErrorCode::InvalidRequest,
        ),
        (registration(-1, 1), ErrorCode::InvalidRequest),
    ] {
        let status = group.internal(follower).register_coordinator(request).await.unwrap_err();
        assert_eq!(code(&status), expected, "{status}");
    }
    let refused = Session::open(&group, follower).await.err().expect("it does not lead");
    assert_eq!(code(&refused), ErrorCode::ControllerNotAvailable);
    for (signs, expected) in [
        (vec![sign(0, epoch - 1)], ErrorCode::StaleCoordinatorEpoch),
        (vec![sign(9, epoch)], ErrorCode::StaleCoordinatorEpoch),
        (vec![sign(0, epoch), sign(1, epoch)], ErrorCode::InvalidRequest),
    ] {
        let mut session = Session::open(&group, leader).await.unwrap();
        let (last, first) = signs.split_last().unwrap();
        for sign in first {
            session.beat(*sign).await.unwrap();
        }
        assert_eq!(code(&session.beat(*last).await.unwrap_err()), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_own_topic_waits_for_brokers_and_is_kept_from_users() {
    let group = Group::start_tuned(&[1], |config| {
        tuned(config);
        config.offsets_topic_replication_factor = 2;
    })
    .await;
    group.leader().await;
    for name in [OFFSETS_TOPIC, "__transaction_state"] {
        let refused = group.create(1, name, 1).await.unwrap_err();
        assert_eq!(code(&refused), ErrorCode::InvalidTopicName, "{refused}");
    }
    let first = group.register(1, 0).await;
    group.create(1, "__mine", 1).await.unwrap();
    let epoch = register(&group, 1, 0, 1).await;
    let session = alive(&group, 1, 0, epoch).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(group.image(1).await.unwrap().topic(OFFSETS_TOPIC).is_none(), "one broker is too few");
    group.register(1, 1).await;
    until_shards(&group, [0], [6]).await;

    let delete = v1::DeleteTopicsRequest { names: vec![OFFSETS_TOPIC.into()], validate_only: false };
    let refused = group.admin(1).delete_topics(delete).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::PolicyViolation);
    let grow = v1::CreatePartitionsRequest {
        topic: OFFSETS_TOPIC.into(),
        total_partitions: 60,
        ..Default::default()
    };
    let refused = group.admin(1).create_partitions(grow).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::PolicyViolation);
    let alter = v1::AlterConfigsRequest {
        topic: OFFSETS_TOPIC.into(),
        set: [("segment.bytes".to_owned(), "1048576".to_owned())].into(),
        ..Default::default()
    };
    group.admin(1).alter_configs(alter).await.unwrap();
    // What it has to do with brokers goes on as ever.
    assert!(!group.internal(1).broker_heartbeat(heartbeat(0, first)).await.unwrap().into_inner().fenced);
    drop(session);
}

/// Whether the leader's image has that coordinator.
async fn knows(group: &Group, by: u64, coordinator: i32) -> bool {
    group.image(by).await.unwrap().coordinator(CoordinatorId(coordinator)).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_left_or_is_long_gone_is_forgotten() {
    let group = Group::start_tuned(&[1], |config| {
        tuned(config);
        config.coordinator_forget_after = Duration::from_secs(3600);
    })
    .await;
    group.leader().await;
    group.register(1, 0).await;
    let stays = register(&group, 1, 0, 1).await;
    let _session = alive(&group, 1, 0, stays).await;
    let leaves = register(&group, 1, 1, 1).await;
    let mut leaving = alive(&group, 1, 1, leaves).await;
    let lost = register(&group, 1, 2, 1).await;
    let losing = alive(&group, 1, 2, lost).await;
    until_shards(&group, [0, 1, 2], [2, 2, 2]).await;
    let remove = |id| v1::UnregisterCoordinatorRequest { coordinator_id: id };
    for alive in [0, 1] {
        let refused = group.admin(1).unregister_coordinator(remove(alive)).await.unwrap_err();
        assert_eq!(code(&refused), ErrorCode::PolicyViolation, "{refused}");
    }
    let refused = group.admin(1).unregister_coordinator(remove(9)).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::InvalidRequest);

    // It asks to stop, is let go, and is gone.
    let goodbye = wire::CoordinatorSessionRequest { want_shutdown: true, ..sign(1, leaves) };
    let answer = leaving.beat(goodbye).await.unwrap();
    assert!(answer.may_shutdown);
    assert!(knows(&group, 1, 1).await, "its process is still there");
    drop(leaving);
    until("the goodbye", || async { (!knows(&group, 1, 1).await).then_some(()) }).await;
    // One that is lost is remembered, until somebody says that it does not come back.
    drop(losing);
    until_shards(&group, [0], [6]).await;
    assert!(knows(&group, 1, 2).await);
    group.admin(1).unregister_coordinator(remove(2)).await.unwrap();
    assert!(!knows(&group, 1, 2).await);
}
