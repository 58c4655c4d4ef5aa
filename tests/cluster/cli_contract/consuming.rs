//! `thalweg consume`: where to begin, when to stop, how to print.

use crate::harness::{Dev, Live};
use base64::Engine;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn ten_lines(dev: &Dev) {
    dev.cli(&["topic", "create", "t"]).run().ok();
    let lines: String = (0..10).map(|n| format!("line {n}\n")).collect();
    dev.cli(&["produce", "t"]).input(lines).run().ok();
}

#[test]
fn reading_begins_and_stops_where_it_is_told() {
    let dev = Dev::start();
    ten_lines(&dev);
    let consume =
        |args: &[&str]| dev.cli(&["consume", "t", "--timeout-ms", "1500"]).args(args).run().ok().text();
    let lines = |range: std::ops::Range<i32>| range.map(|n| format!("line {n}\n")).collect::<String>();
    assert_eq!(consume(&["--from-beginning"]), lines(0..10));
    assert_eq!(consume(&["--offset", "7"]), lines(7..10));
    assert_eq!(consume(&["--offset", "3", "--max-records", "2"]), lines(3..5));
    assert_eq!(consume(&["--from-beginning", "--max-records", "0"]), "");
    assert_eq!(consume(&["--partition", "0", "--offset", "10"]), "", "the end is a valid place to begin");
    assert_eq!(consume(&[]), "", "without a place to begin it is the end");
    assert_eq!(consume(&["--time", "-1h"]), lines(0..10));
    assert_eq!(consume(&["--time", "1970-01-01T00:00:00Z", "--max-records", "1"]), lines(0..1));
    let later = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3600);
    assert_eq!(consume(&["--time", &later.as_millis().to_string()]), "", "no record is that young");
}

#[test]
fn a_time_finds_the_first_record_not_older() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t"]).run().ok();
    dev.cli(&["produce", "t"]).input("old\n").run().ok();
    std::thread::sleep(Duration::from_millis(20));
    let between = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().to_string();
    std::thread::sleep(Duration::from_millis(20));
    dev.cli(&["produce", "t"]).input("new\nnewer\n").run().ok();
    let output = dev.cli(&["consume", "t", "--time", &between, "--max-records", "2"]).run().ok();
    assert_eq!(output.text(), "new\nnewer\n");
}

#[test]
fn without_a_beginning_only_what_comes_is_read() {
    let dev = Dev::start();
    ten_lines(&dev);
    let bootstrap = dev.addr().to_string();
    let mut consumer = Live::start(&["consume", "t", "--bootstrap", &bootstrap]);
    // When it stands at the end cannot be seen from outside: write until it reads.
    let first = (0..200).find_map(|n| {
        dev.cli(&["produce", "t"]).input(format!("fresh {n}\n")).run().ok();
        consumer.line_within(Duration::from_millis(200))
    });
    let first = String::from_utf8(first.expect("it reads what comes")).unwrap();
    assert!(first.starts_with("fresh "), "{first}");
    consumer.signal(rustix::process::Signal::INT);
    assert!(consumer.wait().success(), "Ctrl-C is how it ends: {}", consumer.stderr_text());
}

#[test]
fn formats_are_kcats() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t"]).run().ok();
    let produce = ["produce", "t", "--key-separator", "=", "--header", "h=1"];
    dev.cli(&produce).input("k=v\nalone\n").run().ok();
    let consume = |format: &str| {
        let args = ["consume", "t", "--from-beginning", "--max-records", "2", "-f", format];
        dev.cli(&args).run().ok().text()
    };
    assert_eq!(
        consume("%t/%p@%o %k=%s [%h] %K+%S %%\\x21\\t|\\n"),
        "t/0@0 k=v [h=1] 1+1 %!\t|\nt/0@1 =alone [h=1] -1+5 %!\t|\n"
    );
    let times = consume("%T\\n");
    for time in times.lines() {
        let millis: i64 = time.parse().unwrap();
        assert!(millis > 1_600_000_000_000, "milliseconds since 1970: {time}");
    }
    assert_eq!(times.lines().count(), 2);
}

#[test]
fn json_keeps_every_byte() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t"]).run().ok();
    let produce = ["produce", "t", "--key-separator", ":", "--header", "h=grün"];
    dev.cli(&produce).input(*b"k:tab\t\r\n\xff\xfe:\x00\xc3\nalone\n").run().ok();
    let args = ["consume", "t", "--from-beginning", "--max-records", "3", "-o", "json"];
    let text = dev.cli(&args).run().ok().text();
    let records: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 3, "one object a line:\n{text}");
    let base64 = |bytes: &[u8]| serde_json::json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) });
    assert_eq!((&records[0]["key"], &records[0]["value"]), (&"k".into(), &"tab\t\r".into()));
    assert_eq!(records[0]["headers"], serde_json::json!([{ "key": "h", "value": "grün" }]));
    assert_eq!((&records[1]["key"], &records[1]["value"]), (&base64(b"\xff\xfe"), &base64(b"\x00\xc3")));
    assert_eq!((&records[2]["key"], &records[2]["value"]), (&serde_json::Value::Null, &"alone".into()));
    for (offset, record) in records.iter().enumerate() {
        assert_eq!((&record["partition"], &record["offset"]), (&0.into(), &offset.into()));
        assert!(record["timestamp"].as_i64().unwrap() > 1_600_000_000_000);
    }
}

#[test]
fn refusals_are_exit_1_and_say_what_to_do() {
    let dev = Dev::start();
    ten_lines(&dev);
    dev.cli(&["consume", "none"]).run().refused(&["none", "hint: ", "thalweg topic create none"]);
    dev.cli(&["consume", "t", "--partition", "4"]).run().refused(&["4", "hint: ", "topic describe t"]);
    let beyond = dev.cli(&["consume", "t", "--offset", "11", "--timeout-ms", "20000"]).run();
    beyond.refused(&["11", "0", "10"]);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let dev = Dev::start();
    ten_lines(&dev);
    let bootstrap = dev.addr().to_string();
    let mut consumer = Live::start(&["consume", "t", "--from-beginning", "--bootstrap", &bootstrap]);
    assert_eq!(consumer.line(), b"line 0");
    consumer.close_stdout();
    // It notices when it writes again.
    for _ in 0..200 {
        dev.cli(&["produce", "t"]).input("more\n").run().ok();
        if !consumer.is_running() {
            break;
        }
    }
    consumer.wait();
    assert_eq!(consumer.stderr_text(), "", "as `head` expects");
}
