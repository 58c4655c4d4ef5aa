//! Who leads a partition, and who is in sync, after brokers came or went. Pure rules over one partition.

use super::image::PartitionImage;
use crate::{BrokerId, LeaderEpoch, PartitionEpoch};

/// The partition with this leader and ISR, and the epochs that come with the change; `None` when nothing changes.
pub(super) fn changed(
    partition: &PartitionImage,
    leader: BrokerId,
    isr: Vec<BrokerId>,
) -> Option<PartitionImage> {
    debug_assert!(!isr.is_empty() && (leader == BrokerId::NONE || isr.contains(&leader)), "{leader} {isr:?}");
    let new_leader = leader != partition.leader;
    if !new_leader && isr == partition.isr {
        return None;
    }
    let leader_epoch = partition.leader_epoch.get();
    Some(PartitionImage {
        leader,
        leader_epoch: LeaderEpoch(if new_leader { leader_epoch.saturating_add(1) } else { leader_epoch }),
        partition_epoch: PartitionEpoch(partition.partition_epoch.get().saturating_add(1)),
        isr,
        ..partition.clone()
    })
}

/// `gone` is fenced: it leaves the ISR unless it is the last member, and another active member leads if it did.
/// With `unclean`, a partition that would be without leader goes to any active replica.
pub(super) fn after_fencing(
    partition: &PartitionImage,
    gone: BrokerId,
    active: impl Fn(BrokerId) -> bool,
    unclean: bool,
) -> Option<PartitionImage> {
    if !partition.replicas.contains(&gone) {
        return None;
    }
    let isr = without(&partition.isr, gone);
    if partition.leader != gone && partition.is_online() {
        return changed(partition, partition.leader, isr);
    }
    let (leader, isr) = elect(partition, isr, active, unclean);
    changed(partition, leader, isr)
}

/// Some broker became active: a partition without leader gets one if a member of its ISR, or with `unclean` any replica, is active.
pub(super) fn after_return(
    partition: &PartitionImage,
    active: impl Fn(BrokerId) -> bool,
    unclean: bool,
) -> Option<PartitionImage> {
    if partition.is_online() {
        return None;
    }
    let (leader, isr) = elect(partition, partition.isr.clone(), active, unclean);
    changed(partition, leader, isr)
}

/// `leaving` wants to stop: where another active member of the ISR can go on, it leaves the ISR and the lead. Where none
/// can it stays, because a partition without leader helps nobody while the broker still runs.
pub(super) fn after_shutdown_request(
    partition: &PartitionImage,
    leaving: BrokerId,
    active: impl Fn(BrokerId) -> bool,
) -> Option<PartitionImage> {
    if !partition.isr.contains(&leaving) {
        return None;
    }
    let isr = without(&partition.isr, leaving);
    let heir = first_of(&partition.replicas, |id| id != leaving && isr.contains(&id) && active(id))?;
    let leader = if partition.leader == leaving { heir } else { partition.leader };
    changed(partition, leader, isr)
}

/// The preferred replica leads if it is in sync and active.
pub(super) fn prefer(
    partition: &PartitionImage,
    active: impl Fn(BrokerId) -> bool,
) -> Option<PartitionImage> {
    let preferred = partition.preferred_leader();
    let can = partition.isr.contains(&preferred) && active(preferred);
    if can { changed(partition, preferred, partition.isr.clone()) } else { None }
}

fn elect(
    partition: &PartitionImage,
    isr: Vec<BrokerId>,
    active: impl Fn(BrokerId) -> bool,
    unclean: bool,
) -> (BrokerId, Vec<BrokerId>) {
    if let Some(clean) = first_of(&partition.replicas, |id| isr.contains(&id) && active(id)) {
        return (clean, isr);
    }
    match first_of(&partition.replicas, active) {
        // What the old ISR acknowledged and this replica lacks is lost, so nobody else counts as in sync with it.
        Some(any) if unclean => (any, vec![any]),
        _ => (BrokerId::NONE, isr),
    }
}

fn first_of(replicas: &[BrokerId], wanted: impl Fn(BrokerId) -> bool) -> Option<BrokerId> {
    replicas.iter().copied().find(|id| wanted(*id))
}

/// The ISR without one broker; as it is when nobody else is in it. The last member is remembered, because only it is
/// known to hold everything that was acknowledged.
fn without(isr: &[BrokerId], gone: BrokerId) -> Vec<BrokerId> {
    let rest: Vec<BrokerId> = isr.iter().copied().filter(|id| *id != gone).collect();
    if rest.is_empty() { isr.to_vec() } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: i32 = -1;

    fn ids(list: &[i32]) -> Vec<BrokerId> {
        list.iter().copied().map(BrokerId).collect()
    }

    fn partition(leader: i32, isr: &[i32]) -> PartitionImage {
        PartitionImage {
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
            replicas: ids(&[1, 2, 3]),
            isr: ids(isr),
            elr: vec![],
            adding: vec![],
            removing: vec![],
            lost: false,
        }
    }

    /// Leader, ISR, leader epoch and partition epoch after a change.
    type After<'a> = Option<(i32, &'a [i32], i32, i32)>;

    #[track_caller]
    fn expect(got: Option<PartitionImage>, wanted: After<'_>) {
        let wanted = wanted.map(|(leader, isr, leader_epoch, partition_epoch)| PartitionImage {
            leader_epoch: LeaderEpoch(leader_epoch),
            partition_epoch: PartitionEpoch(partition_epoch),
            ..partition(leader, isr)
        });
        assert_eq!(got, wanted);
    }

    #[test]
    fn fencing_a_broker() {
        // (leader, isr), gone, active, unclean -> (leader, isr, leader epoch, partition epoch)
        type Case<'a> = (i32, &'a [i32], i32, &'a [i32], bool, After<'a>);
        let cases: &[Case<'_>] = &[
            // The next replica in sync leads; the one gone is out of sync.
            (1, &[1, 2, 3], 1, &[2, 3], false, Some((2, &[2, 3], 5, 10))),
            // Not the next replica in the list, but the next one in sync.
            (1, &[1, 3], 1, &[2, 3], false, Some((3, &[3], 5, 10))),
            // A follower leaves the ISR; the leader and its epoch stay.
            (1, &[1, 2, 3], 2, &[1, 3], false, Some((1, &[1, 3], 4, 10))),
            // A follower out of sync changes nothing.
            (1, &[1, 3], 2, &[1, 3], false, None),
            // The last in sync: no leader, and it is remembered.
            (1, &[1], 1, &[2, 3], false, Some((NONE, &[1], 5, 10))),
            // The same, and the topic prefers being available to being complete.
            (1, &[1], 1, &[2, 3], true, Some((2, &[2], 5, 10))),
            (1, &[1], 1, &[], true, Some((NONE, &[1], 5, 10))),
            // Unclean is the last resort only.
            (1, &[1, 3], 1, &[2, 3], true, Some((3, &[3], 5, 10))),
            // A broker that holds no replica.
            (1, &[1], 7, &[1], false, None),
            // Without leader before, and no better now.
            (NONE, &[1], 2, &[3], false, None),
        ];
        for (leader, isr, gone, active, unclean, wanted) in cases {
            let active = |id: BrokerId| active.contains(&id.get());
            expect(after_fencing(&partition(*leader, isr), BrokerId(*gone), active, *unclean), *wanted);
        }
    }

    #[test]
    fn a_broker_that_returns() {
        type Case<'a> = (i32, &'a [i32], &'a [i32], bool, After<'a>);
        let cases: &[Case<'_>] = &[
            (NONE, &[2], &[2, 3], false, Some((2, &[2], 5, 10))),
            (NONE, &[2], &[1, 3], false, None),
            (NONE, &[2], &[1, 3], true, Some((1, &[1], 5, 10))),
            (NONE, &[2], &[1, 2], true, Some((2, &[2], 5, 10))),
            (2, &[2], &[1, 2], false, None),
        ];
        for (leader, isr, active, unclean, wanted) in cases {
            let active = |id: BrokerId| active.contains(&id.get());
            expect(after_return(&partition(*leader, isr), active, *unclean), *wanted);
        }
    }

    #[test]
    fn a_broker_that_wants_to_stop() {
        type Case<'a> = (i32, &'a [i32], i32, &'a [i32], After<'a>);
        let cases: &[Case<'_>] = &[
            (1, &[1, 2, 3], 1, &[2, 3], Some((2, &[2, 3], 5, 10))),
            (1, &[1, 2], 2, &[1, 3], Some((1, &[1], 4, 10))),
            // Nobody else is in sync: it goes on until it is fenced.
            (1, &[1], 1, &[2, 3], None),
            (1, &[1, 2], 1, &[3], None),
            (1, &[1], 3, &[1, 2], None),
        ];
        for (leader, isr, leaving, active, wanted) in cases {
            let active = |id: BrokerId| active.contains(&id.get());
            expect(after_shutdown_request(&partition(*leader, isr), BrokerId(*leaving), active), *wanted);
        }
    }

    #[test]
    fn the_preferred_replica_leads_only_when_it_may() {
        let all = |_: BrokerId| true;
        expect(prefer(&partition(2, &[1, 2]), all), Some((1, &[1, 2], 5, 10)));
        expect(prefer(&partition(1, &[1, 2]), all), None);
        expect(prefer(&partition(2, &[2, 3]), all), None);
        expect(prefer(&partition(2, &[1, 2]), |id| id != BrokerId(1)), None);
    }
}
