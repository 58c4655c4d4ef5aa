//! Brokers' sessions with the leading controller.

use crate::group::{Group, PATIENCE, code, heartbeat, until};
use std::time::Duration;
use thalweg_controller::ControllerConfig;
use thalweg_core::{BrokerId, ErrorCode};
use thalweg_proto::internal::v1::{BrokerHeartbeatRequest, BrokerSessionRequest, BrokerSessionResponse};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

const ALL: [u64; 3] = [1, 2, 3];

/// Silence alone fences nobody here.
fn long_sessions(config: &mut ControllerConfig) {
    config.broker_session = Duration::from_secs(600);
}

struct Session {
    requests: mpsc::Sender<BrokerSessionRequest>,
    answers: Streaming<BrokerSessionResponse>,
}

impl Session {
    async fn open(group: &Group, id: u64) -> Result<Session, Status> {
        let (requests, receiver) = mpsc::channel(4);
        let outbound = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let answers = group.internal(id).broker_session(outbound).await?.into_inner();
        Ok(Session { requests, answers })
    }

    async fn beat(&mut self, heartbeat: BrokerHeartbeatRequest) -> Result<bool, Status> {
        self.requests.send(BrokerSessionRequest { heartbeat: Some(heartbeat) }).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.unwrap()?;
        Ok(answer.unwrap().heartbeat.unwrap().fenced)
    }
}

async fn fenced(group: &Group, broker: i32) -> Option<bool> {
    let image = group.image(group.leader().await).await.ok()?;
    image.broker(BrokerId(broker)).map(|known| known.fenced)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_session_is_evidence_and_a_goodbye_is_none() {
    let group = Group::start_tuned(&ALL, long_sessions).await;
    let leader = group.leader().await;
    let mut epochs = Vec::new();
    let mut sessions = Vec::new();
    for broker in 0..4 {
        let epoch = group.register(leader, broker).await;
        let mut session = Session::open(&group, leader).await.unwrap();
        assert!(!session.beat(heartbeat(broker, epoch)).await.unwrap());
        epochs.push(epoch);
        sessions.push(session);
    }
    // 0 says that it stops; 1 comes back at once; 2 is gone; 3 stays.
    let goodbye = BrokerHeartbeatRequest { want_shutdown: true, ..heartbeat(0, epochs[0]) };
    sessions[0].beat(goodbye).await.unwrap();
    let mut again = Session::open(&group, leader).await.unwrap();
    again.beat(heartbeat(1, epochs[1])).await.unwrap();
    let kept = sessions.pop().unwrap();
    drop(sessions);
    until("the broker that is gone to be fenced", || async { (fenced(&group, 2).await?).then_some(()) })
        .await;
    // The others had their chance to be fenced too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for broker in [0, 1, 3] {
        assert_eq!(fenced(&group, broker).await, Some(false), "broker {broker}");
    }
    drop((again, kept));
    until("the rest to be fenced", || async {
        (fenced(&group, 1).await? && fenced(&group, 3).await?).then_some(())
    })
    .await;
    // It comes back with a heartbeat, on a stream or not.
    let mut back = Session::open(&group, leader).await.unwrap();
    assert!(!back.beat(heartbeat(2, epochs[2])).await.unwrap());
    assert_eq!(fenced(&group, 2).await, Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_with_the_leader_alone_and_ends_with_its_leadership() {
    let mut group = Group::start_tuned(&ALL, long_sessions).await;
    let leader = group.leader().await;
    let follower = group.followers().await[0];
    let epoch = group.register(follower, 0).await;
    let refused = Session::open(&group, follower).await.err().expect("it does not lead");
    assert_eq!(code(&refused), ErrorCode::ControllerNotAvailable);
    let mut session = Session::open(&group, leader).await.unwrap();
    session.beat(heartbeat(0, epoch)).await.unwrap();
    let mut stale = Session::open(&group, leader).await.unwrap();
    let refused = stale.beat(heartbeat(0, epoch - 1)).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::StaleBrokerEpoch);
    let mut unknown = Session::open(&group, leader).await.unwrap();
    assert_eq!(code(&unknown.beat(heartbeat(7, 1)).await.unwrap_err()), ErrorCode::BrokerNotRegistered);
    let mut two = Session::open(&group, leader).await.unwrap();
    two.beat(heartbeat(0, epoch)).await.unwrap();
    assert_eq!(code(&two.beat(heartbeat(1, epoch)).await.unwrap_err()), ErrorCode::InvalidRequest);
    drop(two);

    group.stop(leader).await;
    let end = tokio::time::timeout(PATIENCE, session.answers.message()).await.unwrap().unwrap_err();
    assert!(matches!(code(&end), ErrorCode::ControllerNotAvailable | ErrorCode::ShuttingDown), "{end}");
    let next = group.leader().await;
    let mut session = Session::open(&group, next).await.unwrap();
    assert!(!session.beat(heartbeat(0, epoch)).await.unwrap(), "the end of a leadership is no evidence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_hears_by_itself_that_it_may_stop() {
    let group = Group::start_tuned(&[1], long_sessions).await;
    let leader = group.leader().await;
    let mut sessions = Vec::new();
    for broker in [0, 1] {
        let epoch = group.register(leader, broker).await;
        let mut session = Session::open(&group, leader).await.unwrap();
        session.beat(heartbeat(broker, epoch)).await.unwrap();
        sessions.push((epoch, session));
    }
    group.create(leader, "events", 1).await.unwrap();
    let (epoch, session) = &mut sessions[0];
    let goodbye = BrokerHeartbeatRequest { want_shutdown: true, ..heartbeat(0, *epoch) };
    session.requests.send(BrokerSessionRequest { heartbeat: Some(goodbye) }).await.unwrap();
    loop {
        let answer =
            tokio::time::timeout(PATIENCE, session.answers.message()).await.unwrap().unwrap().unwrap();
        if answer.heartbeat.unwrap().may_shutdown {
            break;
        }
    }
}
