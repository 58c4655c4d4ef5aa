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
