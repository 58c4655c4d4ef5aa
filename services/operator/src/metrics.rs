//! What the operator tells of itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use thalweg_runtime::observe::{Family, Histogram, Samples, Source};

/// The kinds of resources.
const KINDS: [&str; 2] = ["Cluster", "Topic"];

static RECONCILES: Family = Family::counter(
    "thalweg_operator_reconciles_total",
    "Reconciliations, by kind of resource and by result: ready, waiting (for brokers that come or go), refused, or failed (tried again).",
    &["kind", "result"],
);
static DURATION: Family = Family::histogram(
    "thalweg_operator_reconcile_duration_seconds",
    "How long a reconciliation took, by kind of resource.",
    &["kind"],
);
static RESOURCES: Family = Family::gauge(
    "thalweg_operator_resources",
    "Resources by kind and by the result of their last reconciliation.",
    &["kind", "result"],
);
static LEADS: Family =
    Family::gauge("thalweg_operator_leader", "1 while this operator holds the lease and acts, else 0.", &[]);

/// The metrics of an operator.
pub static FAMILIES: [&Family; 4] = [&RECONCILES, &DURATION, &RESOURCES, &LEADS];

/// How a reconciliation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The resource is as asked for.
    Ready,
    /// Something is under way.
    Waiting,
    /// What is asked for cannot be.
    Refused,
    /// Something did not answer; it is tried again.
    Failed,
}

impl Outcome {
    const ALL: [Outcome; 4] = [Outcome::Ready, Outcome::Waiting, Outcome::Refused, Outcome::Failed];

    fn name(self) -> &'static str {
        match self {
            Outcome::Ready => "ready",
            Outcome::Waiting => "waiting",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        }
    }
}

/// Counts of one kind.
#[derive(Default)]
struct OfKind {
    reconciles: [AtomicU64; Outcome::ALL.len()],
    duration: Histogram,
    /// The last outcome of each resource, by its unique id.
    last: Mutex<BTreeMap<String, Outcome>>,
}

/// The operator's counters.
#[derive(Default)]
pub struct Metrics {
    kinds: [OfKind; KINDS.len()],
    leads: AtomicBool,
}

impl Metrics {
    pub(crate) fn leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    pub(crate) fn reconciled(&self, kind: &str, resource: &str, outcome: Outcome, took: Duration) {
        let Some(of) = self.of(kind) else { return };
        of.reconciles[outcome as usize].fetch_add(1, Ordering::Relaxed);
        of.duration.record(took);
        of.last.lock().unwrap_or_else(PoisonError::into_inner).insert(resource.to_owned(), outcome);
    }

    /// The resource is no more.
    pub(crate) fn forget(&self, kind: &str, resource: &str) {
        if let Some(of) = self.of(kind) {
            of.last.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
        }
    }

    fn of(&self, kind: &str) -> Option<&OfKind> {
        KINDS.iter().position(|known| *known == kind).map(|at| &self.kinds[at])
    }
}

impl Source for Metrics {
    fn collect(&self, samples: &mut Samples<'_>) {
        samples.count(&LEADS, &[], self.leads.load(Ordering::Relaxed).into());
        for (kind, of) in KINDS.iter().zip(&self.kinds) {
            let mut now = [0; Outcome::ALL.len()];
            for outcome in of.last.lock().unwrap_or_else(PoisonError::into_inner).values() {
                now[*outcome as usize] += 1;
            }
            for outcome in Outcome::ALL {
                let reconciles = of.reconciles[outcome as usize].load(Ordering::Relaxed);
                samples.count(&RECONCILES, &[kind, outcome.name()], reconciles);
                samples.count(&RESOURCES, &[kind, outcome.name()], now[outcome as usize]);
            }
            samples.histogram(&DURATION, &[kind], of.duration.snapshot());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use thalweg_runtime::observe::{Registry, Value};

    #[test]
    fn a_resource_counts_once_where_it_is_now() {
        let metrics = Arc::new(Metrics::default());
        let took = Duration::from_millis(5);
        metrics.reconciled("Topic", "a", Outcome::Failed, took);
        metrics.reconciled("Topic", "a", Outcome::Ready, took);
        metrics.reconciled("Topic", "b", Outcome::Ready, took);
        metrics.forget("Topic", "b");
        let registry = Registry::new();
        registry.add("operator", "o-1", Arc::clone(&metrics) as Arc<dyn Source>);
        let gathered = registry.gather();
        let sum = |family: &Family, result: &str| -> f64 {
            let points = gathered[family.name].1.iter();
            let of = |labels: &[(&str, String)]| {
                labels.contains(&("kind", "Topic".to_owned()))
                    && labels.contains(&("result", result.to_owned()))
            };
            let numbers = points.filter(|point| of(&point.labels)).map(|point| match point.value {
                Value::Number(number) => number,
                Value::Histogram(_) => 0.0,
            });
            numbers.sum()
        };
        assert_eq!((sum(&RECONCILES, "failed"), sum(&RECONCILES, "ready")), (1.0, 2.0));
        assert_eq!((sum(&RESOURCES, "failed"), sum(&RESOURCES, "ready")), (0.0, 1.0));
    }
}
