//! Coordinators and brokers are killed under a running group: each record is printed at least once, none is skipped, committed
//! offsets never go back, and all of it is still known after everything was stopped.

use crate::harness::{
    Cluster, Member, OffsetWatch, Pace, Random, Steady, assigned, await_group, await_sizes, eventually,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

const TOPIC: &str = "events";
const GROUP: &str = "tortured";
/// Rounds if `THALWEG_GROUP_KILL_ROUNDS` does not say.
const ROUNDS: u64 = 2;

fn rounds() -> u64 {
    match std::env::var("THALWEG_GROUP_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("THALWEG_GROUP_KILL_ROUNDS is a number"),
        Err(_) => ROUNDS,
    }
}

/// What is killed in a round.
#[derive(Debug, Default)]
struct Fault {
    coordinators: Vec<i32>,
    broker: Option<i32>,
    member: bool,
}

impl Fault {
    /// The first two rounds are one of each kind, so that few rounds see both.
    fn any(random: &mut Random, cluster: &Cluster, round: u64, serving: i32) -> Fault {
        let broker = random.choose(&cluster.broker_ids());
        let one = Fault { coordinators: vec![serving], ..Fault::default() };
        match (round, random.below(8)) {
            (0, _) => one,
            (1, _) => Fault { broker: Some(broker), ..one },
            (_, 0 | 1) => one,
            (_, 2 | 3) => Fault { broker: Some(broker), ..Fault::default() },
            (_, 4 | 5) => Fault { broker: Some(broker), ..one },
            (_, 6) => Fault { coordinators: cluster.coordinator_ids(), ..Fault::default() },
            _ => Fault { member: true, ..one },
        }
    }
}

#[test]
fn a_group_whose_coordinators_and_brokers_are_killed_skips_nothing_and_never_goes_back() {
    let mut cluster = Cluster::with_groups();
    let mut random = Random::from_env("THALWEG_KILL_SEED");
    let bootstrap = cluster.bootstrap();
    cluster.create_topic(TOPIC, 6, &[]);
    let start = |id: usize| {
        let id = format!("member-{id}");
        let more = ["--member-id", &id, "--session-timeout-ms", "10000", "--commit-interval-ms", "200"];
        Member::start(&bootstrap, TOPIC, GROUP, &more)
    };
    let mut members: Vec<Member> = (0..3).map(start).collect();
    let mut gone: Vec<Member> = Vec::new();
    await_sizes(&bootstrap, GROUP, &[2, 2, 2]);
    let mut producer = Steady::start(&bootstrap, None, TOPIC, 6, "steady", Pace::EVEN);
    let partitions = producer.partitions();
    producer.await_acks(200);
    let watch = OffsetWatch::start(&bootstrap, GROUP);
    for round in 0..rounds() {
        let described = await_group(&bootstrap, GROUP, "whole", |group| {
            group["state"] == "stable" && assigned(group).len() == 3
        });
        cluster.await_in_sync("__consumer_offsets");
        let serving = i32::try_from(described["coordinator"]["id"].as_i64().unwrap()).unwrap();
        let fault = Fault::any(&mut random, &cluster, round, serving);
        println!("round {round}: {fault:?}, the group is served by coordinator {serving}");
        let begun = Instant::now();
        fault.coordinators.iter().for_each(|id| cluster.coordinator(*id).kill());
        fault.broker.iter().for_each(|id| cluster.broker(*id).kill());
        if fault.member {
            let mut member = members.remove(0);
            member.kill();
            gone.push(member);
            members.push(start(10 + gone.len()));
        }
        if fault.coordinators.len() < 2 {
            // One coordinator is left, and two replicas of everything: the group goes on without those that were killed.
            let served = await_group(&bootstrap, GROUP, "served by another", |group| {
                let by = group["coordinator"]["id"].as_i64().unwrap();
                !fault.coordinators.iter().any(|killed| i64::from(*killed) == by)
            });
            println!(
                "round {round}: served by coordinator {} after {:?}",
                served["coordinator"],
                begun.elapsed()
            );
        }
        fault.broker.iter().for_each(|id| cluster.broker(*id).spawn());
        fault.coordinators.iter().for_each(|id| cluster.coordinator(*id).spawn());
        fault.broker.iter().for_each(|id| drop(cluster.broker(*id).await_ready()));
        fault.coordinators.iter().for_each(|id| drop(cluster.coordinator(*id).await_ready()));
        producer.next_acks(&partitions);
        let now = Instant::now();
        for partition in &partitions {
            eventually(&format!("partition {partition} is printed on"), || {
                members.iter().find_map(|member| member.first_after(*partition, now))
            });
        }
        println!("round {round}: every partition is printed on after {:?}", begun.elapsed());
    }
    let sent = producer.finish(false);
    let all = || -> BTreeMap<i32, BTreeSet<i64>> {
        let mut all: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
        for record in members.iter().chain(&gone).flat_map(Member::seen) {
            all.entry(record.partition).or_default().insert(record.offset);
        }
        all
    };
    eventually("every record is printed", || {
        (all().values().map(BTreeSet::len).sum::<usize>() >= sent.acks()).then_some(())
    });
    let printed = all();
    for (partition, offsets) in &printed {
        let end = i64::try_from(offsets.len()).unwrap();
        assert_eq!(offsets.last(), Some(&(end - 1)), "partition {partition}: a record was skipped");
    }
    let count: usize = members.iter().chain(&gone).map(Member::count).sum();
    println!("{} records were printed {count} times", sent.acks());
    members.iter_mut().for_each(Member::leave);
    let watched = watch.finish();
    let ends: BTreeMap<(String, i32), i64> = printed
        .iter()
        .map(|(partition, offsets)| ((TOPIC.to_owned(), *partition), offsets.len() as i64))
        .collect();
    assert_eq!(watched.offsets, ends, "what was printed is committed");

    // Everything stops, and everything starts again.
    for id in cluster.coordinator_ids() {
        cluster.coordinator(id).stop();
    }
    for id in cluster.broker_ids() {
        cluster.broker(id).stop();
    }
    for id in cluster.controller_ids() {
        cluster.controller(id).stop();
    }
    cluster.controller_ids().into_iter().for_each(|id| cluster.controller(id).spawn());
    cluster.controller_ids().into_iter().for_each(|id| drop(cluster.controller(id).await_ready()));
    cluster.broker_ids().into_iter().for_each(|id| cluster.broker(id).spawn());
    cluster.coordinator_ids().into_iter().for_each(|id| cluster.coordinator(id).spawn());
    cluster.broker_ids().into_iter().for_each(|id| drop(cluster.broker(id).await_ready()));
    cluster.coordinator_ids().into_iter().for_each(|id| drop(cluster.coordinator(id).await_ready()));
    let after = await_group(&bootstrap, GROUP, "there after a restart of everything", |group| {
        group["partitions"].as_array().unwrap().iter().all(|one| one["log_end_offset"].is_number())
    });
    assert_eq!(after["state"], "empty");
    for partition in after["partitions"].as_array().unwrap() {
        let number = i32::try_from(partition["partition"].as_i64().unwrap()).unwrap();
        assert_eq!(partition["current_offset"].as_i64(), Some(ends[&(TOPIC.to_owned(), number)]), "{after}");
    }
}
