//! A member is frozen (SIGSTOP) for longer than its session, and comes back believing that all is as before.

use crate::harness::{
    Dev, Member, OffsetWatch, Pace, Steady, assigned, await_group, await_sizes, eventually,
};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::time::Instant;

const TOPIC: &str = "events";
const GROUP: &str = "frozen";

#[test]
fn a_member_that_wakes_up_after_its_session_cannot_put_offsets_back() {
    let dev = Dev::start();
    let bootstrap = dev.addr().to_string();
    dev.cli(&["topic", "create", TOPIC, "--partitions", "6"]).run().ok();
    let mut producer = Steady::start(&bootstrap, None, TOPIC, 6, "steady", Pace::EVEN);
    let member = |id: &str| {
        let more = ["--member-id", id, "--session-timeout-ms", "4000", "--commit-interval-ms", "300"];
        Member::start(&bootstrap, TOPIC, GROUP, &more)
    };
    let (sleeper, other) = (member("sleeper"), member("other"));
    await_sizes(&bootstrap, GROUP, &[3, 3]);
    producer.await_acks(300);
    eventually("both print", || (sleeper.count() > 0 && other.count() > 0).then_some(()));

    let watch = OffsetWatch::start(&bootstrap, GROUP);
    sleeper.signal(Signal::STOP);
    let frozen = Instant::now();
    let alone = await_group(&bootstrap, GROUP, "one member's alone", |group| {
        assigned(group).get("other").is_some_and(|partitions| partitions.len() == 6)
    });
    println!("its partitions are another's after {:?}", frozen.elapsed());
    assert!(!assigned(&alone).contains_key("sleeper"), "{alone}");
    // The other one commits beyond what the sleeper knows.
    let before = other.count();
    producer.await_acks(producer.acknowledged() + 300);
    eventually("the other one prints on", || (other.count() > before + 100).then_some(()));

    sleeper.signal(Signal::CONT);
    eventually("the sleeper learns that it is out", || sleeper.has_noted("lost").then_some(()));
    await_sizes(&bootstrap, GROUP, &[3, 3]);
    println!("the sleeper said: {:?}", sleeper.notes());
    let sent = producer.finish(false);
    let printed = || -> BTreeSet<(i32, i64)> {
        let seen = [&sleeper, &other].into_iter().flat_map(Member::seen);
        seen.map(|record| (record.partition, record.offset)).collect()
    };
    eventually("every record is printed by one of them", || (printed().len() >= sent.acks()).then_some(()));
    // Not by the lag: the end of a log may be a second old.
    await_group(&bootstrap, GROUP, "through with everything", |group| {
        let partitions = group["partitions"].as_array().unwrap().iter();
        let committed: i64 = partitions.filter_map(|partition| partition["current_offset"].as_i64()).sum();
        committed == i64::try_from(sent.acks()).unwrap()
    });
    let watched = watch.finish();
    assert_eq!(watched.offsets.values().sum::<i64>(), i64::try_from(sent.acks()).unwrap());
}
