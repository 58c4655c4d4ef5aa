//! The whole way, from spans, events and a registry to a collector.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use opentelemetry::trace::{Span, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use tonic::body::Body;
use tower::{Layer as _, ServiceExt, service_fn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context as LayerContext, SubscriberExt};

use super::receiver::{OtlpReceiver, Received};
use super::*;
use crate::layers::trace::TraceLayer;
use crate::methods::MethodTable;
use crate::metrics::CallMetrics;
use crate::observe::{Family, Samples, Source};

const ABOUT: About = About { service: "thalweg-test", version: "1.2.3" };
const PATIENCE: Duration = Duration::from_secs(30);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

static THINGS: Family = Family::counter("thalweg_things_total", "Things.", &["name"]);

struct Things;

impl Source for Things {
    fn collect(&self, samples: &mut Samples<'_>) {
        samples.count(&THINGS, &["a"], 7);
    }
}

/// Keeps what the log says at `warn` and `info`, by its message.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &tracing::Event<'_>, _: LayerContext<'_, S>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        if event.metadata().target().starts_with("thalweg_runtime::telemetry") {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }
}

impl Heard {
    fn count(&self, start: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.starts_with(start)).count()
    }
}

fn settings(variables: &[(&str, &str)]) -> Settings {
    let (settings, warnings) = Settings::read(ABOUT.service, &|name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    });
    assert_eq!(warnings, []);
    settings
}

/// `test.v1.Echo/Say`, and the same inside.
fn methods() -> MethodTable {
    let file = |package: &str| FileDescriptorProto {
        package: Some(package.to_owned()),
        service: vec![ServiceDescriptorProto {
            name: Some("Echo".to_owned()),
            method: vec![MethodDescriptorProto { name: Some("Say".to_owned()), ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let set = FileDescriptorSet { file: vec![file("test.v1"), file("test.internal.v1")] };
    let mut table = MethodTable::default();
    table.add_descriptors(&set.encode_to_vec()).unwrap();
    table
}

/// Calls a handler that logs and makes a span of its own, behind the layer. Gives whether it saw a sampled span.
async fn call(export: &Export, path: &str, traceparent: Option<&str>) -> bool {
    global::set_text_map_propagator(propagator(&[Propagator::TraceContext]));
    let tracer = export.tracer_provider().unwrap().tracer("test");
    let handler_tracer = tracer.clone();
    let sampled = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&sampled);
    let handler = service_fn(move |_: Request<Body>| {
        let (tracer, seen) = (handler_tracer.clone(), Arc::clone(&seen));
        async move {
            // A handler waits now and then; the context is there again afterwards.
            tokio::task::yield_now().await;
            *seen.lock().unwrap() = Context::map_current(|now| now.span().span_context().is_sampled());
            tracing::info!(topic = "events", count = 3_u64, "said");
            tracing::info!(target: "h2::client", "must not be exported");
            tracer.start("inner").end();
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert("grpc-status", "14".parse().unwrap());
            Ok::<_, Infallible>(response)
        }
    });
    let metrics = CallMetrics::new(&methods());
    let mut request = Request::builder().uri(path);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let request = request.body(Body::empty()).unwrap();
    TraceLayer::with_tracer(metrics, tracer).layer(handler).oneshot(request).await.unwrap();
    *sampled.lock().unwrap()
}

#[tokio::test]
async fn a_call_is_told_as_a_span_its_log_and_the_metrics() {
    let collector = OtlpReceiver::start().unwrap();
    let endpoint = collector.endpoint();
    let settings = settings(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b"),
        ("OTEL_RESOURCE_ATTRIBUTES", "zone=z1"),
        // Nothing waits for its time at the end.
        ("OTEL_BSP_SCHEDULE_DELAY", "86400000"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "86400000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "86400000"),
    ]);
    let registry = Registry::new();
    registry.add("broker", 1, Arc::new(Things));
    let (export, lines) = Export::begin(&settings, ABOUT, Some(&registry));
    // The collector runs in this process too: what it says of each export at debug level would be exported in turn.
    let logging = tracing_subscriber::registry().with(LevelFilter::INFO).with(lines);
    let logging = tracing::subscriber::set_default(logging);

    let parent = format!("00-{TRACE}-{PARENT}-01");
    assert!(call(&export, "/test.v1.Echo/Say", Some(&parent)).await);
    export.end(PATIENCE).await;
    drop(logging);

    let Received { spans, points, logs, metadata } = collector.received();
    let [inner, server] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((server.name.as_str(), server.kind), ("test.v1.Echo/Say", "Server"));
    assert_eq!((server.trace_id.as_str(), server.parent_span_id.as_str()), (TRACE, PARENT));
    assert_eq!((inner.name.as_str(), &inner.trace_id), ("inner", &server.trace_id));
    assert_eq!(inner.parent_span_id, server.span_id);
    for (name, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "test.v1.Echo/Say"),
        ("rpc.response.status_code", "UNAVAILABLE"),
        ("error.type", "UNAVAILABLE"),
    ] {
        assert_eq!(server.attributes[name], value);
    }
    assert!(server.failed && server.start <= inner.start && inner.end <= server.end);
    for (name, value) in [("service.name", "thalweg-test"), ("service.version", "1.2.3"), ("zone", "z1")] {
        assert_eq!(server.resource[name], value);
    }
    assert!(!server.resource["service.instance.id"].is_empty());

    assert!(logs.iter().all(|line| !line.target.starts_with("h2")), "{logs:?}");
    let own: Vec<_> = logs.iter().filter(|line| line.target == module_path!()).collect();
    let [said] = own.as_slice() else { panic!("{logs:?}") };
    assert_eq!((said.body.as_str(), said.severity.as_str()), ("said", "INFO"));
    assert_eq!((said.trace_id.as_str(), &said.span_id), (TRACE, &server.span_id));
    assert_eq!((said.attributes["topic"].as_str(), said.attributes["count"].as_str()), ("events", "3"));

    let things: Vec<_> = points.iter().filter(|point| point.name == THINGS.name).collect();
    let [things] = things.as_slice() else { panic!("{points:?}") };
    assert_eq!((things.kind, things.value, things.description.as_str()), ("counter", 7.0, "Things."));
    assert_eq!((things.attributes["service"].as_str(), things.attributes["name"].as_str()), ("broker", "a"));
    assert!(points.iter().any(|point| point.name == "thalweg_telemetry_dropped_total"));
    assert_eq!(metadata["x-tenant"], "a b");
}

#[tokio::test]
async fn what_servers_tell_each_other_begins_no_trace() {
    let collector = OtlpReceiver::start().unwrap();
    let endpoint = collector.endpoint();
    let settings = settings(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint)]);
    let (export, lines) = Export::begin(&settings, ABOUT, None);
    assert!(lines.is_none(), "no log without its endpoint");
    let (sampled, not) = (format!("00-{TRACE}-{PARENT}-01"), format!("00-{TRACE}-{PARENT}-00"));
    for (path, traceparent, wanted) in [
        ("/test.internal.v1.Echo/Say", None, false),
        ("/test.internal.v1.Echo/Say", Some(&not), false),
        ("/test.internal.v1.Echo/Say", Some(&sampled), true),
        ("/test.v1.Echo/Say", Some(&not), false),
        ("/test.v1.Echo/Say", Some(&"nonsense".to_owned()), true),
        ("/test.v1.Echo/Say", None, true),
        ("/made.v1.Up/Say", Some(&sampled), false),
    ] {
        let traceparent = traceparent.map(String::as_str);
        assert_eq!(call(&export, path, traceparent).await, wanted, "{path} {traceparent:?}");
    }
    export.end(PATIENCE).await;
    let received = collector.received();
    let servers: Vec<_> = received.spans.iter().filter(|span| span.kind == "Server").collect();
    let roots = servers.iter().filter(|span| span.parent_span_id.is_empty()).count();
    assert_eq!((servers.len(), roots), (3, 2));
}

#[tokio::test]
async fn the_sampler_decides_about_the_traces_that_begin_here() {
    let collector = OtlpReceiver::start().unwrap();
    let endpoint = collector.endpoint();
    let settings = settings(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ]);
    let (export, _) = Export::begin(&settings, ABOUT, None);
    assert!(!call(&export, "/test.v1.Echo/Say", None).await);
    assert!(call(&export, "/test.v1.Echo/Say", Some(&format!("00-{TRACE}-{PARENT}-01"))).await);
    export.end(PATIENCE).await;
    let names: Vec<_> = collector.received().spans.into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["inner", "test.v1.Echo/Say"]);
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_told_once_and_so_is_its_coming() {
    // A port that nobody listens on.
    let address = crate::bind("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
    let endpoint = format!("http://{address}");
    let settings = settings(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "2"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "5"),
        ("OTEL_BLRP_EXPORT_TIMEOUT", "1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5"),
    ]);
    let registry = Registry::new();
    let (export, lines) = Export::begin(&settings, ABOUT, Some(&registry));
    let heard = Heard::default();
    let logging = tracing_subscriber::registry().with(LevelFilter::INFO).with(lines).with(heard.clone());
    let logging = tracing::subscriber::set_default(logging);
    let tracer = export.tracer_provider().unwrap().tracer("test");
    let spans = |count: usize| {
        (0..count).for_each(|_| {
            let mut span = tracer.start("busy");
            span.set_attribute(KeyValue::new("a", 1));
            span.end();
        });
    };
    let dropped = |reason: &str, signal: &str| {
        let gathered = registry.gather();
        let (_, points) = &gathered["thalweg_telemetry_dropped_total"];
        let point = points
            .iter()
            .find(|point| point.labels == [("signal", signal.to_owned()), ("reason", reason.to_owned())]);
        match point.unwrap().value {
            crate::observe::Value::Number(number) => number,
            crate::observe::Value::Histogram(_) => panic!("a number"),
        }
    };

    // No pause between them: nothing takes any of them meanwhile, so all but two find the queue full.
    spans(1_000);
    assert_eq!(dropped("queue_full", "traces"), 998.0);
    let undelivered = async {
        while ["traces", "metrics", "logs"].iter().any(|signal| dropped("undelivered", signal) == 0.0) {
            spans(1);
            tracing::info!("more");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, undelivered).await.unwrap();
    assert_eq!(heard.count("telemetry cannot be delivered"), 1, "{:?}", heard.0);

    let collector = OtlpReceiver::start_at(address).unwrap();
    let came = async {
        while heard.count("telemetry is delivered again") == 0 {
            spans(1);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, came).await.unwrap();
    export.end(PATIENCE).await;
    drop(logging);
    assert_eq!(
        (heard.count("telemetry cannot be delivered"), heard.count("telemetry is delivered again")),
        (1, 1)
    );
    assert!(!collector.received().spans.is_empty());
}

/// Whatever the collector does, the end of the process does not wait for it.
#[tokio::test]
async fn the_end_does_not_wait_for_a_collector_that_is_silent() {
    // Nobody answers on it: connections come into the backlog.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let settings = settings(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "86400000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "86400000"),
    ]);
    let (export, _) = Export::begin(&settings, ABOUT, None);
    export.tracer_provider().unwrap().tracer("test").start("left").end();
    let ended = export.end(Duration::from_millis(50));
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
}
