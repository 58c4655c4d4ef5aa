//! The sources of a process's metrics, and what they say at one moment.

use super::family::Family;
use super::histogram::HistogramSnapshot;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Series of one gathering at most. What comes on top is left out, and counted in `thalweg_metrics_dropped_series`.
pub const MAX_SERIES: usize = 100_000;

/// Series that did not fit.
pub static DROPPED: Family = Family::gauge(
    "thalweg_metrics_dropped_series",
    "Series left out of this answer, because there are more than 100,000.",
    &[],
);

/// Whoever has something to tell.
pub trait Source: Send + Sync {
    /// Tells the values of now. Called for every scrape: quick, and without waiting for locks that work holds.
    fn collect(&self, samples: &mut Samples<'_>);
}

/// A value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Names and values, the process's own first.
    pub labels: Vec<(&'static str, String)>,
    /// What it is.
    pub value: Value,
}

/// What a point holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A counter or a gauge.
    Number(f64),
    /// A histogram over [`LATENCY_BUCKETS`](super::LATENCY_BUCKETS).
    Histogram(HistogramSnapshot),
}

/// What was gathered: families by name, each with its points.
pub type Gathered = BTreeMap<&'static str, (&'static Family, Vec<Point>)>;

/// Takes what one source tells.
pub struct Samples<'a> {
    base: &'a [(&'static str, String)],
    gathered: &'a mut Gathered,
    left: &'a mut usize,
    dropped: &'a mut usize,
}

impl Samples<'_> {
    /// A counter's or gauge's value. `labels` are the values of the family's labels, in their order.
    pub fn number(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.point(family, labels, Value::Number(value));
    }

    /// A whole number.
    pub fn count(&mut self, family: &'static Family, labels: &[&str], value: u64) {
        // Exact up to 2^53, which no counter here reaches.
        self.number(family, labels, value as f64);
    }

    /// A histogram.
    pub fn histogram(&mut self, family: &'static Family, labels: &[&str], value: HistogramSnapshot) {
        self.point(family, labels, Value::Histogram(value));
    }

    fn point(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        if *self.left == 0 {
            *self.dropped += 1;
            return;
        }
        *self.left -= 1;
        let own = family.labels.iter().zip(labels).map(|(name, value)| (*name, (*value).to_owned()));
        let labels = self.base.iter().cloned().chain(own).collect();
        let (_, points) = self.gathered.entry(family.name).or_insert_with(|| (family, Vec::new()));
        points.push(Point { labels, value });
    }
}

struct Registered {
    base: Vec<(&'static str, String)>,
    source: Arc<dyn Source>,
}

/// The sources of one process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    sources: Arc<Mutex<Vec<Registered>>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry without sources.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds a source. Everything that it tells gets the labels `service` and `node`, so that several services of one process are
    /// told apart.
    pub fn add(&self, service: &str, node: impl fmt::Display, source: Arc<dyn Source>) {
        let base = vec![("service", service.to_owned()), ("node", node.to_string())];
        self.lock().push(Registered { base, source });
    }

    /// Adds a source that speaks for the whole process, without those labels.
    pub fn add_process(&self, source: Arc<dyn Source>) {
        self.lock().push(Registered { base: Vec::new(), source });
    }

    /// Asks every source.
    pub fn gather(&self) -> Gathered {
        let mut gathered = Gathered::new();
        let (mut left, mut dropped) = (MAX_SERIES, 0);
        for registered in self.lock().iter() {
            registered.source.collect(&mut Samples {
                base: &registered.base,
                gathered: &mut gathered,
                left: &mut left,
                dropped: &mut dropped,
            });
        }
        if dropped > 0 {
            let point = Point { labels: Vec::new(), value: Value::Number(dropped as f64) };
            gathered.insert(DROPPED.name, (&DROPPED, vec![point]));
        }
        gathered
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Registered>> {
        // A list of sources is whole at every step.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static THINGS: Family = Family::gauge("thalweg_things", "Things.", &["name"]);

    struct Many(usize);

    impl Source for Many {
        fn collect(&self, samples: &mut Samples<'_>) {
            (0..self.0).for_each(|number| samples.number(&THINGS, &[&number.to_string()], 1.0));
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let registry = Registry::new();
        registry.add("broker", 1, Arc::new(Many(MAX_SERIES - 1)));
        registry.add("broker", 2, Arc::new(Many(3)));
        let gathered = registry.gather();
        let (_, points) = &gathered[THINGS.name];
        assert_eq!(points.len(), MAX_SERIES);
        assert_eq!(
            points[MAX_SERIES - 1].labels,
            [("service", "broker"), ("node", "2"), ("name", "0")].map(|(a, b)| (a, b.to_owned()))
        );
        assert_eq!(gathered[DROPPED.name].1[0].value, Value::Number(2.0));
    }
}
