//! `__consumer_offsets` is the system's own: it is read only by those who say so, and written by nobody else.

use crate::harness::{Api, Dev};
use serde_json::Value;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;

const INTERNAL: &str = "__consumer_offsets";

fn with_a_group() -> Dev {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t"]).run().ok();
    dev.cli(&["produce", "t"]).input("a\nb\nc\n").run().ok();
    let consume = ["consume", "t", "--group", "g", "--from-beginning", "--max-records", "3"];
    dev.cli(&consume).run().ok();
    dev
}

#[test]
fn what_groups_committed_is_decoded_for_those_who_ask() {
    let dev = with_a_group();
    let plain = dev.cli(&["consume", INTERNAL, "--from-beginning"]).run();
    plain.refused(&["topic of the system", "hint: ", "--include-internal", "--formatter offsets"]);
    let consume = ["consume", INTERNAL, "--include-internal", "--formatter", "offsets", "--from-beginning"];
    let text = dev.cli(&consume).args(["--timeout-ms", "2000"]).run().ok().text();
    let committed = |line: &&str| {
        let has = |field| line.split('\t').any(|found| found == field);
        has("Kind: offset") && has("Group: g") && has("Topic: t") && has("Partition: 0") && has("Offset: 3")
    };
    assert!(text.lines().any(|line| committed(&line)), "{text}");
    let json = dev.cli(&consume).args(["--timeout-ms", "2000", "-o", "json"]).run().ok().text();
    let records: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |kind: &str| records.iter().filter(|record| record["kind"] == kind && record["group"] == "g").count();
    assert!(of("offset") > 0 && of("group") > 0 && of("member") > 0, "{json}");
    assert!(records.iter().all(|record| record["error"].is_null()), "all of it is understood: {json}");
    let wrong = dev.cli(&["consume", "t", "--formatter", "offsets", "--from-beginning"]).run();
    wrong.misused(&["--formatter offsets", INTERNAL]);
}

#[test]
fn nobody_else_lists_writes_makes_or_deletes_it() {
    let dev = with_a_group();
    assert_eq!(dev.cli(&["topic", "list"]).run().ok().text(), "t\n");
    let described = dev.cli(&["cluster", "describe"]).run().ok().text();
    assert!(described.contains("Coordinator: "), "{described}");
    dev.cli(&["produce", INTERNAL]).input("x\n").run().refused(&[INTERNAL]);
    dev.cli(&["topic", "delete", INTERNAL]).run().refused(&[INTERNAL]);
    dev.cli(&["topic", "create", INTERNAL]).run().refused(&[INTERNAL]);
    dev.cli(&["group", "describe", "g"]).run().ok();
    let topic = dev.cli(&["topic", "describe", INTERNAL]).run().ok().text();
    assert!(topic.contains("cleanup.policy=compact"), "{topic}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_from_outside_is_refused_by_name() {
    let dev = with_a_group();
    let api = Api::connect(&dev).await;
    let written = api.produce_values(INTERNAL, 0, &["not for you"]).await;
    let code = match written {
        Err(status) => ApiError::from_status(&status).map(|error| error.code),
        Ok(result) => {
            let error = result.error.expect("it is refused");
            ErrorCode::ALL.iter().copied().find(|code| *code as i32 == error.code)
        }
    };
    assert_eq!(code, Some(ErrorCode::PolicyViolation));
}
