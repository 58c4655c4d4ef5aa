//! `roundrobin`: partitions are dealt like cards, topic by topic; who does not want the topic is passed over.

use super::{Assignment, Subscribers, Topics, nothing, partitions, wanted};
use std::ops::Bound;
use std::sync::Arc;

pub(super) fn assign(members: &Subscribers, topics: &Topics) -> Assignment {
    let mut assignment = nothing(members);
    let mut last: Option<Arc<str>> = None;
    for (topic, spec, _) in wanted(members, topics) {
        for partition in partitions(topic, spec) {
            let Some(next) = next_subscriber(members, last.as_deref(), topic) else { break };
            if let Some(got) = assignment.get_mut(&next) {
                got.insert(partition);
            }
            last = Some(next);
        }
    }
    assignment
}

/// The first member behind `last`, in a circle, that wants the topic.
fn next_subscriber(members: &Subscribers, last: Option<&str>, topic: crate::TopicId) -> Option<Arc<str>> {
    let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
    let after = members.range::<str, _>((behind, Bound::Unbounded));
    let mut circle = after.chain(members.iter());
    circle.find(|(_, member)| member.topics.contains(&topic)).map(|(id, _)| Arc::clone(id))
}
