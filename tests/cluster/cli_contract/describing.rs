//! `thalweg cluster describe`.

use crate::harness::{Dev, eventually};

#[test]
fn the_cluster_is_described_and_keeps_its_id() {
    let mut dev = Dev::start();
    dev.cli(&["topic", "create", "t", "--partitions", "3"]).run().ok();
    // The topic of consumer groups with its 8 partitions comes by itself.
    let text = eventually("all topics are there", || {
        let text = dev.cli(&["cluster", "describe"]).run().ok().text();
        text.contains("Topics: 2\tPartitions: 11\tUnderReplicated: 0\tOffline: 0\n").then_some(text)
    });
    assert!(
        text.contains("\tController: 1\tEndpoint: 127.0.0.1:") && text.contains("\tRole: leader\t"),
        "{text}"
    );
    assert!(text.contains("\tCoordinator: 0\tEndpoint: 127.0.0.1:"), "{text}");
    assert!(text.contains(&format!("\tBroker: 0\tEndpoint: {}\tState: alive\t", dev.addr())), "{text}");

    let id = |dev: &Dev| {
        let output = dev.cli(&["cluster", "describe", "-o", "json"]).run().ok();
        let cluster: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(cluster["brokers"][0]["endpoint"], dev.addr().to_string());
        cluster["cluster_id"].as_str().unwrap().to_owned()
    };
    let before = id(&dev);
    assert!(!before.is_empty());
    dev.stop();
    dev.restart();
    assert_eq!(id(&dev), before, "given once and kept for life");
}
