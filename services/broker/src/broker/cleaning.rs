//! Compacts logs, as long as the broker runs.

use crate::config::CleanerConfig;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::Clock;
use thalweg_log::{CleanJob, CleanStep, LogManager, Pace};
use thalweg_runtime::{Shutdown, blocking};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};

/// One of a broker's cleaners.
pub struct Cleaner {
    logs: Arc<LogManager>,
    clock: Arc<dyn Clock>,
    map_bytes: usize,
    /// Bytes a second.
    rate: Option<u64>,
    backoff: Duration,
    shutdown: Shutdown,
}

impl Cleaner {
    /// One with its part of the memory and of the rate.
    pub fn new(
        config: &CleanerConfig,
        logs: Arc<LogManager>,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
    ) -> Cleaner {
        Cleaner {
            logs,
            clock,
            map_bytes: config.dedupe_buffer_bytes / config.threads,
            rate: config.max_bytes_per_second.map(|rate| (rate / config.threads as u64).max(1)),
            backoff: config.backoff,
            shutdown,
        }
    }

    /// Takes the dirtiest log that no other cleaner has, cleans it step by step, and looks for the next; with none to be found it
    /// rests for the backoff.
    pub async fn run(self) -> Result<(), JoinError> {
        loop {
            let (logs, now, map_bytes) = (Arc::clone(&self.logs), self.clock.now(), self.map_bytes);
            let stopped = match blocking::run(move || logs.next_cleaning(now, map_bytes)).await? {
                Some(job) => self.clean(job).await?,
                None => self.rest(self.backoff).await,
            };
            if stopped {
                return Ok(());
            }
        }
    }

    /// Returns whether the broker stops.
    async fn clean(&self, mut job: CleanJob) -> Result<bool, JoinError> {
        let mut pace = Pace::default();
        loop {
            let (began, before) = (Instant::now(), job.syncs());
            let step;
            (job, step) = blocking::run(move || {
                let step = job.step();
                (job, step)
            })
            .await?;
            let (took, worked) = (began.elapsed(), job.syncs());
            let pause = match step {
                CleanStep::More(bytes) => {
                    // By the operator's limit, and by what appends feel of it.
                    pause(bytes, self.rate, took).max(pace.worked(took, worked.since(before)))
                }
                CleanStep::Done(_) => Duration::ZERO,
                // Not at once again: what stopped it may last.
                CleanStep::Stopped => self.backoff,
            };
            let going = matches!(step, CleanStep::More(_));
            if !going {
                // It holds the right to clean the log, and files to be removed.
                blocking::run(move || drop(job)).await?;
                return Ok(self.rest(pause).await);
            }
            if self.rest(pause).await {
                blocking::run(move || drop(job)).await?;
                return Ok(true);
            }
            if !pause.is_zero() {
                pace.rested(job.syncs().since(worked));
            }
        }
    }

    /// Waits, and returns whether the broker stops.
    async fn rest(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.shutdown.triggered() => true,
            () = sleep(pause) => false,
        }
    }
}

/// How long to wait after a step of so many bytes that took so long.
fn pause(bytes: u64, rate: Option<u64>, took: Duration) -> Duration {
    let Some(rate) = rate else { return Duration::ZERO };
    Duration::from_secs_f64(bytes as f64 / rate as f64).saturating_sub(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_as_long_as_the_rate_says() {
        let ms = Duration::from_millis;
        assert_eq!(pause(1 << 20, None, ms(1)), Duration::ZERO);
        assert_eq!(pause(1_000, Some(10_000), ms(30)), ms(70));
        assert_eq!(pause(1_000, Some(10_000), ms(300)), Duration::ZERO);
    }
}
