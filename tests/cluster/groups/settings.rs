//! `thalweg coordinator`: flags, environment and settings file, and how it ends.

use crate::harness::{Cli, Cluster, Live, Setup, eventually};
use rustix::process::Signal;

#[test]
fn a_coordinator_takes_its_settings_from_flags_before_environment_before_file() {
    let cluster = Cluster::start_with(Setup {
        controllers: 1,
        brokers: 1,
        controller_flags: vec!["--offsets-topic-partitions", "3", "--offsets-topic-replication-factor", "1"],
        ..Setup::default()
    });
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("coordinator.toml");
    let controllers = cluster.controllers();
    let text = format!(
        "node-id = 7\nlisten = \"127.0.0.1:1\"\nrack = \"of-the-file\"\ncontrollers = [\"{controllers}\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut coordinator = Live::start_with_env(
        &["coordinator", "--config", file.to_str().unwrap(), "--listen", "127.0.0.1:0"],
        &[("THALWEG_LISTEN", "127.0.0.1:2"), ("THALWEG_RACK", "of-the-environment")],
    );
    let ready = String::from_utf8(coordinator.line()).unwrap();
    let endpoint = ready.strip_prefix("ready on ").unwrap_or_else(|| panic!("{ready}"));
    assert!(!endpoint.ends_with(":1") && !endpoint.ends_with(":2"), "{endpoint}");
    let described = cluster.cli(&["cluster", "describe"]).run().ok().text();
    let line = described
        .lines()
        .find(|line| line.contains("Coordinator: 7"))
        .unwrap_or_else(|| panic!("{described}"));
    assert!(line.contains(endpoint), "{line}");
    eventually("the internal topic has as many partitions as was said", || {
        let topic = cluster.cli(&["topic", "describe", "__consumer_offsets"]).run();
        (topic.code == 0 && topic.text().contains("PartitionCount: 3")).then_some(())
    });
    eventually("it serves groups", || (cluster.cli(&["group", "list"]).run().code == 0).then_some(()));
    coordinator.signal(Signal::TERM);
    assert!(coordinator.wait().success(), "{}", coordinator.stderr_text());
}

#[test]
fn a_coordinator_that_cannot_be_is_told_what_is_wrong() {
    Cli::new(&["coordinator"]).run().misused(&["--node-id", "--controllers"]);
    let negative = ["coordinator", "--node-id", "-1", "--controllers", "127.0.0.1:9490"];
    Cli::new(&negative).run().misused(&["--node-id"]);
    let everywhere =
        ["coordinator", "--node-id", "1", "--controllers", "127.0.0.1:9490", "--listen", "0.0.0.0:0"];
    Cli::new(&everywhere).run().misused(&["0.0.0.0", "--advertise"]);
}
