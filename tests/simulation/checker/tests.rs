//! Each anomaly in the smallest history that shows it, what is lawful though it looks odd, and histories by the hundred.

use super::history::*;
use super::{Anomaly, Kind, check};
use crate::dice::Dice;
use std::time::Duration;

const P: Partition = Partition(0);

fn at(second: u64) -> At {
    Duration::from_secs(second)
}

fn kinds(history: &History) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = check(history).iter().map(|Anomaly { kind, .. }| *kind).collect();
    kinds.dedup();
    kinds
}

/// Sends of one producer: value and, if it was acknowledged, offset.
fn sent(sends: &[(u64, Option<i64>)]) -> History {
    let mut history = History::default();
    for (value, offset) in sends {
        let id = history.invoke(at(1), Process(1), P, Value(*value), Promise::FULL);
        if let Some(offset) = offset {
            history.ok(id, at(2), Some(*offset));
        }
    }
    history
}

fn polled(mut history: History, process: u32, session: u32, records: &[(i64, u64)]) -> History {
    let records = records.iter().map(|(offset, value)| (*offset, Value(*value))).collect();
    history.polls.push(Poll { process: Process(process), session, partition: P, at: at(3), records });
    history
}

fn drained(mut history: History, records: &[(i64, u64)]) -> History {
    let records = records.iter().map(|(offset, value)| (*offset, Value(*value))).collect();
    history.drains.push(Drain { partition: P, records, complete: true });
    history
}

fn told(mut history: History, asked: u64, answered: u64, offset: i64) -> History {
    let (process, partition) = (Process(9), P);
    history.watermarks.push(Watermark { process, partition, asked: at(asked), at: at(answered), offset });
    history
}

#[test]
fn what_a_log_may_do_is_no_anomaly() {
    assert_eq!(kinds(&History::default()), []);
    // Two without answers: one happened, one did not.
    let history = sent(&[(10, Some(0)), (11, None), (12, None), (13, Some(2))]);
    let history = polled(history, 5, 0, &[(0, 10), (1, 11)]);
    let history = polled(history, 5, 0, &[(2, 13)]);
    // A second session begins anew, wherever it was put.
    let history = polled(history, 5, 1, &[(1, 11), (2, 13)]);
    assert_eq!(kinds(&drained(history, &[(0, 10), (1, 11), (2, 13)])), []);
}

#[test]
fn an_acknowledged_record_below_what_is_read_is_a_lost_write() {
    let history = drained(sent(&[(10, Some(0)), (11, Some(1)), (12, Some(2))]), &[(0, 10), (2, 12)]);
    assert_eq!(kinds(&history), [Kind::LostWrite]);
    // Overwritten by a later one: lost, and the offset held two.
    let history = drained(sent(&[(10, Some(0)), (11, Some(0))]), &[(0, 11)]);
    assert_eq!(kinds(&history), [Kind::LostWrite, Kind::InconsistentOffsets]);
}

#[test]
fn an_acknowledged_record_that_nobody_ever_saw_is_unseen() {
    assert_eq!(kinds(&drained(sent(&[(10, Some(0)), (11, Some(1))]), &[(0, 10)])), [Kind::Unseen]);
    assert_eq!(kinds(&drained(sent(&[(10, Some(0))]), &[])), [Kind::Unseen]);
}

#[test]
fn a_record_acknowledged_without_an_offset_must_be_somewhere() {
    let mut history = History::default();
    let id = history.invoke(at(1), Process(1), P, Value(10), Promise::FULL);
    history.ok(id, at(2), None);
    assert_eq!(kinds(&drained(history.clone(), &[(0, 10)])), []);
    assert_eq!(kinds(&drained(history, &[])), [Kind::Unseen]);
}

#[test]
fn what_a_reader_was_given_must_stay_whatever_its_promise() {
    let mut history = History::default();
    let id = history.invoke(at(1), Process(1), P, Value(10), Promise::NONE);
    history.ok(id, at(2), Some(0));
    let unread = drained(history.clone(), &[]);
    assert_eq!(kinds(&unread), [], "acks=1 may lose what nobody read");
    assert_eq!(kinds(&drained(polled(history, 5, 0, &[(0, 10)]), &[])), [Kind::LostWrite]);
}

#[test]
fn the_place_of_a_lost_acks_1_record_may_be_taken() {
    let mut history = History::default();
    for value in [10, 11] {
        let id = history.invoke(at(1), Process(1), P, Value(value), Promise::NONE);
        history.ok(id, at(2), Some(0));
    }
    assert_eq!(kinds(&drained(history, &[(0, 11)])), []);
}

#[test]
fn a_record_of_an_idempotent_producer_at_two_offsets_is_a_duplicate() {
    let history = drained(sent(&[(10, Some(0))]), &[(0, 10), (1, 10)]);
    assert_eq!(kinds(&history), [Kind::Duplicate]);
    // Also when the only trace of the first is its acknowledgement: then it moved.
    let history = drained(sent(&[(9, Some(0)), (10, Some(1))]), &[(0, 9), (2, 10)]);
    assert_eq!(kinds(&history), [Kind::Duplicate]);
    let mut history = History::default();
    history.invoke(at(1), Process(1), P, Value(10), Promise::NONE);
    assert_eq!(kinds(&drained(history, &[(0, 10), (1, 10)])), [], "others may retry blindly");
}

#[test]
fn two_records_at_one_offset_are_inconsistent() {
    let history = polled(sent(&[(10, None), (11, None)]), 5, 0, &[(0, 10)]);
    let history = drained(polled(history, 6, 0, &[(0, 11)]), &[(0, 11)]);
    assert_eq!(kinds(&history), [Kind::LostWrite, Kind::InconsistentOffsets]);
}

#[test]
fn a_reader_that_goes_back_is_nonmonotonic() {
    let log = [(0, 10), (1, 11)];
    let base = || drained(sent(&[(10, Some(0)), (11, Some(1))]), &log);
    assert_eq!(kinds(&polled(base(), 5, 0, &[(1, 11), (0, 10)])), [Kind::NonmonotonicPoll]);
    assert_eq!(kinds(&polled(base(), 5, 0, &[(0, 10), (0, 10)])), [Kind::NonmonotonicPoll]);
    let twice = polled(polled(base(), 5, 0, &log), 5, 0, &log);
    assert_eq!(kinds(&twice), [Kind::NonmonotonicPoll]);
    let two_readers = polled(polled(base(), 5, 0, &log), 6, 0, &log);
    assert_eq!(kinds(&two_readers), []);
}

#[test]
fn a_reader_that_jumps_over_a_record_skips() {
    let base = || {
        let log = [(0, 10), (1, 11), (2, 12)];
        drained(sent(&[(10, Some(0)), (11, Some(1)), (12, Some(2))]), &log)
    };
    assert_eq!(kinds(&polled(base(), 5, 0, &[(0, 10), (2, 12)])), [Kind::PollSkip]);
    let two = polled(polled(base(), 5, 0, &[(0, 10)]), 5, 0, &[(2, 12)]);
    assert_eq!(kinds(&two), [Kind::PollSkip]);
    // Nobody ever saw anything at 1: an offset may be unused.
    let gap = drained(sent(&[(10, Some(0)), (12, Some(2))]), &[(0, 10), (2, 12)]);
    assert_eq!(kinds(&gap), []);
    // The drain begins at the start.
    let late = polled(drained(sent(&[(10, None), (11, None)]), &[(1, 11)]), 5, 0, &[(0, 10)]);
    assert_eq!(kinds(&late), [Kind::LostWrite, Kind::PollSkip]);
}

#[test]
fn a_failed_send_that_is_read_is_an_aborted_read() {
    let mut history = History::default();
    let id = history.invoke(at(1), Process(1), P, Value(10), Promise::FULL);
    history.fail(id, at(2));
    assert_eq!(kinds(&drained(history.clone(), &[])), []);
    assert_eq!(kinds(&drained(history, &[(0, 10)])), [Kind::AbortedRead]);
}

#[test]
fn the_order_of_a_producer_is_kept() {
    let history = drained(sent(&[(10, None), (11, None)]), &[(0, 11), (1, 10)]);
    assert_eq!(kinds(&history), [Kind::Reordered]);
    let mut two = History::default();
    two.invoke(at(1), Process(1), P, Value(10), Promise::FULL);
    two.invoke(at(1), Process(2), P, Value(11), Promise::FULL);
    assert_eq!(kinds(&drained(two, &[(0, 11), (1, 10)])), []);
}

#[test]
fn a_record_that_nobody_sent_there_is_a_phantom() {
    assert_eq!(kinds(&drained(History::default(), &[(0, 10)])), [Kind::Phantom]);
    let mut history = History::default();
    history.invoke(at(1), Process(1), Partition(1), Value(10), Promise::NONE);
    assert_eq!(kinds(&drained(history, &[(0, 10)])), [Kind::Phantom]);
}

#[test]
fn an_end_that_a_client_was_told_does_not_go_back() {
    assert_eq!(kinds(&told(told(History::default(), 1, 2, 5), 3, 4, 4)), [Kind::WatermarkWentBack]);
    assert_eq!(kinds(&told(told(History::default(), 1, 2, 5), 3, 4, 5)), []);
    // Asked before the first answer came: the two may have overtaken one another.
    assert_eq!(kinds(&told(told(History::default(), 1, 3, 5), 2, 4, 4)), []);
}

#[test]
fn a_drain_that_does_not_end_is_told() {
    let mut history = History::default();
    history.drains.push(Drain { partition: P, records: Vec::new(), complete: false });
    assert_eq!(kinds(&history), [Kind::NotHealed]);
    // What is missing from it is not called lost.
    let mut history = sent(&[(10, Some(0))]);
    history.drains.push(Drain { partition: P, records: Vec::new(), complete: false });
    assert_eq!(kinds(&history), [Kind::NotHealed]);
}

// === histories by the hundred ===

/// A history that a right log could have made: producers whose sends are acknowledged, lost or left open, readers that begin
/// anywhere and are interrupted.
fn lawful(dice: &mut Dice) -> History {
    let mut history = History::default();
    let mut log = Vec::new();
    for step in 0..dice.between(5, 120) {
        let process = Process(dice.between(1, 3) as u32);
        let id = history.invoke(at(step), process, P, Value(step), Promise::FULL);
        match dice.between(0, 9) {
            0 => history.fail(id, at(step)),
            1 => {}
            2 => log.push((log.len() as i64, Value(step))),
            _ => {
                history.ok(id, at(step), Some(log.len() as i64));
                log.push((log.len() as i64, Value(step)));
            }
        }
    }
    for process in 5..8 {
        for session in 0..dice.between(1, 3) as u32 {
            let mut from = dice.below(log.len() as u64 + 1) as usize;
            while from < log.len() && dice.below(6) > 0 {
                let to = (from + 1 + dice.below(9) as usize).min(log.len());
                let records = log[from..to].to_vec();
                history.polls.push(Poll {
                    process: Process(process),
                    session,
                    partition: P,
                    at: at(500),
                    records,
                });
                from = to;
            }
        }
    }
    history.drains.push(Drain { partition: P, records: log, complete: true });
    history
}

#[test]
fn lawful_histories_pass_and_broken_ones_do_not() {
    let mut broken = 0;
    for seed in 0..500 {
        let mut dice = Dice::new(seed);
        let history = lawful(&mut dice);
        assert_eq!(check(&history), [], "seed {seed}");
        let acked = |value: Value| {
            let send = history.sends.iter().find(|send| send.value == value);
            send.is_some_and(|send| matches!(send.outcome, Outcome::Ok { .. }))
        };
        let log = &history.drains[0].records;
        if log.len() < 2 {
            continue;
        }
        let place = dice.below(log.len() as u64 - 1) as usize;

        let mut lost = history.clone();
        lost.drains[0].records.remove(place);
        let seen = history.polls.iter().any(|poll| poll.records.contains(&log[place]));
        assert_eq!(!check(&lost).is_empty(), acked(log[place].1) || seen, "lost, seed {seed}");

        let mut swapped = history.clone();
        let (first, second) = (log[place].1, log[place + 1].1);
        swapped.drains[0].records[place].1 = second;
        swapped.drains[0].records[place + 1].1 = first;
        let process = |value: Value| history.sends.iter().find(|s| s.value == value).map(|s| s.process);
        if acked(first) || acked(second) || process(first) == process(second) {
            assert_ne!(check(&swapped), [], "swapped, seed {seed}");
            broken += 1;
        }

        let mut doubled = history.clone();
        doubled.drains[0].records.push((log.len() as i64, log[place].1));
        assert!(kinds(&doubled).contains(&Kind::Duplicate), "doubled, seed {seed}");
    }
    assert!(broken > 300);
}
