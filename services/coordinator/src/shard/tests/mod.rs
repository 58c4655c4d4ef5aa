//! A shard with its log, its image and its clock, driven by hand.

mod bounds;
mod client;
mod failover;
mod load;
mod members;
mod offsets;
mod random;
mod waits;

use super::*;
use client::Client;
use std::collections::BTreeSet;
use thalweg_core::config::Overrides;
use thalweg_core::metadata::command::{
    BrokerRef, Command, CreatePartitions, CreateTopic, DeleteTopic, InitCluster, PlacementSpec,
    RegisterBroker, TopicRef,
};
use thalweg_core::metadata::{Endpoint, apply};
use thalweg_core::{BrokerId, ClusterId, ErrorCode, MetadataVersion, Timestamp, TopicId, TopicName};
use thalweg_proto::v1;

pub(super) struct Rig {
    pub(super) shard: Shard,
    pub(super) config: GroupConfig,
    image: MetadataImage,
    pub(super) topics: ClusterTopics,
    pub(super) now: Now,
    /// Everything that was written, by write.
    pub(super) log: Vec<(WriteId, Vec<GroupRecord>)>,
    /// Records of shards that were served before.
    pub(super) older: Vec<GroupRecord>,
    /// Writes do not become durable by themselves.
    pub(super) stuck: bool,
    pub(super) replies: BTreeMap<CallId, Result<Reply, Refusal>>,
    calls: u64,
    ids: u8,
    pub(super) ticks: usize,
}

impl Rig {
    /// A shard and a topic "t" of so many partitions.
    pub(super) fn new(partitions: i32) -> Rig {
        Rig::with(partitions, GroupConfig::default())
    }

    pub(super) fn with(partitions: i32, config: GroupConfig) -> Rig {
        let mut image = MetadataImage::new();
        let init = InitCluster { cluster_id: ClusterId("c".into()), feature_level: 1 };
        run(&mut image, Command::InitCluster(init));
        let broker = RegisterBroker {
            id: BrokerId(1),
            cluster_id: None,
            incarnation: [1; 16],
            endpoint: Endpoint::new("b", 1).unwrap(),
            internal_endpoint: Endpoint::new("b", 2).unwrap(),
            rack: None,
            log_dirs: vec!["d".to_owned()],
            clean_shutdown_epoch: None,
            damaged: false,
        };
        run(&mut image, Command::RegisterBroker(broker));
        let epoch = image.broker(BrokerId(1)).unwrap().epoch;
        run(&mut image, Command::UnfenceBroker(BrokerRef { id: BrokerId(1), epoch }));
        let mut rig = Rig {
            shard: Shard::new(PartitionId(0), config.clone()),
            config,
            topics: ClusterTopics::new(Arc::new(image.clone()), Patterns::default()),
            image,
            now: Now { mono: Duration::from_secs(1_000), wall: Timestamp(1_000_000_000_000) },
            log: Vec::new(),
            older: Vec::new(),
            stuck: false,
            replies: BTreeMap::new(),
            calls: 0,
            ids: 0,
            ticks: 0,
        };
        rig.create("t", partitions);
        rig.shard.start(rig.now);
        rig.pass(0);
        rig
    }

    pub(super) fn create(&mut self, topic: &str, partitions: i32) {
        self.create_topic(topic, partitions, false);
    }

    pub(super) fn create_topic(&mut self, topic: &str, partitions: i32, internal: bool) {
        self.ids += 1;
        let create = CreateTopic {
            name: TopicName::new(topic).unwrap(),
            id: TopicId([self.ids; 16]),
            placement: PlacementSpec::Counts { partitions, replication_factor: 1 },
            overrides: Overrides::default(),
            seed: 1,
            internal,
        };
        self.command(Command::CreateTopic(create));
    }

    pub(super) fn grow(&mut self, topic: &str, new_total: i32) {
        let name = TopicName::new(topic).unwrap();
        self.command(Command::CreatePartitions(CreatePartitions {
            name,
            new_total,
            assignments: None,
            seed: 1,
        }));
    }

    pub(super) fn delete(&mut self, topic: &str) {
        let topic = TopicRef::Name(TopicName::new(topic).unwrap());
        self.command(Command::DeleteTopic(DeleteTopic { topic }));
    }

    /// Changes the metadata, which the shard hears of at once.
    fn command(&mut self, command: Command) {
        run(&mut self.image, command);
        self.topics = ClusterTopics::new(Arc::new(self.image.clone()), Patterns::default());
        let mut out = Output::default();
        self.shard.topics_changed(&self.topics, self.now, &mut out);
        self.take_in(out);
    }

    /// The same, while no coordinator serves the shard.
    pub(super) fn delete_unseen(&mut self, topic: &str) {
        let topic = TopicRef::Name(TopicName::new(topic).unwrap());
        run(&mut self.image, Command::DeleteTopic(DeleteTopic { topic }));
    }

    pub(super) fn create_unseen(&mut self, topic: &str, partitions: i32) {
        let shard = std::mem::replace(&mut self.shard, Shard::new(PartitionId(0), self.config.clone()));
        self.create(topic, partitions);
        self.shard = shard;
    }

    pub(super) fn topic_id(&self, topic: &str) -> TopicId {
        self.image.topic(topic).unwrap().id
    }

    /// Sends a call.
    pub(super) fn call(&mut self, call: ShardCall) -> CallId {
        self.calls += 1;
        let id = CallId(self.calls);
        let mut out = Output::default();
        self.shard.handle(id, call, &self.topics, self.now, &mut out);
        self.take_in(out);
        id
    }

    /// Sends a call that must be answered at once.
    pub(super) fn ask(&mut self, call: ShardCall) -> Result<Reply, Refusal> {
        let id = self.call(call);
        self.take(id).expect("an answer at once")
    }

    pub(super) fn take(&mut self, id: CallId) -> Option<Result<Reply, Refusal>> {
        self.replies.remove(&id)
    }

    fn take_in(&mut self, out: Output) {
        for (id, reply) in out.replies {
            assert_eq!(self.replies.insert(id, reply), None, "{id:?} was answered twice");
        }
        for (write, records) in out.writes {
            assert!(!records.is_empty());
            let last = self.log.last().map_or(0, |(write, _)| write.0);
            assert_eq!(write.0, last + 1);
            self.log.push((write, records));
        }
        if !self.stuck {
            self.make_durable();
        }
    }

    /// All that was written is durable.
    pub(super) fn make_durable(&mut self) {
        let Some((last, _)) = self.log.last() else { return };
        let mut out = Output::default();
        self.shard.durable(*last, self.now, &mut out);
        assert!(out.writes.is_empty());
        for (id, reply) in out.replies {
            assert_eq!(self.replies.insert(id, reply), None, "{id:?} was answered twice");
        }
    }

    /// Lets time pass; the shard is woken when it asked to be, never earlier or later.
    pub(super) fn pass(&mut self, millis: u64) {
        let end = self.now.mono + Duration::from_millis(millis);
        while let Some(wake) = self.shard.next_wake().filter(|wake| *wake <= end) {
            self.set_time(wake.max(self.now.mono));
            let mut out = Output::default();
            self.shard.tick(&self.topics, self.now, &mut out);
            self.ticks += 1;
            self.take_in(out);
            assert!(self.shard.next_wake().is_none_or(|next| next > self.now.mono), "a busy loop");
        }
        self.set_time(end);
    }

    fn set_time(&mut self, mono: Duration) {
        let millis = (mono - self.now.mono).as_millis() as i64;
        self.now = Now { mono, wall: self.now.wall.saturating_add_millis(millis) };
    }

    /// Every record that was written, also by owners before.
    pub(super) fn records(&self) -> Vec<GroupRecord> {
        let newer = self.log.iter().flat_map(|(_, records)| records.iter().cloned());
        self.older.iter().cloned().chain(newer).collect()
    }

    /// Another coordinator takes over with the first `keep` records of all that was ever written.
    pub(super) fn fail_over(&mut self, keep: usize) {
        let mut records = self.records();
        records.truncate(keep);
        self.shard = load(&records, &self.config, self.now);
        self.older = records;
        self.log.clear();
        self.replies.clear();
        self.pass(0);
    }

    pub(super) fn group(&self, id: &str) -> &Group {
        self.shard.groups().find(|(name, _)| name.as_str() == id).map(|(_, group)| group).expect("the group")
    }

    pub(super) fn has_group(&self, id: &str) -> bool {
        self.shard.groups().any(|(name, _)| name.as_str() == id)
    }

    pub(super) fn state(&mut self, group: &str) -> v1::GroupState {
        let request = v1::DescribeGroupsRequest { group_ids: vec![group.to_owned()] };
        match self.ask(ShardCall::DescribeGroup(request)) {
            Ok(Reply::DescribeGroup(answer)) => answer.groups[0].group.as_ref().unwrap().state(),
            other => panic!("{other:?}"),
        }
    }

    /// Commits offsets of "t" from outside.
    pub(super) fn commit_outside(&mut self, group: &str, offsets: &[(i32, i64)]) -> Vec<Option<ErrorCode>> {
        let call = self.call(ShardCall::CommitOffsets(commit(group, "t", offsets)));
        results(self.take(call).expect("an answer at once")).unwrap()
    }

    /// What is committed for "t".
    pub(super) fn committed(&mut self, group: &str) -> Vec<(i32, i64)> {
        let request = v1::FetchOffsetsRequest { group_id: group.to_owned(), ..Default::default() };
        let reply = self.ask(ShardCall::FetchOffsets(request)).unwrap();
        offsets(reply)
    }
}

pub(super) fn offsets(reply: Reply) -> Vec<(i32, i64)> {
    match reply {
        Reply::FetchOffsets(answer) => answer.offsets.iter().map(|at| (at.partition, at.offset)).collect(),
        other => panic!("{other:?}"),
    }
}

/// The code of each partition that could not be committed.
pub(super) fn results(reply: Result<Reply, Refusal>) -> Result<Vec<Option<ErrorCode>>, ErrorCode> {
    match reply.map_err(|refusal| refusal.code)? {
        Reply::CommitOffsets(answer) => {
            let code = |error: &v1::Error| ErrorCode::from_number(error.code).unwrap();
            Ok(answer.results.iter().map(|result| result.error.as_ref().map(code)).collect())
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn commit(group: &str, topic: &str, offsets: &[(i32, i64)]) -> v1::CommitOffsetsRequest {
    let one = |(partition, offset): &(i32, i64)| v1::OffsetToCommit {
        topic: topic.to_owned(),
        partition: *partition,
        offset: *offset,
        ..Default::default()
    };
    v1::CommitOffsetsRequest {
        group_id: group.to_owned(),
        offsets: offsets.iter().map(one).collect(),
        ..Default::default()
    }
}

/// A shard out of records, through their bytes.
pub(super) fn load(records: &[GroupRecord], config: &GroupConfig, now: Now) -> Shard {
    let mut shard = Shard::new(PartitionId(0), config.clone());
    for record in records {
        let (key, value) = record.encode();
        shard.replay(&key, value.as_deref()).unwrap();
    }
    shard.start(now);
    shard
}

/// What compaction may leave of records: the newest of each key, where it was written; tombstones too if `tombstones`.
pub(super) fn compacted(records: &[GroupRecord], tombstones: bool) -> Vec<GroupRecord> {
    let mut seen = BTreeSet::new();
    let mut kept: Vec<GroupRecord> = Vec::new();
    for record in records.iter().rev() {
        let (key, value) = record.encode();
        if seen.insert(key) && (tombstones || value.is_some()) {
            kept.push(record.clone());
        }
    }
    kept.reverse();
    kept
}

fn run(image: &mut MetadataImage, command: Command) {
    let next = MetadataVersion(image.version().get() + 1);
    apply(image, next, &command).unwrap();
}
