//! Each anomaly of groups in the smallest history that shows it, and what is lawful though it looks odd.

use super::groups::{Group, GroupHistory, Hold, HoldId, OffsetRead};
use super::history::*;
use super::{Anomaly, Kind, behind, check};
use std::time::Duration;

const P: Partition = Partition(0);
const G: Group = Group(0);

fn at(second: u64) -> At {
    Duration::from_secs(second)
}

fn kinds(history: &History) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = check(history).iter().map(|Anomaly { kind, .. }| *kind).collect();
    kinds.dedup();
    kinds
}

/// Records 10, 11, ... at offsets 0, 1, ..., and a group whose commits are all told.
fn log(records: u64) -> History {
    let mut history = History::default();
    let mut all = Vec::new();
    for place in 0..records {
        let value = Value(10 + place);
        let id = history.invoke(at(0), Process(99), P, value, Promise::FULL);
        history.ok(id, at(0), Some(place as i64));
        all.push((place as i64, value));
    }
    history.drains.push(Drain { partition: P, records: all, complete: true });
    history.groups.groups.push((G, true));
    history
}

fn hold(history: &mut History, process: u32, epoch: i32, from: u64, until: Option<u64>) -> HoldId {
    let hold = Hold {
        group: G,
        process: Process(process),
        session: process,
        partition: P,
        epoch: Some(epoch),
        start: None,
        from: at(from),
        until: until.map(at),
        punctual: true,
    };
    history.groups.hold(hold)
}

fn given(history: &mut History, process: u32, second: u64, offsets: std::ops::Range<i64>) {
    let records = offsets.map(|offset| (offset, Value(10 + offset as u64))).collect();
    history.polls.push(Poll {
        process: Process(process),
        session: process,
        partition: P,
        at: at(second),
        records,
    });
}

fn committed(history: &mut History, hold: HoldId, offset: i64, asked: u64, acked: Option<u64>) {
    let id = history.groups.commit(hold, offset, at(asked));
    if let Some(acked) = acked {
        history.groups.committed(id, at(acked));
    }
}

fn read(history: &mut History, second: u64, offset: Option<i64>) {
    let read = OffsetRead { group: G, partition: P, asked: at(second), at: at(second), offset };
    history.groups.reads.push(read);
}

/// One member that reads everything and commits it at second 4.
fn whole(records: u64) -> (History, HoldId) {
    let mut history = log(records);
    let one = hold(&mut history, 1, 1, 1, None);
    history.groups.begins(one, 0);
    given(&mut history, 1, 2, 0..records as i64);
    committed(&mut history, one, records as i64, 3, Some(4));
    (history, one)
}

#[test]
fn what_a_group_may_do_is_no_anomaly() {
    let (mut history, one) = whole(4);
    read(&mut history, 1, None);
    read(&mut history, 5, Some(4));
    history.groups.ends(one, at(6));
    // The next owner is given again what was not committed, and what was.
    let two = hold(&mut history, 2, 2, 6, None);
    history.groups.begins(two, 2);
    given(&mut history, 2, 7, 2..4);
    assert_eq!(kinds(&history), []);
    assert!(behind(&history).is_empty());
}

#[test]
fn two_punctual_members_with_one_partition_are_an_anomaly() {
    let (mut history, one) = whole(1);
    let two = hold(&mut history, 2, 2, 9, None);
    assert_eq!(kinds(&history), [Kind::DoubleOwnership]);
    let mut frozen = history.clone();
    frozen.groups.was_late(two);
    assert_eq!(kinds(&frozen), [], "who was frozen may think so");
    let mut brief = history.clone();
    brief.groups.ends(two, at(9));
    assert_eq!(kinds(&brief), [], "it was over when it began");
    history.groups.ends(one, at(9));
    assert_eq!(kinds(&history), []);
}

#[test]
fn a_commit_behind_a_later_owners_is_a_zombies() {
    let base = || {
        let (mut history, one) = whole(4);
        history.groups.ends(one, at(5));
        let two = hold(&mut history, 2, 2, 5, None);
        given(&mut history, 2, 6, 0..4);
        committed(&mut history, two, 4, 7, Some(8));
        (history, one)
    };
    let (mut history, one) = base();
    committed(&mut history, one, 3, 8, Some(9));
    assert_eq!(kinds(&history), [Kind::ZombieCommit]);
    let (mut history, one) = base();
    committed(&mut history, one, 3, 7, Some(9));
    committed(&mut history, one, 3, 9, None);
    assert_eq!(kinds(&history), [], "at the same time, or refused");
}

#[test]
fn an_acknowledged_commit_must_be_read_back() {
    let (mut history, _) = whole(4);
    read(&mut history, 5, None);
    assert_eq!(kinds(&history), [Kind::LostCommit]);
    let (mut history, _) = whole(4);
    read(&mut history, 5, Some(2));
    assert_eq!(kinds(&history), [Kind::LostCommit], "nobody committed that");
    // While it is under way, and when nobody knows what became of it, both are lawful, but not one after the other.
    let (mut history, one) = whole(4);
    read(&mut history, 3, None);
    committed(&mut history, one, 3, 5, None);
    read(&mut history, 6, Some(4));
    assert_eq!(kinds(&history), []);
    committed(&mut history, one, 2, 7, Some(8));
    read(&mut history, 9, Some(4));
    assert_eq!(kinds(&history), [Kind::LostCommit]);
}

#[test]
fn what_was_read_once_has_happened() {
    let (mut history, one) = whole(4);
    let (mut late, second) = (history.clone(), one);
    committed(&mut history, one, 3, 5, None);
    read(&mut history, 6, Some(3));
    read(&mut history, 7, Some(4));
    assert_eq!(kinds(&history), [Kind::LostCommit], "4 had been acknowledged before 3 was sent");
    committed(&mut late, second, 3, 2, None);
    read(&mut late, 6, Some(4));
    read(&mut late, 7, Some(3));
    assert_eq!(
        kinds(&late),
        [Kind::CommitWentBack],
        "a commit without an answer may come late, but goes back"
    );
}

#[test]
fn a_group_behind_a_record_that_nobody_was_given_skips() {
    let mut history = log(4);
    let one = hold(&mut history, 1, 1, 1, None);
    given(&mut history, 1, 2, 0..2);
    committed(&mut history, one, 3, 3, Some(4));
    let early = history.clone();
    given(&mut history, 1, 8, 2..4);
    assert_eq!(kinds(&history), [], "nobody looked");
    read(&mut history, 5, Some(3));
    assert_eq!(kinds(&history), [Kind::GroupSkip]);
    assert_eq!(kinds(&early), [Kind::Undelivered]);
    assert_eq!(behind(&early), [((G, P), (2, 2))].into());
}

#[test]
fn a_member_that_begins_behind_a_record_skips() {
    let mut history = log(4);
    let one = hold(&mut history, 1, 1, 1, None);
    history.groups.begins(one, 1);
    given(&mut history, 1, 2, 1..4);
    assert_eq!(kinds(&history), [Kind::GroupSkip, Kind::Undelivered]);
}

#[test]
fn a_member_does_not_skip_where_it_begins_nor_go_back() {
    let base = |start| {
        let mut history = log(4);
        let one = hold(&mut history, 1, 1, 1, Some(3));
        history.groups.begins(one, 0);
        given(&mut history, 1, 2, 0..4);
        let two = hold(&mut history, 2, 2, 3, None);
        history.groups.begins(two, start);
        history
    };
    let mut history = base(1);
    given(&mut history, 2, 4, 2..4);
    assert_eq!(kinds(&history), [Kind::PollSkip]);
    let mut history = base(2);
    given(&mut history, 2, 4, 1..4);
    assert_eq!(kinds(&history), [Kind::NonmonotonicPoll]);
}

#[test]
fn groups_that_commit_by_themselves_are_not_registers() {
    let (mut history, _) = whole(4);
    history.groups = GroupHistory { groups: vec![(G, false)], ..history.groups };
    read(&mut history, 5, Some(2));
    assert_eq!(kinds(&history), []);
    read(&mut history, 6, Some(1));
    assert_eq!(kinds(&history), [Kind::CommitWentBack]);
}
