//! Heartbeats that are held, and answers that wait for a write.

use super::client::settle;
use super::*;

#[test]
fn a_held_heartbeat_is_answered_when_there_is_news_and_moves_take_no_heartbeat_interval() {
    let mut rig = Rig::new(4);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    // Says what it has; from there on it is held.
    let held = a.send(&mut rig, 20_000);
    rig.pass(10_000);
    assert!(!rig.replies.contains_key(&held), "nothing to tell");
    let start = rig.now.mono;
    b.join(&mut rig).unwrap();
    rig.pass(21);
    // a is told what to give back within the tick of the assignment, and b gets it with the call that gives it back.
    let told = a.hear(&mut rig, held).unwrap().unwrap();
    assert_eq!(told.assignment.map(|kept| kept.len()), Some(2));
    assert_eq!(
        b.beat(&mut rig).map(|told| told.epoch),
        Ok(a.epoch + 1),
        "it is told the new epoch, and waits"
    );
    let held_b = b.send(&mut rig, 20_000);
    assert!(!rig.replies.contains_key(&held_b));
    let held_a = a.send(&mut rig, 20_000);
    b.hear(&mut rig, held_b).unwrap().unwrap();
    assert_eq!(b.has.len(), 2);
    // a goes on to the new epoch with the same call.
    let told = a.hear(&mut rig, held_a).unwrap().unwrap();
    assert_eq!(told.epoch, b.epoch);
    assert!(rig.now.mono - start < Duration::from_millis(150));
    // One leaves: the other has everything after the delay of an assignment.
    let (held_a, first) = (a.send(&mut rig, 20_000), b.leave(&mut rig, -1));
    assert!(first.is_ok());
    rig.pass(21);
    a.hear(&mut rig, held_a).unwrap().unwrap();
    assert_eq!(a.partitions(), [0, 1, 2, 3]);
}

#[test]
fn a_held_heartbeat_ends_with_its_time_with_the_next_one_or_with_its_caller() {
    let mut rig = Rig::new(1);
    let mut a = Client::new("g", "a");
    a.join(&mut rig).unwrap();
    let first = a.send(&mut rig, 5_000);
    rig.pass(4_999);
    assert!(!rig.replies.contains_key(&first));
    rig.pass(1);
    let told = a.hear(&mut rig, first).unwrap().unwrap();
    assert_eq!(told.assignment, None, "no change");
    // A new one ends the one before.
    let second = a.send(&mut rig, 5_000);
    let third = a.send(&mut rig, 60_000);
    assert!(rig.replies.contains_key(&second) && !rig.replies.contains_key(&third));
    // At most half of its session.
    rig.pass(22_500);
    assert!(rig.replies.contains_key(&third));
    // The caller goes away: no answer, and the session counts from there.
    let fourth = a.send(&mut rig, 20_000);
    rig.pass(10_000);
    let mut out = Output::default();
    rig.shard.handle(fourth, ShardCall::Cancel, &rig.topics, rig.now, &mut out);
    assert!(out.replies.is_empty() && out.writes.is_empty());
    rig.pass(44_999);
    assert!(!rig.replies.contains_key(&fourth));
    assert_eq!(rig.shard.member_count(), 1);
    rig.pass(1);
    assert_eq!(rig.shard.member_count(), 0);
}

#[test]
fn a_member_that_is_not_done_giving_back_is_held_too_and_reminded() {
    let mut rig = Rig::new(2);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    rig.pass(100);
    let had = a.has.clone();
    let told = a.beat(&mut rig).unwrap();
    (a.has, a.says) = (had, true);
    let call = a.send(&mut rig, 20_000);
    assert!(!rig.replies.contains_key(&call), "it was told");
    rig.pass(3_000);
    // The answer that told it may have been lost.
    assert_eq!(client::told(rig.take(call).unwrap()).unwrap().assignment, told.assignment);
}

#[test]
fn who_did_not_hear_the_last_answer_is_told_again() {
    let mut rig = Rig::new(2);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    a.beat(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    rig.pass(100);
    // The answer with the revocation is lost; a says nothing new with its next heartbeat.
    a.says = false;
    let lost = a.send(&mut rig, 0);
    assert!(rig.take(lost).is_some());
    let call = a.send(&mut rig, 20_000);
    let told = a.hear(&mut rig, call).expect("at once").unwrap();
    assert_eq!(told.assignment.map(|kept| kept.len()), Some(1));
    // The answer with the new epoch is lost too.
    let before = a.clone();
    a.beat(&mut rig).unwrap();
    let mut a = before;
    let call = a.send(&mut rig, 20_000);
    let told = a.hear(&mut rig, call).expect("at once").unwrap();
    assert!(told.epoch > 0);
    settle(&mut rig, &mut [&mut a, &mut b]);
    assert_eq!((a.has.len(), b.has.len()), (1, 1));
}

#[test]
fn a_member_without_partitions_is_held_though_it_confirms_nothing() {
    let mut rig = Rig::new(1);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    a.beat(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    rig.pass(100);
    a.beat(&mut rig).unwrap();
    for _ in 0..2 {
        b.says = false;
        b.beat(&mut rig).unwrap();
    }
    assert!(b.has.is_empty());
    // What it has did not change since it joined, and so it does not say it.
    b.says = false;
    let held = b.send(&mut rig, 20_000);
    rig.pass(2_000);
    assert!(!rig.replies.contains_key(&held), "nothing to tell");
    a.leave(&mut rig, -1).unwrap();
    rig.pass(21);
    b.hear(&mut rig, held).expect("as soon as there is something").unwrap();
    assert_eq!(b.partitions(), [0]);
}

#[test]
fn an_answer_leaves_when_its_groups_last_write_is_durable() {
    let mut rig = Rig::new(2);
    rig.commit_outside("g", &[(0, 1)]);
    rig.stuck = true;
    let commit_g = rig.call(ShardCall::CommitOffsets(commit("g", "t", &[(0, 2)])));
    let commit_h = rig.call(ShardCall::CommitOffsets(commit("h", "t", &[(0, 3)])));
    let fetch = |group: &str| v1::FetchOffsetsRequest { group_id: group.to_owned(), ..Default::default() };
    let fetch_g = rig.call(ShardCall::FetchOffsets(fetch("g")));
    let fetch_h = rig.call(ShardCall::FetchOffsets(fetch("h")));
    let list = rig.call(ShardCall::ListGroups(v1::ListGroupsRequest::default()));
    assert_eq!(
        rig.replies.keys().copied().collect::<Vec<_>>(),
        [list],
        "no offset is told that is not durable"
    );
    let mut out = Output::default();
    let first = rig.log[rig.log.len() - 2].0;
    rig.shard.durable(first, rig.now, &mut out);
    let ids: Vec<CallId> = out.replies.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [commit_g, fetch_g], "in the order of the calls");
    assert_eq!(offsets(out.replies[1].1.clone().unwrap()), [(0, 2)]);
    // A group that is not there may have been deleted by what is not durable yet.
    let gone = v1::DeleteGroupsRequest { group_ids: vec!["g".to_owned()] };
    let gone = rig.call(ShardCall::DeleteGroup(gone));
    let after = rig.call(ShardCall::FetchOffsets(fetch("g")));
    let mut out = Output::default();
    rig.shard.durable(WriteId(first.0 + 1), rig.now, &mut out);
    let ids: Vec<CallId> = out.replies.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [commit_h, fetch_h]);
    rig.make_durable();
    assert!(rig.take(gone).is_some());
    assert_eq!(offsets(rig.take(after).unwrap().unwrap()), []);
}

#[test]
fn sessions_stand_still_while_the_answer_waits_for_a_write() {
    let mut rig = Rig::new(2);
    let (mut a, b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    rig.stuck = true;
    let joins = b.send(&mut rig, 0);
    // Writes are stuck for longer than any session, as is the answer to b.
    let beats = a.send(&mut rig, 0);
    rig.pass(100_000);
    assert!(rig.take(joins).is_none() && rig.take(beats).is_none());
    assert_eq!(rig.shard.member_count(), 2);
    rig.make_durable();
    assert!(rig.take(joins).is_some() && rig.take(beats).is_some());
    rig.pass(44_999);
    assert_eq!(rig.shard.member_count(), 2, "their sessions begin when the answers left");
    rig.pass(1);
    assert_eq!(rig.shard.member_count(), 0);
}

#[test]
fn idle_members_cost_nothing_between_their_timers() {
    let mut rig = Rig::new(1);
    rig.pass(10_000);
    let mut clients: Vec<Client> = (0..50).map(|n| Client::new(&format!("g{n}"), "a")).collect();
    for client in &mut clients {
        client.join(&mut rig).unwrap();
        client.beat(&mut rig).unwrap();
    }
    let calls: Vec<CallId> = clients.iter().map(|client| client.send(&mut rig, 20_000)).collect();
    let (ticks, written) = (rig.ticks, rig.shard.written());
    rig.pass(19_999);
    assert_eq!((rig.ticks, rig.shard.written()), (ticks, written));
    rig.pass(1);
    assert_eq!(rig.ticks, ticks + 1);
    assert!(calls.iter().all(|call| rig.replies.contains_key(call)));
}

#[test]
fn the_time_to_give_back_counts_from_when_the_member_was_asked_and_anew_for_each_asking() {
    let mut rig = Rig::new(3);
    let (mut a, mut b, mut c) = (Client::new("g", "a"), Client::new("g", "b"), Client::new("g", "c"));
    a.rebalance_ms = 10_000;
    a.join(&mut rig).unwrap();
    a.beat(&mut rig).unwrap();
    b.join(&mut rig).unwrap();
    rig.pass(100);
    // The write that asks it is stuck for longer than it has.
    rig.stuck = true;
    let asked = a.send(&mut rig, 0);
    rig.pass(9_000);
    rig.make_durable();
    rig.stuck = false;
    let mut had = a.has.clone();
    a.hear(&mut rig, asked).unwrap().unwrap();
    rig.pass(9_000);
    assert_eq!(rig.shard.member_count(), 2);
    // It gives back, and is asked for one more at once, for which it has its time again.
    c.join(&mut rig).unwrap();
    rig.pass(100);
    had.clone_from(&a.has);
    a.beat(&mut rig).unwrap();
    assert_eq!(a.has.len() + 1, had.len());
    (a.has, a.says) = (had, true);
    rig.pass(9_000);
    a.send(&mut rig, 0);
    assert_eq!(rig.shard.member_count(), 3);
    rig.pass(1_000);
    assert_eq!(rig.shard.member_count(), 2, "b and c stay");
    b.beat(&mut rig).unwrap();
}

#[test]
fn one_that_never_says_what_it_has_is_told_again_once_and_then_held() {
    let mut rig = Rig::new(2);
    let mut a = Client::new("g", "a");
    a.join(&mut rig).unwrap();
    a.beat(&mut rig).unwrap();
    // The next coordinator does not know what it heard.
    rig.fail_over(usize::MAX);
    a.says = false;
    let call = a.send(&mut rig, 20_000);
    let told = a.hear(&mut rig, call).expect("at once").unwrap();
    assert_eq!(told.assignment.map(|all| all.len()), Some(2));
    a.says = false;
    let held = a.send(&mut rig, 20_000);
    rig.pass(19_999);
    assert!(!rig.replies.contains_key(&held), "no busy loop");
    rig.pass(1);
    let told = a.hear(&mut rig, held).unwrap().unwrap();
    assert_eq!(told.assignment.map(|all| all.len()), Some(2), "it may have missed both");
    // Once it said so there is nothing more to tell.
    for whole in [false, false] {
        let held = a.send(&mut rig, 20_000);
        rig.pass(20_000);
        assert_eq!(a.hear(&mut rig, held).unwrap().unwrap().assignment.is_some(), whole);
    }
}
