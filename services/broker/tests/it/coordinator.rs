//! A coordinator without a log: it plays core's group machine, and does to a test what the test asks for.

use crate::controller::FakeController;
use crate::harness::{LONG, now};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::state::Partitions;
use thalweg_core::group::{
    Attempt, Change, CommittedOffset, Committer, Group, GroupId, Heartbeat, HeartbeatAnswer, InstanceId,
    MemberEpoch, MemberId, OFFSETS_TOPIC, Subscription, TopicLookup, TopicSpec,
};
use thalweg_core::metadata::command::{CoordinatorRef, CreateTopic, PlacementSpec, RegisterCoordinator};
use thalweg_core::metadata::{Command, MetadataImage, Refusal, Response};
use thalweg_core::{
    CoordinatorEpoch, CoordinatorId, ErrorCode, LeaderEpoch, Offset, PartitionId, TopicId, TopicName,
};
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use thalweg_proto::internal::v1::group_call::Call;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::{ApiError, v1};
use thalweg_runtime::{GrpcServer, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response as Answer, Status, Streaming};

/// Groups as all coordinators of a test see them: what the internal topic would be.
#[derive(Clone)]
pub struct Groups {
    pub controller: FakeController,
    pub groups: Arc<Mutex<BTreeMap<GroupId, Group>>>,
    changed: Arc<watch::Sender<u64>>,
}

/// One coordinator.
#[derive(Clone)]
pub struct FakeCoordinator {
    pub id: i32,
    pub groups: Groups,
    pub shared: Arc<Shared>,
    epoch: CoordinatorEpoch,
    shutdown: Shutdown,
}

#[derive(Default)]
pub struct Shared {
    /// The calls of each message that came, cancellations apart.
    pub messages: Mutex<Vec<usize>>,
    /// Calls that were cancelled.
    pub cancelled: AtomicU64,
    /// Calls that were answered.
    pub answered: AtomicU64,
    /// The next calls are refused with these.
    pub refusals: Mutex<Vec<ErrorCode>>,
    /// It loads for ever: each call is refused after it waited for so many milliseconds, or for its time if that is less.
    pub loads_ms: AtomicU64,
    /// The next so many commits, and leaves, are carried out and break the stream instead of being answered.
    pub breaks: AtomicU64,
}

impl Groups {
    /// Groups of a cluster that gets its internal topic now, with one shard a coordinator that may come.
    pub fn new(controller: &FakeController, shards: i32) -> Groups {
        let create = CreateTopic {
            name: TopicName::new(OFFSETS_TOPIC).unwrap(),
            id: TopicId([0xcc; 16]),
            placement: PlacementSpec::Counts { partitions: shards, replication_factor: 1 },
            overrides: Default::default(),
            seed: 0,
            internal: true,
        };
        controller.propose(Command::CreateTopic(create)).unwrap();
        Groups {
            controller: controller.clone(),
            groups: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Starts a coordinator, which gets its share of the shards.
    pub async fn coordinator(&self, id: i32) -> FakeCoordinator {
        let listener = thalweg_runtime::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let register = RegisterCoordinator {
            id: CoordinatorId(id),
            cluster_id: None,
            incarnation: rand::random(),
            endpoint: listener.local_addr().unwrap().to_string().parse().unwrap(),
            rack: None,
        };
        let (_, response) = self.controller.propose(Command::RegisterCoordinator(register)).unwrap();
        let Response::CoordinatorRegistered { epoch } = response else { panic!("{response:?}") };
        let shutdown = Shutdown::new();
        let fake = FakeCoordinator {
            id,
            groups: self.clone(),
            shared: Arc::default(),
            epoch,
            shutdown: shutdown.clone(),
        };
        let service = CoordinatorServiceServer::new(fake.clone()).max_decoding_message_size(16 << 20);
        let server = GrpcServer::builder("coordinator").service(service).build().unwrap();
        tokio::spawn(server.serve_listener(listener, shutdown));
        fake
    }

    /// Puts a member out, as if its session had ended.
    pub fn put_out(&self, group: &str, member: &str) {
        self.change(group, |group| Ok((group.without(&[MemberId::new(member).unwrap()], now()), ())))
            .unwrap();
    }

    pub fn members(&self, group: &str) -> Vec<String> {
        let groups = self.groups.lock().unwrap();
        let group = groups.get(&GroupId::new(group).unwrap());
        group.map(|group| group.members.keys().map(ToString::to_string).collect()).unwrap_or_default()
    }

    /// What is committed for a partition; -1 for nothing.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> i64 {
        let groups = self.groups.lock().unwrap();
        let at = (TopicName::new(topic).unwrap(), PartitionId(partition));
        let offset = groups.get(&GroupId::new(group).unwrap()).and_then(|group| group.offsets.get(&at));
        offset.map_or(-1, |committed| committed.offset.get())
    }

    /// Waits until that is so.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Groups) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !is_so(self) {
                let _ = tokio::time::timeout(Duration::from_millis(20), changed.changed()).await;
            }
        };
        assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "it never came to {what}");
    }

    fn world(&self) -> World {
        World(self.controller.image())
    }

    /// The step of a member that may have just these.
    fn step(&self, group: &str, member: &MemberId, owned: &Partitions) -> Option<u64> {
        let groups = self.groups.lock().unwrap();
        let current = &groups.get(&GroupId::new(group).unwrap())?.members.get(member)?.current;
        current.owned.keys().eq(owned).then_some(current.step)
    }

    /// Applies what a group decides, and assigns at once.
    fn change<T>(
        &self,
        id: &str,
        decide: impl FnOnce(&Group) -> Result<(Vec<Change>, T), Refusal>,
    ) -> Result<T, Refusal> {
        let world = self.world();
        let mut groups = self.groups.lock().unwrap();
        let group = groups.entry(GroupId::new(id).unwrap()).or_default();
        let (changes, told) = decide(group)?;
        let any = !changes.is_empty();
        changes.iter().for_each(|change| group.replay(change));
        for change in group.assign(&world, |topic| world.spec(topic)) {
            group.replay(&change);
        }
        drop(groups);
        if any {
            self.changed.send_modify(|n| *n += 1);
        }
        Ok(told)
    }
}

struct World(MetadataImage);

impl World {
    fn spec(&self, topic: TopicId) -> Option<TopicSpec> {
        let topic = self.0.topic_by_id(topic)?;
        let racks = vec![BTreeSet::new(); topic.partitions.len()];
        Some(TopicSpec { name: topic.name.as_str().into(), racks })
    }
}

impl TopicLookup for World {
    fn topic(&self, name: &TopicName) -> Option<(TopicId, i32)> {
        self.0.topic(name.as_str()).map(|topic| (topic.id, topic.partitions.len() as i32))
    }

    fn matching(&self, pattern: &str) -> Arc<BTreeSet<TopicName>> {
        let topics = self.0.topics().filter(|topic| topic.name.as_str().starts_with(pattern));
        Arc::new(topics.map(|topic| topic.name.clone()).collect())
    }
}

impl FakeCoordinator {
    /// Its process is killed, and the cluster notices.
    pub fn kill(&self) {
        self.shutdown.trigger();
        self.fence();
    }

    /// The cluster holds it for gone.
    pub fn fence(&self) {
        let fence = CoordinatorRef { id: CoordinatorId(self.id), epoch: self.epoch };
        self.groups.controller.propose(Command::FenceCoordinator(fence)).unwrap();
    }

    async fn answer(&self, call: internal::GroupCall) -> Result<Reply, Option<ApiError>> {
        let refusal = self.shared.refusals.lock().unwrap().pop();
        if let Some(code) = refusal {
            return Err(Some(ApiError::new(code, "as the test wants")));
        }
        let loads = self.shared.loads_ms.load(Ordering::SeqCst);
        if loads > 0 {
            tokio::time::sleep(Duration::from_millis(loads)).await;
            return Err(Some(ApiError::new(ErrorCode::CoordinatorNotAvailable, "it loads")));
        }
        let refused = |refusal: Refusal| Some(api_error(refusal));
        let writes = match &call.call {
            Some(Call::CommitOffsets(_) | Call::DeleteGroup(_)) => true,
            Some(Call::Heartbeat(beat)) => beat.member_epoch < 0,
            _ => false,
        };
        let reply = match call.call.unwrap() {
            Call::Heartbeat(request) => Reply::Heartbeat(self.heartbeat(request).await.map_err(refused)?),
            Call::CommitOffsets(request) => Reply::CommitOffsets(self.commit(request).map_err(refused)?),
            Call::FetchOffsets(request) => Reply::FetchOffsets(self.fetch(&request).map_err(refused)?),
            Call::ListGroups(_) => Reply::ListGroups(self.list()),
            Call::DescribeGroup(request) => Reply::DescribeGroup(self.describe(&request)),
            Call::DeleteGroup(request) => Reply::DeleteGroup(self.delete(&request)),
            Call::DeleteOffsets(request) => {
                Reply::DeleteOffsets(self.delete_offsets(request).map_err(refused)?)
            }
            Call::Cancel(_) => unreachable!("taken out before"),
        };
        let breaks = |left: u64| left.checked_sub(1);
        if writes && self.shared.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, breaks).is_ok() {
            return Err(None);
        }
        self.shared.answered.fetch_add(1, Ordering::SeqCst);
        Ok(reply)
    }

    async fn heartbeat(&self, request: v1::HeartbeatRequest) -> Result<v1::HeartbeatResponse, Refusal> {
        let until = tokio::time::Instant::now() + Duration::from_millis(request.max_wait_ms().into());
        let mut changed = self.groups.changed.subscribe();
        let mut beat = beat_of(&request);
        loop {
            changed.mark_unchanged();
            let mut answer = self.groups.change(&request.group_id, |group| group.heartbeat(&beat, now()))?;
            if beat.epoch == MemberEpoch::JOIN {
                // The assignment was made in between: it is told at once, as to one that waits.
                let epoch = self.groups.change(&request.group_id, |group| {
                    let change = group.push(&beat.member);
                    let known = group.members.get(&beat.member).map(|member| member.current.clone());
                    let next = match &change {
                        Some(Change::Current(_, next)) => next.clone(),
                        _ => known,
                    };
                    Ok((change.into_iter().collect(), next))
                })?;
                if let Some(next) = epoch {
                    let assignment = Some(next.owned.into_keys().collect());
                    answer = HeartbeatAnswer { epoch: next.epoch, assignment };
                }
            }
            let knows = beat.has.as_ref();
            let news = answer.epoch != beat.epoch
                || answer.assignment.as_ref().is_some_and(|got| knows.is_none_or(|has| has != got));
            let now = tokio::time::Instant::now();
            if news || now >= until {
                let step = |owned| self.groups.step(&request.group_id, &beat.member, owned);
                return Ok(v1::HeartbeatResponse {
                    assignment_step: answer.assignment.as_ref().and_then(step),
                    member_epoch: answer.epoch.0,
                    assignment: answer.assignment.as_ref().map(assigned),
                    heartbeat_interval_ms: 50,
                });
            }
            beat.has = None;
            let _ = tokio::time::timeout_at(until, changed.changed()).await;
        }
    }

    fn commit(&self, request: v1::CommitOffsetsRequest) -> Result<v1::CommitOffsetsResponse, Refusal> {
        let by = committer(&request.member_id, request.member_epoch, &request.instance_id);
        let world = self.groups.world();
        self.groups.change(&request.group_id, |group| {
            group.check_committer(&by)?;
            let (mut changes, mut results) = (Vec::new(), Vec::new());
            for offset in request.offsets {
                let topic = TopicName::new(&offset.topic).unwrap();
                let committed = CommittedOffset {
                    offset: Offset(offset.offset),
                    leader_epoch: LeaderEpoch(offset.leader_epoch.unwrap_or(-1)),
                    metadata: offset.metadata.into(),
                    at: now(),
                    topic: world.topic(&topic).map(|(id, _)| id),
                };
                let change = match world.topic(&topic) {
                    Some((id, _)) => group.commit(&by, &topic, id, PartitionId(offset.partition), committed),
                    None => Err(Refusal::field(ErrorCode::UnknownTopic, "topic", "no such topic")),
                };
                let error = match change {
                    Ok(change) => {
                        changes.push(change);
                        None
                    }
                    Err(refusal) => Some(api_error(refusal).to_proto()),
                };
                results.push(v1::CommitResult { topic: offset.topic, partition: offset.partition, error });
            }
            Ok((changes, v1::CommitOffsetsResponse { results }))
        })
    }

    fn fetch(&self, request: &v1::FetchOffsetsRequest) -> Result<v1::FetchOffsetsResponse, Refusal> {
        let by = committer(&request.member_id, request.member_epoch, "");
        self.groups.change(&request.group_id, |group| {
            group.check_reader(&by)?;
            let wanted = |topic: &TopicName, partition: PartitionId| {
                request.topics.is_empty()
                    || request.topics.iter().any(|wanted| {
                        wanted.topic == topic.as_str() && wanted.partitions.contains(&partition.get())
                    })
            };
            let offsets = group.offsets.iter().filter(|((topic, partition), _)| wanted(topic, *partition));
            let offsets = offsets.map(|((topic, partition), committed)| v1::CommittedOffset {
                topic: topic.to_string(),
                partition: partition.get(),
                offset: committed.offset.get(),
                metadata: committed.metadata.to_string(),
                ..Default::default()
            });
            Ok((Vec::new(), v1::FetchOffsetsResponse { offsets: offsets.collect() }))
        })
    }

    fn list(&self) -> v1::ListGroupsResponse {
        let groups = self.groups.groups.lock().unwrap();
        let group = |(id, group): (&GroupId, &Group)| v1::ListedGroup {
            group_id: id.to_string(),
            state: v1::GroupState::Stable as i32,
            members: group.members.len() as u32,
        };
        // Each coordinator tells of the groups that its id divides: two of them tell of different ones.
        let mine =
            groups.iter().filter(|(id, _)| id.as_str().len() % 2 == usize::try_from(self.id % 2).unwrap());
        v1::ListGroupsResponse { groups: mine.map(group).collect() }
    }

    fn known(&self, id: &str) -> Result<Group, ApiError> {
        let groups = self.groups.groups.lock().unwrap();
        let known = groups.get(&GroupId::new(id).unwrap()).filter(|group| **group != Group::default());
        known
            .cloned()
            .ok_or_else(|| ApiError::new(ErrorCode::UnknownGroup, "no such group").with_field("group_id"))
    }

    fn describe(&self, request: &v1::DescribeGroupsRequest) -> v1::DescribeGroupsResponse {
        let id = request.group_ids[0].clone();
        let mut result = v1::GroupResult { group_id: id.clone(), ..Default::default() };
        match self.known(&id) {
            Ok(group) => {
                let member =
                    |id: &MemberId| v1::GroupMember { member_id: id.to_string(), ..Default::default() };
                let members = group.members.keys().map(member).collect();
                result.group = Some(v1::GroupDescription { group_id: id, members, ..Default::default() });
            }
            Err(error) => result.error = Some(error.to_proto()),
        }
        v1::DescribeGroupsResponse { groups: vec![result] }
    }

    fn delete(&self, request: &v1::DeleteGroupsRequest) -> v1::DeleteGroupsResponse {
        let id = request.group_ids[0].clone();
        let deleted = self
            .known(&id)
            .and_then(|_| self.groups.change(&id, |group| Ok((group.delete()?, ()))).map_err(api_error));
        if deleted.is_ok() {
            self.groups.groups.lock().unwrap().remove(&GroupId::new(&id).unwrap());
        }
        let error = deleted.err().map(|error| error.to_proto());
        v1::DeleteGroupsResponse { results: vec![v1::GroupResult { group_id: id, group: None, error }] }
    }

    fn delete_offsets(
        &self,
        request: v1::DeleteOffsetsRequest,
    ) -> Result<v1::DeleteOffsetsResponse, Refusal> {
        self.groups.change(&request.group_id, |group| {
            group.check_committer(&Committer::Outside)?;
            let named = |at: &(TopicName, PartitionId)| {
                request.topics.iter().any(|topic| {
                    topic.topic == at.0.as_str()
                        && (topic.partitions.is_empty() || topic.partitions.contains(&at.1.get()))
                })
            };
            let changes = group.forget_offsets(|at, _| named(at));
            let gone = group.offsets.keys().filter(|at| named(at));
            let results = gone.map(|(topic, partition)| v1::CommitResult {
                topic: topic.to_string(),
                partition: partition.get(),
                error: None,
            });
            Ok((changes, v1::DeleteOffsetsResponse { results: results.collect() }))
        })
    }
}

fn beat_of(request: &v1::HeartbeatRequest) -> Heartbeat {
    fn id(text: &str) -> Option<&str> {
        Some(text).filter(|text| !text.is_empty())
    }
    let wish = |wish: &v1::GroupSubscription| Subscription {
        topics: wish.topics.iter().map(|name| TopicName::new(name).unwrap()).collect(),
        pattern: id(&wish.pattern).map(str::to_owned),
        rack: None,
        assignor: id(&wish.assignor).map(str::to_owned),
    };
    Heartbeat {
        member: MemberId::new(&request.member_id).unwrap(),
        epoch: MemberEpoch(request.member_epoch),
        instance: id(&request.instance_id).map(|id| InstanceId::new(id).unwrap()),
        subscription: request.subscription.as_ref().map(wish),
        has: request.has.as_ref().map(partitions),
        heard: request.heard_step,
        attempt: request.join_life.zip(request.join_attempt).map(|(life, number)| Attempt { life, number }),
        client_id: request.client_id.as_str().into(),
        host: "h".into(),
        session_timeout: Duration::from_secs(45),
        rebalance_timeout: Duration::from_secs(300),
        leaving: request.leaving_epoch.map(MemberEpoch),
    }
}

fn committer(member: &str, epoch: i32, instance: &str) -> Committer {
    if member.is_empty() {
        return Committer::Outside;
    }
    let instance = Some(instance).filter(|id| !id.is_empty()).map(|id| InstanceId::new(id).unwrap());
    Committer::Member(MemberId::new(member).unwrap(), MemberEpoch(epoch), instance)
}

fn partitions(assigned: &v1::AssignedPartitions) -> Partitions {
    let of = |topic: &v1::TopicPartitions| {
        let id = TopicId(topic.topic_id.as_ref().try_into().unwrap());
        let partition = move |index: &i32| TopicIdPartition { topic: id, partition: PartitionId(*index) };
        topic.partitions.iter().map(partition).collect::<Vec<_>>()
    };
    assigned.topics.iter().flat_map(of).collect()
}

fn assigned(partitions: &Partitions) -> v1::AssignedPartitions {
    let topic = |at: &TopicIdPartition| v1::TopicPartitions {
        topic_id: at.topic.0.to_vec().into(),
        topic: String::new(),
        partitions: vec![at.partition.get()],
    };
    v1::AssignedPartitions { topics: partitions.iter().map(topic).collect() }
}

fn api_error(refusal: Refusal) -> ApiError {
    let error = ApiError::new(refusal.code, refusal.message);
    match refusal.field {
        Some(field) => error.with_field(field),
        None => error,
    }
}

#[tonic::async_trait]
impl CoordinatorService for FakeCoordinator {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<internal::ExchangeResponse, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<internal::ExchangeRequest>>,
    ) -> Result<Answer<Self::ExchangeStream>, Status> {
        let (fake, mut calls) = (self.clone(), request.into_inner());
        let (replies, answers) = mpsc::channel(1024);
        tokio::spawn(async move {
            let mut under_way = BTreeMap::new();
            while let Some(Ok(message)) = calls.next().await {
                let cancels = |call: &internal::GroupCall| matches!(call.call, Some(Call::Cancel(_)));
                let count = message.calls.iter().filter(|call| !cancels(call)).count();
                fake.shared.messages.lock().unwrap().push(count);
                for call in message.calls {
                    let id = call.id;
                    if cancels(&call) {
                        fake.shared.cancelled.fetch_add(1, Ordering::SeqCst);
                        let task: Option<tokio::task::JoinHandle<()>> = under_way.remove(&id);
                        task.into_iter().for_each(|task| task.abort());
                        continue;
                    }
                    let (fake, replies) = (fake.clone(), replies.clone());
                    under_way.insert(
                        id,
                        tokio::spawn(async move {
                            let (error, reply) = match fake.answer(call).await {
                                Ok(reply) => (None, Some(reply)),
                                Err(Some(error)) => (Some(error.to_proto()), None),
                                Err(None) => {
                                    let _ = replies.send(Err(Status::unavailable("the test broke it"))).await;
                                    return;
                                }
                            };
                            let replied = internal::GroupReply { id, error, reply };
                            let _ =
                                replies.send(Ok(internal::ExchangeResponse { replies: vec![replied] })).await;
                        }),
                    );
                }
            }
        });
        Ok(Answer::new(Box::pin(ReceiverStream::new(answers))))
    }
}
