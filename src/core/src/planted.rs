//! Bugs that can be planted on purpose, to prove that the tests would find them.
//!
//! A check that never failed proves little. Each [`Bug`] is one that other systems really had; the code that would have it asks
//! [`planted`] at the place in question. Without the feature `planted-bugs` the answer is a constant, and the compiler removes
//! the question. With it a bug must still be chosen by `plant`, which nothing but the simulation calls.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Bug {
    /// The leader takes its own log end for the high watermark, whatever its followers have.
    HighWatermarkAhead = 1,
    /// A follower truncates to its high watermark when it begins to follow, not to where the leader's epochs end (KAFKA-3410).
    TruncateToHighWatermark,
    /// What was written counts as safe before it was synced.
    AckBeforeSync,
    /// A broker joins the ISR by what its last incarnation held: the leader and the controller do not tell the two apart
    /// (KIP-903).
    IsrWithoutEpochs,
    /// The log appends a batch of an idempotent producer that it has already.
    NoDeduplication,
    /// The coordinator acknowledges a commit before its record is durable.
    CommitBeforeDurable,
    /// The coordinator takes anybody's commit, whoever has the partition now.
    CommitOfAnybody,
    /// A group's partition goes to its next owner before the former has given it back.
    MoveBeforeGivenBack,
    /// Whoever had a shard before still writes to its log: neither the lease's epoch nor the producer's shuts it out.
    UnfencedOwner,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 9] = [
        Bug::HighWatermarkAhead,
        Bug::TruncateToHighWatermark,
        Bug::AckBeforeSync,
        Bug::IsrWithoutEpochs,
        Bug::NoDeduplication,
        Bug::CommitBeforeDurable,
        Bug::CommitOfAnybody,
        Bug::MoveBeforeGivenBack,
        Bug::UnfencedOwner,
    ];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Bug::HighWatermarkAhead => "high-watermark-ahead",
            Bug::TruncateToHighWatermark => "truncate-to-high-watermark",
            Bug::AckBeforeSync => "ack-before-sync",
            Bug::IsrWithoutEpochs => "isr-without-epochs",
            Bug::NoDeduplication => "no-deduplication",
            Bug::CommitBeforeDurable => "commit-before-durable",
            Bug::CommitOfAnybody => "commit-of-anybody",
            Bug::MoveBeforeGivenBack => "move-before-given-back",
            Bug::UnfencedOwner => "unfenced-owner",
        }
    }

    /// The bug of that name.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

#[cfg(feature = "planted-bugs")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug in this process, or takes it out.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether this process is to have that bug.
#[cfg(feature = "planted-bugs")]
#[inline]
pub fn planted(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether this process is to have that bug: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_are_found_by_their_names() {
        for bug in Bug::ALL {
            assert_eq!(Bug::named(bug.name()), Some(bug));
            assert!(!planted(bug));
        }
        assert_eq!(Bug::named("none"), None);
    }
}
