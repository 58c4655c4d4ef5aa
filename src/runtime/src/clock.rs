//! The machine's clocks, behind one type that callers put behind their own seam.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The real clock. Carries nothing; whoever needs to fake time takes a trait of its own and implements it for this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemClock;

impl SystemClock {
    /// Wall-clock milliseconds since 1970-01-01 UTC; negative before it. May jump when the clock is set.
    pub fn now_millis(self) -> i64 {
        self.since_epoch(1_000_000)
    }

    /// Wall-clock nanoseconds since 1970-01-01 UTC (fits until the year 2262).
    pub fn now_nanos(self) -> i64 {
        self.since_epoch(1)
    }

    /// A clock that never goes back, for measuring spans.
    pub fn monotonic(self) -> Instant {
        Instant::now()
    }

    fn since_epoch(self, nanos_per_unit: u128) -> i64 {
        let clamp = |nanos: u128| i64::try_from(nanos / nanos_per_unit).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => clamp(after.as_nanos()),
            Err(before) => -clamp(before.duration().as_nanos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_agree() {
        let before = SystemClock.now_millis();
        let nanos = SystemClock.now_nanos();
        // After 2020, so the epoch and the unit are right; the two reads are ordered only when nobody sets the clock.
        assert!(before > 1_577_836_800_000);
        assert!((nanos / 1_000_000 - before).abs() < 60_000);
    }
}
