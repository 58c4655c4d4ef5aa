//! Joining, sharing, leaving, being away, being out.

use super::client::settle;
use super::*;

#[test]
fn members_share_and_those_beyond_the_partitions_idle() {
    let mut rig = Rig::new(2);
    let mut clients: Vec<Client> = (0..5).map(|n| Client::new("g", &format!("m{n}"))).collect();
    for client in &mut clients {
        client.join(&mut rig).unwrap();
    }
    settle(&mut rig, &mut clients.iter_mut().collect::<Vec<_>>());
    let mut counts: Vec<usize> = clients.iter().map(|client| client.has.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 1, 1]);
    assert_eq!(rig.state("g"), v1::GroupState::Stable);
    // An idle one says so: the same answer again, and nothing written.
    let written = rig.shard.written();
    assert_eq!(clients[0].beat(&mut rig).map(|told| told.epoch), Ok(clients[0].epoch));
    assert_eq!(rig.shard.written(), written, "a heartbeat that changes nothing writes nothing");
}

#[test]
fn a_first_member_is_answered_with_its_partitions_and_a_real_epoch() {
    let mut rig = Rig::new(3);
    let mut a = Client::new("g", "a");
    let call = a.send(&mut rig, 0);
    assert!(!rig.replies.contains_key(&call), "it waits for the first assignment");
    rig.pass(21);
    let told = a.hear(&mut rig, call).unwrap().unwrap();
    assert!(told.epoch > 0);
    assert_eq!(a.partitions(), [0, 1, 2]);
}

#[test]
fn a_session_that_ends_moves_the_partitions_and_the_late_member_is_refused_everywhere() {
    let mut rig = Rig::new(4);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut a, &mut b]);
    let lost = a.partitions()[0];
    assert_eq!(a.commit(&mut rig, &[(lost, 5)]), Ok(vec![None]));
    // a is paused; b goes on.
    for _ in 0..16 {
        rig.pass(3_000);
        b.beat(&mut rig).unwrap();
    }
    rig.pass(100);
    b.beat(&mut rig).unwrap();
    assert_eq!(b.partitions(), [0, 1, 2, 3]);
    assert_eq!(b.commit(&mut rig, &[(lost, 9)]), Ok(vec![None]));
    // a wakes up: what it wants to commit is refused, and what b committed stays.
    assert_eq!(a.commit(&mut rig, &[(lost, 6)]), Err(ErrorCode::UnknownMember));
    assert_eq!(a.beat(&mut rig), Err(ErrorCode::UnknownMember));
    let stale = a.clone();
    a.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut a, &mut b]);
    // It is a member again, but under its old epoch it still commits nothing that it has now.
    assert_eq!(
        stale.commit(&mut rig, &[(a.partitions()[0], 6)]),
        Ok(vec![Some(ErrorCode::StaleMemberEpoch)])
    );
    assert!(rig.committed("g").contains(&(lost, 9)), "a committed offset never goes back");
}

#[test]
fn a_member_that_does_not_give_back_in_time_is_out() {
    let mut rig = Rig::new(2);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.rebalance_ms = 5_000;
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    rig.pass(100);
    // It hears what it has to give back, and goes on as if not.
    let had = a.has.clone();
    let told = a.beat(&mut rig).unwrap();
    assert_eq!(told.assignment.map(|kept| kept.len()), Some(1));
    (a.has, a.says) = (had, true);
    for _ in 0..4 {
        rig.pass(1_000);
        let call = a.send(&mut rig, 0);
        let answer = client::told(rig.take(call).unwrap()).unwrap();
        assert_eq!(answer.epoch, a.epoch, "it stays at its epoch");
        b.beat(&mut rig).unwrap();
        assert!(b.has.is_empty());
    }
    rig.pass(1_100);
    assert_eq!(a.beat(&mut rig), Err(ErrorCode::UnknownMember));
    rig.pass(100);
    b.beat(&mut rig).unwrap();
    assert_eq!(b.partitions(), [0, 1]);
}

#[test]
fn a_static_member_keeps_its_partitions_while_it_is_away_for_now() {
    let mut rig = Rig::new(4);
    let mut a = Client::new("g", "a1").instance("i");
    let mut b = Client::new("g", "b");
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut a, &mut b]);
    let had = a.has.clone();
    assert_eq!(Client::new("g", "a2").instance("i").join(&mut rig), Err(ErrorCode::FencedInstance));
    a.leave(&mut rig, -2).unwrap();
    rig.pass(30_000);
    b.beat(&mut rig).unwrap();
    assert_eq!(b.has.len(), 2, "nothing moved");
    let mut again = Client::new("g", "a2").instance("i");
    again.join(&mut rig).unwrap();
    assert_eq!(again.has, had);
    // The old process is fenced, as a member and as an instance.
    assert_eq!(a.beat(&mut rig), Err(ErrorCode::FencedInstance));
    assert_eq!(a.commit(&mut rig, &[(a.partitions()[0], 1)]), Err(ErrorCode::FencedInstance));
    let nameless = Client { instance: String::new(), ..a.clone() };
    assert_eq!(nameless.commit(&mut rig, &[(a.partitions()[0], 1)]), Err(ErrorCode::UnknownMember));
    // Away for longer than its session: the others get what it had.
    again.leave(&mut rig, -2).unwrap();
    for _ in 0..16 {
        rig.pass(3_000);
        b.beat(&mut rig).unwrap();
    }
    settle(&mut rig, &mut [&mut b]);
    assert_eq!(b.has.len(), 4);
}

#[test]
fn one_that_is_away_for_now_does_not_hold_up_a_rebalance() {
    let mut rig = Rig::new(4);
    let mut a = Client::new("g", "a1").instance("i");
    a.join(&mut rig).unwrap();
    a.leave(&mut rig, -2).unwrap();
    let mut b = Client::new("g", "b");
    b.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut b]);
    assert_eq!(b.has.len(), 2, "it reads nothing, so there is nothing to wait for");
    let mut again = Client::new("g", "a2").instance("i");
    again.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut again, &mut b]);
    assert_eq!((again.has.len(), b.has.len()), (2, 2));
    assert!(again.has.is_disjoint(&b.has));
}

#[test]
fn only_a_static_member_comes_back() {
    let mut rig = Rig::new(1);
    let mut a = Client::new("g", "a");
    a.join(&mut rig).unwrap();
    assert_eq!(a.leave(&mut rig, -2), Err(ErrorCode::InvalidRequest));
    assert_eq!(a.leave(&mut rig, -1).map(|told| told.epoch), Ok(-1));
    assert_eq!(a.leave(&mut rig, -1), Err(ErrorCode::UnknownMember));
}

#[test]
fn topics_that_appear_grow_and_go_are_followed() {
    let mut rig = Rig::new(1);
    rig.create_topic("__internal", 2, true);
    let mut a = Client::new("g", "a").matching("t.*|__internal|later");
    a.join(&mut rig).unwrap();
    assert_eq!(a.has.len(), 1, "a pattern never matches an internal topic");
    rig.grow("t", 3);
    settle(&mut rig, &mut [&mut a]);
    assert_eq!(a.has.len(), 3);
    rig.create("t2", 2);
    rig.create("xt2", 2);
    settle(&mut rig, &mut [&mut a]);
    assert_eq!(a.has.len(), 5, "the whole name matches, or not at all");
    rig.delete("t");
    settle(&mut rig, &mut [&mut a]);
    assert_eq!(a.has.len(), 2);
    // Named, an internal topic is like any other; and a topic need not be there yet.
    let mut b = Client::new("h", "b");
    b.topics = vec!["__internal".to_owned(), "later".to_owned()];
    b.join(&mut rig).unwrap();
    assert_eq!(b.has.len(), 2);
    rig.create("later", 1);
    settle(&mut rig, &mut [&mut b]);
    assert_eq!(b.has.len(), 3);
}

#[test]
fn bounds_are_kept() {
    let config = GroupConfig { max_group_size: 2, max_groups: 2, max_members: 3, ..GroupConfig::default() };
    let mut rig = Rig::with(2, config);
    for (group, id) in [("g", "a"), ("g", "b"), ("h", "a")] {
        Client::new(group, id).join(&mut rig).unwrap();
    }
    assert_eq!(Client::new("g", "c").join(&mut rig), Err(ErrorCode::Throttled), "the group is full");
    assert_eq!(Client::new("h", "b").join(&mut rig), Err(ErrorCode::Throttled), "the shard is full");
    let reply = rig.ask(ShardCall::CommitOffsets(commit("i", "t", &[(0, 1)])));
    assert_eq!(results(reply), Err(ErrorCode::Throttled), "there are too many groups");
    assert_eq!(Client::new("g", "a").join(&mut rig).map(|told| told.epoch > 0), Ok(true), "it is in already");
    assert_eq!(rig.shard.member_count(), 3);
}

#[test]
fn one_that_joins_anew_under_its_id_has_the_same_at_once_and_its_former_self_has_no_say() {
    let mut rig = Rig::new(4);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    settle(&mut rig, &mut [&mut a, &mut b]);
    let (former, others) = (a.clone(), b.has.clone());
    let first = former.partitions()[0];
    assert_eq!(former.commit(&mut rig, &[(first, 100)]), Ok(vec![None]));
    // Twice, as the first answer may be lost; the second is held until the assignment is made, and no longer.
    a.epoch = 0;
    a.has.clear();
    a.send(&mut rig, 0);
    let call = a.send(&mut rig, 0);
    rig.pass(21);
    let told = a.hear(&mut rig, call).expect("an answer with the next assignment").unwrap();
    assert!(told.epoch > former.epoch);
    assert_eq!(a.has, former.has);
    assert_eq!(former.commit(&mut rig, &[(first, 130)]), Ok(vec![Some(ErrorCode::StaleMemberEpoch)]));
    let goodbye = |epoch: i32| v1::HeartbeatRequest {
        member_epoch: -1,
        leaving_epoch: Some(epoch),
        ..former.request(0)
    };
    let say = |rig: &mut Rig, epoch: i32| {
        rig.ask(ShardCall::Heartbeat { request: goodbye(epoch), host: "h".into() }).map_err(|no| no.code)
    };
    assert_eq!(say(&mut rig, former.epoch).unwrap_err(), ErrorCode::FencedMemberEpoch);
    assert_eq!(a.commit(&mut rig, &[(first, 130)]), Ok(vec![None]));
    settle(&mut rig, &mut [&mut a, &mut b]);
    assert_eq!((&a.has, &b.has), (&former.has, &others), "nobody gave anything back");
    assert_eq!(rig.state("g"), v1::GroupState::Stable);
    assert!(say(&mut rig, a.epoch).is_ok());
}

#[test]
fn bad_heartbeats_are_named() {
    let mut rig = Rig::new(1);
    let good = Client::new("g", "a").request(0);
    let mut refused = |change: &dyn Fn(&mut v1::HeartbeatRequest)| {
        let mut request = good.clone();
        change(&mut request);
        let refusal = rig.ask(ShardCall::Heartbeat { request, host: "h".into() }).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidRequest);
        refusal.field.unwrap()
    };
    assert_eq!(refused(&|beat| beat.group_id = String::new()), "group_id");
    assert_eq!(refused(&|beat| beat.member_id = "x".repeat(250)), "member_id");
    assert_eq!(refused(&|beat| beat.instance_id = "\n".to_owned()), "instance_id");
    assert_eq!(refused(&|beat| beat.session_timeout_ms = Some(999)), "session_timeout_ms");
    assert_eq!(refused(&|beat| beat.rebalance_timeout_ms = Some(86_400_001)), "rebalance_timeout_ms");
    assert_eq!(refused(&|beat| beat.member_epoch = -3), "member_epoch");
    assert_eq!(refused(&|beat| beat.subscription = None), "subscription");
    let wish = |beat: &mut v1::HeartbeatRequest| beat.subscription.take().unwrap();
    assert_eq!(
        refused(&|beat| beat.subscription = Some(v1::GroupSubscription { topics: vec![], ..wish(beat) })),
        "subscription.topics"
    );
    for bad in ["(", "a)|(b", "(?x)a #", &"x".repeat(5_000), "(a{1000}){1000}"] {
        let pattern = bad.to_owned();
        assert_eq!(
            refused(&|beat| {
                beat.subscription = Some(v1::GroupSubscription { pattern: pattern.clone(), ..wish(beat) });
            }),
            "subscription.pattern"
        );
    }
    assert_eq!(
        refused(&|beat| {
            beat.subscription = Some(v1::GroupSubscription { assignor: "best".to_owned(), ..wish(beat) });
        }),
        "subscription.assignor"
    );
    let short = v1::TopicPartitions { topic_id: vec![1].into(), topic: String::new(), partitions: vec![0] };
    let has = v1::AssignedPartitions { topics: vec![short] };
    assert_eq!(refused(&|beat| beat.has = Some(has.clone())), "has.topics.topic_id");
    assert!(!rig.has_group("g"), "what is refused leaves nothing behind");
}
