//! `uniform` where all members want the same topics, as they do in most groups: the same aim as in [`uniform`](super::uniform),
//! in one pass instead of one search for each move, so that thousands of members and partitions take milliseconds.
//!
//! ```text
//!   1. everybody keeps what it holds, up to an even share; so many as come out with one more keep one more
//!   2. what is left goes to whoever has least, to one in a rack of its replicas among equals
//! ```

use super::{Assignment, Subscriber, Subscribers, TopicIdPartition, TopicSpec, Topics, nothing, partitions};
use crate::TopicId;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// The assignment; `None` if members want different topics.
pub(super) fn assign(members: &Subscribers, topics: &Topics) -> Option<Assignment> {
    let wanted = &members.values().next()?.topics;
    let alike = |member: &Subscriber| Arc::ptr_eq(&member.topics, wanted) || member.topics == *wanted;
    if !members.values().all(alike) {
        return None;
    }
    let mut order: Vec<(TopicId, &TopicSpec)> =
        wanted.iter().filter_map(|id| Some((*id, topics.get(id)?))).collect();
    order.sort_by(|a, b| (&a.1.name, a.0).cmp(&(&b.1.name, b.0)));
    let count: usize = order.iter().map(|(_, spec)| spec.racks.len()).sum();
    let (share, mut extra) = (count / members.len(), count % members.len());

    let exists = |at: &TopicIdPartition| {
        let spec = wanted.contains(&at.topic).then(|| topics.get(&at.topic)).flatten();
        spec.is_some_and(|spec| usize::try_from(at.partition.get()).is_ok_and(|p| p < spec.racks.len()))
    };
    let mut assignment = nothing(members);
    let mut taken = HashSet::with_capacity(count);
    let mut loads = Loads::default();
    for (index, ((id, member), got)) in members.iter().zip(assignment.values_mut()).enumerate() {
        let mut held = member.held.iter().filter(|at| exists(at) && !taken.contains(*at));
        got.extend(held.by_ref().take(share).copied());
        if extra > 0
            && got.len() == share
            && let Some(one_more) = held.next()
        {
            extra -= 1;
            got.insert(*one_more);
        }
        taken.extend(got.iter().copied());
        loads.put(index, got.len(), id, member);
    }
    for (topic, spec) in order {
        for (at, racks) in partitions(topic, spec).zip(&spec.racks) {
            if taken.contains(&at) {
                continue;
            }
            if let Some(got) = loads.take(racks).and_then(|id| assignment.get_mut(id)) {
                got.insert(at);
            }
        }
    }
    Some(assignment)
}

/// Members by how much they have, all together and those of each rack.
#[derive(Default)]
struct Loads<'a> {
    all: BTreeSet<(usize, usize)>,
    by_rack: BTreeMap<&'a str, BTreeSet<(usize, usize)>>,
    members: Vec<(&'a Arc<str>, Option<&'a str>)>,
}

impl<'a> Loads<'a> {
    /// Members come in the order of their index.
    fn put(&mut self, index: usize, load: usize, id: &'a Arc<str>, member: &'a Subscriber) {
        let rack = member.rack.as_deref();
        self.members.push((id, rack));
        self.all.insert((load, index));
        if let Some(rack) = rack {
            self.by_rack.entry(rack).or_default().insert((load, index));
        }
    }

    /// Who gets one more: one of those who have least, beside a replica if there is one.
    fn take(&mut self, near: &BTreeSet<Arc<str>>) -> Option<&'a Arc<str>> {
        let &(least, first) = self.all.first()?;
        let beside = near.iter().filter_map(|rack| self.by_rack.get(&**rack)?.first());
        let index = beside.filter(|(load, _)| *load == least).map(|(_, index)| *index).min().unwrap_or(first);
        let (id, rack) = *self.members.get(index)?;
        self.all.remove(&(least, index));
        self.all.insert((least + 1, index));
        if let Some(loads) = rack.and_then(|rack| self.by_rack.get_mut(rack)) {
            loads.remove(&(least, index));
            loads.insert((least + 1, index));
        }
        Some(id)
    }
}
