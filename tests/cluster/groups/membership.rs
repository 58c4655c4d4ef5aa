//! Members are killed, leave and join while records come: only what must move moves, and the others go on. Times are printed, and
//! judged only as far as no slow machine can blur them.

use crate::harness::{
    Dev, Member, OffsetWatch, Pace, Steady, assigned, await_group, await_sizes, eventually, owners, within,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use thalweg_proto::v1;

const TOPIC: &str = "events";
const GROUP: &str = "shared";
const PARTITIONS: i32 = 6;
/// How long a member that is killed is missed.
const SESSION: Duration = Duration::from_secs(10);

fn member(dev: &Dev, id: &str) -> Member {
    let session = SESSION.as_millis().to_string();
    let more = ["--member-id", id, "--session-timeout-ms", &session];
    Member::start(&dev.addr().to_string(), TOPIC, GROUP, &more)
}

/// The partitions of one member.
fn partitions_of(group: &serde_json::Value, member: &str) -> Vec<i32> {
    let number = |name: &String| name.rsplit_once('-').unwrap().1.parse().unwrap();
    assigned(group).get(member).map(|partitions| partitions.iter().map(number).collect()).unwrap_or_default()
}

#[test]
fn only_what_must_move_moves_and_nobody_else_pauses() {
    let dev = Dev::start();
    let bootstrap = dev.addr().to_string();
    dev.cli(&["topic", "create", TOPIC, "--partitions", "6"]).run().ok();
    let mut producer =
        Steady::start(&bootstrap, None, TOPIC, PARTITIONS.unsigned_abs(), "steady", Pace::EVEN);
    let written: BTreeSet<i32> = producer.partitions().into_iter().collect();
    let mut members: BTreeMap<&str, Member> = BTreeMap::new();
    for id in ["a", "b", "c"] {
        members.insert(id, member(&dev, id));
    }
    let watch = OffsetWatch::start(&bootstrap, GROUP);
    let three = await_sizes(&bootstrap, GROUP, &[2, 2, 2]);
    producer.await_acks(500);

    // c is killed: its partitions move when its session is over, and a and b print on meanwhile.
    let begun = Instant::now();
    let lost = partitions_of(&three, "c");
    members.get_mut("c").unwrap().kill();
    let two = await_sizes(&bootstrap, GROUP, &[3, 3]);
    let moved = Instant::now();
    for id in ["a", "b"] {
        let (before, after) = (partitions_of(&three, id), partitions_of(&two, id));
        assert!(
            before.iter().all(|one| after.contains(one)),
            "{id} keeps what it had: {before:?}, {after:?}"
        );
    }
    for partition in lost.iter().filter(|partition| written.contains(partition)) {
        let first = eventually("what a killed member had is printed by another", || {
            members.values().filter_map(|member| member.first_after(*partition, begun)).min()
        });
        let gone = first - begun;
        println!("SIGKILL: partition {partition} is printed by another after {gone:?}");
        assert!(gone >= SESSION / 2, "nobody may take over before the session is over");
    }
    for id in ["a", "b"] {
        for partition in partitions_of(&three, id).into_iter().filter(|one| written.contains(one)) {
            let gap = members[id].longest_gap(partition, begun, moved);
            println!("SIGKILL: {id} paused partition {partition} for {gap:?} at most");
            assert!(gap < SESSION / 2, "{id} stood still while c was missed: {gap:?}");
        }
    }

    // d joins and takes its share; then e: with three of two each, exactly one partition moves, and it moves to e.
    members.insert("d", member(&dev, "d"));
    let before = await_sizes(&bootstrap, GROUP, &[2, 2, 2]);
    members.insert("e", member(&dev, "e"));
    let four = await_sizes(&bootstrap, GROUP, &[2, 2, 1, 1]);
    let (before, after) = (owners(&before), owners(&four));
    let moves: Vec<_> = after.iter().filter(|(partition, owner)| before[*partition] != **owner).collect();
    assert_eq!(moves.len(), 1, "one partition moves: {before:?} to {after:?}");
    assert_eq!(moves[0].1, "e");

    // b leaves in peace: its partitions are others' at once.
    let had = partitions_of(&four, "b");
    let begun = Instant::now();
    members.get_mut("b").unwrap().leave();
    let left = members.remove("b").unwrap();
    for partition in had.iter().filter(|partition| written.contains(partition)) {
        let first = eventually("what a member left behind is printed by another", || {
            let others = members.iter().filter(|(id, _)| **id != "c");
            others.filter_map(|(_, member)| member.first_after(*partition, begun)).min()
        });
        println!("graceful leave: partition {partition} is printed by another after {:?}", first - begun);
        assert!(first - begun < SESSION, "a member that leaves is not waited for");
    }

    // Nothing was missed, and what left in peace left nothing to be printed twice.
    let sent = producer.finish(false);
    members.insert("b", left);
    let printed = || -> BTreeSet<(i32, i64)> {
        let seen = members.values().flat_map(Member::seen);
        seen.map(|record| (record.partition, record.offset)).collect()
    };
    eventually("every record is printed", || (printed().len() >= sent.acks()).then_some(()));
    watch.finish();
}

/// More members than partitions: the extras idle and say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_members_on_six_partitions_fourteen_idle() {
    let dev = Dev::start();
    let bootstrap = dev.addr().to_string();
    dev.cli(&["topic", "create", TOPIC, "--partitions", "6"]).run().ok();
    let api = crate::harness::Api::connect(&dev).await;
    let heartbeat = |id: usize, epoch: i32, has: Option<Vec<v1::TopicPartitions>>| {
        let mut groups = api.groups.clone();
        let request = v1::HeartbeatRequest {
            group_id: "twenty".to_owned(),
            member_id: format!("m{id:02}"),
            member_epoch: epoch,
            subscription: (epoch == 0)
                .then(|| v1::GroupSubscription { topics: vec![TOPIC.to_owned()], ..Default::default() }),
            has: has.map(|topics| v1::AssignedPartitions { topics }),
            ..Default::default()
        };
        async move { within("Heartbeat", groups.heartbeat(request)).await.unwrap().into_inner() }
    };
    let mut standing = Vec::new();
    for id in 0..19 {
        standing.push((heartbeat(id, 0, Some(Vec::new())).await.member_epoch, Vec::new()));
    }
    // The twentieth is the command line's own.
    let extra = Member::start(&bootstrap, TOPIC, "twenty", &["--member-id", "m99"]);
    let begun = Instant::now();
    let described = loop {
        for (id, (epoch, has)) in standing.iter_mut().enumerate() {
            let answer = heartbeat(id, *epoch, Some(has.clone())).await;
            *epoch = answer.member_epoch;
            if let Some(assignment) = answer.assignment {
                *has = assignment.topics;
            }
        }
        let at = bootstrap.clone();
        let described = tokio::task::spawn_blocking(move || crate::harness::group_json(&at, "twenty"));
        let described = described
            .await
            .unwrap()
            .filter(|group| group["state"] == "stable" && group["members"].as_array().unwrap().len() == 20);
        if let Some(described) = described {
            break described;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "twenty members do not come to rest");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let members = described["members"].as_array().unwrap();
    assert_eq!(members.iter().filter(|member| member["idle"] == true).count(), 14, "{described}");
    assert!(assigned(&described).values().all(|partitions| partitions.len() <= 1), "{described}");
    assert_eq!(owners(&described).len(), 6);
    let text = dev.cli(&["group", "describe", "twenty"]).run().ok().text();
    assert_eq!(text.lines().filter(|line| line.ends_with("it idles")).count(), 14, "{text}");
    eventually("a member without a share says so", || {
        (extra.has_noted("idle") || extra.has_noted("assigned")).then_some(())
    });
    let idle = members.iter().any(|member| member["id"] == "m99" && member["idle"] == true);
    assert_eq!(extra.has_noted("idle"), idle, "{:?}", extra.notes());
}

/// A static member that comes back within its session finds its partitions again, and nobody else's moved.
#[test]
fn a_static_member_that_comes_back_in_time_finds_its_partitions_again() {
    let dev = Dev::start();
    let bootstrap = dev.addr().to_string();
    dev.cli(&["topic", "create", TOPIC, "--partitions", "6"]).run().ok();
    let worker = |name: &str| Member::start(&bootstrap, TOPIC, GROUP, &["--instance-id", name]);
    let (_first, mut second) = (worker("one"), worker("two"));
    let by_instance = |group: &serde_json::Value| -> BTreeMap<String, BTreeSet<String>> {
        let assigned = assigned(group);
        let members = group["members"].as_array().unwrap().iter();
        members
            .map(|member| {
                let partitions = assigned[member["id"].as_str().unwrap()].iter().cloned().collect();
                (member["instance"].as_str().unwrap().to_owned(), partitions)
            })
            .collect()
    };
    let before = await_sizes(&bootstrap, GROUP, &[3, 3]);
    second.leave();
    let _again = worker("two");
    let old = |group: &serde_json::Value| -> Option<String> {
        let members = group["members"].as_array().unwrap().iter();
        let mut two = members.filter(|member| member["instance"] == "two");
        Some(two.next()?["id"].as_str()?.to_owned())
    };
    let was = old(&before);
    let after = await_group(&bootstrap, GROUP, "stable with its old members", |group| {
        group["state"] == "stable" && group["members"].as_array().unwrap().len() == 2 && old(group) != was
    });
    assert_eq!(by_instance(&before), by_instance(&after));
}

/// Topics that match are read from when they come.
#[test]
fn a_pattern_takes_in_topics_that_are_created_later() {
    let dev = Dev::start();
    let bootstrap = dev.addr().to_string();
    let create = |name: &str| drop(dev.cli(&["topic", "create", name]).run().ok());
    let write = |name: &str| drop(dev.cli(&["produce", name]).input(format!("of {name}\n")).run().ok());
    ["metrics-a", "other"].into_iter().for_each(create);
    let args = ["consume", "--pattern", "metrics-.*", "--group", "g", "--auto-offset-reset", "earliest"];
    let mut member =
        crate::harness::Live::start(&[&args[..], &["-f", "%t %s\\n", "--bootstrap", &bootstrap]].concat());
    write("metrics-a");
    write("other");
    assert_eq!(member.line(), b"metrics-a of metrics-a");
    create("metrics-b");
    write("metrics-b");
    assert_eq!(member.line(), b"metrics-b of metrics-b");
    let topics: BTreeSet<String> =
        owners(&crate::harness::group_json(&bootstrap, "g").unwrap()).into_keys().collect();
    assert_eq!(topics, ["metrics-a-0", "metrics-b-0"].map(str::to_owned).into());
}
