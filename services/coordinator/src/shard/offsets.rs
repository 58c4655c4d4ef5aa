//! Committing, reading and forgetting offsets.

use super::call::{CallId, Now, Output};
use super::topics::ImageTopics;
use super::{Shard, wire};
use std::collections::{BTreeMap, BTreeSet};
use thalweg_core::group::{Change, CommittedOffset, Committer, Group, GroupId};
use thalweg_core::metadata::command::Refusal;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, PartitionId, TopicName};
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::v1;

/// A range of all partitions of a topic, as keys of a group's offsets.
fn all_of(topic: &TopicName) -> std::ops::RangeInclusive<(TopicName, PartitionId)> {
    (topic.clone(), PartitionId(i32::MIN))..=(topic.clone(), PartitionId(i32::MAX))
}

impl Shard {
    pub(super) fn commit_offsets(
        &mut self,
        call: CallId,
        request: v1::CommitOffsetsRequest,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let parsed = wire::group_id(&request.group_id).and_then(|group| {
            let by = wire::committer(&request.member_id, request.member_epoch, &request.instance_id)?;
            if request.offsets.is_empty() || request.offsets.len() > self.config.max_commit {
                let message = format!("a commit is of 1 to {} partitions", self.config.max_commit);
                return Err(wire::invalid("offsets", message));
            }
            Ok((group, by))
        });
        let (group, by) = match parsed {
            Ok(parsed) => parsed,
            Err(refusal) => return out.replies.push((call, Err(refusal))),
        };
        let allowed = self.group(&group).check_committer(&by).and_then(|()| self.room_for_group(&group));
        if let Err(refusal) = allowed {
            return self.answer(&group, call, Err(refusal), out);
        }
        let mut changes = Vec::with_capacity(request.offsets.len());
        let mut results = Vec::with_capacity(request.offsets.len());
        let mut new = BTreeSet::new();
        for offset in request.offsets {
            let (topic, partition) = (offset.topic.clone(), offset.partition);
            let outcome = self.commit_one(&group, &by, offset, &mut new, topics, now);
            let error = outcome.map(|change| changes.push(change)).err().map(wire::error);
            results.push(v1::CommitResult { topic, partition, error });
        }
        self.apply(&group, changes, topics, now, out);
        let reply = Reply::CommitOffsets(v1::CommitOffsetsResponse { results });
        self.answer(&group, call, Ok(reply), out);
    }

    /// One partition of a commit. `new` are those that the commit adds to what the group had.
    fn commit_one(
        &self,
        id: &GroupId,
        by: &Committer,
        wanted: v1::OffsetToCommit,
        new: &mut BTreeSet<(TopicName, PartitionId)>,
        topics: &dyn ImageTopics,
        now: Now,
    ) -> Result<Change, Refusal> {
        let group = self.group(id);
        let name =
            TopicName::new(&wanted.topic).map_err(|error| wire::invalid("topic", error.to_string()))?;
        let asked = wire::topic_id(&wanted.topic_id, "topic_id")?;
        let found = topics.topic(&name).filter(|(id, _)| asked.is_none_or(|asked| asked == *id));
        let Some((topic, count)) = found else {
            let message = format!("there is no topic {name} of that id; it may have been deleted");
            return Err(Refusal::field(ErrorCode::UnknownTopic, "topic", message));
        };
        let partition = PartitionId(wanted.partition);
        if !(0..count).contains(&wanted.partition) {
            let message = format!("the topic {name} has no partition {partition}");
            return Err(Refusal::field(ErrorCode::UnknownPartition, "partition", message));
        }
        if wanted.metadata.len() > self.config.max_offset_metadata {
            let message =
                format!("an offset's metadata has at most {} bytes", self.config.max_offset_metadata);
            return Err(wire::invalid("metadata", message));
        }
        let offset = CommittedOffset {
            offset: Offset(wanted.offset),
            leader_epoch: wanted.leader_epoch.map_or(LeaderEpoch::NONE, LeaderEpoch),
            metadata: wanted.metadata.into(),
            at: now.wall,
            topic: Some(topic),
        };
        let change = group.commit(by, &name, topic, partition, offset)?;
        let key = (name, partition);
        if !group.offsets.contains_key(&key) {
            if self.offsets + new.len() >= self.config.max_offsets {
                let message = format!("the shard {} has as many offsets as it can have", self.at);
                return Err(Refusal::new(ErrorCode::Throttled, message));
            }
            new.insert(key);
        }
        Ok(change)
    }

    pub(super) fn fetch_offsets(
        &mut self,
        call: CallId,
        request: v1::FetchOffsetsRequest,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let group = match wire::group_id(&request.group_id) {
            Ok(group) => group,
            Err(refusal) => return out.replies.push((call, Err(refusal))),
        };
        let found = self.find_offsets(&group, &request, topics, now);
        let reply = found.map(|offsets| Reply::FetchOffsets(v1::FetchOffsetsResponse { offsets }));
        self.answer(&group, call, reply, out);
    }

    fn find_offsets(
        &self,
        id: &GroupId,
        request: &v1::FetchOffsetsRequest,
        topics: &dyn ImageTopics,
        now: Now,
    ) -> Result<Vec<v1::CommittedOffset>, Refusal> {
        let group = self.group(id);
        group.check_reader(&wire::committer(&request.member_id, request.member_epoch, "")?)?;
        wire::check_named(&request.topics, "topics", self.config.max_named)?;
        let mut found: BTreeMap<&(TopicName, PartitionId), &CommittedOffset> = BTreeMap::new();
        if request.topics.is_empty() {
            found.extend(&group.offsets);
        }
        for topic in &request.topics {
            let Some(name) = wire::named(topic, topics)? else { continue };
            if topic.partitions.is_empty() {
                found.extend(group.offsets.range(all_of(&name)));
            }
            for partition in &topic.partitions {
                found.extend(group.offsets.get_key_value(&(name.clone(), PartitionId(*partition))));
            }
        }
        for ((name, _), offset) in &found {
            self.check_topic(name, offset, topics, now)?;
        }
        Ok(found
            .into_iter()
            .map(|((name, partition), offset)| wire::committed(name, *partition, offset))
            .collect())
    }

    /// An offset of another topic of that name is about to be dropped, unless this coordinator's image is older than the one
    /// of the coordinator that took the commit. Until that is certain, neither answer would be right.
    fn check_topic(
        &self,
        name: &TopicName,
        offset: &CommittedOffset,
        topics: &dyn ImageTopics,
        now: Now,
    ) -> Result<(), Refusal> {
        let settled = now.mono >= self.started.saturating_add(self.config.image_settles);
        let there = topics.topic(name).map(|(id, _)| id);
        if settled || offset.topic.is_none() || there.is_none() || there == offset.topic {
            return Ok(());
        }
        let message = format!("the coordinator does not know yet whether the topic {name} was created anew");
        Err(Refusal::new(ErrorCode::CoordinatorNotAvailable, message))
    }

    pub(super) fn delete_offsets(
        &mut self,
        call: CallId,
        request: &v1::DeleteOffsetsRequest,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let group = match wire::group_id(&request.group_id) {
            Ok(group) => group,
            Err(refusal) => return out.replies.push((call, Err(refusal))),
        };
        let named = self.known_group(&group).and_then(|found| {
            found.check_committer(&Committer::Outside)?;
            if request.topics.is_empty() {
                return Err(wire::invalid("topics", "name at least one topic"));
            }
            wire::check_named(&request.topics, "topics", self.config.max_named)?;
            let mut named = BTreeSet::new();
            for topic in &request.topics {
                let Some(name) = wire::named(topic, topics)? else { continue };
                if topic.partitions.is_empty() {
                    named.extend(found.offsets.range(all_of(&name)).map(|(at, _)| at.clone()));
                }
                named
                    .extend(topic.partitions.iter().map(|partition| (name.clone(), PartitionId(*partition))));
            }
            Ok(named)
        });
        let named = match named {
            Ok(named) => named,
            Err(refusal) => return self.answer(&group, call, Err(refusal), out),
        };
        let there = |at: &&(TopicName, PartitionId)| self.group(&group).offsets.contains_key(*at);
        let forget =
            |(topic, partition): &(TopicName, PartitionId)| Change::Offset(topic.clone(), *partition, None);
        let changes = named.iter().filter(there).map(forget).collect();
        self.apply(&group, changes, topics, now, out);
        let result = |(topic, partition): (TopicName, PartitionId)| v1::CommitResult {
            topic: topic.to_string(),
            partition: partition.get(),
            error: None,
        };
        let results = named.into_iter().map(result).collect();
        self.answer(&group, call, Ok(Reply::DeleteOffsets(v1::DeleteOffsetsResponse { results })), out);
    }

    /// The group, if the shard has it.
    pub(super) fn known_group(&self, id: &GroupId) -> Result<&Group, Refusal> {
        let entry = self.groups.get(id).map(|entry| &entry.group);
        entry.ok_or_else(|| {
            let message = format!("there is no group {id}: it has neither members nor committed offsets");
            Refusal::field(ErrorCode::UnknownGroup, "group_id", message)
        })
    }
}
