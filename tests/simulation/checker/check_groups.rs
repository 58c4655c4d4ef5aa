//! The anomalies of consumer groups.
//!
//! ```text
//!   holds ──► who had what, when                    double-ownership
//!   commits, offsets read back ──► a register       lost-commit, commit-went-back, zombie-commit
//!   polls of holds ──► what the group was given     group-skip, undelivered
//! ```

use super::anomaly::{Anomaly, Kind};
use super::check::Seen;
use super::groups::{Commit, Group, Hold, OffsetRead};
use super::history::{At, History, Partition, Process};
use std::collections::{BTreeMap, HashMap};

type Place = (Group, Partition);

/// Adds what went wrong in groups.
pub(super) fn check_groups(history: &History, seen: &Seen, found: &mut Vec<Anomaly>) {
    let given = Given::of(history);
    double_ownership(history, found);
    zombie_commits(history, found);
    registers(history, found);
    went_back(history, found);
    skips(history, seen, &given, found);
    undelivered(history, seen, &given, found);
}

/// Records that a group has not been given, of the partitions that were read to their end: how many, and the first.
pub fn behind(history: &History) -> BTreeMap<(Group, Partition), (usize, i64)> {
    let given = Given::of(history);
    let mut behind = BTreeMap::new();
    for (group, _) in &history.groups.groups {
        for drain in history.drains.iter().filter(|drain| drain.complete) {
            let missing = |offset: &&i64| given.first(*group, drain.partition, **offset).is_none();
            let offsets: Vec<i64> = drain.records.iter().map(|(offset, _)| *offset).collect();
            if let Some(first) = offsets.iter().find(missing) {
                let count = offsets.iter().filter(missing).count();
                behind.insert((*group, drain.partition), (count, *first));
            }
        }
    }
    behind
}

/// When each record was first given to some member of a group.
struct Given {
    first: HashMap<(Group, Partition, i64), At>,
}

impl Given {
    fn of(history: &History) -> Given {
        let holds = &history.groups.holds;
        let groups: HashMap<(Process, u32), Group> =
            holds.iter().map(|hold| ((hold.process, hold.session), hold.group)).collect();
        let mut first = HashMap::new();
        for poll in &history.polls {
            let Some(group) = groups.get(&(poll.process, poll.session)) else { continue };
            for (offset, _) in &poll.records {
                let at = first.entry((*group, poll.partition, *offset)).or_insert(poll.at);
                *at = poll.at.min(*at);
            }
        }
        Given { first }
    }

    fn first(&self, group: Group, partition: Partition, offset: i64) -> Option<At> {
        self.first.get(&(group, partition, offset)).copied()
    }
}

fn anomaly(kind: Kind, partition: Partition, detail: String) -> Anomaly {
    Anomaly { kind, partition, detail }
}

/// Two members that look at their clocks must not have a partition at the same time, whatever happens around them.
fn double_ownership(history: &History, found: &mut Vec<Anomaly>) {
    let mut places: BTreeMap<Place, Vec<&Hold>> = BTreeMap::new();
    // One that was lost in the moment in which it was told never was.
    let lasted = |hold: &&Hold| hold.until != Some(hold.from);
    for hold in history.groups.holds.iter().filter(|hold| hold.punctual).filter(lasted) {
        places.entry((hold.group, hold.partition)).or_default().push(hold);
    }
    for ((group, partition), holds) in places {
        for (place, later) in holds.iter().enumerate() {
            for earlier in &holds[..place] {
                let overlaps = earlier.until.is_none_or(|until| later.from < until)
                    && later.until.is_none_or(|until| earlier.from < until);
                if overlaps && earlier.process != later.process {
                    let detail = format!(
                        "group {}: member {} had it from {:?} to {:?} (epoch {:?}), and member {} from {:?} to {:?} (epoch {:?})",
                        group.0,
                        earlier.process.0,
                        earlier.from,
                        earlier.until,
                        earlier.epoch,
                        later.process.0,
                        later.from,
                        later.until,
                        later.epoch
                    );
                    found.push(anomaly(Kind::DoubleOwnership, partition, detail));
                }
            }
        }
    }
}

/// Commits by partition, each with its hold.
fn commits(history: &History) -> BTreeMap<Place, Vec<(&Commit, &Hold)>> {
    let mut places: BTreeMap<Place, Vec<(&Commit, &Hold)>> = BTreeMap::new();
    for commit in &history.groups.commits {
        let hold = history.groups.of(commit.hold);
        places.entry((hold.group, hold.partition)).or_default().push((commit, hold));
    }
    places
}

/// A commit must not be accepted that was sent after one of a later owner had been.
fn zombie_commits(history: &History, found: &mut Vec<Anomaly>) {
    for ((group, partition), all) in commits(history) {
        let mut by_sending: Vec<_> =
            all.iter().filter(|(commit, hold)| commit.acked.is_some() && hold.epoch.is_some()).collect();
        let mut by_ack = by_sending.clone();
        by_sending.sort_by_key(|(commit, _)| commit.asked);
        by_ack.sort_by_key(|(commit, _)| commit.acked);
        let mut acks = by_ack.into_iter().peekable();
        let mut newest: Option<&Hold> = None;
        for (commit, hold) in by_sending {
            while let Some((_, by)) = acks.next_if(|(other, _)| other.acked <= Some(commit.asked)) {
                if newest.is_none_or(|newest| by.epoch > newest.epoch) {
                    newest = Some(by);
                }
            }
            if let Some(newest) = newest.filter(|newest| newest.epoch > hold.epoch) {
                let detail = format!(
                    "group {}: offset {} of member {} at epoch {:?}, sent at {:?}, was accepted after member {} had committed at epoch {:?}",
                    group.0,
                    commit.offset,
                    hold.process.0,
                    hold.epoch,
                    commit.asked,
                    newest.process.0,
                    newest.epoch
                );
                found.push(anomaly(Kind::ZombieCommit, partition, detail));
            }
        }
    }
}

fn reads(history: &History) -> BTreeMap<Place, Vec<&OffsetRead>> {
    let mut places: BTreeMap<Place, Vec<&OffsetRead>> = BTreeMap::new();
    for read in &history.groups.reads {
        places.entry((read.group, read.partition)).or_default().push(read);
    }
    places
}

/// A committed offset is a register: whoever reads it is told what was committed last, or something that may have come since.
fn registers(history: &History, found: &mut Vec<Anomaly>) {
    let mut all = commits(history);
    for ((group, partition), reads) in reads(history) {
        if !history.groups.groups.contains(&(group, true)) {
            continue;
        }
        let commits = all.remove(&(group, partition)).unwrap_or_default();
        // When it is certain that a commit has happened: it was acknowledged, or it alone explains what somebody read.
        let known = |commit: &Commit| {
            let alone = commits.iter().filter(|(other, _)| other.offset == commit.offset).count() == 1;
            let seen = reads.iter().filter(|read| read.offset == Some(commit.offset)).map(|read| read.at);
            let seen = seen.min().filter(|_| alone);
            commit.acked.into_iter().chain(seen).min()
        };
        let done: Vec<(&Commit, At)> =
            commits.iter().filter_map(|(commit, _)| Some((*commit, known(commit)?))).collect();
        for read in &reads {
            let before = done.iter().filter(|(_, known)| *known <= read.asked);
            let last = before.map(|(commit, _)| *commit).max_by_key(|commit| commit.asked);
            // One that ended before the last one began is written over. One without an answer may come at any time.
            let may_be = |commit: &Commit| {
                let over = |last: &Commit| commit.acked.is_some_and(|acked| acked <= last.asked);
                Some(commit.offset) == read.offset && commit.asked <= read.at && !last.is_some_and(over)
            };
            let explained = match read.offset {
                None => last.is_none(),
                Some(_) => commits.iter().any(|(commit, _)| may_be(commit)),
            };
            if !explained {
                let last = last.map(|last| (last.offset, last.asked, last.acked));
                let detail = format!(
                    "group {}: {:?} was read at {:?}; the last commit was {last:?}",
                    group.0, read.offset, read.at
                );
                found.push(anomaly(Kind::LostCommit, partition, detail));
            }
        }
    }
}

/// What was read back is not below what was read back before.
fn went_back(history: &History, found: &mut Vec<Anomaly>) {
    for ((group, partition), mut reads) in reads(history) {
        reads.sort_by_key(|read| read.asked);
        let mut by_answer = reads.clone();
        by_answer.sort_by_key(|read| read.at);
        let mut answers = by_answer.into_iter().peekable();
        let mut highest: Option<&OffsetRead> = None;
        for read in reads {
            while let Some(before) = answers.next_if(|before| before.at <= read.asked) {
                if highest.is_none_or(|highest| before.offset > highest.offset) {
                    highest = Some(before);
                }
            }
            if let Some(highest) = highest.filter(|highest| highest.offset > read.offset) {
                let detail = format!(
                    "group {}: {:?} was read at {:?}, after {:?} at {:?}",
                    group.0, read.offset, read.at, highest.offset, highest.at
                );
                found.push(anomaly(Kind::CommitWentBack, partition, detail));
            }
        }
    }
}

/// Wherever a group stands, everything before was given to one of its members.
fn skips(history: &History, seen: &Seen, given: &Given, found: &mut Vec<Anomaly>) {
    let mut places: BTreeMap<Place, Vec<(i64, At, &str)>> = BTreeMap::new();
    for read in &history.groups.reads {
        let Some(offset) = read.offset else { continue };
        places.entry((read.group, read.partition)).or_default().push((offset, read.at, "was committed"));
    }
    for hold in &history.groups.holds {
        let Some(start) = hold.start else { continue };
        places.entry((hold.group, hold.partition)).or_default().push((start, hold.from, "was begun at"));
    }
    for ((group, partition), mut stands) in places {
        stands.sort_unstable();
        let mut records = seen.offsets(partition).peekable();
        // The record before the group's stand that was given last, or never.
        let mut latest: Option<(i64, Option<At>)> = None;
        for (offset, at, what) in stands {
            while let Some(record) = records.next_if(|record| *record < offset) {
                let first = given.first(group, partition, record);
                let is_later = |(_, latest): (i64, Option<At>)| match (first, latest) {
                    (_, None) => false,
                    (None, Some(_)) => true,
                    (Some(first), Some(latest)) => first > latest,
                };
                if latest.is_none_or(is_later) {
                    latest = Some((record, first));
                }
            }
            // A hold's start is noted after it began: what counts is whether it was ever given.
            let late = |first: Option<At>| first.is_none_or(|first| first > at && what == "was committed");
            if let Some((record, first)) = latest.filter(|(_, first)| late(*first)) {
                let detail = format!(
                    "group {}: {offset} {what} at {at:?}, and {record} had not been given to any member (first given: {first:?})",
                    group.0
                );
                found.push(anomaly(Kind::GroupSkip, partition, detail));
            }
        }
    }
}

/// In the end every record was given to some member of each group.
fn undelivered(history: &History, seen: &Seen, given: &Given, found: &mut Vec<Anomaly>) {
    for (group, _) in &history.groups.groups {
        for (partition, last) in &seen.last {
            let missing: Vec<i64> = last
                .keys()
                .filter(|offset| given.first(*group, *partition, **offset).is_none())
                .copied()
                .collect();
            if let (Some(first), count) = (missing.first(), missing.len()) {
                let detail =
                    format!("group {}: {count} records were given to no member, from {first} on", group.0);
                found.push(anomaly(Kind::Undelivered, *partition, detail));
            }
        }
    }
}
