//! Every flag is an environment variable too, and the flag wins.

use crate::harness::{Cli, Dev, Live};

#[test]
fn flags_come_from_the_environment() {
    let dev = Dev::start();
    let addr = dev.addr().to_string();
    let run = |args: &[&str], vars: &[(&str, &str)], input: &str| {
        let cli = Cli::new(args).env("THALWEG_BOOTSTRAP", &addr).input(input);
        vars.iter().fold(cli, |cli, (name, value)| cli.env(name, value)).run()
    };
    let vars = [("THALWEG_PARTITIONS", "3"), ("THALWEG_CONFIG", "retention.ms=1000;write.caching=true")];
    run(&["topic", "create", "t"], &vars, "").ok();
    let described = run(&["topic", "describe", "t"], &[], "").ok().text();
    assert!(described.starts_with("Topic: t\tPartitionCount: 3\t"), "{described}");
    assert!(described.contains("Configs: retention.ms=1000,write.caching=true\n"), "{described}");

    let vars = [
        ("THALWEG_PARTITION", "2"),
        ("THALWEG_KEY_SEPARATOR", "::"),
        ("THALWEG_HEADER", "a=1;b=2"),
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
    assert_eq!(run(&["consume", "t"], &vars, "").ok().text(), "2|k|v|a=1,b=2\n");

    let output = run(&["topic", "list", "-o", "text"], &[("THALWEG_OUTPUT", "json")], "").ok();
    assert_eq!(output.text(), "t\n", "the flag wins");
    run(&["produce", "t"], &[("THALWEG_ACKS", "7")], "").misused(&["--acks"]);
}

#[test]
fn dev_listens_and_stores_where_the_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("from the environment");
    let vars = [("THALWEG_DATA_DIR", data.to_str().unwrap()), ("THALWEG_LISTEN", "127.0.0.1:0")];
    let mut dev = Live::start_with_env(&["dev"], &vars);
    let ready = String::from_utf8(dev.line()).unwrap();
    let addr = ready.strip_prefix("ready on ").unwrap_or_else(|| panic!("{ready}")).to_owned();
    let next = String::from_utf8(dev.line()).unwrap();
    assert!(next.contains("try"), "the next commands to try: {next}");
    let commands: Vec<String> =
        std::iter::repeat_with(|| String::from_utf8(dev.line()).unwrap()).take(3).collect();
    for (line, command) in commands.iter().zip(["topic create", "produce", "consume"]) {
        assert!(line.contains(command) && line.contains(&addr), "{line}");
    }
    Cli::new(&["topic", "create", "t", "--bootstrap", &addr]).run().ok();
    assert!(data.join("logs").join("t-0").is_dir());

    // Ctrl-C, as a shell sends it.
    dev.signal(rustix::process::Signal::INT);
    let status = dev.wait();
    assert!(status.success(), "{status}: {}", dev.stderr_text());
}
