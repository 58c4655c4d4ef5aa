//! Traces: what one record's way looks like to a collector, over the real processes.

use crate::harness::{Api, Cli, Cluster, Setup, records, within};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use thalweg_proto::v1::{self, produce_request::Payload};
use thalweg_runtime::telemetry::receiver::{OtlpReceiver, ReceivedSpan};
use tokio::runtime::Runtime;
use tonic::Request;

/// How long spans may take to come, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The flags of a traceparent that is sampled.
const SAMPLED: &str = "01";

/// A caller's own span, which no process here has.
struct Caller<'a> {
    trace: &'a str,
    span: &'a str,
}

impl Caller<'_> {
    fn traceparent(&self) -> String {
        format!("00-{}-{}-{SAMPLED}", self.trace, self.span)
    }
}

/// A collector, and a cluster of which every process exports to it.
struct Traced {
    // Dropped first: its processes still export while they live.
    cluster: Cluster,
    collector: OtlpReceiver,
    runtime: Runtime,
}

impl Traced {
    fn start() -> Traced {
        let runtime = Runtime::new().unwrap();
        let collector = runtime.block_on(async { OtlpReceiver::start() }).unwrap();
        let cluster = Cluster::start_with(Setup {
            controllers: 1,
            coordinators: 1,
            controller_flags: vec!["--offsets-topic-partitions", "1"],
            variables: owned(&collector),
            ..Setup::default()
        });
        Traced { cluster, collector, runtime }
    }

    fn create(&self, topic: &str) {
        let create = ["topic", "create", topic, "--partitions", "1", "--replication-factor", "3"];
        self.cluster.cli(&create).run().ok();
        self.cluster.await_in_sync(topic);
    }

    /// A command whose spans are exported.
    fn cli(&self, args: &[&str]) -> Cli {
        let variables = owned(&self.collector);
        variables.iter().fold(self.cluster.cli(args), |cli, (name, value)| cli.env(name, value))
    }

    /// Waits for a trace that has so many spans of these names, and gives all of it.
    #[track_caller]
    fn trace(&self, trace: &str, wanted: &[(&str, usize)]) -> Trace {
        let in_trace = |spans: &[ReceivedSpan]| -> Vec<ReceivedSpan> {
            spans.iter().filter(|span| span.trace_id == trace).cloned().collect()
        };
        let enough = |spans: &[ReceivedSpan]| {
            let spans = in_trace(spans);
            wanted
                .iter()
                .all(|(name, count)| spans.iter().filter(|span| span.name == *name).count() >= *count)
        };
        let came = self.runtime.block_on(self.collector.wait(PATIENCE, |came| enough(&came.spans)));
        match came {
            Ok(came) => Trace(in_trace(&came.spans)),
            Err(came) => panic!("not all of {wanted:?} came, but {:#?}", in_trace(&came.spans)),
        }
    }

    /// The only record of a topic, as a member of a group prints it.
    fn consume(&self, topic: &str, group: &str) -> Value {
        let args =
            ["consume", topic, "--group", group, "--from-beginning", "--max-records", "1", "-o", "json"];
        serde_json::from_slice(&self.cli(&args).run().ok().stdout).unwrap()
    }
}

/// The spans of one trace.
struct Trace(Vec<ReceivedSpan>);

impl Trace {
    fn named(&self, name: &str) -> Vec<&ReceivedSpan> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    #[track_caller]
    fn only(&self, name: &str) -> &ReceivedSpan {
        match self.named(name)[..] {
            [span] => span,
            ref others => panic!("{name}: {others:#?}"),
        }
    }

    #[track_caller]
    fn children<'a>(&'a self, name: &'a str, parent: &'a ReceivedSpan) -> Vec<&'a ReceivedSpan> {
        self.named(name).into_iter().filter(|span| span.parent_span_id == parent.span_id).collect()
    }

    /// Checks a batch's way from the leader's append, which is a child of `caller`, to its commit.
    #[track_caller]
    fn check_way(&self, topic: &str, caller: &str) {
        let append = format!("append {topic}");
        let of_caller = |span: &&ReceivedSpan| span.parent_span_id == caller;
        let appended: Vec<_> = self.named(&append).into_iter().filter(of_caller).collect();
        let [appended] = appended[..] else { panic!("{appended:#?}: {:#?}", self.0) };
        let leader = number(appended, "thalweg.broker.id");
        for (name, value) in [
            ("messaging.system", "thalweg"),
            ("messaging.operation.name", "append"),
            ("messaging.destination.name", topic),
            ("messaging.destination.partition.id", "0"),
            ("messaging.batch.message_count", "1"),
        ] {
            assert_eq!(appended.attributes[name], value, "{name}");
        }

        let replicate = format!("replicate {topic}");
        let replicated = self.children(&replicate, appended);
        let followers: BTreeSet<i32> =
            replicated.iter().map(|span| number(span, "thalweg.follower.id")).collect();
        let others: BTreeSet<i32> = (1..=3).filter(|id| *id != leader).collect();
        assert_eq!((replicated.len(), followers), (2, others), "{replicated:#?}");
        for span in &replicated {
            let there = self.children(&append, span);
            let [there] = there[..] else { panic!("{there:#?}") };
            assert_eq!(number(there, "thalweg.broker.id"), number(span, "thalweg.follower.id"));
            assert_ne!(there.resource["service.instance.id"], appended.resource["service.instance.id"]);
            assert_eq!(span.attributes["thalweg.offset"], appended.attributes["thalweg.offset"]);
        }
        let commit = format!("commit {topic}");
        let commits = self.children(&commit, appended);
        let [committed] = commits[..] else { panic!("{commits:#?}") };
        let whole = self.named(&append).into_iter().chain(replicated).chain([committed]);
        for span in whole {
            assert_eq!(
                (span.service.as_str(), span.kind, span.failed),
                ("thalweg-broker", "Internal", false)
            );
            assert!(span.start <= span.end, "{span:#?}");
        }
    }
}

#[track_caller]
fn number(span: &ReceivedSpan, name: &str) -> i32 {
    span.attributes[name].parse().unwrap()
}

fn owned(collector: &OtlpReceiver) -> Vec<(String, String)> {
    collector.variables().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a batch's way is made of, beside what called for it.
fn way(topic: &str) -> Vec<(String, usize)> {
    vec![(format!("append {topic}"), 3), (format!("replicate {topic}"), 2), (format!("commit {topic}"), 1)]
}

fn headers(record: &Value) -> Vec<(&str, &str)> {
    let headers = record["headers"].as_array().unwrap().iter();
    headers.map(|header| (header["key"].as_str().unwrap(), header["value"].as_str().unwrap())).collect()
}

#[test]
fn one_trace_shows_a_record_from_its_producer_to_its_consumer() {
    let traced = Traced::start();
    from_producer_to_consumer(&traced);
    a_programs_own_context_stays(&traced);
    without_variables_nothing_is_added(&traced);
    a_call_from_any_language(&traced);
}

fn from_producer_to_consumer(traced: &Traced) {
    const CALLER: Caller<'_> = Caller { trace: "4bf92f3577b34da6a3ce929d0e0e4736", span: "00f067aa0ba902b7" };
    traced.create("way");
    let produced = traced.cli(&["produce", "way"]).env("TRACEPARENT", &CALLER.traceparent());
    produced.input("hello\n").run().ok();
    let record = traced.consume("way", "watchers");
    assert_eq!(record["value"], "hello");

    let mut wanted = way("way");
    wanted.push(("send way".to_owned(), 1));
    let wanted: Vec<(&str, usize)> = wanted.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let trace = traced.trace(CALLER.trace, &wanted);
    let sent = trace.only("send way");
    assert_eq!((sent.kind, sent.failed, sent.parent_span_id.as_str()), ("Producer", false, CALLER.span));
    assert_eq!(sent.service, "thalweg-produce");
    assert_eq!(
        (sent.attributes["thalweg.offset"].as_str(), number(sent, "messaging.destination.partition.id")),
        ("0", 0)
    );
    trace.check_way("way", &sent.span_id);

    // The consumer's span is one of a trace of its own: it is linked to what it received.
    let told = headers(&record);
    let traceparent = format!("00-{}-{}-{SAMPLED}", sent.trace_id, sent.span_id);
    assert_eq!(told, [("traceparent", traceparent.as_str())]);
    let spans = traced.runtime.block_on(traced.collector.spans("poll way", 1, PATIENCE));
    let polled = spans.iter().find(|span| span.name == "poll way").unwrap();
    assert_eq!((polled.kind, polled.service.as_str()), ("Client", "thalweg-consume"));
    assert_eq!(polled.links, [(sent.trace_id.clone(), sent.span_id.clone())]);
    assert_ne!(polled.trace_id, sent.trace_id);
    assert_eq!(polled.attributes["messaging.consumer.group.name"], "watchers");
    assert_eq!(polled.attributes["messaging.batch.message_count"], "1");
}

fn a_programs_own_context_stays(traced: &Traced) {
    const CALLER: Caller<'_> = Caller { trace: "0af7651916cd43dd8448eb211c80319c", span: "b7ad6b7169203331" };
    const OWN: Caller<'_> = Caller { trace: "11111111111111111111111111111111", span: "2222222222222222" };
    traced.create("own");
    let header = format!("traceparent={}", OWN.traceparent());
    let produced = traced.cli(&["produce", "own", "--header", &header]);
    produced.env("TRACEPARENT", &CALLER.traceparent()).input("hello\n").run().ok();
    let record = traced.consume("own", "own");
    assert_eq!(headers(&record), [("traceparent", OWN.traceparent().as_str())]);
    let trace = traced.trace(CALLER.trace, &[("send own", 1)]);
    assert_eq!(trace.only("send own").links, [(OWN.trace.to_owned(), OWN.span.to_owned())]);
}

fn without_variables_nothing_is_added(traced: &Traced) {
    const CALLER: Caller<'_> = Caller { trace: "33333333333333333333333333333333", span: "4444444444444444" };
    traced.create("plain");
    let produced = traced.cluster.cli(&["produce", "plain"]).env("TRACEPARENT", &CALLER.traceparent());
    produced.input("hello\n").run().ok();
    let args = ["consume", "plain", "--from-beginning", "--max-records", "1", "-o", "json"];
    let consumed = traced.cluster.cli(&args).run().ok();
    let record: Value = serde_json::from_slice(&consumed.stdout).unwrap();
    assert!(headers(&record).is_empty(), "{record}");
    // The brokers, which do export, were not asked to trace it: what came later is here.
    let spans = traced.collector.received().spans;
    let of_it = |span: &&ReceivedSpan| span.trace_id == CALLER.trace || span.name.ends_with(" plain");
    assert_eq!(spans.iter().find(of_it), None);
}

/// Plain stubs: the context comes in the call's metadata, or only in the record.
fn a_call_from_any_language(traced: &Traced) {
    const INSIDE: Caller<'_> = Caller { trace: "77777777777777777777777777777777", span: "8888888888888888" };
    const SPAN: &str = "6666666666666666";
    const PRODUCE: &str = "thalweg.v1.ProducerService/Produce";
    traced.create("any");
    let request = |headers: Vec<v1::Header>| {
        let mut set = records(&["hello"]);
        set.records[0].headers = headers;
        v1::ProduceRequest {
            topic: "any".to_owned(),
            partition: Some(0),
            payload: Some(Payload::Records(set)),
            ..Default::default()
        }
    };
    let trace_at = |broker: i32| format!("{:032x}", 0x5555 + broker);
    traced.runtime.block_on(async {
        for broker in 1..=3 {
            let api = Api::at(traced.cluster.endpoint(broker)).await;
            let mut call = Request::new(request(Vec::new()));
            let caller = Caller { trace: &trace_at(broker), span: SPAN }.traceparent();
            call.metadata_mut().insert("traceparent", caller.parse().unwrap());
            within("Produce", api.producer.clone().produce(call)).await.unwrap();
        }
        let api = Api::at(traced.cluster.endpoint(1)).await;
        // One that makes no sense is none, and fails nothing.
        let mut call = Request::new(request(Vec::new()));
        call.metadata_mut().insert("traceparent", "00-nonsense".parse().unwrap());
        within("Produce", api.producer.clone().produce(call)).await.unwrap();
        let value = Some(INSIDE.traceparent().into_bytes().into());
        let header = v1::Header { key: "traceparent".to_owned(), value };
        within("Produce", api.producer.clone().produce(request(vec![header]))).await.unwrap();
    });
    let wanted = way("any");
    let wanted: Vec<(&str, usize)> = wanted.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let mut forwarded = 0;
    for broker in 1..=3 {
        // A span comes when it has ended: that of the call that was made is the last one.
        let trace = trace_at(broker);
        let called = |span: &ReceivedSpan| span.trace_id == trace && span.parent_span_id == SPAN;
        let came = traced.collector.wait(PATIENCE, |came| came.spans.iter().any(called));
        let came = traced.runtime.block_on(came);
        assert!(came.is_ok(), "no span of the call to broker {broker}");
        let trace = traced.trace(&trace, &wanted);
        let called = trace.named(PRODUCE).into_iter().find(|span| span.parent_span_id == SPAN).unwrap();
        // A broker that does not lead passes the call on to the one that does.
        let passed_on = trace.children(PRODUCE, called);
        let served = match passed_on[..] {
            [] => called,
            [passed_on] => passed_on,
            _ => panic!("{passed_on:#?}"),
        };
        forwarded += passed_on.len();
        assert_eq!((called.kind, served.kind), ("Server", "Server"));
        trace.check_way("any", &served.span_id);
    }
    assert!(forwarded >= 2, "one of three brokers leads");

    // Where the broker that was called does not lead, the call that it passes on stands in between.
    let trace = traced.trace(INSIDE.trace, &wanted);
    let appends = trace.named("append any");
    let appended = appends.iter().find(|span| span.attributes.contains_key("thalweg.offset")).unwrap();
    let caller = &appended.parent_span_id;
    if caller != INSIDE.span {
        let passed_on = |span: &ReceivedSpan| span.span_id == *caller && span.parent_span_id == INSIDE.span;
        let came = traced.collector.wait(PATIENCE, |came| came.spans.iter().any(passed_on));
        assert!(traced.runtime.block_on(came).is_ok(), "{appended:#?}");
    }
    trace.check_way("any", caller);
}

#[test]
fn nobody_waits_for_a_collector_that_is_not_there() {
    // Nothing listens on port 1 of the loopback address.
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_BSP_SCHEDULE_DELAY", "10")];
    let cluster = Cluster::start_with(Setup {
        controllers: 1,
        brokers: 1,
        variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..Setup::default()
    });
    let cli =
        |args: &[&str]| variables.iter().fold(cluster.cli(args), |cli, (name, value)| cli.env(name, value));
    cli(&["topic", "create", "t", "--replication-factor", "1"]).run().ok();
    let lines: String = (0..1_000).map(|number| format!("{number}\n")).collect();
    cli(&["produce", "t"]).input(lines.clone()).run().ok();
    let args = ["consume", "t", "--from-beginning", "--max-records", "1000"];
    assert_eq!(cli(&args).run().ok().text(), lines);
}
