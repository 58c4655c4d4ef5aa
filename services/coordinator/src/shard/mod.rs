//! One shard: all groups of one partition of `__consumer_offsets`, as a pure machine. It knows no network, log or clock.
//!
//! ```text
//!   log ──► replay* ──► start ──┐
//!                               ▼
//!   call ──► handle ──► changes: applied in memory at once ──► Output.writes ──► written with acks=all ──► durable
//!   time ──► tick ──────►  │                                                                             │
//!   image ─► topics_changed│                                                                             ▼
//!                          └──► answers, each after the last write of its group ──────────► Output.replies
//! ```
//! - **Nothing is told that may be lost.** An answer leaves when the last write of its group is durable, so that the next owner
//!   of the shard, which knows what is durable, never knows less than any member or reader does.
//! - **Any prefix will do.** The records of a step are ordered so that a group can be loaded from each prefix of the log.
//! - **Moves take milliseconds.** A heartbeat with `max_wait_ms` is held until there is something to tell. When a partition
//!   that a member shall have gets free, or the target changes, members whose heartbeat is held take their next step at once;
//!   others take it with their next heartbeat.
//! - **One assignment for many changes.** A group is assigned a moment after its epoch moved (`assignment_delay`).
//! - **A session** counts from when the last answer left; it stands still while a heartbeat is held or its answer waits for a
//!   write. The next owner of the shard gives every member a whole one.

mod about;
mod answers;
mod beats;
mod call;
mod config;
mod entry;
mod offsets;
mod size;
mod step;
#[cfg(test)]
mod tests;
mod time;
mod timers;
mod topics;
mod wire;

pub use call::{CallId, Counts, Now, Output, ShardCall, WriteId};
pub use config::GroupConfig;
pub use size::record_bytes;
pub use topics::{ClusterTopics, ImageTopics, Patterns};

use answers::{Answer, Answers};
use entry::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::PartitionId;
use thalweg_core::group::records::RecordError;
use thalweg_core::group::{Group, GroupId, GroupRecord, MemberId};
use thalweg_core::metadata::MetadataImage;
use thalweg_core::metadata::command::Refusal;
use thalweg_proto::internal::v1::group_reply::Reply;
use timers::Timers;

/// The groups of one partition. See the [module](self).
#[derive(Debug)]
pub struct Shard {
    at: PartitionId,
    config: GroupConfig,
    groups: BTreeMap<GroupId, Entry>,
    timers: Timers,
    answers: Answers,
    /// Whose heartbeat a held call is.
    held: HashMap<CallId, (GroupId, MemberId)>,
    /// Members of all groups.
    members: usize,
    /// Committed offsets of all groups.
    offsets: usize,
    /// The image that groups were last compared with.
    image: Option<Arc<MetadataImage>>,
    /// When it began to serve.
    started: Duration,
}

impl Shard {
    /// An empty shard, to be filled by [`replay`](Shard::replay).
    pub fn new(at: PartitionId, config: GroupConfig) -> Shard {
        Shard {
            at,
            config,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            answers: Answers::default(),
            held: HashMap::new(),
            members: 0,
            offsets: 0,
            image: None,
            started: Duration::ZERO,
        }
    }

    /// The partition.
    pub fn at(&self) -> PartitionId {
        self.at
    }

    /// The groups, in the order of their id, as they are in memory: the newest of it may not be durable yet.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&GroupId, &Group)> {
        self.groups.iter().map(|(id, entry)| (id, &entry.group))
    }

    /// How many members all groups have together.
    pub fn member_count(&self) -> usize {
        self.members
    }

    /// How many offsets are committed in all groups together.
    pub fn offset_count(&self) -> usize {
        self.offsets
    }

    /// The last write that was handed out.
    pub fn written(&self) -> WriteId {
        self.answers.written()
    }

    /// Takes in one record of the log, while loading. Kinds that are not known are passed over.
    ///
    /// Errors: damage.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        let record = match GroupRecord::decode(key, value) {
            Ok(record) => record,
            Err(RecordError::UnknownKind(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let entry = self.groups.entry(record.group.clone()).or_default();
        entry.group.replay(&record.change);
        if entry.group.is_void() {
            self.groups.remove(&record.group);
        }
        Ok(())
    }

    /// Takes a call. Its answer may come with this step or with a later one.
    pub fn handle(
        &mut self,
        id: CallId,
        call: ShardCall,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        match call {
            ShardCall::Heartbeat { request, host } => self.heartbeat(id, request, host, topics, now, out),
            ShardCall::CommitOffsets(request) => self.commit_offsets(id, request, topics, now, out),
            ShardCall::FetchOffsets(request) => self.fetch_offsets(id, request, topics, now, out),
            ShardCall::ListGroups(request) => self.list_groups(id, &request, out),
            ShardCall::DescribeGroup(request) => self.describe_group(id, &request, topics, out),
            ShardCall::DescribeOffsets(group) => self.describe_offsets(id, &group, out),
            ShardCall::DeleteGroup(request) => self.delete_group(id, &request, topics, now, out),
            ShardCall::DeleteOffsets(request) => self.delete_offsets(id, &request, topics, now, out),
            ShardCall::Cancel => self.cancel(id, now),
        }
    }

    /// When something is due, by [`Now::mono`]. `None`: nothing ever is.
    pub fn next_wake(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Nothing was heard or done for so long, since whoever drives this stood still: members lose none of their time by it.
    pub fn postpone(&mut self, by: Duration) {
        let of = |(group, entry): (&GroupId, &Entry)| {
            let group = group.clone();
            entry.presences.keys().map(move |member| (group.clone(), member.clone())).collect::<Vec<_>>()
        };
        let all: Vec<(GroupId, MemberId)> = self.groups.iter().flat_map(of).collect();
        for (group, member) in all {
            self.with_presence(&group, &member, |presence, _| {
                presence.session_at = presence.session_at.saturating_add(by);
                presence.revoke_at = presence.revoke_at.map(|at| at.saturating_add(by));
            });
        }
    }

    /// All writes up to and with this one are durable. Members whose answer waited for them begin their session.
    pub fn durable(&mut self, upto: WriteId, now: Now, out: &mut Output) {
        for answer in self.answers.durable(upto) {
            if let Some((group, member)) = &answer.member {
                self.with_presence(group, member, |presence, member| {
                    presence.parked = presence.parked.saturating_sub(1);
                    presence.session_at = now.mono.saturating_add(member.session_timeout);
                    if presence.asked_by.take_if(|by| *by <= upto).is_some() {
                        presence.revoke_at = Some(now.mono.saturating_add(member.rebalance_timeout));
                    }
                });
            }
            out.replies.push((answer.call, answer.reply));
        }
    }

    /// Answers a call about a group, once the group's last write is durable.
    fn answer(&mut self, group: &GroupId, call: CallId, reply: Result<Reply, Refusal>, out: &mut Output) {
        let after = self.last_write(group);
        self.answers.give(after, Answer { call, reply, member: None }, out);
    }

    /// What an answer about a group waits for. A group that is not there may have been deleted just now.
    fn last_write(&self, group: &GroupId) -> WriteId {
        self.groups.get(group).map_or(self.answers.written(), |entry| entry.last_write)
    }

    /// The group, as one without members or offsets if it is not there.
    fn group(&self, id: &GroupId) -> &Group {
        static NOTHING: std::sync::LazyLock<Group> = std::sync::LazyLock::new(Group::default);
        self.groups.get(id).map_or(&NOTHING, |entry| &entry.group)
    }
}
