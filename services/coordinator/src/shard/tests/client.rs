//! One member as it sees itself.

use super::*;

/// What a heartbeat was answered.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::shard) struct Told {
    pub(super) epoch: i32,
    pub(super) assignment: Option<BTreeSet<(TopicId, i32)>>,
}

#[derive(Debug, Clone)]
pub(in crate::shard) struct Client {
    pub(super) group: String,
    pub(super) id: String,
    pub(super) instance: String,
    pub(super) topics: Vec<String>,
    pub(super) pattern: String,
    pub(super) epoch: i32,
    pub(super) has: BTreeSet<(TopicId, i32)>,
    pub(super) session_ms: u32,
    pub(super) rebalance_ms: u32,
    /// Whether the last answer brought an assignment, so that it says what it has.
    pub(super) says: bool,
}

impl Client {
    pub(super) fn new(group: &str, id: &str) -> Client {
        Client {
            group: group.to_owned(),
            id: id.to_owned(),
            instance: String::new(),
            topics: vec!["t".to_owned()],
            pattern: String::new(),
            epoch: 0,
            has: BTreeSet::new(),
            session_ms: 45_000,
            rebalance_ms: 60_000,
            says: true,
        }
    }

    pub(super) fn instance(mut self, instance: &str) -> Client {
        self.instance = instance.to_owned();
        self
    }

    pub(super) fn matching(mut self, pattern: &str) -> Client {
        self.topics.clear();
        self.pattern = pattern.to_owned();
        self
    }

    /// The next heartbeat.
    pub(super) fn request(&self, wait: u32) -> v1::HeartbeatRequest {
        let joins = self.epoch == 0;
        v1::HeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
            subscription: joins.then(|| v1::GroupSubscription {
                topics: self.topics.clone(),
                pattern: self.pattern.clone(),
                ..Default::default()
            }),
            has: (joins || self.says).then(|| v1::AssignedPartitions { topics: topic_partitions(&self.has) }),
            client_id: "c".to_owned(),
            session_timeout_ms: Some(self.session_ms),
            rebalance_timeout_ms: Some(self.rebalance_ms),
            max_wait_ms: Some(wait),
            ..Default::default()
        }
    }

    /// Sends a heartbeat that may wait.
    pub(super) fn send(&self, rig: &mut Rig, wait: u32) -> CallId {
        rig.call(ShardCall::Heartbeat { request: self.request(wait), host: "h".into() })
    }

    /// Takes in the answer, if there is one: what it may not have it gives back at once.
    pub(super) fn hear(&mut self, rig: &mut Rig, call: CallId) -> Option<Result<Told, ErrorCode>> {
        let reply = rig.take(call)?;
        Some(self.heard(reply))
    }

    fn heard(&mut self, reply: Result<Reply, Refusal>) -> Result<Told, ErrorCode> {
        let told = told(reply)?;
        self.epoch = told.epoch;
        self.says = false;
        if let Some(assignment) = &told.assignment {
            self.says = true;
            self.has = assignment.clone();
        }
        Ok(told)
    }

    /// A heartbeat that is answered at once.
    pub(super) fn beat(&mut self, rig: &mut Rig) -> Result<Told, ErrorCode> {
        let call = self.send(rig, 0);
        self.hear(rig, call).expect("an answer at once")
    }

    /// Joins, and waits for the first assignment of its group.
    pub(super) fn join(&mut self, rig: &mut Rig) -> Result<Told, ErrorCode> {
        (self.epoch, self.has) = (0, BTreeSet::new());
        let call = self.send(rig, 0);
        if rig.replies.contains_key(&call) {
            return self.hear(rig, call).unwrap();
        }
        rig.pass(100);
        self.hear(rig, call).expect("an answer with the first assignment")
    }

    pub(super) fn leave(&mut self, rig: &mut Rig, epoch: i32) -> Result<Told, ErrorCode> {
        let request = v1::HeartbeatRequest { member_epoch: epoch, ..self.request(0) };
        told(rig.ask(ShardCall::Heartbeat { request, host: "h".into() }))
    }

    /// Commits offsets of "t".
    pub(super) fn commit(
        &self,
        rig: &mut Rig,
        offsets: &[(i32, i64)],
    ) -> Result<Vec<Option<ErrorCode>>, ErrorCode> {
        let reply = rig.ask(ShardCall::CommitOffsets(self.commit_request(offsets)));
        results(reply)
    }

    pub(super) fn commit_request(&self, offsets: &[(i32, i64)]) -> v1::CommitOffsetsRequest {
        v1::CommitOffsetsRequest {
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
            ..commit(&self.group, "t", offsets)
        }
    }

    pub(super) fn partitions(&self) -> Vec<i32> {
        self.has.iter().map(|(_, partition)| *partition).collect()
    }
}

pub(super) fn told(reply: Result<Reply, Refusal>) -> Result<Told, ErrorCode> {
    match reply.map_err(|refusal| refusal.code)? {
        Reply::Heartbeat(answer) => {
            let assignment = answer.assignment.map(|assignment| {
                let flat = |topic: &v1::TopicPartitions| {
                    let id = TopicId(topic.topic_id.as_ref().try_into().unwrap());
                    topic.partitions.iter().map(move |partition| (id, *partition)).collect::<Vec<_>>()
                };
                assignment.topics.iter().flat_map(flat).collect()
            });
            Ok(Told { epoch: answer.member_epoch, assignment })
        }
        other => panic!("{other:?}"),
    }
}

fn topic_partitions(has: &BTreeSet<(TopicId, i32)>) -> Vec<v1::TopicPartitions> {
    let mut topics: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
    has.iter().for_each(|(id, partition)| topics.entry(*id).or_default().push(*partition));
    let one = |(id, partitions): (TopicId, Vec<i32>)| v1::TopicPartitions {
        topic_id: bytes::Bytes::copy_from_slice(&id.0),
        topic: String::new(),
        partitions,
    };
    topics.into_iter().map(one).collect()
}

/// Heartbeats of everybody until all stand still.
pub(super) fn settle(rig: &mut Rig, clients: &mut [&mut Client]) {
    for _ in 0..6 {
        rig.pass(100);
        for client in clients.iter_mut() {
            client.beat(rig).unwrap();
        }
    }
}
