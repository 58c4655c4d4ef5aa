//! Computing what each member shall have, once for many changes.

use super::assignor::{Assignor, Subscriber, TopicSpec};
use super::heartbeat::TopicLookup;
use super::ids::MemberId;
use super::records::Change;
use super::state::Group;
use crate::TopicId;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Group {
    /// The changes that give every member its target for the group's epoch; none when it has it. `specs` tells names and racks of
    /// the topics that the group subscribed to.
    ///
    /// Whoever runs the machine calls this soon after the epoch moved, not at each move: a thousand members that join within a
    /// moment are one assignment.
    pub fn assign(
        &self,
        topics: &(impl TopicLookup + ?Sized),
        specs: impl Fn(TopicId) -> Option<TopicSpec>,
    ) -> Vec<Change> {
        if self.epoch == self.target_epoch {
            return Vec::new();
        }
        let resolved = self.resolved(topics);
        let counts = self.counts(topics);
        let specs: BTreeMap<TopicId, TopicSpec> =
            counts.keys().filter_map(|id| Some((*id, specs(*id)?))).collect();
        let names: BTreeMap<Arc<str>, &MemberId> =
            self.members.keys().map(|id| (Arc::from(id.as_str()), id)).collect();
        let subscriber = |id: &MemberId| Subscriber {
            topics: resolved.get(id).cloned().unwrap_or_default(),
            rack: self.members.get(id).and_then(|member| member.subscription.rack.clone()),
            held: self.target.get(id).map(|target| target.as_ref().clone()).unwrap_or_default(),
        };
        let subscribers = names.iter().map(|(name, id)| (Arc::clone(name), subscriber(id))).collect();
        let assignor = self.elected_assignor();
        let assignment = assignor.assign(&subscribers, &specs);

        let mut next = self.clone();
        next.assignor = assignor;
        next.topics = Arc::new(counts);
        next.target_epoch = self.epoch;
        next.target = assignment
            .into_iter()
            .filter_map(|(name, got)| Some(((*names.get(&name)?).clone(), Arc::new(got))))
            .collect();
        self.changes_to(&next)
    }

    /// The change that makes the group look at its topics again, if any of them came, went or grew.
    pub fn topics_changed(&self, topics: &(impl TopicLookup + ?Sized)) -> Option<Change> {
        if self.members.is_empty() || self.counts(topics) == *self.topics {
            return None;
        }
        let mut next = self.clone();
        next.epoch.0 = next.epoch.0.saturating_add(1);
        next.topics = Arc::new(self.counts(topics));
        Some(Change::Group(Some(next.value())))
    }

    /// The assignor that most members would like; the default when nobody says, the first by name among equals.
    fn elected_assignor(&self) -> Assignor {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for wish in self.members.values().filter_map(|member| member.subscription.assignor.as_deref()) {
            *votes.entry(wish).or_default() += 1;
        }
        let most = votes.iter().rev().max_by_key(|(_, count)| **count);
        most.and_then(|(name, _)| name.parse().ok()).unwrap_or_default()
    }
}
