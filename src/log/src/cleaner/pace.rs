//! How much of its time a cleaner works, so that the appends beside it do not suffer.
//!
//! A cleaner alone works all the time. Beside appends that are synced it looks at what their syncs take while it works and while it
//! rests, and works less while the first are more than twice the second:
//!
//! ```text
//!   share of the time   1 ──┐ syncs beside the work take > 2 x those of the rests: half as much
//!                           └─┐   ┌── < 1.5 x: a quarter more
//!                             └───┘   nobody syncs for a while: twice as much, up to 1
//! ```
//!
//! It rests for multiples of the time that its last step took, so a slow disk makes it rest longer.

use std::time::Duration;

/// Work beside syncs that last so many times as long as others is too much.
const TOO_SLOW: f64 = 2.0;
/// Up to this it may become more.
const GOOD: f64 = 1.5;
/// The least share of its time that a cleaner works.
const LEAST_SHARE: f64 = 1.0 / 16.0;
/// Syncs of each kind that are compared at a time; few say nothing.
const ENOUGH: u64 = 16;
/// A cleaner that works all the time rests after so many steps for as long as one, while there are syncs to be compared with.
const STEPS_BETWEEN_RESTS: u32 = 16;
/// Work without a sync for so long means that nobody appends.
const NOBODY: Duration = Duration::from_millis(500);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Syncs of rests that are remembered: more than these are halved, so that newer ones count more.
const REMEMBERED: u64 = 8 * ENOUGH;

/// The syncs of a directory's logs: how many, and how long they took in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Syncs {
    /// Their number.
    pub count: u64,
    /// The sum of their times.
    pub took: Duration,
}

impl Syncs {
    /// Those since `before`.
    #[must_use]
    pub fn since(self, before: Syncs) -> Syncs {
        Syncs { count: self.count.saturating_sub(before.count), took: self.took.saturating_sub(before.took) }
    }

    pub(crate) fn add(&mut self, more: Syncs) {
        self.count += more.count;
        self.took += more.took;
    }

    fn mean(self) -> f64 {
        self.took.as_secs_f64() / self.count.max(1) as f64
    }
}

/// The pace of one cleaner. Told of each step and each rest, it says how long to rest next.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    share: f64,
    /// Beside the work since the last comparison.
    beside: Syncs,
    /// In the rests, the last ones counting most.
    quiet: Syncs,
    /// Work since the last sync beside it.
    unseen: Duration,
    steps: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            share: 1.0,
            beside: Syncs::default(),
            quiet: Syncs::default(),
            unseen: Duration::ZERO,
            steps: 0,
        }
    }
}

impl Pace {
    /// The share of its time that the cleaner works, above 0 and at most 1.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// After a step that took `took` beside these syncs: how long to rest.
    pub fn worked(&mut self, took: Duration, syncs: Syncs) -> Duration {
        if syncs.count == 0 {
            self.unseen += took;
        } else {
            self.unseen = Duration::ZERO;
            self.beside.add(syncs);
        }
        if self.unseen >= NOBODY {
            // What was seen of earlier appends says nothing about the next ones.
            *self = Pace { share: (2.0 * self.share).min(1.0), ..Pace::default() };
        } else if self.beside.count >= ENOUGH && self.quiet.count >= ENOUGH {
            let slower = self.beside.mean() / self.quiet.mean().max(f64::MIN_POSITIVE);
            if slower > TOO_SLOW {
                self.share = (self.share / 2.0).max(LEAST_SHARE);
            } else if slower < GOOD {
                self.share = (self.share * 1.25).min(1.0);
            }
            self.beside = Syncs::default();
        }
        self.steps += 1;
        let rest = if self.share < 1.0 {
            took.mul_f64(1.0 / self.share - 1.0)
        } else if self.beside.count > 0 && self.steps >= STEPS_BETWEEN_RESTS {
            self.steps = 0;
            took
        } else {
            Duration::ZERO
        };
        rest.min(LONGEST_REST)
    }

    /// After a rest beside these syncs.
    pub fn rested(&mut self, syncs: Syncs) {
        self.quiet.add(syncs);
        if self.quiet.count > REMEMBERED {
            self.quiet = Syncs { count: self.quiet.count / 2, took: self.quiet.took / 2 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(20);

    fn syncs(count: u64, micros: u64) -> Syncs {
        Syncs { count, took: Duration::from_micros(count * micros) }
    }

    /// Steps and rests beside syncs that take `beside` and `quiet` microseconds. Returns the time worked and rested.
    fn run(pace: &mut Pace, steps: usize, beside: u64, quiet: u64) -> (Duration, Duration) {
        let mut rested = Duration::ZERO;
        for _ in 0..steps {
            let rest = pace.worked(STEP, syncs(10, beside));
            // One sync each two milliseconds.
            pace.rested(syncs(rest.as_millis() as u64 / 2, quiet));
            rested += rest;
        }
        (STEP * steps as u32, rested)
    }

    #[test]
    fn alone_it_never_rests() {
        let mut pace = Pace::default();
        assert!((0..1_000).all(|_| pace.worked(STEP, Syncs::default()).is_zero()));
        assert!((pace.share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn beside_appends_that_do_not_mind_it_rests_only_to_look() {
        let mut pace = Pace::default();
        let (worked, rested) = run(&mut pace, 1_600, 220, 200);
        assert!((pace.share() - 1.0).abs() < 1e-9);
        assert!(!rested.is_zero() && rested * 15 < worked, "{rested:?} of {worked:?}");
    }

    #[test]
    fn it_gives_way_to_appends_that_suffer_and_comes_back() {
        let mut pace = Pace::default();
        let (worked, rested) = run(&mut pace, 1_000, 2_000, 200);
        assert!((pace.share() - LEAST_SHARE).abs() < 1e-9);
        assert!(rested > worked * 10, "{rested:?} of {worked:?}");
        // In between it stays where it is.
        run(&mut pace, 100, 340, 200);
        assert!((pace.share() - LEAST_SHARE).abs() < 1e-9);
        run(&mut pace, 1_000, 220, 200);
        assert!((pace.share() - 1.0).abs() < 1e-9);
        // Nobody appends any more: it does not take a comparison.
        run(&mut pace, 1_000, 2_000, 200);
        (0..200).for_each(|_| _ = pace.worked(STEP, Syncs::default()));
        assert!((pace.share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_takes_no_time_is_not_rested_for_and_no_rest_is_endless() {
        let mut pace = Pace::default();
        for _ in 0..1_000 {
            assert!(pace.worked(Duration::ZERO, syncs(10, 2_000)).is_zero());
            pace.rested(syncs(10, 10));
        }
        assert_eq!(pace.worked(Duration::from_secs(60), syncs(10, 2_000)), LONGEST_REST);
    }

    #[test]
    fn counters_that_begin_anew_are_no_negative_time() {
        assert_eq!(syncs(1, 5).since(syncs(3, 100)), Syncs::default());
        assert_eq!(syncs(5, 100).since(syncs(2, 100)), syncs(3, 100));
    }
}
