//! `/metrics` of every service of a real cluster: well-formed, and all that `docs/METRICS.md` lists.

mod exposition;

use crate::harness::{Cluster, Setup, await_group, eventually};
use exposition::{Family, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Listed, but not there in a cluster in which all is well and nothing is exported.
const NOT_NOW: [&str; 1] = [
    // Only once there are more than 100,000 series.
    "thalweg_metrics_dropped_series",
];
/// Metrics of those who export over OTLP, or of an operator: nobody does here, and there is none.
const NOT_HERE: [&str; 2] = ["thalweg_telemetry_", "thalweg_operator_"];

/// What the page says of a metric: its kind and its labels.
type Listed = (String, BTreeSet<String>);

#[test]
fn every_listed_metric_is_told_and_nothing_else() {
    let cluster = Cluster::start_with(Setup {
        controllers: 1,
        brokers: 2,
        coordinators: 1,
        controller_flags: vec!["--offsets-topic-partitions", "2", "--offsets-topic-replication-factor", "1"],
        metrics: true,
        ..Setup::default()
    });
    cluster.create_topic("events", 2, &[]);
    cluster.cli(&["produce", "events"]).input("one\ntwo\nthree\n").run().ok();
    let consume =
        ["consume", "events", "--group", "readers", "--auto-offset-reset", "earliest", "--max-records", "3"];
    cluster.cli(&consume).run().ok();
    await_group(&cluster.bootstrap(), "readers", "the group is empty", |group| group["state"] == "empty");

    let mut told: BTreeMap<String, Vec<Family>> = BTreeMap::new();
    // The coordinator looks at lag now and then.
    eventually("the lag of the group is told", || {
        told = scrape_all(&cluster);
        told.contains_key("thalweg_group_lag_records").then_some(())
    });
    let listed = listed();
    for (name, families) in &told {
        let Some((kind, labels)) = listed.get(name) else { panic!("{name} is not listed") };
        for family in families {
            assert_eq!(&family.kind, kind, "{name}");
            for (suffix, found, _) in &family.series {
                let found: BTreeSet<String> = found.iter().map(|(label, _)| label.clone()).collect();
                let mut wanted = labels.clone();
                if suffix == "_bucket" {
                    wanted.insert("le".to_owned());
                }
                assert!(
                    found == wanted || found == wanted_of_service(&wanted),
                    "{name} has the labels {found:?}"
                );
            }
        }
    }
    let missing: Vec<_> = listed
        .keys()
        .filter(|name| !told.contains_key(*name) && !NOT_NOW.contains(&name.as_str()))
        .filter(|name| !NOT_HERE.iter().any(|start| name.starts_with(start)))
        .collect();
    assert!(missing.is_empty(), "listed and not told: {missing:?}");
    the_numbers_are_those_of_what_was_done(&told);
}

fn the_numbers_are_those_of_what_was_done(told: &BTreeMap<String, Vec<Family>>) {
    let sum = |name: &str, label: &str, value: &str| -> f64 {
        let has = |labels: &[(String, String)]| labels.iter().any(|(l, v)| l == label && v == value);
        let all = told[name].iter().flat_map(|family| &family.series);
        all.filter(|(suffix, labels, _)| suffix != "_bucket" && suffix != "_sum" && has(labels))
            .map(|(.., value)| value)
            .sum()
    };
    assert_eq!(sum("thalweg_topic_records_in_total", "topic", "events"), 3.0);
    assert_eq!(sum("thalweg_topic_records_out_total", "topic", "events"), 3.0);
    assert!(sum("thalweg_log_flush_duration_seconds", "service", "broker") >= 2.0);
    assert!(sum("thalweg_group_rebalances_total", "service", "coordinator") >= 1.0);
    assert!(sum("thalweg_raft_commit_duration_seconds", "service", "controller") >= 1.0);
    assert_eq!(sum("thalweg_controller_active", "service", "controller"), 1.0);
    assert_eq!(sum("thalweg_unclean_leader_elections_total", "service", "controller"), 0.0);
    assert_eq!(sum("thalweg_group_lag_records", "group", "readers"), 0.0);
    assert_eq!(sum("thalweg_broker_fenced", "service", "broker"), 0.0);
}

/// Everything but what speaks for the whole process says which service of which node it is of.
fn wanted_of_service(labels: &BTreeSet<String>) -> BTreeSet<String> {
    labels.iter().cloned().chain(["service", "node"].map(str::to_owned)).collect()
}

fn scrape_all(cluster: &Cluster) -> BTreeMap<String, Vec<Family>> {
    assert_eq!(cluster.metrics().len(), 4);
    let mut all: BTreeMap<String, Vec<Family>> = BTreeMap::new();
    for (server, address) in cluster.metrics() {
        let families = parse(&get(address)).unwrap_or_else(|wrong| panic!("{server}: {wrong}"));
        for (name, family) in families {
            all.entry(name).or_default().push(family);
        }
    }
    all
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    body.to_owned()
}

/// The tables of `docs/METRICS.md`.
fn listed() -> BTreeMap<String, Listed> {
    let page = include_str!("../../docs/METRICS.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeMap<String, Listed> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            let labels = cells[2].split(", ").map(|label| label.trim_matches('`').to_owned());
            let labels = labels.filter(|label| !label.is_empty()).collect();
            (cells[0].trim_end_matches('`').to_owned(), (cells[1].to_owned(), labels))
        })
        .collect();
    assert!(listed.len() > 50, "{}", listed.len());
    listed
}
