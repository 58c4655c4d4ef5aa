//! How long records took.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Times by phase, in the order in which the phases came.
pub struct Times(Vec<(String, Vec<Duration>)>);

impl Times {
    /// Sorts them out. Phases are in the order of their first record.
    pub fn of(times: impl Iterator<Item = (String, Duration)>) -> Times {
        let mut order = Vec::new();
        let mut by_phase: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
        for (phase, took) in times {
            if !by_phase.contains_key(&phase) {
                order.push(phase.clone());
            }
            by_phase.entry(phase).or_default().push(took);
        }
        let sorted = |phase: String| {
            let mut times = by_phase.remove(&phase).unwrap_or_default();
            times.sort_unstable();
            (phase, times)
        };
        Times(order.into_iter().map(sorted).collect())
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "produce, acks=all          records      p50      p99    p99.9      max   (ms)")?;
        for (phase, times) in &self.0 {
            let at = |part: f64| {
                let index = (times.len() as f64 * part) as usize;
                times[index.min(times.len() - 1)].as_secs_f64() * 1e3
            };
            let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), at(1.0));
            writeln!(f, "{phase:<24}{:>10} {p50:>8.1} {p99:>8.1} {p999:>8.1} {max:>8.1}", times.len())?;
        }
        Ok(())
    }
}
