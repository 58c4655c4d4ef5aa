//! `thalweg bench` gives the figures that it promises. How large they are is not asked here.

use crate::harness::Dev;
use serde_json::Value;

#[test]
fn each_case_gives_its_figures_as_json() {
    let dev = Dev::start();
    let bench = |args: &[&str]| -> Value {
        let output = dev.cli(&["bench"]).args(args).args(["-o", "json"]).run().ok();
        let text = output.text();
        let last = text.lines().last().expect("a line of figures");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    };
    let throughput =
        ["records_per_second", "mb_per_second", "client_cpu_seconds_per_gb", "server_cpu_seconds_per_gb"];
    let latency = ["p50_us", "p99_us", "p99_9_us"];
    let check = |figures: &Value, records: u64, keys: &[&str]| {
        assert_eq!(figures["records"], records, "{figures}");
        for key in keys {
            assert!(figures[*key].as_f64().is_some_and(|figure| figure >= 0.0), "{key}: {figures}");
        }
    };
    let produce =
        ["produce", "--topic", "b", "--partitions", "2", "--record-size", "100", "--records", "5000"];
    dev.cli(&["topic", "create", "b", "--partitions", "2"]).run().ok();
    let produced = bench(&[&produce[..], &["--acks", "1", "--compression", "lz4"]].concat());
    check(&produced, 5000, &[&throughput[..], &latency].concat());
    assert_eq!(produced["bytes"], 500_000);
    let fetched = bench(&["fetch", "--topic", "b", "--records", "5000"]);
    check(&fetched, 5000, &throughput);
    let timed = bench(&["latency", "--records", "50", "--rate", "500"]);
    check(&timed, 50, &latency);
    dev.cli(&["bench", "produce", "--records", "1", "--seconds", "1"])
        .run()
        .misused(&["--records", "--seconds"]);
}

#[test]
fn each_case_of_groups_gives_its_figures_as_json() {
    let dev = Dev::start();
    let bench = |args: &[&str]| -> Value {
        let output = dev.cli(&["bench", "group"]).args(args).args(["-o", "json"]).run().ok();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    };
    let figure = |figures: &Value, key: &str| {
        figures[key].as_f64().unwrap_or_else(|| panic!("{key} is missing: {figures}"))
    };
    let members = bench(&["members", "--members", "12", "--partitions", "12", "--leaves", "2"]);
    assert!(figure(&members, "stable_after_last_join_ms") >= 0.0);
    assert_eq!(figure(&members, "partitions_of_others_that_paused"), 0.0, "{members}");
    assert_eq!(figure(&members, "samples"), 2.0);
    let args =
        ["heartbeats", "--members", "20", "--groups", "4", "--partitions", "4", "--interval-ms", "200"];
    let pid = dev.pid().to_string();
    let beats = bench(&[&args[..], &["--seconds", "1", "--pid", &pid]].concat());
    assert!(figure(&beats, "heartbeats_per_second") > 0.0, "{beats}");
    assert!(figure(&beats, "coordinator_resident_mb") > 1.0, "{beats}");
    let commits = bench(&["commits", "--callers", "4", "--seconds", "0.5"]);
    assert!(figure(&commits, "commits_per_second") > 0.0 && figure(&commits, "p99_us") > 0.0, "{commits}");
    let subscribed = bench(&["subscribe", "--records", "3000", "--record-size", "100"]);
    assert_eq!(figure(&subscribed, "records"), 3000.0, "{subscribed}");
    let consumed = bench(&["consumer", "--records", "3000", "--record-size", "100"]);
    assert!(
        figure(&consumed, "records") >= 3000.0 && figure(&consumed, "ratio_to_fetch") > 0.0,
        "{consumed}"
    );
    let groups = dev.cli(&["group", "list"]).run().ok().text();
    assert_eq!(groups.lines().count(), 1, "the groups of the cases are forgotten: {groups}");
    assert_eq!(dev.cli(&["topic", "list"]).run().ok().text(), "", "and so are their topics");
}
