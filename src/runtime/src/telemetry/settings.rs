//! What the standard `OTEL_*` variables say.
//!
//! Pure: the environment comes in as a function. A value that cannot be used is told once and replaced by what is safe; it never
//! stops a service.

use std::time::Duration;

use http::Uri;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

pub use super::variables::Warning;
use super::variables::{Variables, pairs};

/// Where collectors listen, if nothing is said.
const DEFAULT_ENDPOINT: &str = "http://localhost:4317";
const DEFAULT_TIMEOUT_MS: u64 = 10_000;
const DEFAULT_EXPORT_TIMEOUT_MS: u64 = 30_000;
const DEFAULT_QUEUE: u64 = 2_048;
const DEFAULT_BATCH: u64 = 512;
const DEFAULT_SPAN_DELAY_MS: u64 = 5_000;
const DEFAULT_LOG_DELAY_MS: u64 = 1_000;
const DEFAULT_METRIC_INTERVAL_MS: u64 = 60_000;
/// The longest time that makes sense for any of them.
const MAX_MS: u64 = 24 * 60 * 60 * 1_000;
/// The longest queue: at some 500 bytes for each span, 50 MB.
const MAX_QUEUE: u64 = 100_000;

/// What a process exports, and where to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the process says of itself: names to values, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// Spans, if they are exported.
    pub traces: Option<Traces>,
    /// Metrics, if they are exported.
    pub metrics: Option<Metrics>,
    /// The log, if it is exported.
    pub logs: Option<Logs>,
    /// Which headers carry the context of a trace.
    pub propagators: Vec<Propagator>,
}

/// How spans are exported.
#[derive(Clone, Debug)]
pub struct Traces {
    /// Where to.
    pub target: Target,
    /// How they are gathered.
    pub batching: Batching,
    /// Which ones.
    pub sampling: Sampling,
}

/// How metrics are exported.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Where to.
    pub target: Target,
    /// Between two exports.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
}

/// How the log is exported.
#[derive(Clone, Debug)]
pub struct Logs {
    /// Where to.
    pub target: Target,
    /// How records are gathered.
    pub batching: Batching,
}

/// A collector, as one signal sees it.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://host:port`.
    pub endpoint: Uri,
    /// Sent along with every request.
    pub headers: MetadataMap,
    /// How long one request may take.
    pub timeout: Duration,
}

/// How single things are gathered into requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Between two exports.
    pub delay: Duration,
    /// How long one batch is tried before it is dropped.
    pub timeout: Duration,
    /// What waits at most; the rest is dropped.
    pub queue: usize,
    /// What goes into one request at most.
    pub batch: usize,
}

/// Which spans are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Whether a span that continues a trace does what its parent does.
    pub parent_based: bool,
    /// The share of the others.
    pub share: f64,
}

/// A form in which the context of a trace travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagator {
    /// `traceparent` and `tracestate`.
    TraceContext,
    /// `baggage`.
    Baggage,
}

/// The variables of one signal.
struct Signal {
    exporter: &'static str,
    endpoint: &'static str,
    headers: &'static str,
    timeout: &'static str,
    protocol: &'static str,
    compression: &'static str,
}

const TRACES: Signal = Signal {
    exporter: "OTEL_TRACES_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    compression: "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
};
const METRICS: Signal = Signal {
    exporter: "OTEL_METRICS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    compression: "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
};
const LOGS: Signal = Signal {
    exporter: "OTEL_LOGS_EXPORTER",
    endpoint: "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    protocol: "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
    compression: "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

impl Settings {
    /// Reads the variables through `get`. `service` is the name when nothing else is said.
    pub fn read(service: &str, get: &dyn Fn(&str) -> Option<String>) -> (Settings, Vec<Warning>) {
        let mut vars = Variables::new(get);
        let disabled =
            one(&mut vars, "OTEL_SDK_DISABLED", &["true", "false"], "it is not disabled") == Some("true");
        let mut settings = Settings {
            resource: Vec::new(),
            traces: None,
            metrics: None,
            logs: None,
            propagators: Vec::new(),
        };
        if !disabled {
            settings.traces = traces(&mut vars);
            settings.metrics = metrics(&mut vars);
            settings.logs = logs(&mut vars);
        }
        // What nothing is exported with is not read either: nobody wants to hear of it.
        if settings.exports() {
            settings.resource = resource(&mut vars, service);
            settings.propagators = propagators(&mut vars);
        }
        (settings, vars.into_warnings())
    }

    /// Whether anything is exported at all.
    pub fn exports(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some() || self.logs.is_some()
    }
}

/// One of some words in a variable that has no signal.
fn one(vars: &mut Variables<'_>, name: &str, words: &[&'static str], used: &str) -> Option<&'static str> {
    vars.word([name, name], words, used)
}

fn traces(vars: &mut Variables<'_>) -> Option<Traces> {
    let target = target(vars, &TRACES)?;
    Some(Traces {
        target,
        batching: batching(
            vars,
            [
                "OTEL_BSP_SCHEDULE_DELAY",
                "OTEL_BSP_EXPORT_TIMEOUT",
                "OTEL_BSP_MAX_QUEUE_SIZE",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            ],
            DEFAULT_SPAN_DELAY_MS,
        ),
        sampling: sampling(vars),
    })
}

fn logs(vars: &mut Variables<'_>) -> Option<Logs> {
    let target = target(vars, &LOGS)?;
    Some(Logs {
        target,
        batching: batching(
            vars,
            [
                "OTEL_BLRP_SCHEDULE_DELAY",
                "OTEL_BLRP_EXPORT_TIMEOUT",
                "OTEL_BLRP_MAX_QUEUE_SIZE",
                "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
            ],
            DEFAULT_LOG_DELAY_MS,
        ),
    })
}

fn metrics(vars: &mut Variables<'_>) -> Option<Metrics> {
    let target = target(vars, &METRICS)?;
    one(vars, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", &["cumulative"], "cumulative");
    Some(Metrics {
        target,
        interval: millis(vars, ["OTEL_METRIC_EXPORT_INTERVAL"; 2], DEFAULT_METRIC_INTERVAL_MS),
        timeout: millis(vars, ["OTEL_METRIC_EXPORT_TIMEOUT"; 2], DEFAULT_EXPORT_TIMEOUT_MS),
    })
}

/// Where a signal goes; `None` if nowhere.
fn target(vars: &mut Variables<'_>, signal: &Signal) -> Option<Target> {
    let exporter = one(vars, signal.exporter, &["otlp", "none"], "the same as if it were not set");
    let named = vars.first([signal.endpoint, ENDPOINT]);
    match (exporter, &named) {
        (Some("none"), _) | (None, None) => return None,
        _ => {}
    }
    let (name, value) = named.unwrap_or((ENDPOINT, DEFAULT_ENDPOINT.to_owned()));
    let endpoint = match endpoint(&value) {
        Ok(endpoint) => endpoint,
        Err(expected) => {
            // What stands before an @ may be a password.
            let shown = value.rsplit_once('@').map_or(value.as_str(), |(_, host)| host);
            vars.warn(name, shown, expected, "nothing is exported");
            return None;
        }
    };
    vars.word([signal.protocol, "OTEL_EXPORTER_OTLP_PROTOCOL"], &["grpc"], "grpc");
    vars.word([signal.compression, "OTEL_EXPORTER_OTLP_COMPRESSION"], &["none"], "none");
    Some(Target {
        endpoint,
        headers: headers(vars, [signal.headers, "OTEL_EXPORTER_OTLP_HEADERS"]),
        timeout: millis(vars, [signal.timeout, "OTEL_EXPORTER_OTLP_TIMEOUT"], DEFAULT_TIMEOUT_MS),
    })
}

/// `http://host:port`; without a scheme too, as gRPC takes it. `Err` says what is expected.
fn endpoint(value: &str) -> Result<Uri, &'static str> {
    const EXPECTED: &str = "http://HOST:PORT";
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let uri: Uri = with_scheme.parse().map_err(|_| EXPECTED)?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("http://HOST:PORT without a user; credentials go into OTEL_EXPORTER_OTLP_HEADERS");
    }
    match uri.scheme_str() {
        Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        Some("https") => Err("http://HOST:PORT; for TLS put a collector beside this process"),
        _ => Err(EXPECTED),
    }
}

fn headers(vars: &mut Variables<'_>, names: [&str; 2]) -> MetadataMap {
    let mut headers = MetadataMap::new();
    let Some((name, value)) = vars.first(names) else { return headers };
    let (pairs, mut wrong) = pairs(&value);
    for (key, value) in pairs {
        let parsed = MetadataKey::<Ascii>::from_bytes(key.to_ascii_lowercase().as_bytes())
            .ok()
            .zip(MetadataValue::<Ascii>::try_from(&value).ok());
        match parsed {
            Some((key, value)) => _ = headers.insert(key, value),
            None => _ = wrong.get_or_insert(key),
        }
    }
    if let Some(wrong) = wrong {
        // Values are passwords more often than not: what was wrong is named, and not shown.
        vars.warn(name, &wrong, "NAME=VALUE,NAME=VALUE", "the others");
    }
    headers
}

fn millis(vars: &mut Variables<'_>, names: [&str; 2], default: u64) -> Duration {
    Duration::from_millis(vars.number(names, default, 1..=MAX_MS))
}

/// `names`: delay, timeout, queue and batch.
fn batching(vars: &mut Variables<'_>, names: [&str; 4], delay: u64) -> Batching {
    let [delay_name, timeout_name, queue_name, batch_name] = names;
    let queue = vars.number([queue_name; 2], DEFAULT_QUEUE, 1..=MAX_QUEUE);
    let batch = vars.number([batch_name; 2], DEFAULT_BATCH.min(queue), 1..=queue);
    let whole = |number| usize::try_from(number).expect("at most 100,000");
    Batching {
        delay: millis(vars, [delay_name; 2], delay),
        timeout: millis(vars, [timeout_name; 2], DEFAULT_EXPORT_TIMEOUT_MS),
        queue: whole(queue),
        batch: whole(batch),
    }
}

fn sampling(vars: &mut Variables<'_>) -> Sampling {
    const WORDS: [&str; 6] = [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ];
    let word = one(vars, "OTEL_TRACES_SAMPLER", &WORDS, "parentbased_always_on");
    let word = word.unwrap_or("parentbased_always_on");
    let root = word.strip_prefix("parentbased_");
    let share = match root.unwrap_or(word) {
        "always_off" => 0.0,
        "traceidratio" => vars.share("OTEL_TRACES_SAMPLER_ARG", 1.0),
        _ => 1.0,
    };
    Sampling { parent_based: root.is_some(), share }
}

fn resource(vars: &mut Variables<'_>, service: &str) -> Vec<(String, String)> {
    const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
    const SERVICE: &str = "service.name";
    let given = vars.text(NAME).unwrap_or_default();
    let (mut resource, wrong) = pairs(&given);
    if wrong.is_some() {
        // All or nothing, as OpenTelemetry wants it: half of a description misleads.
        vars.warn(NAME, &given, "NAME=VALUE,NAME=VALUE, values percent-encoded", "none of it");
        resource.clear();
    }
    if let Some(name) = vars.text("OTEL_SERVICE_NAME") {
        resource.retain(|(key, _)| key != SERVICE);
        resource.push((SERVICE.to_owned(), name));
    }
    if resource.iter().all(|(key, _)| key != SERVICE) {
        resource.push((SERVICE.to_owned(), service.to_owned()));
    }
    resource
}

fn propagators(vars: &mut Variables<'_>) -> Vec<Propagator> {
    const NAME: &str = "OTEL_PROPAGATORS";
    let Some(value) = vars.text(NAME) else {
        return vec![Propagator::TraceContext, Propagator::Baggage];
    };
    let mut found = Vec::new();
    for word in value.split(',').map(str::trim) {
        let propagator = match word.to_ascii_lowercase().as_str() {
            "tracecontext" => Propagator::TraceContext,
            "baggage" => Propagator::Baggage,
            "none" | "" => continue,
            _ => {
                vars.warn(NAME, &value, "tracecontext, baggage or none", "what is known of it");
                continue;
            }
        };
        if !found.contains(&propagator) {
            found.push(propagator);
        }
    }
    found
}

#[cfg(test)]
mod tests;
