//! Coordinators, and brokers' streams to them.

use crate::fake::Fake;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use thalweg_coordinator::{Coordinator, CoordinatorConfig, CoordinatorError, CoordinatorHandle};
use thalweg_core::group::{GroupId, shard_of};
use thalweg_core::{CoordinatorId, ErrorCode};
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use thalweg_proto::internal::v1::group_call::Call;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::{ApiError, v1};
use thalweg_runtime::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// For waits that only end early: a test that hangs fails here.
pub const LONG: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// A coordinator that runs.
pub struct Running {
    pub handle: CoordinatorHandle,
    pub shutdown: Shutdown,
}

pub fn config(fake: &Fake, id: i32) -> CoordinatorConfig {
    let controllers = vec![fake.controller_address.lock().unwrap().clone()];
    let mut config = CoordinatorConfig::new(CoordinatorId(id), controllers);
    config.intervals.heartbeat = Duration::from_millis(50);
    config.intervals.retry_first = Duration::from_millis(5);
    config.intervals.retry_most = Duration::from_millis(50);
    config.intervals.lag = Duration::from_millis(50);
    config
}

pub async fn start(fake: &Fake, id: i32) -> Running {
    start_with(config(fake, id)).await
}

pub async fn start_with(config: CoordinatorConfig) -> Running {
    let shutdown = Shutdown::new();
    let handle = Coordinator::start(config, shutdown.clone()).await.unwrap();
    Running { handle, shutdown }
}

impl Running {
    /// Starts, and waits until so many shards are loaded.
    pub async fn serving(fake: &Fake, id: i32, shards: usize) -> Running {
        let running = start(fake, id).await;
        running.serves(shards).await;
        running
    }

    pub async fn serves(&self, shards: usize) {
        until(|| self.handle.shards_served() == shards).await;
    }

    pub async fn stop(self) -> Result<(), CoordinatorError> {
        self.shutdown.trigger();
        tokio::time::timeout(LONG, self.handle.join()).await.unwrap()
    }

    pub async fn peer(&self) -> Peer {
        Peer::open(self.handle.listen_addr()).await
    }
}

/// Waits for something to become true.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("it becomes true");
}

/// A broker's stream.
pub struct Peer {
    requests: Option<mpsc::Sender<internal::ExchangeRequest>>,
    pub replies: Streaming<internal::ExchangeResponse>,
    got: BTreeMap<u64, internal::GroupReply>,
    next: u64,
}

impl Peer {
    pub async fn open(address: SocketAddr) -> Peer {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let (requests, queued) = mpsc::channel(64);
        let mut client = CoordinatorServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let replies = client.exchange(ReceiverStream::new(queued)).await.unwrap().into_inner();
        Peer { requests: Some(requests), replies, got: BTreeMap::new(), next: 1 }
    }

    pub async fn send(&mut self, call: Call) -> u64 {
        self.send_within(call, 0).await
    }

    pub async fn send_within(&mut self, call: Call, within_ms: u32) -> u64 {
        self.send_all(vec![(Some(call), within_ms)]).await
    }

    /// Sends calls in one message: the first one's number.
    pub async fn send_all(&mut self, calls: Vec<(Option<Call>, u32)>) -> u64 {
        let first = self.next;
        let calls: Vec<_> = calls
            .into_iter()
            .map(|(call, within_ms)| {
                let id = self.next;
                self.next += 1;
                internal::GroupCall { id, client_host: "a-host".into(), within_ms, call }
            })
            .collect();
        self.send_message(internal::ExchangeRequest { calls }).await;
        first
    }

    pub async fn send_message(&mut self, message: internal::ExchangeRequest) {
        self.requests.as_ref().unwrap().send(message).await.unwrap();
    }

    pub fn half_close(&mut self) {
        self.requests = None;
    }

    pub async fn answer(&mut self, id: u64) -> Result<Reply, ErrorCode> {
        while !self.got.contains_key(&id) {
            let message =
                tokio::time::timeout(LONG, self.replies.message()).await.expect("an answer in time");
            let replies = message.unwrap().expect("an answer before the end").replies;
            assert!(!replies.is_empty());
            self.got.extend(replies.into_iter().map(|reply| (reply.id, reply)));
        }
        let reply = self.got.remove(&id).unwrap();
        match reply.error {
            Some(error) => Err(ApiError::from_proto(&error).code),
            None => Ok(reply.reply.unwrap()),
        }
    }

    /// Whether an answer came so far.
    pub async fn is_answered(&mut self, id: u64) -> bool {
        let quick = tokio::time::timeout(Duration::from_millis(100), self.replies.message()).await;
        if let Ok(Ok(Some(message))) = quick {
            self.got.extend(message.replies.into_iter().map(|reply| (reply.id, reply)));
        }
        self.got.contains_key(&id)
    }

    pub async fn ask(&mut self, call: Call) -> Result<Reply, ErrorCode> {
        let id = self.send(call).await;
        self.answer(id).await
    }

    /// Commits from outside.
    pub async fn commit(&mut self, group: &str, offset: i64) -> Result<(), ErrorCode> {
        match self.ask(commit(group, offset)).await? {
            Reply::CommitOffsets(response) => match &response.results[0].error {
                None => Ok(()),
                Some(error) => Err(ApiError::from_proto(error).code),
            },
            other => panic!("{other:?}"),
        }
    }

    /// What a group is, and nothing more.
    pub async fn states(&mut self, group: &str) -> Result<i32, ErrorCode> {
        let request = v1::DescribeGroupsRequest { group_ids: vec![group.into()] };
        match self.ask(Call::DescribeGroup(request)).await? {
            Reply::DescribeGroup(response) => Ok(response.groups[0].group.as_ref().unwrap().state),
            other => panic!("{other:?}"),
        }
    }

    /// What is committed in partition 0 of topic t.
    pub async fn committed(&mut self, group: &str) -> Result<Option<i64>, ErrorCode> {
        match self.ask(fetch(group)).await? {
            Reply::FetchOffsets(response) => Ok(response.offsets.first().map(|offset| offset.offset)),
            other => panic!("{other:?}"),
        }
    }
}

pub fn commit(group: &str, offset: i64) -> Call {
    let offset = v1::OffsetToCommit { topic: "t".into(), partition: 0, offset, ..Default::default() };
    Call::CommitOffsets(v1::CommitOffsetsRequest {
        group_id: group.into(),
        offsets: vec![offset],
        ..Default::default()
    })
}

pub fn fetch(group: &str) -> Call {
    Call::FetchOffsets(v1::FetchOffsetsRequest { group_id: group.into(), ..Default::default() })
}

/// The n-th group of a shard.
pub fn group_in(shard: i32, shards: i32, n: usize) -> String {
    let names = (0..).map(|n| format!("group-{n}"));
    let mut there = names.filter(|name| shard_of(&GroupId::new(name).unwrap(), shards).get() == shard);
    there.nth(n).unwrap()
}
