//! `range`: each topic by itself, partitions in a row.

use super::{Assignment, Subscribers, Topics, nothing, partitions, wanted};

pub(super) fn assign(members: &Subscribers, topics: &Topics) -> Assignment {
    let mut assignment = nothing(members);
    for (topic, spec, subscribers) in wanted(members, topics) {
        let count = spec.racks.len();
        let (share, extra) = (count / subscribers.len(), count % subscribers.len());
        let mut row = partitions(topic, spec);
        for (index, member) in subscribers.into_iter().enumerate() {
            let take = share + usize::from(index < extra);
            if let Some(got) = assignment.get_mut(member) {
                got.extend(row.by_ref().take(take));
            }
        }
    }
    assignment
}
