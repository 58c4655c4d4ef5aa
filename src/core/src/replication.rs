//! The rules by which records become committed. Pure arithmetic over the progress of a partition's replicas.

use crate::Offset;
use crate::planted::{Bug, planted};

/// How far one replica's log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// The offset behind its last record.
    pub log_end: Offset,
    /// Everything below is fsynced.
    pub flushed: Offset,
}

impl ReplicaProgress {
    /// Up to where this replica's records count as safe: what is fsynced, or with `write.caching` all that it has.
    pub fn safe(self, write_caching: bool) -> Offset {
        // A flush that ended while the log was cut back may claim more than there is.
        if write_caching || planted(Bug::AckBeforeSync) {
            self.log_end
        } else {
            self.flushed.min(self.log_end)
        }
    }
}

/// The high watermark after the ISR came this far: the smallest safe offset of its members, and never less than `current`.
///
/// Give the whole *maximal* ISR: the leader, the members in force, and those that the leader has asked the controllers to add,
/// since these may be elected before the leader hears that they were added. Only while [`may_commit`] says so. Without any member
/// nothing becomes committed.
pub fn high_watermark(
    current: Offset,
    isr: impl IntoIterator<Item = ReplicaProgress>,
    write_caching: bool,
) -> Offset {
    isr.into_iter().map(|replica| replica.safe(write_caching)).min().map_or(current, |safe| safe.max(current))
}

/// Whether the high watermark may move at all (KIP-966): only with enough replicas in sync. `isr` is the number of members in force,
/// without those that are only asked for. This is what makes the eligible leader replicas eligible: whoever left an ISR that was too
/// small since has missed nothing that is committed.
pub fn may_commit(isr: usize, effective_min_insync: usize) -> bool {
    isr >= effective_min_insync
}

/// Whether a follower may join the ISR: all that is committed, and all from before this leader's epoch, is as safe with it as with
/// the members. `log_end` alone would not do without `write.caching`: the last of the others could die before its flush.
pub fn may_join_isr(
    follower: ReplicaProgress,
    high_watermark: Offset,
    epoch_start: Offset,
    write_caching: bool,
) -> bool {
    let safe = follower.safe(write_caching);
    safe >= high_watermark && safe >= epoch_start
}

/// How many replicas must be in sync for acks=all: `min.insync.replicas`, but not more than the partition has (as Kafka
/// does since KIP-966; otherwise a topic of fewer replicas could never be written to).
pub fn effective_min_insync(min_insync_replicas: usize, replicas: usize) -> usize {
    min_insync_replicas.min(replicas).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(log_end: i64, flushed: i64) -> ReplicaProgress {
        ReplicaProgress { log_end: Offset(log_end), flushed: Offset(flushed) }
    }

    #[test]
    fn the_slowest_member_decides() {
        let cases: &[(i64, &[ReplicaProgress], bool, i64)] = &[
            (0, &[at(10, 7)], false, 7),
            (0, &[at(10, 7)], true, 10),
            (0, &[at(10, 10), at(8, 3), at(9, 9)], false, 3),
            (0, &[at(10, 10), at(8, 3), at(9, 9)], true, 8),
            // It never goes back, though a member that joined may be behind for the moment.
            (9, &[at(10, 10), at(8, 8)], false, 9),
            // Nobody in sync: nothing new is committed.
            (5, &[], true, 5),
            // A flush of what was cut off since.
            (0, &[at(4, 6)], false, 4),
        ];
        for (current, isr, write_caching, wanted) in cases {
            let got = high_watermark(Offset(*current), isr.iter().copied(), *write_caching);
            assert_eq!(got, Offset(*wanted), "{current} {isr:?} {write_caching}");
        }
    }

    #[test]
    fn a_topic_of_fewer_replicas_than_asked_can_be_written_to() {
        for (min, replicas, wanted) in [(1, 3, 1), (2, 3, 2), (2, 1, 1), (0, 1, 1)] {
            assert_eq!(effective_min_insync(min, replicas), wanted);
        }
    }

    #[test]
    fn who_may_join_holds_what_is_committed_as_safely_as_the_others() {
        let cases = [
            (at(10, 10), 10, 7, false, true),
            (at(10, 9), 10, 7, false, false),
            (at(10, 9), 10, 7, true, true),
            (at(9, 9), 10, 7, true, false),
            // All that is committed is there, but an earlier leader may have committed more than is known yet.
            (at(6, 6), 5, 7, false, false),
        ];
        for (follower, high_watermark, epoch_start, caching, wanted) in cases {
            let may = may_join_isr(follower, Offset(high_watermark), Offset(epoch_start), caching);
            assert_eq!(may, wanted, "{follower:?} {high_watermark} {epoch_start} {caching}");
        }
        assert!(may_commit(2, 2) && !may_commit(1, 2));
    }

    proptest! {
        #[test]
        fn it_is_monotone_and_no_member_is_behind_what_it_adds(
            current in 0i64..100,
            isr in prop::collection::vec((0i64..100, 0i64..100), 0..5),
            write_caching: bool,
        ) {
            let isr: Vec<_> = isr.into_iter().map(|(end, flushed)| at(end, flushed)).collect();
            let after = high_watermark(Offset(current), isr.iter().copied(), write_caching);
            prop_assert!(after >= Offset(current));
            if after > Offset(current) {
                prop_assert!(isr.iter().all(|replica| replica.safe(write_caching) >= after));
            }
        }
    }
}
