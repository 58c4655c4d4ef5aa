//! Pauses between retries: doubling, with jitter so that many clients do not come back at once.

use rand::Rng;
use std::time::Duration;

/// The pauses of one row of retries.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { first, max, attempt: 0 }
    }

    /// The next pause: 80 to 120 % of `first * 2^n`, at most `max`.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.attempt.min(16));
        self.attempt = self.attempt.saturating_add(1);
        doubled.mul_f64(rand::rng().random_range(0.8..1.2)).min(self.max)
    }

    /// Whether nothing has failed since the last success.
    pub(crate) fn is_fresh(&self) -> bool {
        self.attempt == 0
    }

    /// Begins again with the shortest pause.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] >= Duration::from_millis(80) && pauses[0] <= Duration::from_millis(120));
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(1)));
        assert_eq!(pauses[39], Duration::from_secs(1));
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(120));
    }
}
