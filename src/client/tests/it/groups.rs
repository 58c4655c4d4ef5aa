//! A coordinator inside the cluster: core's own group, and answers as a test wants them.

use super::cluster::TOPIC;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use thalweg_client::proto::group_service_server::GroupService;
use thalweg_client::proto::*;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::state::Partitions;
use thalweg_core::group::{
    Attempt, Change, CommittedOffset, Committer, Group, Heartbeat, InstanceId, MemberEpoch, MemberId,
    Subscription, TopicLookup, TopicSpec,
};
use thalweg_core::metadata::command::Refusal;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, PartitionId, Timestamp, TopicId, TopicName};
use thalweg_proto::ApiError;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

const TOPIC_ID: TopicId = TopicId([7; 16]);

/// One group, whatever its id.
#[derive(Default)]
pub struct Groups {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
pub struct State {
    pub group: Group,
    pub partitions: i32,
    /// What the next calls fail with; `None`: they do not.
    pub heartbeat_faults: VecDeque<Option<ErrorCode>>,
    pub fetch_faults: VecDeque<Option<ErrorCode>>,
    pub commit_faults: VecDeque<Option<ErrorCode>>,
    /// Every commit that was taken: partition and offset.
    pub commits: Vec<(i32, i64)>,
    pub commit_calls: usize,
    /// Topics that were asked for without their id.
    pub fetched_by_name: usize,
}

impl TopicLookup for State {
    fn topic(&self, name: &TopicName) -> Option<(TopicId, i32)> {
        (name.as_str() == TOPIC).then_some((TOPIC_ID, self.partitions))
    }

    fn matching(&self, pattern: &str) -> Arc<BTreeSet<TopicName>> {
        Arc::new([TopicName::new(TOPIC).unwrap()].into_iter().filter(|_| pattern == "t.*").collect())
    }
}

fn status(refusal: Refusal) -> Status {
    ApiError::new(refusal.code, refusal.message).to_status()
}

fn fault(faults: &mut VecDeque<Option<ErrorCode>>) -> Result<(), Status> {
    match faults.pop_front().flatten() {
        Some(code) => Err(ApiError::new(code, "a fault").to_status()),
        None => Ok(()),
    }
}

fn to_proto(owned: &Partitions) -> AssignedPartitions {
    let partitions: Vec<i32> = owned.iter().map(|at| at.partition.get()).collect();
    let topic = TopicPartitions { topic_id: TOPIC_ID.0.to_vec().into(), topic: TOPIC.into(), partitions };
    AssignedPartitions { topics: [topic].into_iter().filter(|topic| !topic.partitions.is_empty()).collect() }
}

fn from_proto(assigned: &AssignedPartitions) -> Partitions {
    let all = assigned.topics.iter().flat_map(|topic| &topic.partitions);
    all.map(|partition| TopicIdPartition { topic: TOPIC_ID, partition: PartitionId(*partition) }).collect()
}

impl Groups {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The member's session is over; another one got its partitions, went on there as far as this, and is gone.
    pub fn taken_over(&self, member: &str, partition: i32, offset: i64) {
        let mut state = self.lock();
        let mut changes = state.group.without(&[MemberId::new(member).unwrap()], Timestamp(1));
        let committed = CommittedOffset {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch::NONE,
            metadata: "".into(),
            at: Timestamp(1),
            topic: None,
        };
        let topic = TopicName::new(TOPIC).unwrap();
        changes.push(Change::Offset(topic, PartitionId(partition), Some(committed)));
        state.replay(&changes);
        state.assign();
        drop(state);
        self.changed.notify_waiters();
    }

    /// The member's session is over.
    pub fn put_out(&self, member: &str) {
        let mut state = self.lock();
        let changes = state.group.without(&[MemberId::new(member).unwrap()], Timestamp(1));
        state.replay(&changes);
        state.assign();
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    fn replay(&mut self, changes: &[Change]) {
        changes.iter().for_each(|change| self.group.replay(change));
    }

    fn assign(&mut self) {
        let racks = vec![BTreeSet::new(); self.partitions as usize];
        let changes =
            self.group.assign(self, |_| Some(TopicSpec { name: TOPIC.into(), racks: racks.clone() }));
        self.replay(&changes);
    }

    /// Where the member stands.
    fn standing(&mut self, id: &MemberId) -> Option<(MemberEpoch, Partitions, u64)> {
        let pushed = self.group.push(id);
        self.replay(&pushed.into_iter().collect::<Vec<_>>());
        let current = &self.group.members.get(id)?.current;
        Some((current.epoch, current.owned.keys().copied().collect(), current.step))
    }

    /// What the group has committed, by partition.
    pub fn committed(&self) -> BTreeMap<i32, i64> {
        let offsets = self.group.offsets.iter();
        offsets.map(|((_, partition), offset)| (partition.get(), offset.offset.get())).collect()
    }
}

pub struct Service(pub Arc<super::cluster::Cluster>);

impl Service {
    fn groups(&self) -> &Groups {
        &self.0.groups
    }
}

#[tonic::async_trait]
impl GroupService for Service {
    type SubscribeStream = super::cluster::Answers<SubscribeResponse>;

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let id = MemberId::new(&request.member_id).unwrap();
        let has = request.has.as_ref().map(from_proto);
        let wish = request.subscription.as_ref().map(|wanted| Subscription {
            topics: wanted.topics.iter().map(|topic| TopicName::new(topic).unwrap()).collect(),
            pattern: Some(wanted.pattern.clone()).filter(|pattern| !pattern.is_empty()),
            ..Subscription::default()
        });
        let beat = Heartbeat {
            member: id.clone(),
            epoch: MemberEpoch(request.member_epoch),
            instance: InstanceId::new(&request.instance_id).ok(),
            subscription: wish,
            has: has.clone(),
            heard: request.heard_step,
            attempt: request
                .join_life
                .zip(request.join_attempt)
                .map(|(life, number)| Attempt { life, number }),
            client_id: request.client_id.as_str().into(),
            host: "here".into(),
            session_timeout: Duration::from_millis(request.session_timeout_ms().into()),
            rebalance_timeout: Duration::from_millis(request.rebalance_timeout_ms().into()),
            leaving: request.leaving_epoch.map(MemberEpoch),
        };
        let told = {
            let mut state = self.groups().lock();
            fault(&mut state.heartbeat_faults)?;
            let before =
                state.group.members.get(&id).map(|member| member.current.owned.keys().copied().collect());
            let (changes, answer) = state.group.heartbeat(&beat, Timestamp(1)).map_err(status)?;
            state.replay(&changes);
            state.assign();
            if answer.epoch < MemberEpoch::JOIN {
                drop(state);
                self.groups().changed.notify_waiters();
                let member_epoch = answer.epoch.0;
                return Ok(Response::new(HeartbeatResponse { member_epoch, ..Default::default() }));
            }
            (beat.epoch, has.or(before).unwrap_or_default())
        };
        self.groups().changed.notify_waiters();
        let until = Instant::now() + Duration::from_millis(request.max_wait_ms().into());
        loop {
            let changed = self.groups().changed.notified();
            let standing = self.groups().lock().standing(&id);
            let Some((epoch, owned, step)) = standing else {
                return Err(ApiError::new(ErrorCode::UnknownMember, "it is out").to_status());
            };
            if (epoch, &owned) != (told.0, &told.1) || Instant::now() >= until {
                return Ok(Response::new(HeartbeatResponse {
                    assignment_step: Some(step),
                    member_epoch: epoch.0,
                    assignment: Some(to_proto(&owned)),
                    heartbeat_interval_ms: 1_000,
                }));
            }
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }

    async fn commit_offsets(
        &self,
        request: Request<CommitOffsetsRequest>,
    ) -> Result<Response<CommitOffsetsResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.groups().lock();
        state.commit_calls += 1;
        fault(&mut state.commit_faults)?;
        let by = match MemberId::new(&request.member_id) {
            Ok(id) => {
                let instance = InstanceId::new(&request.instance_id).ok();
                Committer::Member(id, MemberEpoch(request.member_epoch), instance)
            }
            Err(_) => Committer::Outside,
        };
        state.group.check_committer(&by).map_err(status)?;
        let mut results = Vec::new();
        for offset in request.offsets {
            let topic = TopicName::new(&offset.topic).unwrap();
            let committed = CommittedOffset {
                offset: Offset(offset.offset),
                leader_epoch: LeaderEpoch(offset.leader_epoch.unwrap_or(-1)),
                metadata: offset.metadata.as_str().into(),
                at: Timestamp(1),
                topic: None,
            };
            let partition = PartitionId(offset.partition);
            let outcome = state.group.commit(&by, &topic, TOPIC_ID, partition, committed);
            let mut result = CommitResult { topic: offset.topic, partition: offset.partition, error: None };
            match outcome {
                Ok(change) => {
                    state.replay(&[change]);
                    state.commits.push((offset.partition, offset.offset));
                }
                Err(refusal) => result.error = Some(ApiError::new(refusal.code, refusal.message).to_proto()),
            }
            results.push(result);
        }
        Ok(Response::new(CommitOffsetsResponse { results }))
    }

    async fn fetch_offsets(
        &self,
        request: Request<FetchOffsetsRequest>,
    ) -> Result<Response<FetchOffsetsResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.groups().lock();
        fault(&mut state.fetch_faults)?;
        state.fetched_by_name += request.topics.iter().filter(|topic| *topic.topic_id != TOPIC_ID.0).count();
        if let Ok(id) = MemberId::new(&request.member_id) {
            let by = Committer::Member(id, MemberEpoch(request.member_epoch), None);
            state.group.check_reader(&by).map_err(status)?;
        }
        let asked: BTreeSet<i32> =
            request.topics.iter().flat_map(|topic| topic.partitions.iter().copied()).collect();
        let known = state.group.offsets.iter();
        let known = known.filter(|((_, partition), _)| asked.is_empty() || asked.contains(&partition.get()));
        let offsets = known.map(|((topic, partition), offset)| thalweg_client::proto::CommittedOffset {
            topic: topic.as_str().to_owned(),
            partition: partition.get(),
            offset: offset.offset.get(),
            leader_epoch: Some(offset.leader_epoch.get()).filter(|epoch| *epoch >= 0),
            metadata: offset.metadata.to_string(),
            committed_at_ms: offset.at.as_millis(),
        });
        Ok(Response::new(FetchOffsetsResponse { offsets: offsets.collect() }))
    }

    async fn subscribe(
        &self,
        _: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented("the client reads by itself"))
    }

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Err(Status::unimplemented("the client sends heartbeats"))
    }

    async fn poll(&self, _: Request<PollRequest>) -> Result<Response<PollResponse>, Status> {
        Err(Status::unimplemented("the client reads by itself"))
    }

    async fn leave(&self, _: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        Err(Status::unimplemented("the client sends heartbeats"))
    }

    async fn list_groups(
        &self,
        _: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        let members = self.groups().lock().group.members.len() as u32;
        let group = ListedGroup { group_id: "g".into(), state: GroupState::Stable.into(), members };
        Ok(Response::new(ListGroupsResponse { groups: vec![group] }))
    }

    async fn describe_groups(
        &self,
        request: Request<DescribeGroupsRequest>,
    ) -> Result<Response<DescribeGroupsResponse>, Status> {
        let describe = |group_id: &String| {
            let error = (group_id != "g").then(|| ApiError::new(ErrorCode::UnknownGroup, "none").to_proto());
            let group = GroupDescription { group_id: group_id.clone(), ..Default::default() };
            let group = Some(group).filter(|_| error.is_none());
            GroupResult { group_id: group_id.clone(), group, error }
        };
        let groups = request.get_ref().group_ids.iter().map(describe).collect();
        Ok(Response::new(DescribeGroupsResponse { groups }))
    }

    async fn delete_groups(
        &self,
        request: Request<DeleteGroupsRequest>,
    ) -> Result<Response<DeleteGroupsResponse>, Status> {
        let mut state = self.groups().lock();
        let error = match state.group.delete() {
            Ok(changes) => {
                state.replay(&changes);
                None
            }
            Err(refusal) => Some(ApiError::new(refusal.code, refusal.message).to_proto()),
        };
        let result =
            |group_id: &String| GroupResult { group_id: group_id.clone(), group: None, error: error.clone() };
        let results = request.get_ref().group_ids.iter().map(result).collect();
        Ok(Response::new(DeleteGroupsResponse { results }))
    }

    async fn delete_offsets(
        &self,
        _: Request<DeleteOffsetsRequest>,
    ) -> Result<Response<DeleteOffsetsResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn reset_offsets(
        &self,
        _: Request<ResetOffsetsRequest>,
    ) -> Result<Response<ResetOffsetsResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}
