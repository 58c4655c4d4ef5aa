//! `thalweg group` and `thalweg consume --group`: what they print, and what they refuse.

use crate::harness::{Cli, Dev, Live, Member, await_group, await_sizes, group_json};
use rustix::process::Signal;
use serde_json::{Value, json};

const TOPIC: &str = "t";
const GROUP: &str = "billing";

/// Two partitions with ten records each, which a group has read.
fn read_once() -> (Dev, String) {
    let dev = Dev::start();
    let bootstrap = dev.addr().to_string();
    dev.cli(&["topic", "create", TOPIC, "--partitions", "2"]).run().ok();
    for partition in ["0", "1"] {
        let lines: String = (0..10).map(|n| format!("{partition}.{n}\n")).collect();
        dev.cli(&["produce", TOPIC, "--partition", partition]).input(lines).run().ok();
    }
    assert_eq!(read(&dev, &["--max-records", "20"]), 20);
    (dev, bootstrap)
}

/// How many lines the group still gets.
fn read(dev: &Dev, more: &[&str]) -> usize {
    let consume = ["consume", TOPIC, "--group", GROUP, "--auto-offset-reset", "earliest"];
    let output = dev.cli(&consume).args(["--timeout-ms", "3000"]).args(more).run().ok();
    output.text().lines().count()
}

fn offsets(bootstrap: &str) -> Vec<Option<i64>> {
    let group = group_json(bootstrap, GROUP).unwrap();
    let partitions = group["partitions"].as_array().unwrap().iter();
    partitions.map(|partition| partition["current_offset"].as_i64()).collect()
}

#[test]
fn groups_are_listed_and_described() {
    let (dev, bootstrap) = read_once();
    assert_eq!(dev.cli(&["group", "list"]).run().ok().text(), "GROUP    STATE  MEMBERS\nbilling  empty  0\n");
    let listed: Value =
        serde_json::from_slice(&dev.cli(&["group", "list", "-o", "json"]).run().ok().stdout).unwrap();
    assert_eq!(listed, json!([{"group": GROUP, "state": "empty", "members": 0}]));
    let none = dev.cli(&["group", "list", "--state", "stable"]).run().ok().text();
    assert_eq!(none.lines().count(), 1, "{none}");

    dev.cli(&["produce", TOPIC, "--partition", "1"]).input("one more\n").run().ok();
    let member = Member::start(&bootstrap, TOPIC, "other", &["--member-id", "m", "--instance-id", "w"]);
    let other = await_sizes(&bootstrap, "other", &[2]);
    assert_eq!((&other["members"][0]["id"], &other["members"][0]["instance"]), (&json!("m"), &json!("w")));
    assert_eq!(other["members"][0]["topics"], json!([TOPIC]));
    assert_eq!(other["members"][0]["host"], "127.0.0.1");
    drop(member);
    let described = group_json(&bootstrap, GROUP).unwrap();
    assert_eq!((&described["state"], &described["lag"]), (&json!("empty"), &json!(1)), "{described}");
    let second = &described["partitions"][1];
    assert_eq!((&second["topic"], &second["partition"]), (&json!(TOPIC), &json!(1)));
    assert_eq!(
        (&second["current_offset"], &second["log_end_offset"], &second["lag"]),
        (&json!(10), &json!(11), &json!(1))
    );
    let text = dev.cli(&["group", "describe", GROUP]).run().ok().text();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec![TOPIC, "0", "10", "10", "0", "-", "-"]), "{text}");
    assert!(rows.contains(&vec![TOPIC, "1", "10", "11", "1", "-", "-"]), "{text}");
    assert!(text.starts_with("Group: billing\tState: empty\tMembers: 0\t"), "{text}");
}

#[test]
fn offsets_are_moved_only_when_that_is_said() {
    let (dev, bootstrap) = read_once();
    let reset = |args: &[&str]| {
        dev.cli(&["group", "reset-offsets", GROUP, "-o", "json"]).args(args).run().ok().text()
    };
    let after = |text: &str| -> Vec<i64> {
        let answer: Value = serde_json::from_str(text).unwrap();
        answer["partitions"].as_array().unwrap().iter().map(|one| one["after"].as_i64().unwrap()).collect()
    };
    assert_eq!(after(&reset(&["--to-earliest"])), [0, 0]);
    assert_eq!(offsets(&bootstrap), [Some(10), Some(10)], "it was only shown");
    let shown = dev.cli(&["group", "reset-offsets", GROUP, "--to-earliest"]).run().ok().text();
    assert!(shown.contains("WOULD-BE") && shown.contains("--execute"), "{shown}");

    assert_eq!(after(&reset(&["--to-earliest", "--execute"])), [0, 0]);
    assert_eq!(offsets(&bootstrap), [Some(0), Some(0)]);
    assert_eq!(read(&dev, &["--max-records", "20"]), 20);
    assert_eq!(after(&reset(&["--shift-by", "-3", "--topic", "t:1", "--execute"])), [7]);
    assert_eq!(offsets(&bootstrap), [Some(10), Some(7)]);
    assert_eq!(read(&dev, &[]), 3);
    assert_eq!(after(&reset(&["--to-offset", "100", "--execute"])), [10, 10], "no further than the end");
    assert_eq!(after(&reset(&["--to-offset", "4", "--topic", "t", "--execute"])), [4, 4]);
    assert_eq!(after(&reset(&["--to-latest"])), [10, 10]);
    assert_eq!(after(&reset(&["--by-duration", "1h"])), [0, 0]);
    assert_eq!(after(&reset(&["--to-time", "-1h"])), [0, 0]);
    assert_eq!(after(&reset(&["--to-time", "2100-01-01T00:00:00Z"])), [10, 10]);
    assert_eq!(offsets(&bootstrap), [Some(4), Some(4)]);
    // A group that has committed nothing can be placed where it shall begin.
    let ahead = ["group", "reset-offsets", "to-come", "--to-offset", "8", "--topic", "t:0", "--execute"];
    dev.cli(&ahead).run().ok();
    let consume = ["consume", TOPIC, "--group", "to-come", "--max-records", "2"];
    assert_eq!(dev.cli(&consume).run().ok().text(), "0.8\n0.9\n");
}

#[test]
fn groups_and_offsets_are_forgotten() {
    let (dev, bootstrap) = read_once();
    let text = dev.cli(&["group", "delete-offsets", GROUP, "--topic", "t:1"]).run().ok().text();
    assert_eq!(text, "billing forgot its offset of t-1\n");
    let left = group_json(&bootstrap, GROUP).unwrap();
    let known: Vec<i64> = left["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["current_offset"].is_number())
        .map(|one| one["partition"].as_i64().unwrap())
        .collect();
    assert_eq!(known, [0], "{left}");
    assert_eq!(read(&dev, &[]), 10, "what was forgotten is read again");
    assert_eq!(dev.cli(&["group", "delete", GROUP]).run().ok().text(), "deleted group billing\n");
    assert_eq!(dev.cli(&["group", "list"]).run().ok().text().lines().count(), 1);
    dev.cli(&["group", "describe", GROUP]).run().refused(&["billing", "hint: ", "thalweg group list"]);
    dev.cli(&["group", "delete", GROUP]).run().refused(&["billing", "hint: ", "thalweg group list"]);
    let reset = ["group", "reset-offsets", GROUP, "--to-earliest"];
    dev.cli(&reset).run().refused(&["hint: ", "thalweg group list"]);
    let unknown = ["group", "reset-offsets", GROUP, "--to-earliest", "--topic", "nowhere", "--execute"];
    dev.cli(&unknown).run().refused(&["nowhere"]);
}

#[test]
fn a_group_with_members_is_left_alone() {
    let (dev, bootstrap) = read_once();
    let mut member = Member::start(&bootstrap, TOPIC, GROUP, &[]);
    await_sizes(&bootstrap, GROUP, &[2]);
    let commands: [&[&str]; 3] = [
        &["group", "reset-offsets", GROUP, "--to-earliest", "--execute"],
        &["group", "delete", GROUP],
        &["group", "delete-offsets", GROUP, "--topic", TOPIC],
    ];
    for command in commands {
        dev.cli(command).run().refused(&["hint: ", "stop its consumers", "thalweg group describe billing"]);
    }
    assert_eq!(offsets(&bootstrap), [Some(10), Some(10)]);
    member.leave();
    await_group(&bootstrap, GROUP, "empty", |group| group["state"] == "empty");
    dev.cli(&["group", "delete", GROUP]).run().ok();
}

#[test]
fn a_member_commits_what_is_out_and_leaves_when_it_is_told() {
    let dev = Dev::start();
    let bootstrap = dev.addr().to_string();
    dev.cli(&["topic", "create", TOPIC]).run().ok();
    let lines: String = (0..30).map(|n| format!("line {n}\n")).collect();
    dev.cli(&["produce", TOPIC]).input(lines).run().ok();
    assert_eq!(read(&dev, &["--max-records", "7"]), 7);
    assert_eq!(offsets(&bootstrap), [Some(7)], "what was printed, and nothing else");
    for signal in [Signal::INT, Signal::TERM] {
        let args = ["consume", TOPIC, "--group", GROUP, "--bootstrap", &bootstrap];
        let mut member = Live::start(&args);
        await_sizes(&bootstrap, GROUP, &[1]);
        if signal == Signal::INT {
            assert_eq!(member.line(), b"line 7");
        }
        member.signal(signal);
        assert!(member.wait().success(), "{}", member.stderr_text());
        let group = await_group(&bootstrap, GROUP, "empty", |group| group["state"] == "empty");
        assert_eq!(group["lag"], 0, "what was printed is committed on the way out");
    }

    // Nobody reads what it prints: it ends without a word of its own, and commits nothing that nobody saw.
    dev.cli(&["group", "reset-offsets", GROUP, "--to-earliest", "--execute"]).run().ok();
    let consume = ["consume", TOPIC, "--group", GROUP, "--bootstrap", &bootstrap];
    let mut member = Live::start(&consume);
    member.close_stdout();
    for _ in 0..200 {
        dev.cli(&["produce", TOPIC]).input("more\n").run().ok();
        if !member.is_running() {
            break;
        }
    }
    member.wait();
    assert!(!member.stderr_text().contains("error"), "as `head` expects: {}", member.stderr_text());
    await_group(&bootstrap, GROUP, "empty", |group| group["state"] == "empty");
}

#[test]
fn a_second_member_takes_its_share_of_a_running_one() {
    let dev = Dev::start();
    let bootstrap = dev.addr().to_string();
    dev.cli(&["topic", "create", TOPIC, "--partitions", "4"]).run().ok();
    let first = Member::start(&bootstrap, TOPIC, GROUP, &["--assignor", "range"]);
    await_sizes(&bootstrap, GROUP, &[4]);
    let mut second = Member::start(&bootstrap, TOPIC, GROUP, &["--assignor", "range"]);
    let shared = await_sizes(&bootstrap, GROUP, &[2, 2]);
    assert_eq!(shared["assignor"], "range");
    assert!(first.has_noted("assigned") && first.has_noted("revoked"), "{:?}", first.notes());
    second.leave();
    await_sizes(&bootstrap, GROUP, &[4]);
}

#[test]
fn bad_usage_is_exit_2_and_names_what_is_wrong() {
    let cases: [(&[&str], &[&str]); 12] = [
        (&["group"], &["Usage:"]),
        (&["group", "describe"], &["GROUP"]),
        (&["group", "list", "--state", "merry"], &["merry", "stable"]),
        (&["group", "reset-offsets", "g"], &["--to-earliest", "--shift-by"]),
        (&["group", "reset-offsets", "g", "--to-earliest", "--to-latest"], &["--to-earliest", "--to-latest"]),
        (&["group", "reset-offsets", "g", "--to-offset", "-1"], &["--to-offset"]),
        (&["group", "reset-offsets", "g", "--to-earliest", "--topic", "t:x"], &["t:x", "events:0,3"]),
        (&["group", "delete-offsets", "g"], &["--topic"]),
        (&["consume", "t", "--instance-id", "i"], &["--group"]),
        (&["consume", "--group", "g"], &["TOPIC"]),
        (&["consume", "t", "--pattern", "x", "--group", "g"], &["--pattern"]),
        (&["consume", "t", "--group", "g", "--auto-offset-reset", "middle"], &["middle", "earliest"]),
    ];
    for (args, words) in cases {
        Cli::new(args).run().misused(words);
    }
    let dev = Dev::start();
    dev.cli(&["topic", "create", TOPIC]).run().ok();
    for start in [&["--offset", "1"][..], &["--time", "-1h"], &["--partition", "0"]] {
        dev.cli(&["consume", TOPIC, "--group", GROUP]).args(start).run().misused(&[start[0], "--group"]);
    }
    dev.cli(&["consume", TOPIC, "--group", GROUP, "--assignor", "fair"]).run().misused(&["assignor"]);
    dev.cli(&["consume", "--pattern", "(", "--group", GROUP]).run().refused(&["regex"]);
    let none = ["consume", TOPIC, "--group", GROUP, "--auto-offset-reset", "none", "--timeout-ms", "20000"];
    dev.cli(&none).run().refused(&["hint: ", "reset-offsets"]);
}

#[test]
fn several_topics_can_be_read_at_once() {
    let dev = Dev::start();
    for topic in ["a", "b"] {
        dev.cli(&["topic", "create", topic]).run().ok();
        dev.cli(&["produce", topic]).input(format!("of {topic}\n")).run().ok();
    }
    let alone = dev.cli(&["consume", "a", "b", "--from-beginning", "--max-records", "2"]).run().ok().text();
    let mut alone: Vec<&str> = alone.lines().collect();
    alone.sort_unstable();
    assert_eq!(alone, ["of a", "of b"]);
    let consume =
        ["consume", "a", "b", "--group", GROUP, "--from-beginning", "--max-records", "2", "-o", "json"];
    let text = dev.cli(&consume).run().ok().text();
    let mut topics: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["topic"].as_str().unwrap().to_owned())
        .collect();
    topics.sort_unstable();
    assert_eq!(topics, ["a", "b"]);
}
