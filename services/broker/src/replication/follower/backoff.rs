//! How long to wait before a further attempt: twice as long each time, up to a bound.

use std::time::Duration;

/// The wait before the `attempt`-th further attempt, from 0.
pub fn after(attempt: u32, shortest: Duration, longest: Duration) -> Duration {
    let factor = 1u32.checked_shl(attempt).unwrap_or(u32::MAX);
    shortest.checked_mul(factor).unwrap_or(longest).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound() {
        let at = |attempt| after(attempt, Duration::from_millis(20), Duration::from_secs(1)).as_millis();
        assert_eq!(
            [at(0), at(1), at(5), at(6), at(31), at(32), at(u32::MAX)],
            [20, 40, 640, 1000, 1000, 1000, 1000]
        );
    }
}
