//! What became of what was to be exported.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::{Family, Samples, Source};

static EXPORTED: Family = Family::counter(
    "thalweg_telemetry_exported_total",
    "Spans, log records and data points that the OpenTelemetry collector took.",
    &["signal"],
);
static DROPPED: Family = Family::counter(
    "thalweg_telemetry_dropped_total",
    "Spans, log records and data points that were not exported: the queue was full, the collector was not reached in time (undelivered), or it refused them (rejected).",
    &["signal", "reason"],
);
static QUEUED: Family =
    Family::gauge("thalweg_telemetry_queued", "Spans and log records that wait to be exported.", &["signal"]);

/// The metrics of the export itself; only there when something is exported.
pub static FAMILIES: [&Family; 3] = [&EXPORTED, &DROPPED, &QUEUED];

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

/// Why something is not exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    QueueFull,
    Undelivered,
    Rejected,
}

const SIGNALS: [(Signal, &str); 3] =
    [(Signal::Traces, "traces"), (Signal::Metrics, "metrics"), (Signal::Logs, "logs")];
const REASONS: [(Reason, &str); 3] =
    [(Reason::QueueFull, "queue_full"), (Reason::Undelivered, "undelivered"), (Reason::Rejected, "rejected")];

/// Counts, by signal.
#[derive(Debug, Default)]
pub(super) struct Counts {
    exported: [AtomicU64; SIGNALS.len()],
    dropped: [[AtomicU64; REASONS.len()]; SIGNALS.len()],
    queued: [AtomicU64; SIGNALS.len()],
}

impl Counts {
    pub(super) fn exported(&self, signal: Signal, count: u64) {
        self.exported[signal as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, signal: Signal, reason: Reason, count: u64) {
        self.dropped[signal as usize][reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn queued(&self, signal: Signal, count: usize) {
        self.queued[signal as usize].store(count as u64, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn dropped_so_far(&self, signal: Signal, reason: Reason) -> u64 {
        self.dropped[signal as usize][reason as usize].load(Ordering::Relaxed)
    }

    /// Everything that was dropped, whatever it was and why.
    pub(super) fn all_dropped(&self) -> u64 {
        self.dropped.iter().flatten().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl Source for Counts {
    fn collect(&self, samples: &mut Samples<'_>) {
        for (signal, name) in SIGNALS {
            let exported = self.exported[signal as usize].load(Ordering::Relaxed);
            samples.count(&EXPORTED, &[name], exported);
            for (reason, why) in REASONS {
                let dropped = self.dropped[signal as usize][reason as usize].load(Ordering::Relaxed);
                samples.count(&DROPPED, &[name, why], dropped);
            }
            if signal != Signal::Metrics {
                samples.count(&QUEUED, &[name], self.queued[signal as usize].load(Ordering::Relaxed));
            }
        }
    }
}
