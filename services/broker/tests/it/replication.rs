//! The leader's side of replication, seen by a follower that is written out here.

use crate::harness::*;
use std::time::Duration;
use thalweg_broker::replicas::{Lookup, Partition};
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::{
    BrokerRef, InitCluster, PartitionMove, ReassignPartitions, RegisterBroker,
};
use thalweg_core::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionId, TopicName, TopicPartition};
use thalweg_log::LogMode;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::partition_end::Reason;
use thalweg_proto::internal::v1::replication_service_client::ReplicationServiceClient;
use thalweg_proto::{ApiError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// More than any test needs.
const PLENTY: u64 = 1 << 30;

struct Follower {
    requests: mpsc::Sender<internal::ReplicateRequest>,
    answers: Streaming<internal::ReplicateResponse>,
    // What came in one message and was not looked at.
    news: Vec<internal::PartitionNews>,
}

fn hello(id: i32, epoch: BrokerEpoch) -> internal::ReplicateHello {
    internal::ReplicateHello {
        cluster_id: "the-cluster".into(),
        follower_id: id,
        follower_epoch: epoch.get(),
        leader_id: 0,
    }
}

impl Follower {
    async fn connect(cluster: &Cluster, hello: internal::ReplicateHello, credit: u64) -> Follower {
        let address = cluster.broker.as_ref().unwrap().internal_addr();
        let mut client = ReplicationServiceClient::connect(format!("http://{address}"))
            .await
            .unwrap()
            .max_decoding_message_size(64 << 20);
        let (requests, queue) = mpsc::channel(16);
        let first =
            internal::ReplicateRequest { hello: Some(hello), credit_bytes: credit, ..Default::default() };
        requests.send(first).await.unwrap();
        let answers = client.replicate(ReceiverStream::new(queue)).await.unwrap().into_inner();
        Follower { requests, answers, news: Vec::new() }
    }

    async fn say(&self, request: internal::ReplicateRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn follow(&self, follow: internal::FollowPartition) {
        self.say(internal::ReplicateRequest { follow: vec![follow], ..Default::default() }).await;
    }

    async fn position(&self, slot: u32, log_end: i64) {
        let position = internal::FollowerPosition { slot, log_end, flushed: log_end };
        self.say(internal::ReplicateRequest { positions: vec![position], ..Default::default() }).await;
    }

    async fn next(&mut self) -> Result<internal::PartitionNews, Status> {
        while self.news.is_empty() {
            let message = tokio::time::timeout(LONG, self.answers.message()).await.unwrap()?;
            self.news = message.expect("the stream ended").partitions;
        }
        Ok(self.news.remove(0))
    }

    /// The next news with batches, and the offset behind them.
    async fn batches(&mut self) -> (internal::PartitionNews, i64) {
        loop {
            let news = self.next().await.unwrap();
            assert_eq!(news.end, None);
            if let Some(last) = thalweg_core::batch::BatchIter::new(&news.record_batches).last() {
                return (news.clone(), last.unwrap().header.next_offset().get());
            }
        }
    }

    async fn until_high_watermark(&mut self, wanted: i64) {
        while self.next().await.unwrap().high_watermark < wanted {}
    }

    async fn end(&mut self) -> Reason {
        loop {
            if let Some(end) = self.next().await.unwrap().end {
                return end.reason.unwrap();
            }
        }
    }

    async fn refused(&mut self) -> ErrorCode {
        match self.end().await {
            Reason::Error(error) => ErrorCode::from_number(error.code).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// A broker that is not there, but registered and active.
fn join(cluster: &Cluster, id: i32) -> BrokerEpoch {
    let register = Command::RegisterBroker(RegisterBroker {
        id: BrokerId(id),
        cluster_id: None,
        incarnation: rand_bytes(cluster),
        endpoint: "127.0.0.1:1".parse().unwrap(),
        internal_endpoint: "127.0.0.1:1".parse().unwrap(),
        rack: None,
        log_dirs: vec![format!("dir-{id}")],
        clean_shutdown_epoch: None,
        damaged: false,
    });
    cluster.controller.propose(register).unwrap();
    let epoch = cluster.controller.image().broker(BrokerId(id)).unwrap().epoch;
    cluster.controller.propose(Command::UnfenceBroker(BrokerRef { id: BrokerId(id), epoch })).unwrap();
    epoch
}

fn rand_bytes(cluster: &Cluster) -> [u8; 16] {
    let mut bytes = [3; 16];
    bytes[..8].copy_from_slice(&cluster.controller.image().version().get().to_be_bytes());
    bytes
}

/// A topic "t" of one partition on these brokers.
async fn topic_on(cluster: &Cluster, brokers: &[i32], configs: &[(&str, &str)]) {
    let topic = v1::NewTopic {
        name: "t".into(),
        assignments: vec![v1::ReplicaAssignment { broker_ids: brokers.to_vec() }],
        configs: configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Default::default()
    };
    let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
    let answer = cluster.admin().create_topics(request).await.unwrap().into_inner();
    assert_eq!(answer.results[0].error, None);
}

fn follow(cluster: &Cluster, slot: u32, offset: i64, last_epoch: i32) -> internal::FollowPartition {
    let image = cluster.controller.image();
    let topic = image.topic("t").unwrap();
    internal::FollowPartition {
        slot,
        topic_id: topic.id.0.to_vec().into(),
        partition: 0,
        leader_epoch: topic.partitions[0].leader_epoch.get(),
        offset,
        last_epoch,
        flushed: offset,
        log_start_offset: 0,
    }
}

fn one(value: &str, acks: v1::Acks) -> v1::ProduceRequest {
    produce_batch("t", 0, batch(&[value]), acks)
}

fn partition(cluster: &Cluster) -> std::sync::Arc<Partition> {
    match cluster.broker.as_ref().unwrap().replicas().find("t", PartitionId(0)) {
        Lookup::Here(partition) => partition,
        other => panic!("{other:?}"),
    }
}

/// How far broker 1 has said to be.
fn heard(cluster: &Cluster) -> i64 {
    partition(cluster).follower_progress(BrokerId(1)).map_or(-1, |at| at.log_end.get())
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "{what}");
}

fn isr(cluster: &Cluster) -> Vec<i32> {
    let image = cluster.controller.image();
    image.topic("t").unwrap().partitions[0].isr.iter().map(|id| id.get()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_are_pushed_and_acks_all_waits_for_the_follower() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[("min.insync.replicas", "2")]).await;
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    follower.follow(follow(&cluster, 0, 0, -1)).await;
    let first = follower.next().await.unwrap();
    assert_eq!((first.slot, first.high_watermark, first.record_batches.len()), (0, 0, 0));
    for n in 0..3 {
        let mut producer = cluster.producer();
        let write = tokio::spawn(async move { producer.produce(one("a", v1::Acks::All)).await });
        let (news, end) = follower.batches().await;
        assert_eq!((news.slot, end), (0, n + 1));
        assert_eq!(partition(&cluster).log().high_watermark().get(), n, "the follower has not said so");
        assert!(!write.is_finished());
        follower.position(0, end).await;
        let result = write.await.unwrap().unwrap().into_inner().results.remove(0);
        let durability = result.durability.unwrap();
        assert_eq!((result.base_offset, durability.replicas, durability.fsynced), (n, 2, true));
    }
    follower.until_high_watermark(3).await;
    // A large batch goes as it is.
    let large = "x".repeat(300_000);
    cluster.produce(one(&large, v1::Acks::Leader)).await.unwrap();
    let (news, end) = follower.batches().await;
    assert_eq!(end, 4);
    assert!(news.record_batches.len() > large.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_sent_no_more_than_its_credit_and_one_message() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[]).await;
    for n in 0..4 {
        let value = format!("{n}").repeat(600_000);
        cluster.produce(one(&value, v1::Acks::Leader)).await.unwrap();
    }
    let mut follower = Follower::connect(&cluster, hello(1, epoch), 1).await;
    follower.follow(follow(&cluster, 0, 0, -1)).await;
    let (_, end) = follower.batches().await;
    assert_eq!(end, 1, "whole batches of a MiB at most");
    let nothing = tokio::time::timeout(Duration::from_millis(50), follower.next()).await;
    assert!(nothing.is_err(), "the credit is used up");
    follower.say(internal::ReplicateRequest { credit_bytes: PLENTY, ..Default::default() }).await;
    for n in 2..=4 {
        assert_eq!(follower.batches().await.1, n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    let older = BrokerEpoch(epoch.get() - 1);
    let cases = [
        (
            internal::ReplicateHello { cluster_id: "x".into(), ..hello(1, epoch) },
            ErrorCode::InconsistentClusterId,
        ),
        (internal::ReplicateHello { leader_id: 7, ..hello(1, epoch) }, ErrorCode::InvalidRequest),
        (hello(1, older), ErrorCode::StaleBrokerEpoch),
    ];
    for (hello, wanted) in cases {
        let mut follower = Follower::connect(&cluster, hello, 0).await;
        let status = follower.next().await.unwrap_err();
        assert_eq!(api_error(&status).code, wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_ends_with_the_reason() {
    let cluster = Cluster::start().await;
    let (epoch, _) = (join(&cluster, 1), join(&cluster, 2));
    topic_on(&cluster, &[0, 1], &[]).await;
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    let good = follow(&cluster, 0, 0, -1);
    follower.follow(internal::FollowPartition { leader_epoch: -1, ..good.clone() }).await;
    assert_eq!(follower.refused().await, ErrorCode::FencedLeaderEpoch);
    follower.follow(internal::FollowPartition { slot: 1, offset: -1, ..good.clone() }).await;
    assert!(matches!(follower.end().await, Reason::OutOfRange(range) if range.log_start_offset == 0));
    follower.follow(internal::FollowPartition { slot: 2, ..good.clone() }).await;
    // Another leads.
    cluster.controller.fence(0);
    assert_eq!(follower.refused().await, ErrorCode::NotLeader);
    // A slot is used once.
    follower.follow(internal::FollowPartition { slot: 2, ..good }).await;
    let error: ApiError = loop {
        if let Err(status) = follower.next().await {
            break api_error(&status);
        }
    };
    assert_eq!(error.field.as_deref(), Some("follow.slot"));
}

/// A leader that was just elected learns of it later than its followers: they wait for it, not for a retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_removed_and_added_again_is_asked_to_follow_anew() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[]).await;
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    follower.follow(follow(&cluster, 0, 0, -1)).await;
    follower.next().await.unwrap();
    let reassign = |replicas: &[i32]| {
        let partition = TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(0));
        let replicas = Some(replicas.iter().map(|id| BrokerId(*id)).collect());
        let moves = vec![PartitionMove { partition, replicas }];
        cluster.controller.propose(Command::ReassignPartitions(ReassignPartitions { moves })).unwrap();
    };
    reassign(&[0]);
    until("it is removed", || partition(&cluster).role().replicas.len() == 1).await;
    reassign(&[0, 1]);
    until("it is added", || partition(&cluster).role().replicas.len() == 2).await;
    // The follower has seen only that nothing changed.
    follower.position(0, 0).await;
    assert_eq!(follower.refused().await, ErrorCode::NotLeader);
    follower.follow(follow(&cluster, 1, 0, -1)).await;
    until("it is in sync", || isr(&cluster) == [0, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_newer_metadata_is_kept_until_the_leader_has_it() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[]).await;
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    let newer = follow(&cluster, 0, 0, -1);
    follower
        .follow(internal::FollowPartition { leader_epoch: newer.leader_epoch + 1, ..newer.clone() })
        .await;
    // Heard, and not answered: the next word is of what comes behind it.
    follower.follow(internal::FollowPartition { slot: 1, leader_epoch: -1, ..newer }).await;
    let first = follower.next().await.unwrap();
    assert_eq!(first.slot, 1);
    begin_next_epoch(&cluster);
    let cluster_id = cluster.controller.image().cluster_id().unwrap().clone();
    cluster.controller.propose(Command::InitCluster(InitCluster { cluster_id, feature_level: 1 })).unwrap();
    let news = follower.next().await.unwrap();
    assert_eq!((news.slot, news.end), (0, None));
}

/// A partition of two replicas with five records that the follower was sent and has not acknowledged.
async fn five_records_followed() -> (Cluster, Follower) {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[]).await;
    for _ in 0..5 {
        cluster.produce(one("a", v1::Acks::Leader)).await.unwrap();
    }
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    follower.follow(follow(&cluster, 0, 0, -1)).await;
    follower.batches().await;
    (cluster, follower)
}

/// Catalogue 3: what a follower says to the leader of an epoch moves nothing in the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogue_03_a_position_of_a_stale_epoch_does_not_move_the_high_watermark() {
    let (cluster, mut follower) = five_records_followed().await;
    begin_next_epoch(&cluster);
    follower.position(0, 5).await;
    assert_eq!(follower.refused().await, ErrorCode::NotLeader);
    assert_eq!(partition(&cluster).log().high_watermark().get(), 0);
}

/// What the metadata would bring when this broker is elected once more.
fn begin_next_epoch(cluster: &Cluster) {
    let partition = partition(cluster);
    let mut role = (**partition.role()).clone();
    role.leader_epoch = LeaderEpoch(role.leader_epoch.get() + 1);
    role.partition_epoch.0 += 1;
    partition.log().begin_epoch(role.leader_epoch, LogMode::Leading).unwrap();
    partition.set_role(role);
}

/// Catalogue 2 and 4, the leader's half: a log that leaves the leader's is told so before a byte is sent, and by epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogue_04_a_diverging_tail_is_answered_by_epoch_before_anything_else() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[]).await;
    for _ in 0..5 {
        cluster.produce(one("a", v1::Acks::Leader)).await.unwrap();
    }
    begin_next_epoch(&cluster);
    begin_next_epoch(&cluster);
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    let wanted = follow(&cluster, 0, 0, -1);
    let current = partition(&cluster).role().leader_epoch.get();
    let first = current - 2;
    // (offset, last epoch) -> where the leader's log agrees
    let cases = [
        (9, first, Some((first, 5))),
        // Nothing was written in that epoch here.
        (7, first + 1, Some((first, 5))),
        (9, current, Some((current, 5))),
        (5, first, None),
        (3, first, None),
    ];
    for (slot, (offset, last_epoch, diverging)) in (0..).zip(cases) {
        let follow =
            internal::FollowPartition { slot, offset, last_epoch, leader_epoch: current, ..wanted.clone() };
        follower.follow(follow).await;
        let news = follower.next().await.unwrap();
        assert_eq!(news.slot, slot);
        let told = news.end.map(|end| match end.reason.unwrap() {
            Reason::Diverging(at) => (at.epoch, at.end_offset),
            other => panic!("{other:?}"),
        });
        assert_eq!(told, diverging, "{offset} {last_epoch}");
        assert!(told.is_none() || news.record_batches.is_empty());
    }
}

/// Catalogue 6: a leader that was just elected knows a high watermark that may lie below what its predecessor told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogue_06_no_client_sees_the_high_watermark_of_a_new_leader_go_back() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[]).await;
    for _ in 0..5 {
        cluster.produce(one("a", v1::Acks::Leader)).await.unwrap();
    }
    begin_next_epoch(&cluster);
    let list = |spec: v1::OffsetSpec| {
        let wanted = v1::ListOffsetsPartition {
            topic: "t".into(),
            partition: 0,
            spec: spec as i32,
            ..Default::default()
        };
        // Any other broker would wait for it in the caller's stead.
        let routing = v1::Routing::LeaderOnly as i32;
        let request = v1::ListOffsetsRequest { partitions: vec![wanted], routing, ..Default::default() };
        let mut consumer = cluster.consumer();
        async move {
            let answer = consumer.list_offsets(request).await.map_err(|status| api_error(&status))?;
            Ok::<i64, ApiError>(answer.into_inner().results[0].offset)
        }
    };
    for spec in [v1::OffsetSpec::Latest, v1::OffsetSpec::MaxTimestamp, v1::OffsetSpec::Timestamp] {
        assert_eq!(code(list(spec).await), ErrorCode::OffsetNotAvailable, "{spec:?}");
    }
    assert_eq!(list(v1::OffsetSpec::Earliest).await.unwrap(), 0);
    // One who has read up to where the predecessor's watermark was is not out of range: it waits.
    let fetch = v1::FetchRequest {
        partitions: vec![v1::FetchPartition {
            topic: "t".into(),
            partition: 0,
            offset: 4,
            ..Default::default()
        }],
        max_wait_ms: Some(100),
        ..Default::default()
    };
    let answer = cluster.consumer().fetch(fetch.clone()).await.unwrap().into_inner();
    assert!(answer.partitions.iter().all(|data| data.data.is_none() && data.error.is_none()), "{answer:?}");
    // Once the follower has spoken, all is known.
    let waiting = tokio::spawn(list(v1::OffsetSpec::Latest));
    let follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    let current = partition(&cluster).role().leader_epoch.get();
    let last = current - 1;
    follower
        .follow(internal::FollowPartition { leader_epoch: current, ..follow(&cluster, 0, 5, last) })
        .await;
    until("the watermark is known", || partition(&cluster).log().high_watermark().get() == 5).await;
    if let Ok(latest) = waiting.await.unwrap() {
        assert_eq!(latest, 5);
    }
    assert_eq!(list(v1::OffsetSpec::Latest).await.unwrap(), 5);
    let answer = cluster.consumer().fetch(fetch).await.unwrap().into_inner();
    assert_eq!(answer.partitions[0].high_watermark, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_before_and_after_the_append_when_too_few_are_in_sync() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[("min.insync.replicas", "2")]).await;
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    follower.follow(follow(&cluster, 0, 0, -1)).await;
    let mut producer = cluster.producer();
    let write = tokio::spawn(async move { producer.produce(one("a", v1::Acks::All)).await });
    follower.batches().await;
    cluster.controller.fence(1);
    let status = write.await.unwrap().unwrap_err();
    assert_eq!(api_error(&status).code, ErrorCode::NotEnoughReplicasAfterAppend);
    assert_eq!(code(cluster.produce(one("b", v1::Acks::All)).await), ErrorCode::NotEnoughReplicas);
    assert_eq!(partition(&cluster).log().log_end_offset().get(), 1, "the second was not appended");
    // With acks=1 it is; but nobody reads it before enough replicas have it (KIP-966).
    cluster.produce(one("c", v1::Acks::Leader)).await.unwrap();
    assert_eq!(cluster.end_offset("t", 0).await, 0);
}

/// Catalogue 5: the watermark is at the log's end when a segment is rolled; the first bytes of the new one are not committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogue_05_a_roll_shows_no_uncommitted_byte() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[("segment.bytes", "1048576")]).await;
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    follower.follow(follow(&cluster, 0, 0, -1)).await;
    let large = "x".repeat(700_000);
    for n in 1..=3 {
        cluster.produce(one(&large, v1::Acks::Leader)).await.unwrap();
        assert_eq!(follower.batches().await.1, n);
        assert_eq!(partition(&cluster).log().segment_count() as i64, n, "each in a segment of its own");
        assert_eq!(cluster.end_offset("t", 0).await, n - 1);
        assert_eq!(cluster.values("t", 0).await.len() as i64, n - 1);
        follower.position(0, n).await;
        until("it is committed", || partition(&cluster).log().high_watermark().get() == n).await;
    }
}

/// Catalogue 7: what a consumer has read survives the leader, whatever the acks of its neighbours were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogue_07_nothing_is_readable_before_every_member_of_the_isr_has_it() {
    let cluster = Cluster::start().await;
    let epoch = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[("write.caching", "true")]).await;
    let mut follower = Follower::connect(&cluster, hello(1, epoch), PLENTY).await;
    follower.follow(follow(&cluster, 0, 0, -1)).await;
    cluster.produce(one("leader only", v1::Acks::Leader)).await.unwrap();
    let mut producer = cluster.producer();
    let write = tokio::spawn(async move { producer.produce(one("all", v1::Acks::All)).await });
    let mut end = 0;
    while end < 2 {
        end = follower.batches().await.1;
    }
    assert_eq!(cluster.end_offset("t", 0).await, 0);
    follower.position(0, 1).await;
    until("one is readable", || partition(&cluster).log().high_watermark().get() == 1).await;
    assert_eq!(cluster.values("t", 0).await.len(), 1);
    assert!(!write.is_finished());
    follower.position(0, 2).await;
    write.await.unwrap().unwrap();
    assert_eq!(cluster.values("t", 0).await.len(), 2);
}

/// Catalogue 8 and 9: a follower that caught up joins the ISR once the controllers say so, under the incarnation that caught up,
/// and never while it is fenced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogue_09_a_follower_joins_the_isr_by_the_controllers_word_only() {
    let cluster = Cluster::start().await;
    let first = join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[]).await;
    cluster.controller.fence(1);
    cluster.produce(one("a", v1::Acks::All)).await.unwrap();
    assert_eq!(isr(&cluster), [0]);
    let mut follower = Follower::connect(&cluster, hello(1, first), PLENTY).await;
    follower.follow(follow(&cluster, 0, 0, -1)).await;
    assert_eq!(follower.batches().await.1, 1);
    follower.position(0, 1).await;
    until("the leader knows", || heard(&cluster) == 1).await;
    assert_eq!(isr(&cluster), [0], "it is fenced");
    // It was a restart, with another disk: what the old process said is worth nothing.
    let second = join(&cluster, 1);
    assert_ne!(first, second);
    cluster.produce(one("b", v1::Acks::All)).await.unwrap();
    assert_eq!(follower.batches().await.1, 2);
    follower.position(0, 2).await;
    until("the leader knows", || heard(&cluster) == 2).await;
    assert_eq!(isr(&cluster), [0], "the one that caught up is gone");
    let follower = Follower::connect(&cluster, hello(1, second), PLENTY).await;
    follower.follow(follow(&cluster, 0, 2, 0)).await;
    until("it joins", || isr(&cluster) == [0, 1]).await;
    until("the leader knows", || partition(&cluster).in_sync() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_stays_behind_leaves_the_isr() {
    let cluster =
        Cluster::start_with(|config| config.replication.lag_time_max = Duration::from_millis(200)).await;
    join(&cluster, 1);
    topic_on(&cluster, &[0, 1], &[]).await;
    assert_eq!(isr(&cluster), [0, 1]);
    // Acknowledged once the silent one has left, and not before.
    let result = cluster.produce(one("a", v1::Acks::All)).await.unwrap().results.remove(0);
    assert_eq!(isr(&cluster), [0]);
    assert_eq!(result.durability.unwrap().replicas, 1);
}

/// Catalogue 17: retention and DeleteRecords never go past what is committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogue_17_the_log_start_never_passes_the_high_watermark() {
    let (cluster, mut follower) = five_records_followed().await;
    follower.position(0, 3).await;
    follower.until_high_watermark(3).await;
    let delete = |before_offset| {
        let wanted = v1::DeleteRecordsPartition { topic: "t".into(), partition: 0, before_offset };
        let request = v1::DeleteRecordsRequest { partitions: vec![wanted], ..Default::default() };
        let mut admin = cluster.admin();
        async move { admin.delete_records(request).await.map_err(|status| api_error(&status)) }
    };
    assert_eq!(code(delete(4).await), ErrorCode::OffsetOutOfRange);
    delete(-1).await.unwrap();
    assert_eq!(partition(&cluster).log().log_start_offset().get(), 3);
    // The follower hears of it, without another append.
    while follower.next().await.unwrap().log_start_offset < 3 {}
}
