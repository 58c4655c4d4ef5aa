//! `thalweg topic`: create, list, describe, alter, delete.

use crate::harness::Dev;

#[test]
fn a_topic_is_created_described_altered_and_deleted() {
    let dev = Dev::start();
    assert_eq!(dev.cli(&["topic", "list"]).run().ok().text(), "");
    let create = ["topic", "create", "first", "--partitions", "2", "--replication-factor", "1"];
    let created = dev.cli(&create).args(["--config", "segment.bytes=1073741824"]).run().ok().text();
    assert_eq!(created, "created topic first with 2 partitions\n");
    dev.cli(&["topic", "create", "another"]).run().ok();
    assert_eq!(dev.cli(&["topic", "list"]).run().ok().text(), "another\nfirst\n");

    let first = "Topic: first\tPartitionCount: 2\tReplicationFactor: 1\tConfigs: segment.bytes=1073741824\n\
                 \tTopic: first\tPartition: 0\tLeader: 0\tReplicas: 0\tIsr: 0\n\
                 \tTopic: first\tPartition: 1\tLeader: 0\tReplicas: 0\tIsr: 0\n";
    let another = "Topic: another\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: \n\
                   \tTopic: another\tPartition: 0\tLeader: 0\tReplicas: 0\tIsr: 0\n";
    assert_eq!(dev.cli(&["topic", "describe", "first"]).run().ok().text(), first);
    assert_eq!(dev.cli(&["topic", "describe"]).run().ok().text(), format!("{another}{first}"));

    let alter =
        ["topic", "alter", "first", "--config", "retention.ms=3600000", "--config", "write.caching=true"];
    dev.cli(&alter).run().ok();
    let described = dev.cli(&["topic", "describe", "first"]).run().ok().text();
    let configs = "Configs: retention.ms=3600000,segment.bytes=1073741824,write.caching=true\n";
    assert!(described.contains(configs), "{described}");
    dev.cli(&["topic", "alter", "first", "--delete-config", "retention.ms", "--partitions", "4"]).run().ok();
    let described = dev.cli(&["topic", "describe", "first"]).run().ok().text();
    assert!(described.starts_with("Topic: first\tPartitionCount: 4\t"), "{described}");
    assert!(!described.contains("retention.ms"), "{described}");
    assert!(
        described.ends_with("\tTopic: first\tPartition: 3\tLeader: 0\tReplicas: 0\tIsr: 0\n"),
        "{described}"
    );

    dev.cli(&["produce", "first", "--partition", "3"]).input("into the new one\n").run().ok();
    dev.cli(&["topic", "delete", "first"]).run().ok();
    assert_eq!(dev.cli(&["topic", "list"]).run().ok().text(), "another\n");
    dev.cli(&["topic", "describe", "first"]).run().refused(&["first", "hint: "]);

    // The name is free again, and nothing of the old one shows.
    dev.cli(&create).run().ok();
    let args = ["consume", "first", "--from-beginning", "--timeout-ms", "500"];
    assert_eq!(dev.cli(&args).run().ok().text(), "");
}

#[test]
fn what_is_refused_is_exit_1_with_the_reason_and_what_to_do() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t", "--partitions", "3"]).run().ok();
    let cases: [(&[&str], &[&str]); 14] = [
        (&["topic", "create", "t"], &["TOPIC_ALREADY_EXISTS", "hint: ", "thalweg topic describe t"]),
        (&["topic", "create", "a/b"], &["INVALID_TOPIC_NAME", "a-z"]),
        (&["topic", "create", ".."], &["INVALID_TOPIC_NAME"]),
        (&["topic", "create", "n", "--partitions", "0"], &["INVALID_PARTITIONS"]),
        (&["topic", "create", "n", "--partitions", "-3"], &["INVALID_PARTITIONS"]),
        (&["topic", "create", "n", "--partitions", "2000000000"], &["INVALID_PARTITIONS"]),
        (&["topic", "create", "n", "--replication-factor", "2"], &["INVALID_REPLICATION_FACTOR"]),
        (
            &["topic", "create", "n", "--config", "retention.sm=1"],
            &["INVALID_CONFIG", "retention.sm", "retention.ms"],
        ),
        (
            &["topic", "create", "n", "--config", "retention.ms=soon"],
            &["INVALID_CONFIG", "retention.ms", "soon"],
        ),
        (&["topic", "alter", "t", "--config", "segment.bytes=1"], &["INVALID_CONFIG", "segment.bytes"]),
        (&["topic", "alter", "t", "--partitions", "2"], &["INVALID_PARTITIONS"]),
        (&["topic", "alter", "none", "--partitions", "2"], &["UNKNOWN_TOPIC", "thalweg topic create none"]),
        (&["topic", "delete", "none"], &["UNKNOWN_TOPIC"]),
        (&["topic", "describe", "none"], &["UNKNOWN_TOPIC", "hint: "]),
    ];
    for (args, words) in cases {
        let output = dev.cli(args).run().refused(words);
        assert!(output.stderr.starts_with("error: "), "{args:?}: {}", output.stderr);
        assert!(output.stdout.is_empty(), "{args:?}: an error is no result");
    }
    assert_eq!(dev.cli(&["topic", "list"]).run().ok().text(), "t\n");
}

#[test]
fn json_says_the_same() {
    let dev = Dev::start();
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&dev.cli(args).args(["-o", "json"]).run().ok().stdout).unwrap()
    };
    let created = json(&["topic", "create", "t", "--partitions", "2", "--config", "retention.ms=1000"]);
    assert_eq!((&created["name"], &created["configs"]["retention.ms"]), (&"t".into(), &"1000".into()));
    let listed = json(&["topic", "list"]);
    assert_eq!((&listed[0]["name"], &listed[0]["partitions"]), (&"t".into(), &2.into()));
    let described = json(&["topic", "describe", "t"]);
    assert_eq!(described["partitions"][1]["leader"], 0);
    assert_eq!(described["partitions"][1]["isr"], serde_json::json!([0]));
    let configs = json(&["topic", "describe", "t", "--all-configs"]);
    let retention = configs.as_array().unwrap().iter().find(|key| key["name"] == "retention.ms").unwrap();
    assert_eq!((&retention["value"], &retention["overridden"]), (&"1000".into(), &true.into()));
    assert_eq!(json(&["topic", "describe"]).as_array().unwrap().len(), 1);
    assert_eq!(json(&["topic", "delete", "t"])["deleted"], true);
}
