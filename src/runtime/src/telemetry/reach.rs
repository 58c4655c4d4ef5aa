//! What is told of a collector that cannot be reached: that, and when it can be again. Not every try.

use std::time::Duration;

use tokio::time::Instant;

use super::counts::Signal;

/// Between two complaints at least, so that a collector that comes and goes does not fill the log.
const QUIET: Duration = Duration::from_secs(60);

/// Whether a collector takes what it is sent, as far as was seen.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The signals whose last export failed: one bit each. One alone may fail for long.
    failing: u8,
    /// The log says that it cannot be reached, and not yet that it can.
    told: bool,
    last_told: Option<Instant>,
}

impl Reach {
    /// An export failed. True if that is to be told.
    pub(super) fn failed(&mut self, signal: Signal, now: Instant) -> bool {
        self.failing |= bit(signal);
        if self.told || self.last_told.is_some_and(|last| now.saturating_duration_since(last) < QUIET) {
            return false;
        }
        self.told = true;
        self.last_told = Some(now);
        true
    }

    /// An export went through. True if that is to be told.
    pub(super) fn succeeded(&mut self, signal: Signal) -> bool {
        self.failing &= !bit(signal);
        self.failing == 0 && std::mem::take(&mut self.told)
    }
}

fn bit(signal: Signal) -> u8 {
    1 << signal as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_so_is_its_end() {
        let mut reach = Reach::default();
        let start = Instant::now();
        assert!(!reach.succeeded(Signal::Logs));
        assert!(reach.failed(Signal::Traces, start));
        for second in 0..1_000 {
            let now = start + Duration::from_secs(second);
            assert!(!reach.failed(Signal::Traces, now) && !reach.failed(Signal::Logs, now));
        }
        assert!(!reach.succeeded(Signal::Traces), "the log still fails");
        assert!(!reach.succeeded(Signal::Metrics));
        assert!(reach.succeeded(Signal::Logs));
        assert!(!reach.succeeded(Signal::Logs));
        assert!(reach.failed(Signal::Logs, start + Duration::from_secs(1_000)), "another outage");
    }

    #[test]
    fn one_that_flaps_is_told_rarely() {
        let mut reach = Reach::default();
        let start = Instant::now();
        let mut lines = 0;
        for second in 0..600 {
            lines += u32::from(reach.failed(Signal::Traces, start + Duration::from_secs(second)));
            lines += u32::from(reach.succeeded(Signal::Traces));
        }
        assert_eq!(lines, 20);
    }
}
