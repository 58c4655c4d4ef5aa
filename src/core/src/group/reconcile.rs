//! How one member gets from what it has to what it shall have (KIP-848): first it gives back, then its epoch moves on, then it
//! gets what is free. Nobody else is touched.

use super::assignor::TopicIdPartition;
use super::ids::MemberEpoch;
use super::state::{Current, Partitions};
use std::collections::BTreeMap;

/// What a member says it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report<'a> {
    /// The partitions.
    pub(super) has: &'a Partitions,
    /// The step that it had heard of when it said so; `None` if it does not say.
    pub(super) heard: Option<u64>,
}

/// The next step of a member.
///
/// `reported` is `None` when the member says nothing new. `target` and `epoch` are the group's.
/// `owned_by_another` tells of partitions that another member has, or has not given back.
pub(super) fn step(
    current: &Current,
    reported: Option<Report<'_>>,
    target: &Partitions,
    epoch: MemberEpoch,
    owned_by_another: impl Fn(&TopicIdPartition) -> bool,
) -> Current {
    let next = uncounted(current, reported, target, epoch, owned_by_another);
    if next.owned == current.owned && next.revoking == current.revoking {
        return next;
    }
    Current { step: current.step + 1, ..next }
}

fn uncounted(
    current: &Current,
    reported: Option<Report<'_>>,
    target: &Partitions,
    epoch: MemberEpoch,
    owned_by_another: impl Fn(&TopicIdPartition) -> bool,
) -> Current {
    if !current.revoking.is_empty() {
        // A report from before the member heard of the revocation says nothing about it: it may be from before it even got what
        // is revoked. One that does not say what it had heard is taken as older if it lacks what the member keeps.
        let gave_back = reported.is_some_and(|Report { has, heard }| {
            heard.is_none_or(|heard| heard == current.step)
                && current.revoking.keys().all(|p| !has.contains(p))
                && current.owned.keys().all(|p| has.contains(p))
        });
        if !gave_back {
            return current.clone();
        }
    }
    let (keep, revoke): (BTreeMap<_, _>, BTreeMap<_, _>) =
        current.owned.iter().map(|(p, at)| (*p, *at)).partition(|(p, _)| target.contains(p));
    if !revoke.is_empty() {
        return Current { owned: keep, revoking: revoke, waiting: false, ..current.clone() };
    }
    let mut owned = keep;
    let mut waiting = false;
    for partition in target {
        if owned.contains_key(partition) {
            continue;
        }
        if owned_by_another(partition) {
            waiting = true;
        } else {
            owned.insert(*partition, epoch);
        }
    }
    let previous_epoch = if current.epoch == epoch { current.previous_epoch } else { current.epoch };
    Current { epoch, previous_epoch, owned, revoking: BTreeMap::new(), waiting, ..*current }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PartitionId, TopicId};

    fn p(n: i32) -> TopicIdPartition {
        TopicIdPartition { topic: TopicId([1; 16]), partition: PartitionId(n) }
    }

    fn set(list: &[i32]) -> Partitions {
        list.iter().map(|n| p(*n)).collect()
    }

    fn held(list: &[i32], at: i32) -> BTreeMap<TopicIdPartition, MemberEpoch> {
        list.iter().map(|n| (p(*n), MemberEpoch(at))).collect()
    }

    #[test]
    fn a_partition_moves_only_after_it_was_given_back() {
        let nobody = |_: &TopicIdPartition| false;
        let has = Current { epoch: MemberEpoch(1), owned: held(&[0, 1], 1), ..Current::default() };
        // It shall have 1 and 2: 0 is revoked first, the epoch stays.
        let first = step(&has, None, &set(&[1, 2]), MemberEpoch(2), nobody);
        assert_eq!(
            (first.epoch, &first.owned, &first.revoking),
            (MemberEpoch(1), &held(&[1], 1), &held(&[0], 1))
        );
        // Nothing happens until it says that 0 is gone.
        let said = |heard: Option<u64>, has: &[i32]| {
            let has = set(has);
            step(&first, Some(Report { has: &has, heard }), &set(&[1, 2]), MemberEpoch(2), |_| true)
        };
        assert_eq!(step(&first, None, &set(&[1, 2]), MemberEpoch(2), |_| true), first);
        for heard in [None, Some(1)] {
            assert_eq!(said(heard, &[0, 1]), first);
            assert_eq!(said(heard, &[]), first, "from before it got 1");
        }
        assert_eq!((has.step, first.step), (0, 1));
        assert_eq!(
            said(Some(0), &[1]),
            first,
            "from before it was asked to give 0 back, so from before it had it"
        );
        // Then it moves on; what another has is waited for.
        let second = said(Some(1), &[1]);
        assert_eq!(second, said(None, &[1]), "one that does not say what it had heard is believed");
        assert_eq!(second.step, 2);
        assert_eq!(
            (second.epoch, second.previous_epoch, second.waiting),
            (MemberEpoch(2), MemberEpoch(1), true)
        );
        assert_eq!((&second.owned, second.revoking.len()), (&held(&[1], 1), 0));
        // And comes once it is free, with the epoch at which it came.
        let third = step(&second, None, &set(&[1, 2]), MemberEpoch(2), nobody);
        assert_eq!(third.owned, held(&[1], 1).into_iter().chain(held(&[2], 2)).collect());
        assert!(third.is_settled(MemberEpoch(2)));
        assert_eq!(step(&third, None, &set(&[1, 2]), MemberEpoch(2), nobody), third, "it stays there");
    }
}
