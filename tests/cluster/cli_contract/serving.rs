//! `thalweg dev`: what it prints, and how it ends.

use crate::harness::{Cli, Dev, Live};

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

#[test]
fn dev_serves_on_when_nobody_reads_its_output() {
    let mut dev = Dev::start_unread();
    let bootstrap = dev.addr().to_string();
    Cli::new(&["topic", "create", "t", "--bootstrap", &bootstrap]).run().ok();
    dev.cli(&["produce", "t"]).input("x\n").run().ok();
    dev.stop();
    dev.restart();
    let args = ["consume", "t", "--from-beginning", "--max-records", "1"];
    assert_eq!(dev.cli(&args).run().ok().text(), "x\n");
}
