//! Who leads a partition, who is in sync, and who else is eligible, after something happened. Pure rules over one partition.
//!
//! ```text
//!   clean election:  active member of the ISR  >  active eligible replica (it alone is in sync then)  >  nobody
//!   unclean:         any active replica, rather one of those that are not lost and not just being added
//! ```
//! Every rule ends in [`finish`]: it clears what no longer holds, completes a reassignment that came to its end, and counts the
//! epochs.

use super::image::PartitionImage;
use crate::replication::effective_min_insync;
use crate::{BrokerId, LeaderEpoch, PartitionEpoch};

/// What a partition's topic and brokers say.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Whether a broker may lead.
    pub(super) active: &'a dyn Fn(BrokerId) -> bool,
    /// Whether records may be given up for the sake of having a leader.
    pub(super) unclean: bool,
    /// `min.insync.replicas`.
    pub(super) min_insync_replicas: usize,
}

/// How much of its data a broker's new process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returned {
    /// All that it ever counted as safe.
    Whole,
    /// Maybe not the end of what it only had in memory: it was not closed cleanly.
    Unsure,
    /// Nothing can be counted on: a log directory is gone.
    Bare,
}

/// `gone` is fenced: it leaves the ISR unless it is the last member, and another one leads if it did.
pub(super) fn after_fencing(
    partition: &PartitionImage,
    gone: BrokerId,
    rules: Rules<'_>,
) -> Option<PartitionImage> {
    if !partition.replicas.contains(&gone) {
        return None;
    }
    let mut next = partition.clone();
    step_out(&mut next, gone);
    if partition.leader == gone || !partition.is_online() {
        elect(&mut next, rules);
    }
    finish(partition, next, rules)
}

/// A new process of broker `id` is registered, which is fenced for now. With `disks_are_back` it has all the log directories
/// again whose loss made partitions lost.
pub(super) fn after_registration(
    partition: &PartitionImage,
    id: BrokerId,
    returned: Returned,
    disks_are_back: bool,
    rules: Rules<'_>,
) -> Option<PartitionImage> {
    if !partition.replicas.contains(&id) {
        return None;
    }
    let mut next = partition.clone();
    if partition.lost && partition.isr == [id] {
        next.lost = !disks_are_back;
    } else if returned == Returned::Whole {
        step_out(&mut next, id);
    } else {
        distrust(&mut next, id, returned);
    }
    if partition.leader == id || !partition.is_online() {
        elect(&mut next, rules);
    }
    finish(partition, next, rules)
}

/// Some broker became active, or the topic's configuration changed: a partition without leader gets one if there is one to have.
pub(super) fn after_return(partition: &PartitionImage, rules: Rules<'_>) -> Option<PartitionImage> {
    let mut next = partition.clone();
    if !partition.is_online() {
        elect(&mut next, rules);
    }
    finish(partition, next, rules)
}

/// `leaving` wants to stop: where another active member of the ISR can go on, it leaves the ISR and the lead. Where none
/// can it stays, because a partition without leader helps nobody while the broker still runs.
pub(super) fn after_shutdown_request(
    partition: &PartitionImage,
    leaving: BrokerId,
    rules: Rules<'_>,
) -> Option<PartitionImage> {
    if !partition.isr.contains(&leaving) {
        return None;
    }
    let may_follow = |id| id != leaving && partition.isr.contains(&id) && (rules.active)(id);
    let heir = first_of(&partition.replicas, may_follow)?;
    let mut next = partition.clone();
    step_out(&mut next, leaving);
    if partition.leader == leaving {
        next.leader = heir;
    }
    finish(partition, next, rules)
}

/// The leader has another ISR, itself included. Checked by the caller.
pub(super) fn after_isr_change(
    partition: &PartitionImage,
    isr: Vec<BrokerId>,
    rules: Rules<'_>,
) -> Option<PartitionImage> {
    let mut next = partition.clone();
    next.elr.extend(partition.isr.iter().filter(|id| !isr.contains(id)));
    next.elr.retain(|id| !isr.contains(id));
    next.isr = isr;
    finish(partition, next, rules)
}

/// The preferred replica leads if it is in sync and active.
pub(super) fn prefer(partition: &PartitionImage, rules: Rules<'_>) -> Option<PartitionImage> {
    let preferred = partition.preferred_leader();
    if partition.lost || !partition.isr.contains(&preferred) || !(rules.active)(preferred) {
        return None;
    }
    finish(partition, PartitionImage { leader: preferred, ..partition.clone() }, rules)
}

/// A leader for a partition that has none, or whose leader cannot go on.
pub(super) fn elect(next: &mut PartitionImage, rules: Rules<'_>) {
    let find =
        |wanted: &dyn Fn(BrokerId) -> bool| first_of(&next.replicas, |id| (rules.active)(id) && wanted(id));
    if !next.lost {
        if let Some(member) = find(&|id| next.isr.contains(&id)) {
            next.leader = member;
            return;
        }
        if let Some(eligible) = find(&|id| next.elr.contains(&id)) {
            // Those who are left have all that is committed as well, but not what this one is about to append.
            next.elr.append(&mut next.isr);
            next.elr.retain(|id| *id != eligible);
            (next.leader, next.isr) = (eligible, vec![eligible]);
            return;
        }
    }
    let has_nothing = |id: BrokerId| next.adding.contains(&id) || (next.lost && next.isr.contains(&id));
    next.leader = match find(&|id| !has_nothing(id)).or_else(|| find(&|_| true)) {
        Some(any) if rules.unclean => {
            // What others acknowledged and this replica lacks is lost, so nobody else counts as in sync with it.
            (next.isr, next.elr, next.lost) = (vec![any], Vec::new(), false);
            any
        }
        _ => BrokerId::NONE,
    };
}

/// The partition after a change, with the epochs that come with it; `None` when nothing changes.
pub(super) fn finish(
    before: &PartitionImage,
    mut next: PartitionImage,
    rules: Rules<'_>,
) -> Option<PartitionImage> {
    complete_reassignment(&mut next, rules);
    let PartitionImage { replicas, isr, elr, .. } = &mut next;
    let place = |id: &BrokerId| replicas.iter().position(|replica| replica == id);
    isr.sort_unstable_by_key(place);
    elr.sort_unstable_by_key(place);
    elr.dedup();
    // From now on something may be committed that they lack. Without a leader nothing is.
    if next.is_online() && next.isr.len() >= next.min_insync(rules.min_insync_replicas) {
        next.elr.clear();
    }
    debug_assert!(!next.isr.is_empty(), "the last member stays: {next:?}");
    if next == *before {
        return None;
    }
    if next.leader != before.leader {
        next.leader_epoch = LeaderEpoch(before.leader_epoch.get().saturating_add(1));
    }
    next.partition_epoch = PartitionEpoch(before.partition_epoch.get().saturating_add(1));
    Some(next)
}

/// Ends a reassignment once every new replica is in sync and enough of those that stay are: the ISR may only become smaller
/// than `min.insync.replicas` if it is already.
fn complete_reassignment(next: &mut PartitionImage, rules: Rules<'_>) {
    let added = next.adding.iter().all(|id| next.isr.contains(id));
    if !next.is_reassigning() || !next.is_online() || !added {
        return;
    }
    let target: Vec<BrokerId> = next.target_replicas().collect();
    let isr: Vec<BrokerId> = next.isr.iter().copied().filter(|id| target.contains(id)).collect();
    let enough = effective_min_insync(rules.min_insync_replicas, target.len()).min(next.isr.len());
    if isr.is_empty() || isr.len() < enough {
        return;
    }
    let leader = if target.contains(&next.leader) {
        next.leader
    } else {
        match first_of(&target, |id| isr.contains(&id) && (rules.active)(id)) {
            Some(heir) => heir,
            None => return,
        }
    };
    next.elr.retain(|id| target.contains(id));
    (next.leader, next.replicas, next.isr) = (leader, target, isr);
    next.adding.clear();
    next.removing.clear();
}

/// A broker that has all it should leaves the ISR; as it is when nobody else is in it. The last member is remembered, because
/// only it is known to hold everything that was acknowledged. Whoever leaves is eligible for as long as nothing can be committed;
/// [`finish`] knows whether something can.
fn step_out(next: &mut PartitionImage, gone: BrokerId) {
    if next.isr.len() > 1 && next.isr.contains(&gone) {
        next.isr.retain(|id| *id != gone);
        next.elr.push(gone);
    }
}

/// A broker that may lack something that it had acknowledged counts no longer. If nobody else holds all that was committed, one
/// that is merely unsure still is the best there is, but one that has nothing makes the partition lost.
fn distrust(next: &mut PartitionImage, id: BrokerId, returned: Returned) {
    if !next.is_eligible(id) {
        return;
    }
    if next.isr.len() + next.elr.len() == 1 {
        next.lost = returned == Returned::Bare;
        return;
    }
    next.isr.retain(|member| *member != id);
    next.elr.retain(|member| *member != id);
    if next.isr.is_empty() {
        next.isr.push(next.elr.remove(0));
    }
}

fn first_of(replicas: &[BrokerId], wanted: impl Fn(BrokerId) -> bool) -> Option<BrokerId> {
    replicas.iter().copied().find(|id| wanted(*id))
}

#[cfg(test)]
mod tests;
