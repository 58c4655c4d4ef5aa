//! Counts of calls by method and code, in memory and without locks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::Code;

use crate::methods::{MethodKind, MethodTable};

/// gRPC has codes 0 to 16.
const CODES: usize = 17;

/// The name under which calls to unknown methods are counted: one entry, so that a client that makes up names
/// cannot grow the table.
pub const OTHER_METHOD: &str = "other";

/// The counters of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    known: HashMap<String, Arc<MethodStats>>,
    other: Arc<MethodStats>,
}

/// The counters of one method.
#[derive(Debug)]
pub(crate) struct MethodStats {
    pub(crate) kind: MethodKind,
    codes: [AtomicU64; CODES],
    streams_opened: AtomicU64,
    nanos: AtomicU64,
}

/// One method's counts at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodSnapshot {
    /// `/package.Service/Method`, or [`OTHER_METHOD`].
    pub method: String,
    /// How often calls ended with each code; codes that never came are left out. Streams count here only when they
    /// were refused before their first message.
    pub codes: Vec<(Code, u64)>,
    /// Streams that were let in.
    pub streams_opened: u64,
    /// Time spent in all ended unary calls together.
    pub duration_total: Duration,
}

impl CallMetrics {
    pub(crate) fn new(methods: &MethodTable) -> Self {
        let known =
            methods.iter().map(|(path, kind)| (path.to_owned(), Arc::new(MethodStats::new(kind)))).collect();
        let other = Arc::new(MethodStats::new(MethodKind::Streaming));
        Self { inner: Arc::new(Inner { known, other }) }
    }

    pub(crate) fn of(&self, path: &str) -> Arc<MethodStats> {
        Arc::clone(self.inner.known.get(path).unwrap_or(&self.inner.other))
    }

    /// The counts of every method that was called, by name. Counters are read one after another, so calls that end
    /// meanwhile may show in one and not yet in the next.
    pub fn snapshot(&self) -> Vec<MethodSnapshot> {
        let known = self.inner.known.iter().map(|(path, stats)| stats.snapshot(path));
        let mut all: Vec<_> = known
            .chain([self.inner.other.snapshot(OTHER_METHOD)])
            .filter(|method| !method.codes.is_empty() || method.streams_opened > 0)
            .collect();
        all.sort_by(|a, b| a.method.cmp(&b.method));
        all
    }
}

impl MethodStats {
    fn new(kind: MethodKind) -> Self {
        Self { kind, codes: Default::default(), streams_opened: AtomicU64::new(0), nanos: AtomicU64::new(0) }
    }

    pub(crate) fn ended(&self, code: Code, after: Duration) {
        self.codes[code as usize].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, code: Code) {
        self.codes[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn opened(&self) {
        self.streams_opened.fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot(&self, method: &str) -> MethodSnapshot {
        let codes = self.codes.iter().enumerate().filter_map(|(code, count)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then(|| (Code::from_i32(code as i32), count))
        });
        MethodSnapshot {
            method: method.to_owned(),
            codes: codes.collect(),
            streams_opened: self.streams_opened.load(Ordering::Relaxed),
            duration_total: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_by_method_and_code() {
        let mut table = MethodTable::default();
        table.add_descriptors(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let metrics = CallMetrics::new(&table);
        assert!(metrics.snapshot().is_empty());
        let check = "/grpc.health.v1.Health/Check";
        metrics.of(check).ended(Code::Ok, Duration::from_millis(2));
        metrics.of(check).ended(Code::Ok, Duration::from_millis(3));
        metrics.of(check).ended(Code::Unauthenticated, Duration::ZERO);
        metrics.of("/made/Up").refused(Code::Unimplemented);
        metrics.of("/made/UpToo").opened();
        assert_eq!(
            metrics.snapshot(),
            [
                MethodSnapshot {
                    method: check.into(),
                    codes: vec![(Code::Ok, 2), (Code::Unauthenticated, 1)],
                    streams_opened: 0,
                    duration_total: Duration::from_millis(5),
                },
                MethodSnapshot {
                    method: OTHER_METHOD.into(),
                    codes: vec![(Code::Unimplemented, 1)],
                    streams_opened: 1,
                    duration_total: Duration::ZERO,
                },
            ]
        );
    }
}
