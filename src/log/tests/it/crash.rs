//! The power is cut at every call that changes the disk. What was acknowledged as stable is there byte for byte, nothing
//! else is made up, and the log works on.

use crate::harness::{EPOCH, NOW, check_lookups, open, open_log, plain, produced, small, stamp, stored};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use thalweg_core::batch::{BatchIter, ValidBatch};
use thalweg_core::{LeaderEpoch, Offset};
use thalweg_log::storage::{SimStorage, Storage};
use thalweg_log::{AppendError, Log, LogManager, ReadBound};

const DIR: &str = "/data";
const PRODUCERS: i64 = 2;

/// A small generator (SplitMix64), so that a seed names a history.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Append { size: usize },
    Produce { producer: i64, records: usize },
    Flush,
    RaiseHighWatermark,
    DeleteRecords,
    Retention,
    Truncate { back: i64 },
    NewEpoch,
    Housekeeping,
    CloseAndOpen,
}

fn fixed_script() -> Vec<Step> {
    use Step::*;
    vec![
        Append { size: 200 },
        Produce { producer: 0, records: 2 },
        Flush,
        Append { size: 900 },
        Append { size: 700 },
        Produce { producer: 1, records: 1 },
        Flush,
        RaiseHighWatermark,
        Append { size: 1200 },
        Produce { producer: 0, records: 1 },
        NewEpoch,
        Append { size: 600 },
        Housekeeping,
        Flush,
        RaiseHighWatermark,
        DeleteRecords,
        Append { size: 300 },
        CloseAndOpen,
        Produce { producer: 1, records: 3 },
        Append { size: 1000 },
        Flush,
        Truncate { back: 2 },
        Append { size: 1100 },
        Append { size: 900 },
        Flush,
        RaiseHighWatermark,
        Retention,
        Produce { producer: 0, records: 1 },
        Truncate { back: 30 },
        Append { size: 800 },
        Flush,
        CloseAndOpen,
        Append { size: 100 },
    ]
}

fn random_script(dice: &mut Dice) -> Vec<Step> {
    let step = |dice: &mut Dice| match dice.roll(24) {
        0..=7 => Step::Append { size: 1 + dice.roll(1300) as usize },
        8..=11 => {
            Step::Produce { producer: dice.roll(PRODUCERS as u64) as i64, records: 1 + dice.roll(3) as usize }
        }
        12..=15 => Step::Flush,
        16 | 17 => Step::RaiseHighWatermark,
        18 => Step::DeleteRecords,
        19 => Step::Retention,
        20 => Step::Truncate { back: dice.roll(6) as i64 },
        21 => Step::NewEpoch,
        22 => Step::Housekeeping,
        _ => Step::CloseAndOpen,
    };
    (0..25).map(|_| step(dice)).collect()
}

/// What the disk may hold, and what it must.
#[derive(Default)]
struct Promise {
    /// Every batch that was written, or may have been, by its base offset.
    written: BTreeMap<Offset, Vec<Vec<u8>>>,
    /// Everything below was reported stable.
    stable: Offset,
    /// Records below were deleted, and that was answered.
    deleted: Offset,
    /// The log's start may have moved up to here.
    may_start: Offset,
    /// The last batch that each producer got stable: `(batch, base offset)`.
    produced: BTreeMap<i64, (ValidBatch, Offset)>,
    next_sequence: BTreeMap<i64, i32>,
    epoch: LeaderEpoch,
}

impl Promise {
    fn epoch_of_producers(&self) -> i16 {
        self.epoch.get() as i16
    }

    /// The producers start again, as after an error that they cannot get over.
    fn new_epoch(&mut self) {
        self.epoch = LeaderEpoch(self.epoch.get() + 1);
        self.next_sequence.clear();
        self.produced.clear();
    }
}

struct Machine {
    sim: SimStorage,
    running: Option<(LogManager, Arc<Log>)>,
    promise: Promise,
}

/// The power went: the machine stands still.
struct Off;

impl Machine {
    fn new(seed: u64) -> Machine {
        Machine { sim: SimStorage::new(seed), running: None, promise: Promise::default() }
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.sim.clone())
    }

    /// Turns the result of a call into "it worked" or "the power went".
    fn survived<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Result<T, Off> {
        match result {
            Ok(value) => Ok(value),
            Err(_) if self.sim.is_off() => Err(Off),
            Err(err) => panic!("{err}"),
        }
    }

    fn start(&mut self) -> Result<(), Off> {
        self.running = None;
        let manager = self.survived(open(&self.storage(), Path::new(DIR), &small()))?;
        let log = self.survived(open_log(&manager, &small()))?;
        self.running = Some((manager, log));
        Ok(())
    }

    fn log(&self) -> Arc<Log> {
        Arc::clone(&self.running.as_ref().unwrap().1)
    }

    fn append(&mut self, batch: &ValidBatch) -> Result<Offset, Off> {
        let log = self.log();
        let base = log.log_end_offset();
        let bytes = stored(batch, base, self.promise.epoch);
        // Noted first: it may be on the disk even if the power goes during the call.
        self.promise.written.entry(base).or_default().push(bytes);
        let appended = self.survived(log.append_as_leader(batch, self.promise.epoch, NOW))?;
        assert_eq!((appended.base_offset, appended.duplicate), (base, false));
        Ok(base)
    }

    fn step(&mut self, step: Step, dice: &mut Dice) -> Result<(), Off> {
        let log = self.log();
        match step {
            Step::Append { size } => {
                self.append(&plain(1_000 + dice.roll(1_000) as i64, size))?;
            }
            Step::Produce { producer, records } => {
                let sequence = self.promise.next_sequence.get(&producer).copied().unwrap_or(0);
                let stamp = stamp(producer, self.promise.epoch_of_producers(), sequence);
                let batch = produced(1_000 + dice.roll(1_000) as i64, records, stamp);
                let base = self.append(&batch)?;
                self.promise.next_sequence.insert(producer, sequence + records as i32);
                self.promise.produced.insert(producer, (batch, base));
            }
            Step::Flush => {
                log.request_flush();
                self.running.as_ref().unwrap().0.run_committers();
            }
            Step::RaiseHighWatermark => log.set_high_watermark(log.flushed_offset()),
            Step::DeleteRecords => {
                let to = Offset(log.high_watermark().get().saturating_sub(1)).max(Offset::ZERO);
                self.promise.may_start = self.promise.may_start.max(to);
                let start = self.survived(log.delete_records(to))?;
                self.promise.deleted = self.promise.deleted.max(start);
            }
            Step::Retention => {
                self.promise.may_start = self.promise.may_start.max(log.high_watermark());
                let config = thalweg_log::LogConfig { retention_bytes: Some(1500), ..small() };
                log.update_config(config);
                let done = log.apply_retention(NOW);
                log.update_config(small());
                self.survived(done)?;
            }
            Step::Truncate { back } => {
                let to = Offset((log.log_end_offset().get() - back).max(log.log_start_offset().get()));
                let cut = to < log.log_end_offset();
                self.promise.stable = self.promise.stable.min(to);
                // The batch that holds the offset goes as a whole.
                if let Some((base, _)) = self.promise.written.range(..=to).next_back()
                    && cut
                {
                    self.promise.stable = self.promise.stable.min(*base);
                    self.promise.deleted = self.promise.deleted.min(*base);
                }
                let end = self.survived(log.truncate_to(to, EPOCH))?;
                self.promise.written.retain(|base, _| *base < end);
                if cut {
                    self.promise.new_epoch();
                }
            }
            Step::NewEpoch => self.promise.new_epoch(),
            Step::Housekeeping => {
                self.running.as_ref().unwrap().0.housekeeping(NOW.saturating_add_millis(100_000));
            }
            Step::CloseAndOpen => {
                let closed = self.running.as_ref().unwrap().0.close(None);
                self.survived(closed)?;
                self.start()?;
                assert!(!self.log().recovery_report().recovered, "a clean stop needs no recovery");
            }
        }
        let log = self.log();
        self.promise.stable = self.promise.stable.max(log.flushed_offset());
        if self.sim.is_off() { Err(Off) } else { Ok(()) }
    }

    fn run(&mut self, script: &[Step], dice: &mut Dice) {
        if self.start().is_err() {
            return;
        }
        for step in script {
            if self.step(*step, dice).is_err() {
                return;
            }
        }
    }

    /// The power is back: what does the disk hold?
    fn check(&mut self) {
        self.running = None;
        self.sim.restart();
        assert!(self.start().is_ok(), "no power cut is planned");
        let (_, log) = self.running.as_ref().unwrap();
        let promise = &self.promise;
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        assert!(end >= promise.stable, "stable up to {}, found {end}", promise.stable);
        assert!(start >= promise.deleted.min(end), "deleted up to {}, found {start}", promise.deleted);
        assert!(start <= promise.may_start.max(promise.deleted), "the start moved to {start}");
        let bytes = crate::harness::read_from(log, start, ReadBound::LogEnd);
        let mut next = None;
        for batch in BatchIter::new(&bytes) {
            let batch = batch.unwrap();
            let base = batch.header.base_offset;
            assert!(next.is_none_or(|next| next == base), "no gap at {base}");
            let known = promise.written.get(&base).is_some_and(|all| all.iter().any(|b| b == batch.bytes));
            assert!(known, "a batch at {base} that nobody wrote");
            next = Some(batch.header.next_offset());
        }
        assert_eq!(next.unwrap_or(end), end);
        assert_eq!(log.flushed_offset(), end);
        assert!(log.high_watermark() <= end && log.high_watermark() >= start);
        assert_eq!(log.recovery_report().lost_stable, None);
        check_lookups(log);
        self.check_producers();
    }

    /// Dedup works right after the restart: a stable batch is not taken twice, a lost one is taken again.
    fn check_producers(&mut self) {
        let log = self.log();
        let end = log.log_end_offset();
        for (batch, base) in self.promise.produced.clone().into_values() {
            let there = base < end && base >= log.log_start_offset();
            match log.append_as_leader(&batch, self.promise.epoch, NOW) {
                Ok(appended) if appended.duplicate => assert_eq!(appended.base_offset, base),
                Ok(_) => assert!(!there, "the batch at {base} was appended twice"),
                // Batches in front of it were lost, or its whole producer was forgotten with the records.
                Err(AppendError::Producer(_)) => assert!(!there, "the batch at {base} is in the log"),
                Err(err) => panic!("{err}"),
            }
        }
        // The log works on.
        let batch = plain(5_000, 50);
        let base = log.log_end_offset();
        log.append_as_leader(&batch, EPOCH.max(self.promise.epoch), NOW).unwrap();
        self.running.as_ref().unwrap().0.run_committers();
        assert_eq!(log.flushed_offset(), base.advance(1));
        assert_eq!(log.offset_for_timestamp(thalweg_core::Timestamp(5_000)).unwrap().unwrap().0, base);
    }
}

/// Runs a script with the power cut after each number of changing calls. With `again`, once more during the recovery.
fn cut_everywhere(script: &[Step], seed: u64, stride: u64, again: bool) -> u64 {
    let mut whole = Machine::new(seed);
    whole.run(script, &mut Dice(seed));
    assert!(!whole.sim.is_off() && whole.running.is_some());
    let calls = whole.sim.op_count();
    whole.check();
    for cut in (seed % stride..calls).step_by(stride as usize) {
        let mut machine = Machine::new(seed.wrapping_mul(31).wrapping_add(cut));
        machine.sim.cut_after_ops(cut);
        machine.run(script, &mut Dice(seed));
        assert!(machine.sim.is_off(), "the power goes at call {cut} of {calls}");
        if again {
            // During the recovery, and again during the recovery from that.
            for _ in 0..2 {
                machine.running = None;
                machine.sim.restart();
                machine.sim.cut_after_ops(Dice(seed ^ cut).roll(12));
                if machine.start().is_ok() {
                    machine.running = None;
                }
            }
        }
        let context = std::panic::AssertUnwindSafe(|| machine.check());
        if let Err(panic) = std::panic::catch_unwind(context) {
            eprintln!("seed {seed}, power cut after call {cut}, script {script:?}");
            std::panic::resume_unwind(panic);
        }
    }
    calls
}

#[test]
fn a_power_cut_at_every_call_of_a_fixed_history_loses_nothing_stable() {
    let calls = cut_everywhere(&fixed_script(), 1, 1, false);
    assert!(calls > 200, "the history is worth the name: {calls} calls");
}

#[test]
fn a_second_power_cut_during_the_recovery_loses_nothing_stable() {
    cut_everywhere(&fixed_script(), 2, 2, true);
}

#[test]
fn power_cuts_in_random_histories_lose_nothing_stable() {
    for seed in 10..70 {
        let script = random_script(&mut Dice(seed));
        cut_everywhere(&script, seed, 7, seed % 2 == 0);
    }
}
