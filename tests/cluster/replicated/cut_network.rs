//! A broker whose cable is pulled while it leads: nobody hears of it, and it hears of nobody.

use crate::harness::{Acknowledged, Cluster, Live, Namespaces, Pace, Setup, Steady, reading};
use std::time::Duration;

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_and_is_cut_to_size_when_it_is_back() {
    let namespaces = match Namespaces::make(&[1, 2, 3]) {
        Ok(namespaces) => namespaces,
        Err(why) => {
            println!("skipped: this machine lets us make no network namespaces: {why}");
            return;
        }
    };
    let mut cluster = Cluster::start_in(Setup::default(), namespaces.places());
    cluster.create_topic("t", 3, &[]);
    let hub = cluster.namespace();
    let mut producer = Steady::start(&cluster.bootstrap(), hub.as_deref(), "t", 3, "steady", Pace::EVEN);
    let partitions = producer.partitions();
    producer.await_acks(300);

    let old = cluster.describe("t")[0].leader;
    // Beside the old leader, with nobody else to reach: what it is told is never acknowledged.
    let mut beside = Live::start_in(
        Some(&namespaces.own(old)),
        &[
            "produce",
            "t",
            "-o",
            "json",
            "--partition",
            "0",
            "--bootstrap",
            cluster.endpoint(old),
            "--delivery-timeout-ms",
            "600000",
        ],
    );
    assert!(beside.write(b"before\n"));
    beside.line();
    namespaces.cut(old);
    assert!(beside.write(b"written while it was cut off\n"));
    let led_by_others = |partitions: &[crate::harness::PartitionState]| {
        partitions.iter().all(|one| one.leader >= 0 && one.leader != old)
    };
    cluster.await_topic("t", "led by others", led_by_others);
    producer.next_acks(&partitions);
    assert_eq!(
        beside.line_within(Duration::from_secs(5)),
        None,
        "a leader that is cut off acknowledged something"
    );

    namespaces.mend(old);
    cluster.await_in_sync("t");
    // Now it reaches the new leader, and its record is written there: once.
    beside.line();
    beside.close_stdin();
    assert!(beside.wait().success(), "{}", beside.stderr_text());
    producer.next_acks(&partitions);
    let sent = producer.finish(false);

    let described = cluster.await_in_sync("t");
    let args = ["consume", "t", "--from-beginning", "--timeout-ms", "3000", "-o", "json"];
    let stored = reading(&cluster.cli(&args).run().ok().stdout);
    let mut acknowledged = Acknowledged::default();
    acknowledged.add(&sent);
    acknowledged.check(&stored);
    sent.check(&stored, false);
    let alone = stored[&0].iter().filter(|value| *value == "written while it was cut off").count();
    assert_eq!(alone, 1, "written once, by the leader that could have it acknowledged");
    for broker in cluster.broker_ids() {
        cluster.broker(broker).stop();
    }
    cluster.check_replicas("t", &described, |partition| stored[&partition].len() as i64);
}
