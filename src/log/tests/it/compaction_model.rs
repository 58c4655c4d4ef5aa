//! Compaction against a model, and with the power cut at each call that changes the disk.

use crate::compacted::{Row, check_compacted, clean, compact, keyed, row};
use crate::harness::{NOW, open, open_log, stamp};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use thalweg_core::batch::ProducerStamp;
use thalweg_core::compression::Compression;
use thalweg_core::{LeaderEpoch, Offset, Timestamp};
use thalweg_log::storage::{SimStorage, Storage};
use thalweg_log::{CleanStep, Log, LogConfig, LogManager};

const DIR: &str = "/data";
const HOUR: i64 = 3_600_000;

#[derive(Debug, Clone)]
enum Op {
    /// Keys of one batch, each with a value or a tombstone, and the codec.
    Append {
        keys: Vec<(u8, bool)>,
        size: u16,
        codec: u8,
        produced: bool,
    },
    Commit,
    /// A whole round, with little or much memory for the map.
    Clean {
        small_map: bool,
    },
    /// Some steps of a job, what comes next happens beside it.
    CleanSome {
        steps: u8,
    },
    Pass {
        hours: u8,
    },
    DeleteRecords {
        back: u8,
    },
    Truncate {
        back: u8,
    },
    Housekeeping,
    CloseAndOpen,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let keys = prop::collection::vec((0u8..12, prop::bool::weighted(0.8)), 1..5);
    prop_oneof![
        12 => (keys, 1u16..330, 0u8..5, any::<bool>())
            .prop_map(|(keys, size, codec, produced)| Op::Append { keys, size, codec, produced }),
        6 => Just(Op::Commit),
        4 => any::<bool>().prop_map(|small_map| Op::Clean { small_map }),
        2 => (1u8..6).prop_map(|steps| Op::CleanSome { steps }),
        2 => (1u8..20).prop_map(|hours| Op::Pass { hours }),
        1 => (0u8..30).prop_map(|back| Op::DeleteRecords { back }),
        1 => (0u8..30).prop_map(|back| Op::Truncate { back }),
        1 => Just(Op::Housekeeping),
        1 => Just(Op::CloseAndOpen),
        1 => Just(Op::Crash),
    ]
}

fn config() -> LogConfig {
    LogConfig { delete_retention_ms: 10 * HOUR, producer_id_expiration_ms: 1_000 * HOUR, ..compact() }
}

struct Machine {
    sim: SimStorage,
    running: Option<(LogManager, Arc<Log>)>,
    job: Option<thalweg_log::CleanJob>,
    written: BTreeMap<Offset, Row>,
    sequence: i32,
    producer_epoch: i16,
    now: Timestamp,
    /// Everything below was reported stable.
    stable: Offset,
    /// The highest high watermark there was.
    committed: Offset,
}

impl Machine {
    fn new(seed: u64) -> Machine {
        let mut machine = Machine {
            sim: SimStorage::new(seed),
            running: None,
            job: None,
            written: BTreeMap::new(),
            sequence: 0,
            producer_epoch: 0,
            now: NOW,
            stable: Offset::ZERO,
            committed: Offset::ZERO,
        };
        assert!(machine.start());
        machine
    }

    /// Whether the machine stayed on.
    fn start(&mut self) -> bool {
        self.running = None;
        let storage: Arc<dyn Storage> = Arc::new(self.sim.clone());
        let opened = open(&storage, Path::new(DIR), &config()).and_then(|manager| {
            let log = open_log(&manager, &config())?;
            Ok((manager, log))
        });
        match opened {
            Ok(running) => self.running = Some(running),
            Err(err) => assert!(self.sim.is_off(), "{err}"),
        }
        self.running.is_some()
    }

    fn log(&self) -> Arc<Log> {
        Arc::clone(&self.running.as_ref().unwrap().1)
    }

    fn manager(&self) -> &LogManager {
        &self.running.as_ref().unwrap().0
    }

    fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(i32::from(self.producer_epoch))
    }

    fn new_epoch(&mut self) {
        self.producer_epoch += 1;
        self.sequence = 0;
    }

    fn append(&mut self, keys: &[(u8, bool)], size: u16, codec: u8, produced: bool) {
        let log = self.log();
        let base = log.log_end_offset();
        let rows: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(i, (key, alive))| {
                let mut value = format!("{}/{i}/", base.get());
                value.extend(std::iter::repeat_n('v', usize::from(size)));
                row(&format!("key-{key}"), alive.then_some(value.as_str()))
            })
            .collect();
        let codecs =
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        let stamp = match produced {
            true => stamp(5, self.producer_epoch, self.sequence),
            false => ProducerStamp::NONE,
        };
        let batch = keyed(&rows, self.now, codecs[usize::from(codec)], stamp);
        for (i, (key, value)) in rows.into_iter().enumerate() {
            let offset = base.advance(i as i64);
            self.written.insert(offset, Row { offset, key: Some(key), value, timestamp: self.now });
        }
        log.append_as_leader(&batch, self.epoch(), self.now).unwrap();
        if produced {
            self.sequence += keys.len() as i32;
        }
    }

    fn commit(&mut self) {
        let log = self.log();
        log.request_flush();
        self.manager().run_committers();
        log.set_high_watermark(log.flushed_offset());
        self.stable = self.stable.max(log.flushed_offset());
        self.committed = self.committed.max(log.high_watermark());
    }

    fn crash(&mut self) {
        self.job = None;
        self.running = None;
        self.sim.restart();
        assert!(self.start());
        self.recovered();
    }

    /// What holds right after a start.
    fn recovered(&mut self) {
        let log = self.log();
        assert!(log.log_end_offset() >= self.stable, "stable up to {}", self.stable);
        assert_eq!(log.recovery_report().lost_stable, None);
        self.written.retain(|offset, _| *offset < log.log_end_offset());
        for entry in self.sim.list(&Path::new(DIR).join("t-0")).unwrap() {
            let strays = [".cleaned", ".swap", ".deleted"];
            assert!(!strays.iter().any(|suffix| entry.name.ends_with(suffix)), "{}", entry.name);
        }
        self.check();
        // What the producers wrote is known: the next batch in order is taken, or those before it were lost.
        self.new_epoch();
    }

    fn run(&mut self, op: &Op) {
        let log = self.log();
        match op {
            Op::Append { keys, size, codec, produced } => self.append(keys, *size, *codec, *produced),
            Op::Commit => self.commit(),
            Op::Clean { small_map } => {
                self.job = None;
                clean(self.manager(), self.now, if *small_map { 200 } else { 1 << 16 });
            }
            Op::CleanSome { steps } => {
                let next = self.job.take().or_else(|| self.manager().next_cleaning(self.now, 1 << 16));
                self.job = next.and_then(|mut job| {
                    let mut steps = (0..*steps).map(|_| job.step());
                    let going = steps.all(|step| matches!(step, CleanStep::More(_)));
                    going.then_some(job)
                });
            }
            Op::Pass { hours } => self.now = self.now.saturating_add_millis(i64::from(*hours) * HOUR),
            Op::DeleteRecords { back } => {
                let to = log.high_watermark().get() - i64::from(*back);
                log.delete_records(Offset(to.max(0))).unwrap();
            }
            Op::Truncate { back } => {
                // What was ever committed is not cut: its later records are why earlier ones are gone. (After a
                // crash the log itself may know an older high watermark.)
                let to = (log.log_end_offset().get() - i64::from(*back)).max(self.committed.get());
                let end = log.truncate_to(Offset(to), self.epoch()).unwrap();
                self.stable = self.stable.min(end);
                self.written.retain(|offset, _| *offset < end);
                self.new_epoch();
            }
            Op::Housekeeping => self.manager().housekeeping(self.now),
            Op::CloseAndOpen => {
                self.manager().close(None).unwrap();
                let end = log.log_end_offset();
                assert!(self.start());
                assert!(!self.log().recovery_report().recovered, "a clean stop needs no recovery");
                assert_eq!(self.log().log_end_offset(), end);
                self.job = None;
            }
            Op::Crash => self.crash(),
        }
    }

    fn check(&self) {
        check_compacted(&self.log(), &self.written);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is appended, committed, cleaned, cut and lost around it: the last value of every key is there, offsets do not
    /// move, and a read from anywhere goes on with the next record.
    #[test]
    fn a_compacted_log_is_what_the_model_says(seed in any::<u64>(), ops in prop::collection::vec(op(), 1..80)) {
        let mut machine = Machine::new(seed);
        for op in &ops {
            machine.run(op);
            if matches!(op, Op::Clean { .. } | Op::CleanSome { .. } | Op::Truncate { .. } | Op::CloseAndOpen) {
                machine.check();
            }
        }
        machine.crash();
        machine.append(&[(1, true)], 10, 0, true);
        machine.commit();
        machine.check();
    }
}

/// A map that gets full inside a batch: the next round, whose map is smaller still, goes on behind it (found by the model).
#[test]
fn a_round_that_ended_inside_a_batch_is_gone_on_with() {
    let append = |keys: &[(u8, bool)], size, codec, produced| Op::Append {
        keys: keys.to_vec(),
        size,
        codec,
        produced,
    };
    let mut machine = Machine::new(0);
    let ops = [
        append(&[(3, true), (4, false)], 1, 1, false),
        append(&[(5, true), (0, true)], 59, 2, false),
        append(&[(1, true), (9, false), (8, false), (0, true)], 60, 3, false),
        append(&[(8, true)], 163, 0, true),
        append(&[(10, false), (3, true), (7, false), (1, true)], 182, 0, false),
        append(&[(8, true)], 320, 0, false),
        Op::Commit,
        Op::Clean { small_map: true },
    ];
    ops.iter().for_each(|op| machine.run(op));
    machine.check();
}

/// A log whose cleaning has something of everything: merged segments, tombstones on their way in and out, an unchanged part.
fn history(seed: u64) -> Machine {
    let mut machine = Machine::new(seed);
    let wave = |machine: &mut Machine, count: u64, keys: u64| {
        for i in 0..count {
            let key = ((i * 7 + seed) % keys) as u8;
            let alive = !(i + seed).is_multiple_of(5);
            machine.append(
                &[(key, alive), ((key + 1) % 12, true)],
                60 + (i * 37 % 300) as u16,
                (i % 5) as u8,
                i % 3 == 0,
            );
        }
        machine.commit();
    };
    wave(&mut machine, 25, 12);
    clean(machine.manager(), machine.now, 1 << 16).unwrap();
    machine.now = machine.now.saturating_add_millis(11 * HOUR);
    wave(&mut machine, 15, 6);
    // The recovery point is noted, so that a recovery begins behind what is cleaned.
    if seed.is_multiple_of(2) {
        machine.manager().housekeeping(machine.now);
    }
    machine
}

/// The power is cut at every call of a cleaning that changes the disk, and, with `again`, during the recovery as well.
fn cut_everywhere(seed: u64, again: bool) -> u64 {
    let mut whole = history(seed);
    let before = whole.sim.op_count();
    let stats = clean(whole.manager(), whole.now, 1 << 16).unwrap();
    let calls = whole.sim.op_count() - before;
    assert!(stats.segments_replaced > stats.segments_written, "some are merged: {stats:?}");
    whole.check();
    whole.crash();
    for cut in 0..calls {
        let mut machine = history(seed);
        machine.sim.cut_after_ops(cut);
        clean(machine.manager(), machine.now, 1 << 16);
        assert!(machine.sim.is_off(), "the power goes at call {cut} of {calls}");
        machine.running = None;
        if again {
            for further in [cut % 11, cut % 3] {
                machine.sim.restart();
                machine.sim.cut_after_ops(further);
                machine.start();
                machine.running = None;
            }
        }
        let context = std::panic::AssertUnwindSafe(|| {
            machine.crash();
            // The log works on, and is cleaned to its end the next time.
            machine.append(&[(3, true)], 500, 0, true);
            machine.commit();
            clean(machine.manager(), machine.now, 1 << 16);
            machine.check();
            machine.crash();
        });
        if let Err(panic) = std::panic::catch_unwind(context) {
            eprintln!("seed {seed}, power cut after call {cut} of {calls} of the cleaning");
            std::panic::resume_unwind(panic);
        }
    }
    calls
}

#[test]
fn a_power_cut_at_every_call_of_a_cleaning_loses_nothing() {
    for seed in 0..2 {
        let calls = cut_everywhere(seed, false);
        assert!(calls > 30, "{calls} calls");
    }
}

#[test]
fn a_further_power_cut_during_the_recovery_loses_nothing() {
    for seed in 10..11 {
        cut_everywhere(seed, true);
    }
}
