//! Where the high watermark may be, decided from what the replicas in sync hold.

use thalweg_core::Offset;

/// How far one in-sync replica holds the log, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaPosition {
    /// The end of its log.
    pub log_end: Offset,
    /// Everything below is on its stable storage.
    pub flushed: Offset,
}

impl ReplicaPosition {
    /// What this replica's copy counts for: with write caching the page cache is enough.
    pub fn counted(self, write_caching: bool) -> Offset {
        if write_caching { self.log_end } else { self.flushed }
    }
}

/// The new high watermark: what every in-sync replica holds, but never less than before. `None` for a replica whose position
/// is not known yet: then nothing moves. Never called with an empty ISR, because a leader is in its own.
pub fn high_watermark(
    before: Offset,
    write_caching: bool,
    isr: impl IntoIterator<Item = Option<ReplicaPosition>>,
) -> Offset {
    isr.into_iter()
        .map(|position| position.map_or(before, |position| position.counted(write_caching)))
        .min()
        .map_or(before, |least| least.max(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(log_end: i64, flushed: i64) -> Option<ReplicaPosition> {
        Some(ReplicaPosition { log_end: Offset(log_end), flushed: Offset(flushed) })
    }

    #[test]
    fn it_is_the_least_position_and_never_goes_back() {
        assert_eq!(high_watermark(Offset(3), false, [at(10, 5)]), Offset(5));
        assert_eq!(high_watermark(Offset(3), true, [at(10, 5)]), Offset(10));
        assert_eq!(high_watermark(Offset(3), true, [at(10, 5), at(7, 7)]), Offset(7));
        assert_eq!(high_watermark(Offset(8), true, [at(10, 5), at(7, 7)]), Offset(8));
        assert_eq!(high_watermark(Offset(3), true, [at(10, 5), None]), Offset(3));
    }
}
