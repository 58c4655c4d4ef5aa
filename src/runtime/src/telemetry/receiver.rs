//! A collector for tests: takes what is exported to it over OTLP, and keeps all of it in memory, as plain values.
//!
//! Behind the feature `otlp-receiver`, which no program sets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1 as logs_service;
use opentelemetry_proto::tonic::collector::metrics::v1 as metrics_service;
use opentelemetry_proto::tonic::collector::trace::v1 as trace_service;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span, status};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::net::BindError;
use crate::{GrpcServer, Shutdown};

/// Names to values, all as text.
pub type Attributes = BTreeMap<String, String>;

/// A span, as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedSpan {
    /// `service.name` of the process that sent it.
    pub service: String,
    /// All that the process says of itself.
    pub resource: Attributes,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The parent's id; empty for a root.
    pub parent_span_id: String,
    /// Its name.
    pub name: String,
    /// `Server`, `Client`, `Producer`, `Consumer` or `Internal`.
    pub kind: &'static str,
    /// What it says of itself.
    pub attributes: Attributes,
    /// Trace id and span id of what it links to.
    pub links: Vec<(String, String)>,
    /// Whether its status is an error.
    pub failed: bool,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
}

/// A series of a metric, as it came last.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedPoint {
    /// `service.name` of the process that sent it.
    pub service: String,
    /// The metric's name.
    pub name: String,
    /// Its unit in UCUM.
    pub unit: String,
    /// What it tells.
    pub description: String,
    /// Its labels.
    pub attributes: Attributes,
    /// `counter`, `gauge` or `histogram`; `other` is none that is sent here.
    pub kind: &'static str,
    /// The number, or a histogram's sum.
    pub value: f64,
    /// How many values a histogram has; 0 for the others.
    pub count: u64,
}

/// A line of the log, as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedLog {
    /// `service.name` of the process that sent it.
    pub service: String,
    /// What wrote it: the scope's name.
    pub target: String,
    /// `INFO` and so on.
    pub severity: String,
    /// The message.
    pub body: String,
    /// Its fields.
    pub attributes: Attributes,
    /// 32 hexadecimal digits; empty outside of a trace.
    pub trace_id: String,
    /// 16 hexadecimal digits; empty outside of a trace.
    pub span_id: String,
}

/// Everything that came so far.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// In the order in which they came: a span comes when it has ended.
    pub spans: Vec<ReceivedSpan>,
    /// Every export anew, in the order in which they came.
    pub points: Vec<ReceivedPoint>,
    /// In the order in which they came.
    pub logs: Vec<ReceivedLog>,
    /// The metadata of the last request, as far as it is text.
    pub metadata: Attributes,
}

/// A collector on a port of its own. Stops when it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    store: Store,
    shutdown: Shutdown,
}

#[derive(Clone, Debug)]
struct Store {
    received: Arc<Mutex<Received>>,
    changed: watch::Sender<()>,
}

impl OtlpReceiver {
    /// Listens on a free port of 127.0.0.1. Call it inside of a tokio runtime.
    pub fn start() -> Result<OtlpReceiver, BindError> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Listens on `address`: for a collector that comes late, or comes back.
    pub fn start_at(address: SocketAddr) -> Result<OtlpReceiver, BindError> {
        let listener = crate::bind(address)?;
        let address = listener.local_addr().unwrap_or(address);
        let store = Store { received: Arc::default(), changed: watch::Sender::new(()) };
        let server = GrpcServer::builder("otlp-receiver")
            .service(trace_service::trace_service_server::TraceServiceServer::new(store.clone()))
            .service(metrics_service::metrics_service_server::MetricsServiceServer::new(store.clone()))
            .service(logs_service::logs_service_server::LogsServiceServer::new(store.clone()))
            .build()
            .expect("three services with the default bounds go together");
        let shutdown = Shutdown::new();
        tokio::spawn(server.serve_listener(listener, shutdown.clone()));
        Ok(OtlpReceiver { address, store, shutdown })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where to export to: a value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The variables of a process that shall export everything here, soon after it has happened.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let soon = || "100".to_owned();
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint()),
            ("OTEL_BSP_SCHEDULE_DELAY", soon()),
            ("OTEL_BLRP_SCHEDULE_DELAY", soon()),
            ("OTEL_METRIC_EXPORT_INTERVAL", soon()),
        ]
    }

    /// Everything that came so far.
    pub fn received(&self) -> Received {
        self.store.lock().clone()
    }

    /// Waits until what came is `enough`, and gives it. `Err` has what came within `patience`.
    pub async fn wait(
        &self,
        patience: Duration,
        enough: impl Fn(&Received) -> bool,
    ) -> Result<Received, Received> {
        let mut changed = self.store.changed.subscribe();
        let reached = async {
            loop {
                changed.mark_unchanged();
                if enough(&self.store.lock()) {
                    return;
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        match tokio::time::timeout(patience, reached).await {
            Ok(()) => Ok(self.received()),
            Err(_) => Err(self.received()),
        }
    }

    /// Waits until so many spans of one name are there, and gives all spans. Panics with the names of those that came if they are not.
    pub async fn spans(&self, name: &str, count: usize, patience: Duration) -> Vec<ReceivedSpan> {
        let named = |received: &Received| received.spans.iter().filter(|span| span.name == name).count();
        match self.wait(patience, |received| named(received) >= count).await {
            Ok(received) => received.spans,
            Err(received) => {
                let names: Vec<_> = received.spans.iter().map(|span| span.name.as_str()).collect();
                panic!("{count} spans {name:?} did not come; these did: {names:?}");
            }
        }
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

// === impl Store ===

impl Store {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take<T>(&self, request: Request<T>, into: impl FnOnce(&mut Received, T)) {
        let metadata = request.metadata().clone().into_headers();
        let mut received = self.lock();
        received.metadata = metadata
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect();
        into(&mut received, request.into_inner());
        drop(received);
        self.changed.send_replace(());
    }
}

#[tonic::async_trait]
impl trace_service::trace_service_server::TraceService for Store {
    async fn export(
        &self,
        request: Request<trace_service::ExportTraceServiceRequest>,
    ) -> Result<Response<trace_service::ExportTraceServiceResponse>, Status> {
        self.take(request, |received, request| {
            for of_resource in request.resource_spans {
                let (service, resource) = resource_of(of_resource.resource);
                let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
                received.spans.extend(spans.map(|span| span_of(&service, &resource, span)));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl metrics_service::metrics_service_server::MetricsService for Store {
    async fn export(
        &self,
        request: Request<metrics_service::ExportMetricsServiceRequest>,
    ) -> Result<Response<metrics_service::ExportMetricsServiceResponse>, Status> {
        self.take(request, |received, request| {
            for of_resource in request.resource_metrics {
                let (service, _) = resource_of(of_resource.resource);
                let metrics = of_resource.scope_metrics.into_iter().flat_map(|of_scope| of_scope.metrics);
                received.points.extend(metrics.flat_map(|metric| points_of(&service, metric)));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl logs_service::logs_service_server::LogsService for Store {
    async fn export(
        &self,
        request: Request<logs_service::ExportLogsServiceRequest>,
    ) -> Result<Response<logs_service::ExportLogsServiceResponse>, Status> {
        self.take(request, |received, request| {
            for of_resource in request.resource_logs {
                let (service, _) = resource_of(of_resource.resource);
                for of_scope in of_resource.scope_logs {
                    let target = of_scope.scope.unwrap_or_default().name;
                    received.logs.extend(of_scope.log_records.into_iter().map(|record| ReceivedLog {
                        service: service.clone(),
                        target: target.clone(),
                        severity: record.severity_text,
                        body: record.body.map(text).unwrap_or_default(),
                        attributes: attributes(record.attributes),
                        trace_id: hex(&record.trace_id),
                        span_id: hex(&record.span_id),
                    }));
                }
            }
        });
        Ok(Response::new(Default::default()))
    }
}

fn resource_of(resource: Option<Resource>) -> (String, Attributes) {
    let resource = attributes(resource.unwrap_or_default().attributes);
    (resource.get("service.name").cloned().unwrap_or_default(), resource)
}

fn span_of(service: &str, resource: &Attributes, span: Span) -> ReceivedSpan {
    ReceivedSpan {
        service: service.to_owned(),
        resource: resource.clone(),
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: hex(&span.parent_span_id),
        kind: match span.kind() {
            span::SpanKind::Server => "Server",
            span::SpanKind::Client => "Client",
            span::SpanKind::Producer => "Producer",
            span::SpanKind::Consumer => "Consumer",
            span::SpanKind::Internal | span::SpanKind::Unspecified => "Internal",
        },
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        failed: span.status.as_ref().is_some_and(|status| status.code() == status::StatusCode::Error),
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        name: span.name,
        attributes: attributes(span.attributes),
    }
}

fn points_of(service: &str, metric: Metric) -> Vec<ReceivedPoint> {
    let point = |kind, labels, value, count| ReceivedPoint {
        service: service.to_owned(),
        name: metric.name.clone(),
        unit: metric.unit.clone(),
        description: metric.description.clone(),
        attributes: attributes(labels),
        kind,
        value,
        count,
    };
    let number = |value: Option<number_data_point::Value>| match value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => f64::NAN,
    };
    match metric.data.clone() {
        Some(metric::Data::Sum(sum)) => {
            let kind = if sum.is_monotonic { "counter" } else { "other" };
            sum.data_points.into_iter().map(|at| point(kind, at.attributes, number(at.value), 0)).collect()
        }
        Some(metric::Data::Gauge(gauge)) => {
            let points = gauge.data_points.into_iter();
            points.map(|at| point("gauge", at.attributes, number(at.value), 0)).collect()
        }
        Some(metric::Data::Histogram(histogram)) => {
            let points = histogram.data_points.into_iter();
            points.map(|at| point("histogram", at.attributes, at.sum.unwrap_or(f64::NAN), at.count)).collect()
        }
        _ => vec![point("other", Vec::new(), f64::NAN, 0)],
    }
}

fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    pairs.into_iter().map(|pair| (pair.key, pair.value.map(text).unwrap_or_default())).collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::StringValue(value)) => value,
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        Some(any_value::Value::IntValue(value)) => value.to_string(),
        Some(any_value::Value::DoubleValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
