//! Help, exit codes, and errors that say what to do.

use crate::harness::{Cli, Dev};
use std::net::TcpListener;

#[test]
fn every_command_has_help_and_those_with_arguments_have_examples() {
    let top = Cli::new(&["--help"]).run().ok().text();
    for command in [
        "dev",
        "controller",
        "broker",
        "coordinator",
        "operator",
        "topic",
        "produce",
        "consume",
        "group",
        "log",
        "cluster",
        "bench",
        "completions",
    ] {
        assert!(top.contains(&format!("\n  {command} ")), "--help lists {command}:\n{top}");
        let help = Cli::new(&[command, "--help"]).run().ok().text();
        assert!(help.contains("Usage:") && help.contains("--bootstrap"), "{command}:\n{help}");
    }
    let with_examples: [&[&str]; 15] = [
        &["--help"],
        &["dev", "--help"],
        &["controller", "--help"],
        &["broker", "--help"],
        &["coordinator", "--help"],
        &["operator", "--help"],
        &["group", "describe", "--help"],
        &["group", "reset-offsets", "--help"],
        &["group", "delete-offsets", "--help"],
        &["produce", "--help"],
        &["consume", "--help"],
        &["topic", "create", "--help"],
        &["topic", "alter", "--help"],
        &["log", "dump", "--help"],
        &["completions", "--help"],
    ];
    for args in with_examples {
        let help = Cli::new(args).run().ok().text();
        assert!(help.contains("Example"), "{args:?}:\n{help}");
    }
    let version = Cli::new(&["--version"]).run().ok().text();
    assert!(version.starts_with("thalweg "), "{version}");
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Cli::new(&["completions", shell]).run().ok().text();
        assert!(script.contains("thalweg") && script.contains("produce"), "{shell}");
    }
}

#[test]
fn bad_usage_is_exit_2_and_names_what_is_wrong() {
    let cases: [(&[&str], &[&str]); 16] = [
        (&[], &["Usage:"]),
        (&["frobnicate"], &["frobnicate"]),
        (&["topic", "list", "--frobnicate"], &["--frobnicate"]),
        (&["produce"], &["TOPIC"]),
        (&["topic", "create"], &["NAME"]),
        (&["topic", "create", "t", "--config", "novalue"], &["novalue", "KEY=VALUE"]),
        (&["topic", "create", "t", "--partitions", "three"], &["three", "--partitions"]),
        (&["produce", "t", "--acks", "2"], &["--acks", "0, 1 or all"]),
        (&["produce", "t", "--compression", "brotli"], &["brotli", "none, gzip, snappy, lz4 or zstd"]),
        (&["produce", "t", "--header", "nothing"], &["--header", "KEY=VALUE"]),
        (&["consume", "t", "--from-beginning", "--offset", "1"], &["--from-beginning", "--offset"]),
        (&["consume", "t", "--offset", "1", "--time", "-1m"], &["--offset", "--time"]),
        (&["consume", "t", "--time", "yesterday"], &["yesterday", "RFC 3339"]),
        (&["consume", "t", "-f", "%q"], &["%q", "%t"]),
        (&["topic", "list", "-o", "yaml"], &["yaml", "json"]),
        (&["dev", "--listen", "nowhere"], &["nowhere", "--listen"]),
    ];
    for (args, words) in cases {
        let output = Cli::new(args).run().misused(words);
        assert!(output.stdout.is_empty(), "{args:?}: an error is no result");
    }
}

#[test]
fn bad_usage_that_only_a_running_command_sees_is_exit_2_too() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t"]).run().ok();
    dev.cli(&["topic", "alter", "t"]).run().misused(&["--config", "--partitions"]);
    dev.cli(&["consume", "t", "--offset", "-5"]).run().misused(&["--offset"]);
    Cli::new(&["dev", "--log-level", "a=b=c", "--data-dir"])
        .args([tempfile::tempdir().unwrap().path().join("data")])
        .run()
        .misused(&["--log-level"]);
}

#[test]
fn a_server_that_is_not_there_is_exit_1_and_the_hint_says_how_to_start_one() {
    // Bound and closed again: nobody listens there.
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let calls: [&[&str]; 6] = [
        &["topic", "list"],
        &["produce", "t"],
        &["consume", "t"],
        &["consume", "t", "--group", "g"],
        &["group", "list"],
        &["cluster", "describe"],
    ];
    std::thread::scope(|scope| {
        for args in calls {
            let addr = &addr;
            scope.spawn(move || {
                let output = Cli::new(args).args(["--bootstrap", addr]).run();
                output.refused(&["error: ", "hint: ", "thalweg dev", "--bootstrap", addr]);
            });
        }
    });
}

#[test]
fn any_bootstrap_server_that_answers_is_enough() {
    let dev = Dev::start();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let both = format!("{gone},{}", dev.addr());
    Cli::new(&["topic", "create", "t", "--bootstrap", &both]).run().ok();
    assert_eq!(Cli::new(&["--bootstrap", &both, "topic", "list"]).run().ok().text(), "t\n");
}
