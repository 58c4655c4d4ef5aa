//! What time and the cluster's metadata do to groups: sessions that end, assignments, offsets that expire, topics that change.

use super::Shard;
use super::call::{Now, Output};
use super::timers::Timer;
use super::topics::ImageTopics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thalweg_core::group::{Change, CommittedOffset, GroupId, MemberId};
use thalweg_core::metadata::TopicImage;
use thalweg_core::{PartitionId, TopicId, TopicName};

impl Shard {
    /// Everything is loaded: every member gets a whole session from now.
    pub fn start(&mut self, now: Now) {
        self.started = now.mono;
        let ids: Vec<GroupId> = self.groups.keys().cloned().collect();
        for id in ids {
            let Some(entry) = self.groups.get_mut(&id) else { continue };
            entry.replayed();
            self.members += entry.group.members.len();
            self.offsets += entry.group.offsets.len();
            let members: Vec<_> =
                entry.group.members.iter().map(|(id, at)| (id.clone(), Arc::clone(at))).collect();
            for (member, state) in members {
                if let Some(entry) = self.groups.get_mut(&id) {
                    let mut presence = super::entry::Presence::new(now.mono, state.session_timeout);
                    presence.ask(&state, None, now.mono);
                    entry.presences.insert(member.clone(), presence);
                }
                self.with_presence(&id, &member, |_, _| ());
            }
            self.arm_assignment(&id, now);
        }
        self.timers.set(Timer::Topics, None, Some(now.mono));
        self.timers.set(Timer::Offsets, None, Some(now.mono.saturating_add(self.config.image_settles)));
    }

    /// Does what is due. To be called at [`next_wake`](Shard::next_wake), or later.
    pub fn tick(&mut self, topics: &dyn ImageTopics, now: Now, out: &mut Output) {
        let mut gone: BTreeMap<GroupId, Vec<MemberId>> = BTreeMap::new();
        let mut assign: Vec<GroupId> = Vec::new();
        for timer in self.timers.due(now.mono) {
            match timer {
                Timer::Topics => self.topics_changed(topics, now, out),
                Timer::Offsets => {
                    self.look_at_offsets(topics, now, out);
                    let next = now.mono.saturating_add(self.config.offsets_check_interval);
                    self.timers.set(Timer::Offsets, None, Some(next));
                }
                Timer::Assign(group) => {
                    if let Some(entry) = self.groups.get_mut(&group) {
                        entry.assign_at = None;
                    }
                    assign.push(group);
                }
                Timer::Member(group, member) => {
                    if self.is_out(&group, &member, topics, now, out) {
                        gone.entry(group).or_default().push(member);
                    }
                }
            }
        }
        // All whose time is over at once: one bump, one write a group.
        for (id, members) in gone {
            out.counts.expired_members += members.len() as u64;
            let changes = self.group(&id).without(&members, now.wall);
            self.apply(&id, changes, topics, now, out);
        }
        for id in assign {
            let changes = self.group(&id).assign(topics, |topic| topics.spec(topic));
            if let Err(refusal) = self.check_size(&id, &changes, topics) {
                tracing::error!(group = %id, reason = refusal.message, "the group stays as it was assigned before");
                continue;
            }
            out.counts.rebalances += u64::from(!changes.is_empty());
            self.apply(&id, changes, topics, now, out);
        }
    }

    /// Looks at a member whose timer came due. Tells whether its time in the group is over.
    fn is_out(
        &mut self,
        group: &GroupId,
        id: &MemberId,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) -> bool {
        let Some(presence) = self.groups.get_mut(group).and_then(|entry| entry.presences.get_mut(id)) else {
            return false;
        };
        presence.armed = None;
        if presence.revoke_at.is_some_and(|at| at <= now.mono) {
            tracing::info!(%group, member = %id, "a member did not give back its partitions in time and is out");
            return true;
        }
        if presence.held.as_ref().is_some_and(|held| held.until <= now.mono) {
            // What is to be given back, or was never confirmed, is said once more: the answer that said it may have been lost.
            let whole = presence.unconfirmed || !presence.revoking.is_empty();
            let unheard = presence.unheard;
            self.answer_held(group, id, whole, topics, now, out);
            self.with_presence(group, id, |presence, _| presence.unheard = unheard);
            return false;
        }
        if presence.held.is_none() && presence.parked == 0 && presence.session_at <= now.mono {
            tracing::info!(%group, member = %id, "a member's session ended and it is out");
            return true;
        }
        self.with_presence(group, id, |_, _| ());
        false
    }

    /// The topics are others than before. The image behind them must not be older than the one before.
    pub fn topics_changed(&mut self, topics: &dyn ImageTopics, now: Now, out: &mut Output) {
        let image = topics.image();
        let before = self.image.replace(Arc::clone(image));
        if let Some(before) = before {
            let changes = image.changes_since(&before);
            for topic in &changes.removed {
                self.forget_topic(topic, topics, now, out);
            }
            let same = |topic: &Arc<TopicImage>| {
                let old = before.topic(topic.name.as_str());
                old.is_some_and(|old| old.id == topic.id && old.partitions.len() == topic.partitions.len())
            };
            // Most changes are of leaders and ISRs, which are nothing to groups.
            if changes.removed.is_empty() && changes.changed.iter().all(same) {
                return;
            }
        }
        let with_members = self.groups.iter().filter(|(_, entry)| !entry.group.members.is_empty());
        let ids: Vec<GroupId> = with_members.map(|(id, _)| id.clone()).collect();
        for id in ids {
            let changes = self.group(&id).topics_changed(topics);
            self.apply(&id, changes.into_iter().collect(), topics, now, out);
        }
    }

    /// Drops the offsets of a topic that was deleted, as Kafka does, in whatever group.
    fn forget_topic(&mut self, topic: &TopicImage, topics: &dyn ImageTopics, now: Now, out: &mut Output) {
        let range = (topic.name.clone(), PartitionId(i32::MIN))..=(topic.name.clone(), PartitionId(i32::MAX));
        let of_it = |offset: &CommittedOffset| offset.topic.is_none_or(|id| id == topic.id);
        let ids: Vec<GroupId> = self.groups.keys().cloned().collect();
        for id in ids {
            let found = self.group(&id).offsets.range(range.clone()).filter(|(_, offset)| of_it(offset));
            let changes: Vec<Change> =
                found.map(|((name, partition), _)| Change::Offset(name.clone(), *partition, None)).collect();
            self.apply(&id, changes, topics, now, out);
        }
    }

    /// Forgets offsets that are old, and those of topics that were deleted while nobody served the shard.
    fn look_at_offsets(&mut self, topics: &dyn ImageTopics, now: Now, out: &mut Output) {
        let mut known: BTreeMap<TopicName, Option<TopicId>> = BTreeMap::new();
        let ids: BTreeSet<GroupId> = self.groups.keys().cloned().collect();
        for id in ids {
            let mut changes = self.group(&id).forget_offsets(|(name, _), offset| {
                let now = known.entry(name.clone()).or_insert_with(|| topics.topic(name).map(|(id, _)| id));
                *now != offset.topic.or(*now)
            });
            if changes.is_empty() {
                changes = self.group(&id).expire(self.config.offsets_retention, now.wall);
            }
            self.apply(&id, changes, topics, now, out);
        }
    }
}
