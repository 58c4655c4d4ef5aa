//! Computing what each member shall have, once for many changes.

use super::assignor::{Assignor, Subscriber, TopicSpec};
use super::heartbeat::TopicLookup;
use super::ids::MemberId;
use super::records::{Change, GroupValue};
use super::state::{Group, Subscription};
use crate::{TopicId, TopicName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the members' wishes come to.
struct Resolved<'a> {
    /// Every member's topics, those that exist. Members that ask for the same share it.
    wanted: BTreeMap<&'a MemberId, Arc<BTreeSet<TopicId>>>,
    /// The partition counts of all of them.
    counts: BTreeMap<TopicId, i32>,
}

type Wish<'a> = (&'a BTreeSet<TopicName>, Option<&'a str>);

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
        let Resolved { mut wanted, counts } = self.resolve(topics);
        let specs: BTreeMap<TopicId, TopicSpec> =
            counts.keys().filter_map(|id| Some((*id, specs(*id)?))).collect();
        let names: BTreeMap<Arc<str>, &MemberId> =
            self.members.keys().map(|id| (Arc::from(id.as_str()), id)).collect();
        let mut subscriber = |id: &MemberId| Subscriber {
            topics: wanted.remove(id).unwrap_or_default(),
            rack: self.members.get(id).and_then(|member| member.subscription.rack.clone()),
            held: self.target.get(id).map(|target| target.as_ref().clone()).unwrap_or_default(),
        };
        let subscribers = names.iter().map(|(name, id)| (Arc::clone(name), subscriber(id))).collect();
        let assignor = self.elected_assignor();
        let assignment = assignor.assign(&subscribers, &specs);

        // The targets first: a log that ends between them has another epoch still, and is assigned anew.
        let mut changes = Vec::new();
        for (name, got) in assignment {
            let Some(id) = names.get(&name) else { continue };
            if self.target.get(*id).is_none_or(|before| **before != got) {
                changes.push(Change::Target((*id).clone(), Some(Arc::new(got))));
            }
        }
        let gone = self.target.keys().filter(|id| !self.members.contains_key(*id));
        changes.extend(gone.map(|id| Change::Target(id.clone(), None)));
        changes.push(Change::Group(Some(GroupValue {
            target_epoch: self.epoch,
            assignor: assignor.name().to_owned(),
            topics_hash: topics_hash(&counts),
            ..self.value()
        })));
        changes
    }

    /// The change that makes the group look at its topics again, if any of them came, went or grew.
    pub fn topics_changed(&self, topics: &(impl TopicLookup + ?Sized)) -> Option<Change> {
        // Before the assignment that is to come looks at them there is nothing to compare with.
        if self.members.is_empty() || self.epoch != self.target_epoch {
            return None;
        }
        let changed = topics_hash(&self.resolve(topics).counts) != self.topics_hash;
        changed.then(|| Change::Group(Some(self.bumped())))
    }

    fn resolve(&self, topics: &(impl TopicLookup + ?Sized)) -> Resolved<'_> {
        let mut known: BTreeMap<Wish<'_>, Arc<BTreeSet<TopicId>>> = BTreeMap::new();
        // The most common: all members share one subscription, and none is compared with another.
        let mut last: Option<(&Arc<Subscription>, Arc<BTreeSet<TopicId>>)> = None;
        let mut resolved = Resolved { wanted: BTreeMap::new(), counts: BTreeMap::new() };
        for (id, member) in &self.members {
            let wish = &member.subscription;
            let found = match &last {
                Some((before, found)) if Arc::ptr_eq(before, wish) => Arc::clone(found),
                _ => {
                    let pattern = wish.pattern.as_deref();
                    let found = known.entry((&wish.topics, pattern)).or_insert_with(|| {
                        let matched = pattern.map(|pattern| topics.matching(pattern));
                        let matched = matched.iter().flat_map(|names| names.iter());
                        let found = wish.topics.iter().chain(matched).filter_map(|name| topics.topic(name));
                        let mut ids = BTreeSet::new();
                        for (id, count) in found {
                            ids.insert(id);
                            resolved.counts.insert(id, count);
                        }
                        Arc::new(ids)
                    });
                    last = Some((wish, Arc::clone(found)));
                    Arc::clone(found)
                }
            };
            resolved.wanted.insert(id, found);
        }
        resolved
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

/// One number for topics and their partition counts (FNV-1a, 64 bits), 0 for none: all that a group has to remember of them to
/// see that they changed, however many they are.
pub fn topics_hash(counts: &BTreeMap<TopicId, i32>) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    if counts.is_empty() {
        return 0;
    }
    let bytes = counts.iter().flat_map(|(id, count)| id.0.into_iter().chain(count.to_be_bytes()));
    bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}
