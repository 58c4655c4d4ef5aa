//! Two replicas of a partition, as leader and follower: the bug catalogue's replication part at the level of the log, the fence
//! between the roles, and what a follower checks.

use crate::harness::{
    EPOCH, NOW, check_lookups, flush, open, open_log, plain, produced, read_from, records_of, small, stamp,
    stored,
};
use std::path::Path;
use std::sync::Arc;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset};
use thalweg_log::storage::{FaultError, OpKind, SimStorage, Storage};
use thalweg_log::{AppendError, Log, LogManager, LogMode, ReadBound, ReadError};

/// A broker's disk with one partition.
struct Replica {
    sim: SimStorage,
    manager: Option<LogManager>,
    log: Arc<Log>,
}

fn epoch(n: i32) -> LeaderEpoch {
    LeaderEpoch(n)
}

impl Replica {
    fn new(seed: u64) -> Replica {
        let sim = SimStorage::new(seed);
        let (manager, log) = Replica::open(&sim);
        Replica { sim, manager: Some(manager), log }
    }

    fn open(sim: &SimStorage) -> (LogManager, Arc<Log>) {
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let manager = open(&storage, Path::new("/data"), &small()).unwrap();
        let log = open_log(&manager, &small()).unwrap();
        (manager, log)
    }

    fn lead(&self, n: i32) -> Offset {
        self.log.begin_epoch(epoch(n), LogMode::Leading).unwrap()
    }

    fn follow(&self, n: i32) {
        self.log.begin_epoch(epoch(n), LogMode::Following).unwrap();
    }

    fn write(&self, n: i32, values: std::ops::Range<i64>) {
        for i in values {
            self.log.append_as_leader(&plain(i, 100), epoch(n), NOW).unwrap();
        }
    }

    fn flush(&self) {
        flush(self.manager.as_ref().unwrap(), &self.log);
    }

    /// The power goes; what was not synced is lost.
    fn crash(&mut self) {
        self.manager = None;
        self.sim.power_cut_strict();
        let (manager, log) = Replica::open(&self.sim);
        (self.manager, self.log) = (Some(manager), log);
    }

    fn bytes(&self) -> Vec<u8> {
        read_from(&self.log, self.log.log_start_offset(), ReadBound::LogEnd)
    }

    /// What a follower does until it has all that its leader has: cut by epoch, copy, take the high watermark.
    fn catch_up(&self, leader: &Replica, n: i32) {
        for _ in 0..10 {
            let at = self.log.position();
            let diverging = at.last_epoch.and_then(|last| {
                let end = leader.log.epoch_end_offset(last);
                end.filter(|(epoch, end)| *epoch != last || *end < at.log_end)
            });
            let Some(diverging) = diverging else { break };
            self.log.truncate_by_epoch(diverging, epoch(n)).unwrap();
        }
        while self.log.log_end_offset() < leader.log.log_end_offset() {
            let read = leader.log.read(self.log.log_end_offset(), 1_000, ReadBound::LogEnd, true).unwrap();
            self.log.append_as_follower(&read.data, epoch(n), NOW).unwrap();
        }
        self.log.set_high_watermark(leader.log.high_watermark());
    }
}

/// A leader of epoch 0 with `count` records, and a follower that has them all, both synced.
fn pair(count: i64) -> (Replica, Replica) {
    let (a, b) = (Replica::new(1), Replica::new(2));
    a.lead(0);
    a.write(0, 0..count);
    b.follow(0);
    b.catch_up(&a, 0);
    a.flush();
    b.flush();
    (a, b)
}

#[test]
fn c01_a_follower_that_lacks_the_high_watermark_keeps_what_was_acknowledged() {
    let (a, mut b) = pair(5);
    // All five are committed, but the follower has not heard of it when it restarts.
    a.log.set_high_watermark(Offset(5));
    assert_eq!(b.log.high_watermark(), Offset(0));
    b.crash();
    assert_eq!(b.log.log_end_offset(), Offset(5), "a restart cuts nothing by the high watermark");
    // The leader is killed, the follower leads: the record is there, and the old leader keeps it as well.
    b.lead(1);
    b.write(1, 5..6);
    a.follow(1);
    a.catch_up(&b, 1);
    assert_eq!((a.bytes(), records_of(&a.log).len()), (b.bytes(), 6));
}

#[test]
fn c02_two_elections_without_a_write_leave_the_logs_alike() {
    let (a, b) = pair(4);
    // A leads epoch 2 and writes one record that nobody copies; B led epoch 1 and leads epoch 3 without a write, then 4.
    b.lead(1);
    a.lead(2);
    a.write(2, 100..101);
    b.lead(3);
    assert_eq!(b.lead(4), Offset(4), "an epoch starts where the log ends");
    b.write(4, 200..202);
    a.follow(4);
    a.catch_up(&b, 4);
    assert_eq!(a.bytes(), b.bytes());
    for n in 0..=4 {
        let (of_a, of_b) = (a.log.epoch_end_offset(epoch(n)), b.log.epoch_end_offset(epoch(n)));
        assert_eq!(of_a.map(|(_, end)| end), of_b.map(|(_, end)| end), "epoch {n}");
    }
    // The other way round: B led last without a write, and its epoch is in no record.
    let (a, b) = pair(4);
    b.lead(1);
    a.lead(2);
    a.write(2, 300..303);
    b.follow(2);
    assert_eq!(b.log.position().last_epoch, Some(epoch(0)), "an epoch without a record is not told");
    b.catch_up(&a, 2);
    assert_eq!(a.bytes(), b.bytes());
    assert_eq!(b.log.epoch_end_offset(epoch(1)), a.log.epoch_end_offset(epoch(1)));
}

#[test]
fn c03_what_comes_from_an_old_epoch_is_refused_after_the_leader_changed() {
    let (a, b) = pair(3);
    let sent = {
        a.write(0, 3..4);
        a.log.read(Offset(3), 1_000, ReadBound::LogEnd, true).unwrap().data
    };
    b.follow(1);
    let refused = b.log.append_as_follower(&sent, epoch(0), NOW).unwrap_err();
    assert!(matches!(refused, AppendError::Fenced(_)), "{refused}");
    let refused = b.log.truncate_by_epoch((epoch(0), Offset(1)), epoch(0)).unwrap_err();
    assert!(matches!(refused, ReadError::Fenced(_)), "{refused}");
    assert_eq!(refused.code(), ErrorCode::FencedLeaderEpoch);
    assert_eq!(b.log.log_end_offset(), Offset(3));
}

#[test]
fn c04_an_ex_leader_cuts_its_uncommitted_tail_before_it_raises_its_high_watermark() {
    let (mut a, b) = pair(5);
    a.log.set_high_watermark(Offset(5));
    b.catch_up(&a, 0);
    // Nobody copied these; the leader synced them and fell.
    a.write(0, 50..60);
    a.flush();
    a.crash();
    b.lead(1);
    b.write(1, 5..8);
    b.flush();
    b.log.set_high_watermark(Offset(8));
    a.follow(1);
    assert_eq!(a.log.log_end_offset(), Offset(15));
    // Its tail does not become committed by an answer that was meant for the other log: it is cut first.
    a.log.truncate_by_epoch(b.log.epoch_end_offset(epoch(0)).unwrap(), epoch(1)).unwrap();
    assert_eq!(a.log.log_end_offset(), Offset(5));
    a.log.set_high_watermark(Offset(8));
    assert_eq!(a.log.high_watermark(), Offset(5), "never past the log's end");
    a.catch_up(&b, 1);
    assert_eq!((a.bytes(), a.log.high_watermark()), (b.bytes(), Offset(8)));
    a.flush();
    a.crash();
    assert_eq!(a.bytes(), b.bytes(), "the cut is stable");
}

#[test]
fn c11_a_damaged_replica_cuts_and_copies_only_itself() {
    let (a, mut b) = pair(30);
    let whole = a.bytes();
    for nth in [0u64, 3, 11] {
        // The recovery point is on disk, so that what is missing is known to be lost.
        let later = NOW.saturating_add_millis(100_000 * (nth as i64 + 1));
        b.manager.as_ref().unwrap().housekeeping(later);
        // A bit flips in a segment that the recovery looks at.
        b.manager = None;
        b.sim.power_cut();
        let mut names: Vec<_> = b.sim.list(Path::new("/data/t-0")).unwrap();
        names.retain(|entry| entry.name.ends_with(".log"));
        names.sort_by(|x, y| x.name.cmp(&y.name));
        let last = Path::new("/data/t-0").join(&names.last().unwrap().name);
        b.sim.flip_bit(&last, 70 + nth, 3).unwrap();
        let (manager, log) = Replica::open(&b.sim);
        (b.manager, b.log) = (Some(manager), log);
        assert!(b.log.log_end_offset() < Offset(30), "the damage is found");
        assert!(b.log.recovery_report().lost_stable.is_some());
        b.follow(nth as i32 + 1);
        b.catch_up(&a, nth as i32 + 1);
        assert_eq!((b.bytes(), a.bytes()), (whole.clone(), whole.clone()));
        b.flush();
    }
    // A bit that flips on the way is found before anything is appended.
    a.write(0, 30..32);
    let mut sent = a.log.read(Offset(30), 1_000, ReadBound::LogEnd, true).unwrap().data.to_vec();
    let end = sent.len() - 1;
    sent[end] ^= 1;
    b.follow(100);
    let refused = b.log.append_as_follower(&sent, epoch(100), NOW).unwrap_err();
    assert!(matches!(refused, AppendError::Batch(_)), "{refused}");
    assert_eq!(b.log.log_end_offset(), Offset(30));
}

#[test]
fn c12_a_followers_failed_sync_ends_its_directory() {
    let (a, b) = pair(2);
    a.write(0, 2..4);
    b.catch_up(&a, 0);
    b.sim.fail_next_sync();
    b.flush();
    assert_eq!((b.log.flushed_offset(), b.log.log_end_offset()), (Offset(2), Offset(4)));
    b.flush();
    assert_eq!(b.log.flushed_offset(), Offset(2), "a sync is not tried again");
    a.write(0, 4..5);
    let sent = a.log.read(Offset(4), 1_000, ReadBound::LogEnd, true).unwrap().data;
    let refused = b.log.append_as_follower(&sent, epoch(0), NOW).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::StorageError);
}

#[test]
fn c13_a_crash_or_a_full_disk_during_recovery_leaves_no_marker_and_the_copy_goes_on() {
    for (nth, fault) in (1..12).flat_map(|nth| [(nth, None), (nth, Some(FaultError::NoSpace))]) {
        let (a, mut b) = pair(20);
        b.manager = None;
        b.sim.power_cut();
        let kinds = [OpKind::Open, OpKind::Write, OpKind::SyncData, OpKind::SyncDir, OpKind::Rename];
        match fault {
            Some(error) => b.sim.fail_nth_on("t-0", &kinds, nth, error),
            None => b.sim.cut_after_ops(nth),
        }
        let storage: Arc<dyn Storage> = Arc::new(b.sim.clone());
        drop(open(&storage, Path::new("/data"), &small()));
        b.sim.clear_faults();
        b.sim.power_cut();
        let (manager, log) = Replica::open(&b.sim);
        (b.manager, b.log) = (Some(manager), log);
        assert!(b.log.recovery_report().recovered, "no clean stop is believed");
        b.follow(1);
        b.catch_up(&a, 1);
        assert_eq!(b.bytes(), a.bytes());
    }
}

#[test]
fn c15_a_failed_append_of_a_follower_leaves_no_trace_in_the_producer_state() {
    let (a, mut b) = pair(0);
    for i in 0..6 {
        a.log.append_as_leader(&produced(i, 2, stamp(7, 0, i as i32 * 2)), EPOCH, NOW).unwrap();
    }
    let sent = a.log.read(Offset(0), 10_000, ReadBound::LogEnd, true).unwrap().data;
    for error in [FaultError::NoSpace, FaultError::Io] {
        b.sim.fail_nth_on(".log", &[OpKind::Write], 1, error);
        assert!(b.log.append_as_follower(&sent, EPOCH, NOW).is_err());
        assert_eq!((b.log.log_end_offset(), records_of(&b.log).len()), (Offset(0), 0));
    }
    b.catch_up(&a, 0);
    b.flush();
    b.crash();
    // As a leader it knows the producer's last batches, and none that it does not hold.
    b.lead(1);
    let again = b.log.append_as_leader(&produced(5, 2, stamp(7, 0, 10)), epoch(1), NOW).unwrap();
    assert_eq!((again.duplicate, again.base_offset), (true, Offset(10)));
    let next = b.log.append_as_leader(&produced(6, 2, stamp(7, 0, 12)), epoch(1), NOW).unwrap();
    assert_eq!((next.duplicate, next.base_offset), (false, Offset(12)));
}

#[test]
fn c17_a_followers_log_start_never_passes_its_high_watermark() {
    let (a, b) = pair(40);
    a.log.set_high_watermark(Offset(40));
    a.log.delete_records(Offset(30)).unwrap();
    b.log.set_high_watermark(Offset(12));
    b.log.raise_log_start(a.log.log_start_offset());
    assert_eq!(b.log.log_start_offset(), Offset(12));
    b.log.apply_retention(NOW).unwrap();
    assert_eq!(b.log.log_start_offset(), Offset(12));
    check_lookups(&b.log);
    let segments = b.log.segment_count();
    b.log.set_high_watermark(Offset(40));
    b.log.raise_log_start(a.log.log_start_offset());
    b.log.raise_log_start(Offset(5));
    b.log.apply_retention(NOW).unwrap();
    assert_eq!(b.log.log_start_offset(), Offset(30));
    assert!(b.log.segment_count() < segments, "what is hidden goes");
    check_lookups(&b.log);
}

#[test]
fn a_log_is_written_in_one_role_and_one_epoch() {
    let a = Replica::new(1);
    a.write(3, 0..1); // not fenced before the first epoch
    assert_eq!(a.lead(4), Offset(1));
    assert_eq!(a.lead(4), Offset(1), "again changes nothing");
    a.write(4, 1..2);
    assert_eq!(a.lead(4), Offset(1), "where the epoch started");
    for wrong in [3, 5] {
        let refused = a.log.append_as_leader(&plain(9, 10), epoch(wrong), NOW).unwrap_err();
        assert!(matches!(refused, AppendError::Fenced(_)), "{refused}");
    }
    assert!(matches!(a.log.append_as_follower(&[], epoch(4), NOW), Err(AppendError::Fenced(_))));
    assert!(matches!(a.log.truncate_to(Offset(0), epoch(4)), Err(ReadError::Fenced(_))));
    assert!(matches!(a.log.truncate_fully_and_start_at(Offset(0), epoch(4)), Err(ReadError::Fenced(_))));
    // It resigns, and cannot come back in the same epoch.
    a.follow(4);
    let refused = a.log.append_as_leader(&plain(9, 10), epoch(4), NOW).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotLeader);
    assert!(a.log.begin_epoch(epoch(4), LogMode::Leading).is_err());
    assert!(a.log.begin_epoch(epoch(3), LogMode::Following).is_err());
    a.follow(6);
    assert!(matches!(
        a.log.append_as_follower(&stored(&plain(1, 10), Offset(2), epoch(7)), epoch(6), NOW),
        Err(AppendError::EpochOutOfOrder { .. })
    ));
    assert!(matches!(
        a.log.append_as_follower(&stored(&plain(1, 10), Offset(2), epoch(3)), epoch(6), NOW),
        Err(AppendError::EpochOutOfOrder { .. })
    ));
    let good = stored(&plain(1, 10), Offset(2), epoch(5));
    assert_eq!(a.log.append_as_follower(&good, epoch(6), NOW).unwrap(), Offset(3));
    assert_eq!(a.log.position().last_epoch, Some(epoch(5)));
}

#[test]
fn a_delayed_append_of_an_old_leader_never_lands() {
    let a = Arc::new(Replica::new(1));
    a.lead(0);
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let log = Arc::clone(&a.log);
            std::thread::spawn(move || {
                let batch = plain(1, 50);
                while log.append_as_leader(&batch, epoch(0), NOW).is_ok() {}
            })
        })
        .collect();
    while a.log.log_end_offset() < Offset(50) {
        std::thread::yield_now();
    }
    a.follow(1);
    let end = a.log.log_end_offset();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(a.log.log_end_offset(), end);
}

#[test]
fn an_epoch_that_was_only_in_memory_is_found_again_after_a_power_cut() {
    let (mut a, _) = pair(10);
    for n in 1..6 {
        a.lead(n);
        a.write(n, 0..i64::from(n));
    }
    a.flush();
    // A checkpoint of the recovery point alone must not hide the epochs; a round of housekeeping writes both.
    for round in 0..2 {
        let ends: Vec<_> = (0..6).map(|n| a.log.epoch_end_offset(epoch(n))).collect();
        a.crash();
        assert_eq!((0..6).map(|n| a.log.epoch_end_offset(epoch(n))).collect::<Vec<_>>(), ends);
        assert_eq!(a.log.log_end_offset(), Offset(25));
        a.manager.as_ref().unwrap().housekeeping(NOW.saturating_add_millis(100_000 * (round + 1)));
    }
}

#[test]
fn an_empty_epoch_costs_no_file() {
    let a = Replica::new(1);
    let before = a.sim.op_count();
    for n in 0..100 {
        if n % 2 == 0 {
            a.lead(n);
        } else {
            a.follow(n);
        }
    }
    assert_eq!(a.sim.op_count(), before, "a thousand partitions change hands without a sync");
}
