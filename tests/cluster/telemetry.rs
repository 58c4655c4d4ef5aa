//! What a process exports over OTLP, and what it does when nobody takes it.

use crate::harness::Dev;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;
use thalweg_runtime::telemetry::receiver::OtlpReceiver;
use tokio::task::block_in_place;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_collector_that_is_not_there_costs_a_line_and_nothing_else() {
    // A port that nobody listens on.
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let endpoint = format!("http://{nobody}");
    let often = || "10".to_owned();
    let mut dev = Dev::start_with_variables(vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.clone()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon".to_owned()),
        ("OTEL_TRACES_SAMPLER", "sometimes".to_owned()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", often()),
        ("OTEL_BLRP_SCHEDULE_DELAY", often()),
        ("OTEL_METRIC_EXPORT_INTERVAL", often()),
    ]);
    dev.cli(&["topic", "create", "events", "--partitions", "3"]).run().ok();
    let lines: String = (0..5_000).map(|number| format!("line {number}\n")).collect();
    dev.cli(&["produce", "events"]).input(lines).run().ok();
    let told = dev.cli(&["produce", "events"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    told.input("one more\n").run().ok();
    let consume = ["consume", "events", "--from-beginning", "--max-records", "5001"];
    assert_eq!(dev.cli(&consume).run().ok().text().lines().count(), 5_001);
    dev.stop();
    let said = dev.stderr_tail();
    for once in ["telemetry cannot be delivered", "OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_TIMEOUT"] {
        assert_eq!(said.matches(once).count(), 1, "{once}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_exports_its_calls_its_metrics_and_the_last_line_of_its_log() {
    let collector = OtlpReceiver::start().unwrap();
    let mut variables = collector.variables();
    // What gathers for a day comes at the end, or never.
    variables.push(("OTEL_BLRP_SCHEDULE_DELAY", "86400000".to_owned()));
    variables.push(("OTEL_RESOURCE_ATTRIBUTES", "zone=z%201".to_owned()));
    variables.push(("THALWEG_LOG_LEVEL", "info".to_owned()));
    let mut dev = block_in_place(|| Dev::start_with_variables(variables));
    block_in_place(|| {
        dev.cli(&["topic", "create", "events"]).run().ok();
        dev.cli(&["produce", "events"]).input("one\ntwo\n").run().ok();
    });
    let spans = collector.spans("thalweg.v1.AdminService/CreateTopics", 1, PATIENCE).await;
    let called = |name| spans.iter().find(|span| span.name == name).expect("the call has a span");
    let created = called("thalweg.v1.AdminService/CreateTopics");
    assert_eq!((created.kind, created.service.as_str()), ("Server", "thalweg-dev"));
    assert_eq!(created.attributes["rpc.response.status_code"], "OK");
    assert_eq!(created.resource["zone"], "z 1");
    let produced = collector.wait(PATIENCE, |received| {
        received.points.iter().any(|point| {
            let of_calls = point.name == "thalweg_rpc_server_calls_total" && point.value > 0.0;
            of_calls && point.attributes["method"] == "/thalweg.v1.AdminService/CreateTopics"
        })
    });
    produced.await.expect("the calls are counted");

    block_in_place(|| dev.stop());
    let received = collector.received();
    let drained = received.logs.iter().filter(|line| line.body == "drained").count();
    assert!(drained > 0, "{} lines came", received.logs.len());
    let services: BTreeSet<_> = received.points.iter().map(|point| point.service.as_str()).collect();
    assert_eq!(services, BTreeSet::from(["thalweg-dev"]));
    // Raft, replication and sessions go on all the time: none of that begins a trace.
    let internal = received.spans.iter().find(|span| {
        span.kind == "Server" && span.name.contains(".internal.") && span.parent_span_id.is_empty()
    });
    assert_eq!(internal, None);
}
