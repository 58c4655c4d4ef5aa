//! Every flag is an environment variable too, and the flag wins.

use crate::harness::{Cli, Dev};

#[test]
fn flags_come_from_the_environment() {
    let dev = Dev::start();
    let addr = dev.addr().to_string();
    let run = |args: &[&str], vars: &[(&str, &str)], input: &str| {
        let cli = Cli::new(args).env("THALWEG_BOOTSTRAP", &addr).input(input);
        vars.iter().fold(cli, |cli, (name, value)| cli.env(name, value)).run()
    };
    let vars = [("THALWEG_PARTITIONS", "3"), ("THALWEG_CONFIG", "retention.ms=1000")];
    run(&["topic", "create", "t"], &vars, "").ok();
    let described = run(&["topic", "describe", "t"], &[], "").ok().text();
    assert!(described.starts_with("Topic: t\tPartitionCount: 3\t"), "{described}");
    assert!(described.contains("Configs: retention.ms=1000\n"), "{described}");

    let vars = [
        ("THALWEG_PARTITION", "2"),
        ("THALWEG_KEY_SEPARATOR", "::"),
        ("THALWEG_HEADER", "type=text/html; charset=utf-8"),
        ("THALWEG_COMPRESSION", "zstd"),
        ("THALWEG_ACKS", "1"),
        ("THALWEG_OUTPUT", "json"),
    ];
    assert_eq!(run(&["produce", "t"], &vars, "k::v\n").ok().text(), "{\"partition\":2,\"offset\":0}\n");
    let vars = [
        ("THALWEG_FROM_BEGINNING", "true"),
        ("THALWEG_MAX_RECORDS", "1"),
        ("THALWEG_FORMAT", "%p|%k|%s|%h\\n"),
    ];
    assert_eq!(
        run(&["consume", "t"], &vars, "").ok().text(),
        "2|k|v|type=text/html; charset=utf-8\n",
        "one pair, whole"
    );

    let output = run(&["topic", "list", "-o", "text"], &[("THALWEG_OUTPUT", "json")], "").ok();
    assert_eq!(output.text(), "t\n", "the flag wins");
    run(&["produce", "t"], &[("THALWEG_ACKS", "7")], "").misused(&["--acks"]);
}
