//! The feature level: who is let in, and how it is raised.

use crate::group::{Group, code, heartbeat, settled, until};
use thalweg_core::ErrorCode;
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::internal::v1::deliver_request::Kind;
use thalweg_proto::internal::v1::raft_service_client::RaftServiceClient;
use thalweg_proto::v1;
use tonic::{Code, Status};

const ALL: [u64; 3] = [1, 2, 3];
const REFUSED: ErrorCode = ErrorCode::IncompatibleFeatureLevel;

fn registration(
    broker: i32,
    incarnation: u8,
    levels: Option<wire::FeatureLevels>,
) -> wire::RegisterBrokerRequest {
    wire::RegisterBrokerRequest {
        broker_id: broker,
        incarnation_id: vec![incarnation; 16].into(),
        endpoint: "127.0.0.1:9000".into(),
        internal_endpoint: "127.0.0.1:9500".into(),
        log_directory_ids: vec![format!("dir-{broker}")],
        feature_levels: levels,
        ..Default::default()
    }
}

async fn register(group: &Group, by: u64, request: &wire::RegisterBrokerRequest) -> Result<i64, Status> {
    let call = || async { group.internal(by).register_broker(request.clone()).await };
    settled(call).await.map(|answer| answer.into_inner().broker_epoch)
}

async fn describe(group: &Group, by: u64) -> v1::DescribeFeaturesResponse {
    let call = || async { group.admin(by).describe_features(v1::DescribeFeaturesRequest {}).await };
    settled(call).await.unwrap().into_inner()
}

async fn upgrade(group: &Group, by: u64, level: u32, validate_only: bool) -> Result<(u32, u32), Status> {
    let request = v1::UpgradeFeaturesRequest { level, validate_only };
    let answer = settled(|| async { group.admin(by).upgrade_features(request).await }).await?.into_inner();
    Ok((answer.previous_level, answer.level))
}

/// What a controller that is not there says to one that is.
async fn hello(group: &Group, to: u64, cluster: &str, from: u64) -> Result<(), Status> {
    let voter = |id: u64| wire::FoundingVoter { node_id: id, endpoint: String::new() };
    let hello = wire::RaftHello {
        cluster_id: cluster.to_owned(),
        from,
        to,
        founding_voters: ALL.map(voter).to_vec(),
        endpoint: group.address(from),
        ..Default::default()
    };
    let requests = vec![wire::DeliverRequest { kind: Some(Kind::Hello(hello)) }];
    let mut client = RaftServiceClient::new(group.channel(to));
    client.deliver(futures_util::stream::iter(requests)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_is_at_the_newest_level_and_takes_in_nobody_who_does_not_know_it() {
    let group = Group::start(&ALL).await;
    group.register(1, 0).await;
    for old in [registration(1, 1, None), registration(1, 1, Some(wire::FeatureLevels { min: 3, max: 9 }))] {
        let refused = register(&group, 2, &old).await.unwrap_err();
        assert_eq!((code(&refused), refused.code()), (REFUSED, Code::FailedPrecondition), "{refused}");
        assert!(
            refused.message().contains("the cluster is at feature level 2, broker 1 supports"),
            "{refused}"
        );
    }
    let nonsense = registration(1, 1, Some(wire::FeatureLevels { min: 2, max: 1 }));
    assert_eq!(code(&register(&group, 1, &nonsense).await.unwrap_err()), ErrorCode::InvalidRequest);
    let coordinator = wire::RegisterCoordinatorRequest {
        coordinator_id: 5,
        incarnation_id: vec![5; 16].into(),
        endpoint: "127.0.0.1:9700".into(),
        ..Default::default()
    };
    let call = || async { group.internal(3).register_coordinator(coordinator.clone()).await };
    assert_eq!(code(&settled(call).await.unwrap_err()), REFUSED);
    let ours = group.image_in_the_end(1).await.cluster_id().unwrap().to_string();
    assert_eq!(code(&hello(&group, 1, &ours, 5).await.unwrap_err()), REFUSED, "nor as a controller");

    let described = until("everyone to be heard", || async {
        let described = describe(&group, 2).await;
        described.processes.iter().all(|one| one.known).then_some(described)
    })
    .await;
    assert_eq!((described.level, described.newest_level), (2, 2));
    let found: Vec<_> = described.processes.iter().map(|one| (one.kind(), one.id, one.max_level)).collect();
    let controller = |id| (v1::ProcessKind::Controller, id, 2);
    assert_eq!(found, [controller(1), controller(2), controller(3), (v1::ProcessKind::Broker, 0, 2)]);

    assert_eq!(upgrade(&group, 1, 0, false).await.unwrap(), (2, 2), "it is there already");
    for (level, why) in
        [(1, "never lowered"), (3, "install a newer version first"), (u32::MAX, "not known here")]
    {
        let refused = upgrade(&group, 3, level, false).await.unwrap_err();
        assert_eq!(code(&refused), REFUSED);
        assert!(refused.message().contains(why), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_rises_once_the_last_process_is_new() {
    // Two new controllers found a cluster with an old one, which has said so to both of them before they could.
    let mut group = Group::prepare(&ALL, |_| {});
    group.net.isolate(2, &ALL);
    group.boot(1).await;
    group.boot(2).await;
    hello(&group, 1, "", 3).await.unwrap();
    hello(&group, 2, "", 3).await.unwrap();
    group.net.heal();
    let epoch = register(&group, 1, &registration(0, 1, None)).await.unwrap();
    let old = wire::BrokerHeartbeatRequest { feature_levels: None, ..heartbeat(0, epoch) };
    let alive = || async {
        let answer = group.internal(1).broker_heartbeat(old).await;
        answer.ok().filter(|answer| !answer.get_ref().fenced).map(drop)
    };
    until("the broker to be unfenced", alive).await;
    assert_eq!(describe(&group, 2).await.level, 1);
    let refused = upgrade(&group, 2, 0, false).await.unwrap_err();
    assert_eq!(code(&refused), REFUSED);
    for who in ["controller 3 supports level 1", "broker 0 supports level 1"] {
        assert!(refused.message().contains(who), "{refused}");
    }

    // The controller is replaced, then the broker.
    group.boot(3).await;
    until("the new controller to be heard", || async {
        let refused = upgrade(&group, 1, 2, false).await.unwrap_err();
        (!refused.message().contains("controller 3")).then_some(())
    })
    .await;
    let epoch = register(&group, 3, &registration(0, 2, Some(wire::FeatureLevels::OURS))).await.unwrap();
    settled(|| async { group.internal(1).broker_heartbeat(heartbeat(0, epoch)).await }).await.unwrap();
    assert_eq!(upgrade(&group, 3, 2, true).await.unwrap(), (1, 2));
    assert_eq!(describe(&group, 2).await.level, 1, "that was a dry run");
    assert_eq!(upgrade(&group, 3, 0, false).await.unwrap(), (1, 2));
    for id in ALL {
        let raised = || async { (group.image(id).await.ok()?.feature_level() == 2).then_some(()) };
        until("the level to be known", raised).await;
    }
    assert_eq!(code(&register(&group, 1, &registration(0, 3, None)).await.unwrap_err()), REFUSED);
    let old = wire::BrokerHeartbeatRequest { feature_levels: None, ..heartbeat(0, epoch) };
    let call = || async { group.internal(1).broker_heartbeat(old).await };
    assert_eq!(
        code(&settled(call).await.unwrap_err()),
        REFUSED,
        "nor does one that is in go on as an old one"
    );

    // Everyone goes on under it, from the disk too, and a new one is taken in.
    for id in ALL {
        group.kill(id);
    }
    for id in ALL {
        group.boot(id).await;
    }
    group.boot(4).await;
    let request = v1::AddVoterRequest { node_id: 4, endpoint: group.address(4) };
    settled(|| async { group.admin(1).add_voter(request.clone()).await }).await.unwrap();
    // All that may have taken longer than the broker's session.
    let beat = heartbeat(0, epoch);
    let active = || async {
        let answer = group.internal(1).broker_heartbeat(beat).await;
        answer.ok().filter(|answer| !answer.get_ref().fenced).map(drop)
    };
    until("the broker to be active again", active).await;
    group.create_in_the_end(4, "events").await;
    assert_eq!(group.image_in_the_end(4).await.feature_level(), 2);
}
