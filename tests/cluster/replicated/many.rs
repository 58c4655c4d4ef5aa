//! Many partitions at factor 3: they are created, a broker dies, and all that it led is led by others. How long that takes and how
//! much memory it needs is printed, not judged.

use crate::harness::{Cluster, eventually};
use std::time::Instant;

/// Partitions if `THALWEG_MANY_PARTITIONS` does not say.
const PARTITIONS: u32 = 300;
/// Partitions of one topic at most.
const A_TOPIC: u32 = 1_000;

#[test]
fn many_partitions_are_created_and_change_their_leaders() {
    let partitions: u32 = match std::env::var("THALWEG_MANY_PARTITIONS") {
        Ok(partitions) => partitions.parse().expect("THALWEG_MANY_PARTITIONS is a number"),
        Err(_) => PARTITIONS,
    };
    let mut cluster = Cluster::start();
    let empty: u64 =
        cluster.broker_ids().into_iter().map(|id| resident_bytes(cluster.broker(id).pid())).sum();
    let begun = Instant::now();
    let mut left = partitions;
    let mut topics = Vec::new();
    while left > 0 {
        let count = left.min(A_TOPIC);
        let name = format!("many-{}", topics.len());
        let count_text = count.to_string();
        cluster
            .cli(&["topic", "create", &name, "--partitions", &count_text, "--replication-factor", "3"])
            .run()
            .ok();
        topics.push(name);
        left -= count;
    }
    for topic in &topics {
        cluster.await_in_sync(topic);
    }
    println!(
        "{partitions} partitions at factor 3 created and in sync after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let full: u64 = cluster.broker_ids().into_iter().map(|id| resident_bytes(cluster.broker(id).pid())).sum();
    println!(
        "resident memory of the brokers: {:.1} MB without, {:.1} MB with them: {:.1} KiB a replica",
        empty as f64 / 1e6,
        full as f64 / 1e6,
        full.saturating_sub(empty) as f64 / 1024.0 / f64::from(partitions * 3)
    );

    let victim = cluster.describe(&topics[0])[0].leader;
    let begun = Instant::now();
    cluster.broker(victim).kill();
    eventually("everything is led by others", || {
        let described = cluster.describe_cluster();
        let brokers = described["brokers"].as_array()?;
        let led = brokers.iter().find(|broker| broker["id"] == victim)?["leaders"].as_u64()?;
        (led == 0 && described["offline_partitions"] == 0).then_some(())
    });
    println!("a broker killed: all its leaders elsewhere after {:.1} s", begun.elapsed().as_secs_f64());
    cluster.cli(&["produce", topics.last().unwrap()]).input("one\ntwo\nthree\n").run().ok();
    let begun = Instant::now();
    cluster.broker(victim).start();
    println!("it serves again after {:.1} s", begun.elapsed().as_secs_f64());
    for topic in &topics {
        cluster.await_in_sync(topic);
    }
    println!("and all its replicas are in sync after {:.1} s", begun.elapsed().as_secs_f64());
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has a VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap() * 1024
}
