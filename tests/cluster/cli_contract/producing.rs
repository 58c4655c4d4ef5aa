//! `thalweg produce`: files, standard input, partitions, headers, acks.

use crate::harness::{Dev, consumed, dump_format};

fn values(dev: &Dev, topic: &str) -> Vec<Vec<u8>> {
    let args = ["consume", topic, "--from-beginning", "--timeout-ms", "1000", "-f", dump_format()];
    consumed(&dev.cli(&args).run().ok().stdout).into_iter().map(|record| record.sent.value).collect()
}

#[test]
fn only_the_final_newline_is_cut() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t"]).run().ok();
    dev.cli(&["produce", "t"]).input(*b"\r\n\n \xff\xfe\0\r\r\nlast").run().ok();
    assert_eq!(values(&dev, "t"), [&b"\r"[..], b"", b" \xff\xfe\0\r\r", b"last"]);
    let nothing = dev.cli(&["produce", "t", "-o", "json"]).input("").run().ok();
    assert!(nothing.stdout.is_empty(), "no line, no record");
}

#[test]
fn files_and_standard_input_go_in_order() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t"]).run().ok();
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    std::fs::write(&one, "1\n2").unwrap();
    std::fs::write(&two, "5\n6\n").unwrap();
    let produce = dev
        .cli(&["produce", "t", "-o", "json"])
        .args([one.as_path(), "-".as_ref(), two.as_path()])
        .input("3\n4\n");
    let acks = produce.run().ok().text();
    let expected: String =
        (0..6).map(|offset| format!("{{\"partition\":0,\"offset\":{offset}}}\n")).collect();
    assert_eq!(acks, expected);
    assert_eq!(values(&dev, "t"), [b"1", b"2", b"3", b"4", b"5", b"6"]);
    dev.cli(&["produce", "t", "no-such-file"]).run().refused(&["no-such-file"]);
    dev.cli(&["produce", "t"]).args([folder.path()]).run().refused(&["folder"]);
    assert_eq!(values(&dev, "t").len(), 6, "nothing is sent when an input is not there");
}

#[test]
fn keys_partitions_and_headers_are_kept() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t", "--partitions", "3"]).run().ok();
    let headers = ["--header", "from=test", "--header", "from=twice", "--header", "empty="];
    let args = ["produce", "t", "--partition", "1", "--key-separator", ":"];
    dev.cli(&args).args(headers).input("k:v:w\n:no key text\nno separator\n").run().ok();
    let args = ["consume", "t", "--partition", "1", "--from-beginning", "--max-records", "3"];
    let output = dev.cli(&args).args(["-f", "%p/%o %K:%k %S:%s %h\\n"]).run().ok();
    assert_eq!(
        output.text(),
        "1/0 1:k 3:v:w from=test,from=twice,empty=\n\
         1/1 0: 11:no key text from=test,from=twice,empty=\n\
         1/2 -1: 12:no separator from=test,from=twice,empty=\n"
    );
}

#[test]
fn every_acks_setting_writes_and_acks_0_knows_no_offset() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "t"]).run().ok();
    for acks in ["1", "all"] {
        let output = dev.cli(&["produce", "t", "--acks", acks, "-o", "json"]).input("x\n").run().ok();
        assert!(output.text().starts_with("{\"partition\":0,\"offset\":"), "acks={acks}: {}", output.text());
    }
    dev.cli(&["produce", "t", "--acks", "0"]).input("x\n").run().ok();
    assert_eq!(values(&dev, "t").len(), 3);
}

#[test]
fn refusals_are_exit_1_and_say_what_to_do() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "small", "--config", "max.message.bytes=1000"]).run().ok();
    dev.cli(&["produce", "none"]).input("x\n").run().refused(&[
        "none",
        "hint: ",
        "thalweg topic create none",
    ]);
    dev.cli(&["produce", "small", "--partition", "9"])
        .input("x\n")
        .run()
        .refused(&["9", "topic describe small"]);
    dev.cli(&["produce", "small", "--partition", "-2"]).input("x\n").run().refused(&["-2"]);
    let large = "y".repeat(5000);
    let output = dev.cli(&["produce", "small", "-o", "json"]).input(format!("{large}\n")).run();
    output.refused(&["hint: ", "max.message.bytes", "thalweg topic alter small"]);
    assert!(values(&dev, "small").is_empty());
    dev.cli(&["produce", "small"]).input("fits\n").run().ok();
    assert_eq!(values(&dev, "small"), [b"fits"]);
}
