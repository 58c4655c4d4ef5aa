//! How far groups are behind the ends of the partitions that they read.
//!
//! Ends come from the leaders' internal ports, all partitions of a leader in one call, and are kept for a second, so that a
//! dashboard that asks often costs the leaders little.

use crate::config::CoordinatorIntervals;
use crate::exchange::Answer;
use crate::leaders::{Leader, Leaders, Use};
use crate::node::Node;
use crate::serving::{Call, Message};
use crate::shard::ShardCall;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::group::GroupId;
use thalweg_core::{Offset, PartitionId, Timestamp, TopicName, TopicPartition};
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::v1;
use thalweg_proto::v1::consumer_service_client::ConsumerServiceClient;
use tokio::time::Instant;
use tonic::Request;

/// How old an end may be.
const FRESH: Duration = Duration::from_secs(1);
/// For a leader to answer; a group is described without what does not come.
const WITHIN: Duration = Duration::from_secs(2);
/// Leaders that are asked at once.
const AT_ONCE: usize = 8;
/// Partitions in one question, as the API bounds it.
const PARTITIONS: usize = 10_000;
/// For a shard to tell of one group. A shard that is taken over meanwhile is left out.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Ends of logs, and the last look at all groups.
pub struct Lag {
    leaders: Arc<Leaders>,
    every: Duration,
    ends: Mutex<BTreeMap<TopicPartition, (Instant, Offset)>>,
    snapshot: Mutex<Arc<LagSnapshot>>,
}

/// How far each group was behind in each partition, at one time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LagSnapshot {
    /// When, by the wall clock; `None` before the first look.
    pub taken_at: Option<Timestamp>,
    /// The groups, in the order of their id.
    pub groups: Vec<GroupSize>,
    /// In the order of group, topic and partition.
    pub partitions: Vec<PartitionLag>,
}

/// One group, for counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSize {
    /// The group.
    pub id: GroupId,
    /// What it is at the moment: empty, assigning, reconciling or stable.
    pub state: &'static str,
    /// Its members.
    pub members: u32,
}

/// One group in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLag {
    /// The group.
    pub group: GroupId,
    /// The partition.
    pub at: TopicPartition,
    /// The next offset that the group reads.
    pub committed: Offset,
    /// The partition's high watermark; `None` if its leader did not tell.
    pub log_end: Option<Offset>,
}

impl PartitionLag {
    /// Records between the two.
    pub fn lag(&self) -> Option<i64> {
        self.log_end.map(|end| behind(self.committed, end))
    }
}

/// An offset that was committed beyond the end, by hand, is not behind it.
fn behind(committed: Offset, end: Offset) -> i64 {
    end.get().saturating_sub(committed.get()).max(0)
}

impl Lag {
    /// Knows nothing yet.
    pub fn new(leaders: Arc<Leaders>, intervals: &CoordinatorIntervals) -> Lag {
        Lag { leaders, every: intervals.lag, ends: Mutex::default(), snapshot: Mutex::default() }
    }

    /// The last look at all groups.
    pub fn snapshot(&self) -> Arc<LagSnapshot> {
        Arc::clone(&self.snapshot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The high watermarks of partitions, as far as their leaders tell.
    pub async fn ends(&self, wanted: Vec<TopicPartition>) -> BTreeMap<TopicPartition, Offset> {
        let mut found = BTreeMap::new();
        let mut asked: BTreeMap<Arc<str>, (Leader, Vec<TopicPartition>)> = BTreeMap::new();
        {
            let known = self.lock_ends();
            for at in wanted {
                match known.get(&at) {
                    Some((when, end)) if when.elapsed() < FRESH => {
                        found.insert(at, *end);
                    }
                    _ => {
                        if let Ok(leader) = self.leaders.leader_of(&at) {
                            let of = asked.entry(Arc::clone(&leader.endpoint));
                            of.or_insert_with(|| (leader, Vec::new())).1.push(at);
                        }
                    }
                }
            }
        }
        let questions: Vec<_> = asked
            .into_values()
            .flat_map(|(leader, all)| {
                let pieces: Vec<_> = all.chunks(PARTITIONS).map(<[_]>::to_vec).collect();
                pieces.into_iter().map(move |piece| (leader.clone(), piece))
            })
            .collect();
        let told = stream::iter(questions.into_iter().map(|(leader, piece)| self.ask(leader, piece)));
        let told: Vec<_> = told.buffer_unordered(AT_ONCE).collect().await;
        if !told.is_empty() {
            let now = Instant::now();
            let mut known = self.lock_ends();
            known.retain(|_, (when, _)| when.elapsed() < FRESH);
            for (at, end) in told.into_iter().flatten() {
                known.insert(at.clone(), (now, end));
                found.insert(at, end);
            }
        }
        found
    }

    async fn ask(&self, leader: Leader, wanted: Vec<TopicPartition>) -> Vec<(TopicPartition, Offset)> {
        let Ok(channel) = self.leaders.channel(&leader, Use::Questions) else { return Vec::new() };
        let partitions = wanted.iter().map(|at| v1::ListOffsetsPartition {
            topic: at.topic.as_str().to_owned(),
            partition: at.partition.get(),
            spec: v1::OffsetSpec::Latest as i32,
            ..Default::default()
        });
        let mut request = Request::new(v1::ListOffsetsRequest {
            partitions: partitions.collect(),
            routing: v1::Routing::LeaderOnly as i32,
            ..Default::default()
        });
        request.set_timeout(WITHIN);
        let mut client = ConsumerServiceClient::new(channel);
        let answer = match tokio::time::timeout(WITHIN, client.list_offsets(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(broker = %leader.id, status = status.message(), "no ends of logs");
                return Vec::new();
            }
            Err(_) => return Vec::new(),
        };
        // In the order of the request.
        let told = wanted.into_iter().zip(answer.results);
        told.filter(|(_, result)| result.error.is_none() && result.offset >= 0)
            .map(|(at, result)| (at, Offset(result.offset)))
            .collect()
    }

    fn lock_ends(&self) -> std::sync::MutexGuard<'_, BTreeMap<TopicPartition, (Instant, Offset)>> {
        // A cache, whole at every step.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds log ends and lag to a group's description.
pub async fn complete(lag: &Lag, group: &mut v1::GroupDescription) {
    let ends = lag.ends(group.partitions.iter().filter_map(place).collect()).await;
    for partition in &mut group.partitions {
        let end = place(partition).and_then(|at| ends.get(&at).copied());
        partition.log_end_offset = end.map(Offset::get);
        partition.lag =
            partition.committed_offset.zip(end).map(|(committed, end)| behind(Offset(committed), end));
    }
}

fn place(partition: &v1::GroupPartition) -> Option<TopicPartition> {
    let topic = TopicName::new(&partition.topic).ok()?;
    Some(TopicPartition::new(topic, PartitionId(partition.partition)))
}

/// Looks at all groups again and again, until the shutdown.
pub async fn keep(node: Arc<Node>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(node.lag.every) => {}
            () = node.shutdown.triggered() => return,
        }
        let snapshot = tokio::select! {
            snapshot = look(&node) => snapshot,
            () = node.shutdown.triggered() => return,
        };
        *node.lag.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }
}

async fn look(node: &Node) -> LagSnapshot {
    let (mut groups, mut partitions) = (Vec::new(), Vec::new());
    for shard in node.shards.list_served() {
        let all = ShardCall::ListGroups(v1::ListGroupsRequest::default());
        let Some(Reply::ListGroups(list)) = ask(node, shard, all).await else { continue };
        for group in list.groups {
            groups.extend(size(&group));
            let Ok(id) = GroupId::new(&group.group_id) else { continue };
            let Some(Reply::DescribeGroup(told)) = ask(node, shard, ShardCall::DescribeOffsets(id)).await
            else {
                continue;
            };
            let groups = told.groups.into_iter().filter_map(|result| result.group);
            partitions.extend(groups.flat_map(committed));
        }
    }
    // Without groups nobody is asked.
    let ends = node.lag.ends(partitions.iter().map(|one| one.at.clone()).collect()).await;
    for partition in &mut partitions {
        partition.log_end = ends.get(&partition.at).copied();
    }
    partitions.sort_by(|a, b| (&a.group, &a.at).cmp(&(&b.group, &b.at)));
    groups.sort_by(|a, b| a.id.cmp(&b.id));
    LagSnapshot { taken_at: Some(node.clock.now()), groups, partitions }
}

fn size(group: &v1::ListedGroup) -> Option<GroupSize> {
    let state = match group.state() {
        v1::GroupState::Unspecified => return None,
        v1::GroupState::Empty => "empty",
        v1::GroupState::Assigning => "assigning",
        v1::GroupState::Reconciling => "reconciling",
        v1::GroupState::Stable => "stable",
    };
    Some(GroupSize { id: GroupId::new(&group.group_id).ok()?, state, members: group.members })
}

fn committed(group: v1::GroupDescription) -> Vec<PartitionLag> {
    let Ok(id) = GroupId::new(&group.group_id) else { return Vec::new() };
    let partitions = group.partitions.iter().filter_map(|partition| {
        let (at, committed) = (place(partition)?, Offset(partition.committed_offset?));
        Some(PartitionLag { group: id.clone(), at, committed, log_end: None })
    });
    partitions.collect()
}

async fn ask(node: &Node, shard: PartitionId, what: ShardCall) -> Option<Reply> {
    let (answer, told) = Answer::here();
    let call = Call { id: node.next_call(), what, answer, until: Some(Instant::now() + TOLD_WITHIN) };
    node.shards.send(shard, Message::Calls(vec![call])).ok()?;
    told.await.ok()?.ok()
}

impl fmt::Debug for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lag").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_beyond_the_end_is_not_behind_it() {
        assert_eq!(behind(Offset(3), Offset(10)), 7);
        assert_eq!(behind(Offset(12), Offset(10)), 0);
    }
}
