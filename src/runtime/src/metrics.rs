//! Counts of calls by method and code, in memory and without locks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::Code;

use crate::layers::span::Traced;
use crate::methods::{MethodKind, MethodTable};
use crate::observe::{Family, Histogram, HistogramSnapshot, Samples, Source};

static CALLS: Family = Family::counter(
    "thalweg_rpc_server_calls_total",
    "Calls that ended, by gRPC code. Streams count here only when they were refused before their first message.",
    &["port", "method", "code"],
);
static DURATION: Family = Family::histogram(
    "thalweg_rpc_server_call_duration_seconds",
    "How long unary calls took, from their headers to their trailers.",
    &["port", "method"],
);
static STREAMS: Family =
    Family::counter("thalweg_rpc_server_streams_total", "Streams that were let in.", &["port", "method"]);
static CONNECTIONS: Family =
    Family::gauge("thalweg_rpc_server_connections", "Connections that are open.", &["port"]);
static ACCEPTED: Family =
    Family::counter("thalweg_rpc_server_connections_total", "Connections that were accepted.", &["port"]);

/// The metrics of every gRPC server.
pub static FAMILIES: [&Family; 5] = [&CALLS, &DURATION, &STREAMS, &CONNECTIONS, &ACCEPTED];

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
    accepted: AtomicU64,
    closed: AtomicU64,
}

/// The counters of one method.
#[derive(Debug)]
pub(crate) struct MethodStats {
    pub(crate) kind: MethodKind,
    pub(crate) traced: Traced,
    codes: [AtomicU64; CODES],
    streams_opened: AtomicU64,
    durations: Histogram,
}

/// One method's counts at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodSnapshot {
    /// `/package.Service/Method`, or [`OTHER_METHOD`].
    pub method: String,
    /// How often calls ended with each code; codes that never came are left out. Streams count here only when they
    /// were refused before their first message.
    pub codes: Vec<(Code, u64)>,
    /// Streams that were let in.
    pub streams_opened: u64,
    /// How long ended unary calls took.
    pub durations: HistogramSnapshot,
}

impl CallMetrics {
    pub(crate) fn new(methods: &MethodTable) -> Self {
        let stats = |path, kind| Arc::new(MethodStats::new(kind, Traced::of(path)));
        let known = methods.iter().map(|(path, kind)| (path.to_owned(), stats(path, kind))).collect();
        let other = Arc::new(MethodStats::new(MethodKind::Streaming, Traced::Never));
        let (accepted, closed) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { known, other, accepted, closed }) }
    }

    pub(crate) fn of(&self, path: &str) -> Arc<MethodStats> {
        Arc::clone(self.inner.known.get(path).unwrap_or(&self.inner.other))
    }

    /// A connection was accepted. It counts as open until what is given back is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.inner.accepted.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(&self.inner))
    }

    /// What tells these counts; `port` names the server among those of its service.
    pub fn source(&self, port: &'static str) -> Arc<dyn Source> {
        Arc::new(CallSource { metrics: self.clone(), port })
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

/// Counts a connection as open.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<Inner>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

struct CallSource {
    metrics: CallMetrics,
    port: &'static str,
}

impl Source for CallSource {
    fn collect(&self, samples: &mut Samples<'_>) {
        // What was closed first: otherwise one that closes meanwhile could make the difference negative.
        let closed = self.metrics.inner.closed.load(Ordering::Acquire);
        let accepted = self.metrics.inner.accepted.load(Ordering::Acquire);
        samples.count(&CONNECTIONS, &[self.port], accepted.saturating_sub(closed));
        samples.count(&ACCEPTED, &[self.port], accepted);
        for method in self.metrics.snapshot() {
            for (code, count) in &method.codes {
                samples.count(&CALLS, &[self.port, &method.method, code_name(*code)], *count);
            }
            if method.streams_opened > 0 {
                samples.count(&STREAMS, &[self.port, &method.method], method.streams_opened);
            }
            if method.durations.count() > 0 {
                samples.histogram(&DURATION, &[self.port, &method.method], method.durations);
            }
        }
    }
}

/// The code's name as gRPC writes it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl MethodStats {
    fn new(kind: MethodKind, traced: Traced) -> Self {
        Self {
            kind,
            traced,
            codes: Default::default(),
            streams_opened: AtomicU64::new(0),
            durations: Histogram::default(),
        }
    }

    pub(crate) fn ended(&self, code: Code, after: Duration) {
        self.codes[code as usize].fetch_add(1, Ordering::Relaxed);
        self.durations.record(after);
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
            durations: self.durations.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Registry, Value};

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
        let snapshot = metrics.snapshot();
        let counts: Vec<_> = snapshot
            .iter()
            .map(|method| (method.method.as_str(), method.codes.as_slice(), method.streams_opened))
            .collect();
        assert_eq!(
            counts,
            [
                (check, &[(Code::Ok, 2), (Code::Unauthenticated, 1)][..], 0),
                (OTHER_METHOD, &[(Code::Unimplemented, 1)][..], 1),
            ]
        );
        let (took, none) = (&snapshot[0].durations, &snapshot[1].durations);
        assert_eq!((took.count(), took.sum, none.count()), (3, 0.005, 0));
        let open = metrics.connection();
        drop(metrics.connection());
        let registry = Registry::new();
        registry.add("broker", 1, metrics.source("public"));
        let gathered = registry.gather();
        let number = |family: &Family| match &gathered[family.name].1[0].value {
            Value::Number(number) => *number,
            Value::Histogram(_) => panic!("a number"),
        };
        assert_eq!((number(&CONNECTIONS), number(&ACCEPTED)), (1.0, 2.0));
        drop(open);
    }
}
