//! What is told about groups, and deleting them.

use super::call::{CallId, Now, Output};
use super::topics::ImageTopics;
use super::{Shard, wire};
use std::collections::BTreeMap;
use thalweg_core::PartitionId;
use thalweg_core::group::{Group, GroupId, Member, MemberId};
use thalweg_core::metadata::command::Refusal;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::v1;

/// Bytes of all members' subscriptions in one description; each has an equal part.
const MAX_TOLD_BYTES: usize = 4 << 20;

impl Shard {
    /// Answered at once, even while writes are stuck: it is for people, who may want to know why.
    pub(super) fn list_groups(&mut self, call: CallId, request: &v1::ListGroupsRequest, out: &mut Output) {
        let wanted =
            |state: v1::GroupState| request.states.is_empty() || request.states.contains(&(state as i32));
        let listed = self.groups.iter().filter_map(|(id, entry)| {
            let state = wire::state(entry.group.state());
            let members = u32::try_from(entry.group.members.len()).unwrap_or(u32::MAX);
            wanted(state).then(|| v1::ListedGroup { group_id: id.to_string(), state: state as i32, members })
        });
        let reply = Reply::ListGroups(v1::ListGroupsResponse { groups: listed.collect() });
        out.replies.push((call, Ok(reply)));
    }

    pub(super) fn describe_group(
        &mut self,
        call: CallId,
        request: &v1::DescribeGroupsRequest,
        topics: &dyn ImageTopics,
        out: &mut Output,
    ) {
        let id = match only_one(&request.group_ids) {
            Ok(id) => id,
            Err(refusal) => return out.replies.push((call, Err(refusal))),
        };
        let result = match self.known_group(&id) {
            Ok(group) => result(&id, Some(describe(&id, group, topics)), None),
            Err(refusal) => result(&id, None, Some(refusal)),
        };
        let reply = Reply::DescribeGroup(v1::DescribeGroupsResponse { groups: vec![result] });
        self.answer(&id, call, Ok(reply), out);
    }

    /// What the lag is made of, however many members there are.
    pub(super) fn describe_offsets(&mut self, call: CallId, id: &GroupId, out: &mut Output) {
        let result = match self.known_group(id) {
            Ok(group) => {
                let offsets = v1::GroupDescription {
                    group_id: id.to_string(),
                    state: wire::state(group.state()) as i32,
                    partitions: group
                        .offsets
                        .iter()
                        .map(|((name, partition), offset)| v1::GroupPartition {
                            topic: name.to_string(),
                            partition: partition.get(),
                            committed_offset: Some(offset.offset.get()),
                            ..v1::GroupPartition::default()
                        })
                        .collect(),
                    ..v1::GroupDescription::default()
                };
                result(id, Some(offsets), None)
            }
            Err(refusal) => result(id, None, Some(refusal)),
        };
        let reply = Reply::DescribeGroup(v1::DescribeGroupsResponse { groups: vec![result] });
        self.answer(id, call, Ok(reply), out);
    }

    pub(super) fn delete_group(
        &mut self,
        call: CallId,
        request: &v1::DeleteGroupsRequest,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let id = match only_one(&request.group_ids) {
            Ok(id) => id,
            Err(refusal) => return out.replies.push((call, Err(refusal))),
        };
        let error = match self.known_group(&id).and_then(Group::delete) {
            Ok(changes) => {
                self.apply(&id, changes, topics, now, out);
                None
            }
            Err(refusal) => Some(refusal),
        };
        let results = vec![result(&id, None, error)];
        self.answer(&id, call, Ok(Reply::DeleteGroup(v1::DeleteGroupsResponse { results })), out);
    }
}

fn only_one(ids: &[String]) -> Result<GroupId, Refusal> {
    match ids {
        [id] => {
            wire::group_id(id).map_err(|refusal| Refusal { field: Some("group_ids".to_owned()), ..refusal })
        }
        _ => Err(wire::invalid("group_ids", "a shard is asked for one group at a time")),
    }
}

fn result(id: &GroupId, group: Option<v1::GroupDescription>, error: Option<Refusal>) -> v1::GroupResult {
    v1::GroupResult { group_id: id.to_string(), group, error: error.map(wire::error) }
}

fn describe(id: &GroupId, group: &Group, topics: &dyn ImageTopics) -> v1::GroupDescription {
    v1::GroupDescription {
        group_id: id.to_string(),
        state: wire::state(group.state()) as i32,
        group_epoch: group.epoch.0,
        assignment_epoch: group.target_epoch.0,
        assignor: group.assignor.to_string(),
        // Whoever serves the shard adds who it is.
        coordinator_id: 0,
        coordinator_endpoint: String::new(),
        members: group
            .members
            .iter()
            .map(|(id, member)| describe_member(id, member, group, topics))
            .collect(),
        partitions: partitions(group, topics),
    }
}

fn describe_member(
    id: &MemberId,
    member: &Member,
    group: &Group,
    topics: &dyn ImageTopics,
) -> v1::GroupMember {
    let current = &member.current;
    let target = group.target.get(id);
    v1::GroupMember {
        member_id: id.to_string(),
        instance_id: member.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
        client_id: member.client_id.to_string(),
        host: member.host.to_string(),
        member_epoch: current.epoch.0,
        subscription: Some(wire::wish(&member.subscription, MAX_TOLD_BYTES / group.members.len().max(1))),
        assigned: wire::by_topic(current.owned.keys().chain(current.revoking.keys()), topics),
        target: wire::by_topic(target.iter().flat_map(|target| target.iter()), topics),
    }
}

/// Partitions with a committed offset or an owner.
fn partitions(group: &Group, topics: &dyn ImageTopics) -> Vec<v1::GroupPartition> {
    let mut found: BTreeMap<(String, PartitionId), v1::GroupPartition> = BTreeMap::new();
    for ((name, partition), offset) in &group.offsets {
        let told = v1::GroupPartition {
            topic: name.to_string(),
            partition: partition.get(),
            committed_offset: Some(offset.offset.get()),
            metadata: offset.metadata.to_string(),
            ..v1::GroupPartition::default()
        };
        found.insert((name.to_string(), *partition), told);
    }
    for (at, owner) in &group.owners {
        // A partition whose topic is gone has no name to be told under.
        let Some(name) = topics.name(at.topic) else { continue };
        let told = found.entry((name.to_string(), at.partition)).or_insert_with(|| v1::GroupPartition {
            topic: name.to_string(),
            partition: at.partition.get(),
            ..v1::GroupPartition::default()
        });
        told.member_id = owner.to_string();
    }
    found.into_values().collect()
}
