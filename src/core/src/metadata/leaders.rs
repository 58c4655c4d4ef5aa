//! What elections came to between two images, for metrics.

use super::image::{MetadataImage, PartitionImage, TopicImage};
use std::sync::Arc;

/// Leaders that partitions got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elections {
    /// All of them.
    pub all: u64,
    /// Those whose leader was not known to hold all that was committed: records may be lost.
    pub unclean: u64,
}

/// The elections by which `before` became `after`, one command later. The first leader of a new partition is none. Costs nothing
/// for topics that did not change.
pub fn elections(before: &MetadataImage, after: &MetadataImage) -> Elections {
    let mut found = Elections::default();
    if Arc::ptr_eq(&before.topics, &after.topics) {
        return found;
    }
    for topic in after.topics.values() {
        let Some(old) = before.topics.get(&topic.name).filter(|old| old.id == topic.id) else { continue };
        if !Arc::ptr_eq(old, topic) {
            of_topic(old, topic, after, &mut found);
        }
    }
    found
}

fn of_topic(before: &TopicImage, after: &TopicImage, image: &MetadataImage, found: &mut Elections) {
    for (old, new) in before.partitions.iter().zip(&after.partitions) {
        if Arc::ptr_eq(old, new) || !new.is_online() {
            continue;
        }
        let elected = new.leader_epoch > old.leader_epoch;
        found.all += u64::from(elected);
        found.unclean += u64::from(elected && is_unclean(old, new, image));
    }
}

/// Whether records may be gone: the leader before could not go on, and the new one was not eligible. While the leader before is
/// active, it made the new one part of the ISR in the same step, at the end of a reassignment.
fn is_unclean(old: &PartitionImage, new: &PartitionImage, image: &MetadataImage) -> bool {
    let leads_on = image.broker(old.leader).is_some_and(|broker| broker.is_active());
    !leads_on && !old.is_eligible(new.leader)
}
