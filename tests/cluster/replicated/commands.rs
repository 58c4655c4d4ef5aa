//! The commands that look after a cluster, and what they print.

use crate::harness::{Cluster, Live, Setup, eventually};
use serde_json::Value;

#[test]
fn the_cluster_is_described_with_all_that_ails_it() {
    let mut cluster = Cluster::start();
    cluster.create_topic("t", 6, &[]);
    let described = cluster.cli(&["cluster", "describe"]).run().ok().text();
    for words in [
        "Controller: 1",
        "Controller: 3",
        "Role: leader\tTerm: ",
        "Broker: 1",
        "Broker: 3",
        "State: alive",
        "Rack: none",
    ] {
        assert!(described.contains(words), "{words}: {described}");
    }
    assert!(described.contains("UnderReplicated: 0\tOffline: 0"), "{described}");
    assert_eq!(cluster.cli(&["cluster", "health"]).run().ok().text(), "healthy\n");
    let brokers = described.lines().filter(|line| line.contains("Broker: ")).count();
    assert_eq!(brokers, 3);

    // One replica of each partition is on each broker: without two of them nothing with min.insync.replicas=2 can be written, and
    // with none of its replicas alive a partition is offline.
    cluster.broker(2).kill();
    eventually("a dead broker is told", || {
        let health = cluster.cli(&["cluster", "health"]).run();
        (health.code == 1 && health.text().contains("broker 2")).then_some(())
    });
    let described = cluster.cli(&["cluster", "describe"]).run().ok().text();
    assert!(described.contains("UnderReplicated: 6\tOffline: 0"), "{described}");
    let topic = cluster.cli(&["topic", "describe", "t"]).run().ok().text();
    assert!(
        topic.lines().filter(|line| line.contains("Isr: ")).all(|line| !isr(line).contains(&"2")),
        "{topic}"
    );

    let alone = ["topic", "create", "one", "--replication-factor", "1", "--partitions", "2"];
    cluster.cli(&alone).run().ok();
    let gone = cluster.describe("one")[0].leader;
    cluster.broker(gone).kill();
    eventually("a partition without any replica is offline, and that is exit 1", || {
        let described = cluster.cli(&["cluster", "describe"]).run();
        (described.code == 1 && described.text().contains("Offline: ")).then_some(())
    });
    let topic = cluster.cli(&["topic", "describe", "one"]).run().ok().text();
    assert!(topic.contains("Leader: none"), "{topic}");
    cluster.broker(gone).start();
    cluster.broker(2).start();
    cluster.cli(&["cluster", "health", "--timeout-ms", "60000"]).run().ok();
}

fn isr(line: &str) -> Vec<&str> {
    let isr = line.split("Isr: ").nth(1).unwrap_or_default();
    isr.split('\t').next().unwrap_or_default().split(',').collect()
}

#[test]
fn replicas_move_where_they_are_told_and_preferred_leaders_come_back() {
    let mut cluster = Cluster::start_with(Setup {
        brokers: 4,
        controller_flags: vec!["--auto-balance", "false"],
        ..Setup::default()
    });
    let create = ["topic", "create", "t", "--partitions", "2", "--replication-factor", "3"];
    cluster.cli(&create).args(["--config", "min.insync.replicas=2"]).run().ok();
    cluster.await_in_sync("t");
    let lines: String = (0..2_000).map(|n| format!("line {n}\n")).collect();
    cluster.cli(&["produce", "t", "--partition", "0"]).input(lines.clone()).run().ok();

    let moved = ["topic", "reassign", "t", "--partition", "0", "--replicas", "4,2,3", "--wait"];
    cluster.cli(&moved).run().ok();
    let partition = cluster.describe("t").remove(0);
    assert_eq!(partition.replicas, [4, 2, 3]);
    let mut in_sync = partition.isr.clone();
    in_sync.sort_unstable();
    assert_eq!(in_sync, [2, 3, 4]);
    let consume = ["consume", "t", "--partition", "0", "--from-beginning", "--max-records", "2000"];
    assert_eq!(cluster.cli(&consume).run().ok().text(), lines);

    cluster.cli(&["topic", "elect-leaders", "t"]).run().ok();
    cluster.await_topic("t", "led by the preferred replicas", |partitions| {
        partitions.iter().all(|one| one.leader == one.replicas[0])
    });
    cluster.broker(4).stop();
    assert!(cluster.describe("t").iter().all(|one| one.leader != 4));
    cluster.broker(4).start();
    cluster.await_in_sync("t");
    cluster.cli(&["topic", "elect-leaders", "t", "--partition", "0"]).run().ok();
    cluster.await_topic("t", "led by broker 4 again", |partitions| partitions[0].leader == 4);
}

#[test]
fn any_broker_serves_a_client_that_knows_only_that_one() {
    let mut cluster = Cluster::start();
    cluster.create_topic("t", 6, &[]);
    for broker in cluster.broker_ids() {
        let lines: String = (0..60).map(|n| format!("{broker}-{n}:x\n")).collect();
        cluster.cli_at(broker, &["produce", "t", "--key-separator", ":"]).input(lines).run().ok();
    }
    for broker in cluster.broker_ids() {
        let consume = ["consume", "t", "--from-beginning", "--max-records", "180"];
        assert_eq!(cluster.cli_at(broker, &consume).run().ok().text().lines().count(), 180);
    }
    // A command that runs goes on when the broker that it was told of dies.
    let mut consumer = Live::start(&["consume", "t", "--from-beginning", "--bootstrap", cluster.endpoint(1)]);
    consumer.line();
    cluster.broker(1).kill();
    let bootstrap = format!("{},{}", cluster.endpoint(1), cluster.endpoint(2));
    crate::harness::Cli::new(&["produce", "t", "--bootstrap", &bootstrap]).input("the last one\n").run().ok();
    let found = (0..400).any(|_| consumer.line() == b"the last one");
    assert!(found, "{}", consumer.stderr_text());
}

#[test]
fn dev_is_a_cluster_in_one_process() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("data");
    let args = ["dev", "--brokers", "3", "--controllers", "3", "--listen", "127.0.0.1:0", "--data-dir"];
    let mut dev = Live::start(&[&args[..], &[folder.to_str().unwrap()]].concat());
    let ready = String::from_utf8(dev.line()).unwrap();
    let endpoint =
        ready.strip_prefix("ready on ").unwrap_or_else(|| panic!("{ready}: {}", dev.stderr_text()));
    let cli = |args: &[&str]| crate::harness::Cli::new(args).args(["--bootstrap", endpoint]);
    cli(&["topic", "create", "t", "--partitions", "3"]).run().ok();
    let described: Value =
        serde_json::from_slice(&cli(&["topic", "describe", "t", "-o", "json"]).run().ok().stdout).unwrap();
    assert_eq!(described["replication_factor"], 3, "as many as there are brokers");
    let cluster = cli(&["cluster", "describe"]).run().ok().text();
    assert_eq!(cluster.lines().filter(|line| line.contains("Controller: ")).count(), 3, "{cluster}");
    cli(&["produce", "t"]).input("a\nb\nc\n").run().ok();
    let consume = ["consume", "t", "--from-beginning", "--max-records", "3"];
    assert_eq!(cli(&consume).run().ok().text().lines().count(), 3);
    dev.signal(rustix::process::Signal::TERM);
    assert!(dev.wait().success(), "{}", dev.stderr_text());
}

#[test]
fn a_case_of_bench_counts_what_every_broker_used() {
    let cluster = Cluster::start();
    let bench = ["bench", "produce", "--replication-factor", "3", "--partitions", "3", "--records", "20000"];
    let output = cluster.cli(&bench).args(["--config", "min.insync.replicas=2", "-o", "json"]).run().ok();
    let figures: Value = serde_json::from_str(output.text().lines().last().unwrap()).unwrap();
    assert_eq!(figures["records"], 20_000);
    assert!(figures["server_cpu_seconds_per_gb"].as_f64().unwrap() > 0.0, "{figures}");
    let resident = figures["server_resident_bytes"].as_u64().unwrap();
    let listed: Value =
        serde_json::from_slice(&cluster.cli(&["broker", "list", "-o", "json"]).run().ok().stdout).unwrap();
    let one = listed
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|broker| broker["resident_bytes"].as_u64())
        .max()
        .unwrap();
    assert!(resident > one, "the memory of three brokers is more than that of one: {resident} and {one}");
}
