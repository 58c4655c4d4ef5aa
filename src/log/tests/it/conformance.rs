//! Random histories: the log does what the model does, on a real disk and on a simulated one.

use crate::harness::{EPOCH, batch_of, check_lookups, open, open_log, read_from, small, stamp};
use crate::model::Model;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use thalweg_core::batch::ProducerStamp;
use thalweg_core::compression::Compression;
use thalweg_core::{LeaderEpoch, Offset, Timestamp};
use thalweg_log::storage::{OsStorage, SimStorage, Storage};
use thalweg_log::{AppendError, Log, LogConfig, LogManager, ReadBound, ReadError};

#[derive(Debug, Clone)]
enum Op {
    Append {
        timestamps: Vec<i64>,
        size: usize,
        codec: u8,
        producer: Option<u8>,
    },
    /// Sends one of a producer's last five batches again.
    Repeat {
        producer: u8,
        back: usize,
    },
    /// Leaves a gap in a producer's sequence.
    Gap {
        producer: u8,
    },
    Read {
        at: u8,
        max_bytes: usize,
        bound: u8,
        min_one: bool,
    },
    RaiseHighWatermark {
        at: u8,
    },
    DeleteRecords {
        at: u8,
    },
    Retention {
        bytes: u16,
    },
    Truncate {
        at: u8,
    },
    NewEpoch,
    Flush,
    Housekeeping,
    Lookups,
    Reopen {
        clean: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let timestamps = prop::collection::vec(1_000i64..2_000, 1..4);
    let append = (timestamps, 1usize..300, 0u8..12, prop::option::weighted(0.4, 0u8..3))
        .prop_map(|(timestamps, size, codec, producer)| Op::Append { timestamps, size, codec, producer });
    let read = (any::<u8>(), 0usize..1500, 0u8..3, any::<bool>())
        .prop_map(|(at, max_bytes, bound, min_one)| Op::Read { at, max_bytes, bound, min_one });
    prop_oneof![
        20 => append,
        3 => (0u8..3, 0usize..5).prop_map(|(producer, back)| Op::Repeat { producer, back }),
        1 => (0u8..3).prop_map(|producer| Op::Gap { producer }),
        10 => read,
        5 => any::<u8>().prop_map(|at| Op::RaiseHighWatermark { at }),
        2 => any::<u8>().prop_map(|at| Op::DeleteRecords { at }),
        1 => any::<u16>().prop_map(|bytes| Op::Retention { bytes: bytes % 6000 }),
        2 => any::<u8>().prop_map(|at| Op::Truncate { at }),
        1 => Just(Op::NewEpoch),
        3 => Just(Op::Flush),
        1 => Just(Op::Housekeeping),
        2 => Just(Op::Lookups),
        2 => any::<bool>().prop_map(|clean| Op::Reopen { clean }),
    ]
}

fn codec(code: u8) -> Compression {
    match code {
        0 => Compression::Gzip,
        1 => Compression::Snappy,
        2 => Compression::Lz4,
        3 => Compression::Zstd,
        _ => Compression::None,
    }
}

/// The log and its model, side by side.
struct Pair {
    storage: Arc<dyn Storage>,
    config: LogConfig,
    manager: LogManager,
    log: Arc<Log>,
    model: Model,
    now: Timestamp,
}

impl Pair {
    fn new(storage: Arc<dyn Storage>, dir: &Path) -> Pair {
        let config = small();
        let manager = open(&storage, dir, &config).unwrap();
        let log = open_log(&manager, &config).unwrap();
        Pair { storage, config, manager, log, model: Model::default(), now: Timestamp(10_000) }
    }

    /// An offset somewhere from below the log's start to above its end.
    fn offset(&self, at: u8) -> Offset {
        let (start, end) = (self.model.log_start.get(), self.model.log_end.get());
        let low = (start - 2).max(0);
        Offset(low + (end + 3 - low) * i64::from(at) / 256)
    }

    fn epoch(&self) -> LeaderEpoch {
        self.model.epoch
    }

    fn append(&mut self, timestamps: &[i64], size: usize, codec: Compression, producer: Option<u8>) {
        let sequence = producer
            .map(|id| self.model.producers.get(&i64::from(id)).map_or(0, |producer| producer.next_sequence));
        let producer_stamp = match (producer, sequence) {
            (Some(id), Some(sequence)) => stamp(i64::from(id), self.producer_epoch(), sequence),
            _ => ProducerStamp::NONE,
        };
        let batch = batch_of(timestamps, size, codec, producer_stamp);
        let appended = self.log.append_as_leader(&batch, self.epoch(), self.now).unwrap();
        let base = self.model.append(&batch);
        assert_eq!((appended.base_offset, appended.duplicate), (base, false));
        assert_eq!(appended.last_offset.advance(1), self.model.log_end);
        if let Some(id) = producer {
            let producer = self.model.producers.entry(i64::from(id)).or_default();
            producer.next_sequence += timestamps.len() as i32;
            producer.batches.push((batch, base));
        }
    }

    /// After a truncation producers start again under a new epoch, as they would after OUT_OF_ORDER_SEQUENCE.
    fn producer_epoch(&self) -> i16 {
        self.model.epoch.get() as i16
    }

    fn repeat(&mut self, producer: u8, back: usize) {
        let Some(known) = self.model.producers.get(&i64::from(producer)) else { return };
        let Some(i) = known.batches.len().checked_sub(back + 1) else { return };
        let (batch, base) = &known.batches[i];
        let end = self.log.log_end_offset();
        match self.log.append_as_leader(batch, self.epoch(), self.now) {
            Ok(appended) => assert_eq!((appended.base_offset, appended.duplicate), (*base, true)),
            // After a restart not all five may be known any more, but never is one appended twice.
            Err(err) => assert!(back > 0 && matches!(err, AppendError::Producer(_)), "{err}"),
        }
        assert_eq!(self.log.log_end_offset(), end);
    }

    fn gap(&mut self, producer: u8) {
        let Some(known) = self.model.producers.get(&i64::from(producer)) else { return };
        let stamp = stamp(i64::from(producer), self.producer_epoch(), known.next_sequence + 7);
        let batch = batch_of(&[1_500], 10, Compression::None, stamp);
        let refused = self.log.append_as_leader(&batch, self.epoch(), self.now);
        assert!(matches!(refused, Err(AppendError::Producer(_))), "{refused:?}");
    }

    fn read(&mut self, from: Offset, max_bytes: usize, bound: u8, min_one: bool) {
        let model = &self.model;
        let bound = [ReadBound::HighWatermark, ReadBound::LastStable, ReadBound::LogEnd][bound as usize % 3];
        let below = if bound == ReadBound::LogEnd { model.log_end } else { model.high_watermark };
        let read = self.log.read(from, max_bytes, bound, min_one);
        if from < model.log_start || from > model.log_end {
            assert!(matches!(read, Err(ReadError::OffsetOutOfRange { .. })), "{read:?}");
            return;
        }
        let read = read.unwrap();
        let mut expected = model.readable(from, below);
        let mut rest = &read.data[..];
        let mut next = from;
        while !rest.is_empty() {
            let batch = expected.next().expect("no more than the model has");
            assert!(rest.starts_with(&batch.bytes), "byte for byte at {}", batch.base);
            rest = &rest[batch.bytes.len()..];
            next = batch.end;
        }
        assert_eq!(read.next_offset, next);
        match expected.next() {
            Some(first) if read.data.is_empty() => {
                assert!(!min_one && first.bytes.len() > max_bytes, "something was there");
            }
            _ => {
                let first = model.readable(from, below).next().map_or(0, |batch| batch.bytes.len());
                assert!(read.data.len() <= max_bytes.max(if min_one { first } else { 0 }));
            }
        }
        assert_eq!((read.log_start_offset, read.log_end_offset), (model.log_start, model.log_end));
    }

    fn delete_records(&mut self, before: Offset) {
        let done = self.log.delete_records(before);
        if before > self.model.high_watermark {
            assert!(matches!(done, Err(ReadError::OffsetOutOfRange { .. })));
        } else {
            let start = self.model.log_start.max(before);
            assert_eq!(done.unwrap(), start);
            self.model.start_at(start);
        }
    }

    fn retention(&mut self, bytes: u64) {
        // Segments wholly below the log's start go at any time: they are not counted.
        let visible = self.model.batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        self.log.update_config(LogConfig { retention_bytes: Some(bytes), ..self.config.clone() });
        self.log.apply_retention(self.now).unwrap();
        self.log.update_config(self.config.clone());
        let start = self.log.log_start_offset();
        let after = self.log.size_bytes();
        assert!(
            start >= self.model.log_start && start <= self.model.high_watermark.max(self.model.log_start)
        );
        assert!(
            after >= bytes.min(visible),
            "no more is removed than must be: {visible} -> {after}, {bytes}"
        );
        self.model.start_at(start);
    }

    fn truncate(&mut self, to: Offset) {
        if to < self.model.log_start {
            return;
        }
        let end = self.log.truncate_to(to, EPOCH).unwrap();
        let cut = to < self.model.log_end;
        self.model.truncate(to);
        assert_eq!(end, self.model.log_end);
        // The batch that holds the log's start may be gone as a whole.
        if self.model.log_start > end {
            self.model.start_at(end);
        }
        if cut {
            self.model.epoch = LeaderEpoch(self.model.epoch.get() + 1);
        }
    }

    fn reopen(mut self, clean: bool) -> Pair {
        let dir = self.manager.dir_states()[0].path.clone();
        if clean {
            self.manager.close(None).unwrap();
            let refused = self.log.append_as_leader(&crate::harness::plain(1, 1), self.epoch(), self.now);
            assert!(matches!(refused, Err(AppendError::Storage(_))));
        }
        drop((self.log, self.manager));
        self.manager = open(&self.storage, &dir, &self.config).unwrap();
        self.log = open_log(&self.manager, &self.config).unwrap();
        assert_eq!(self.log.recovery_report().recovered, !clean);
        assert_eq!(self.log.recovery_report().cut_bytes, 0, "{:?}", self.log.recovery_report());
        assert_eq!(self.log.flushed_offset(), self.log.log_end_offset());
        if clean {
            assert_eq!(self.log.high_watermark(), self.model.high_watermark);
        }
        self.log.set_high_watermark(self.model.high_watermark);
        self
    }

    fn run(mut self, op: Op) -> Pair {
        match op {
            Op::Append { timestamps, size, codec: code, producer } => {
                self.append(&timestamps, size, codec(code), producer);
            }
            Op::Repeat { producer, back } => self.repeat(producer, back),
            Op::Gap { producer } => self.gap(producer),
            Op::Read { at, max_bytes, bound, min_one } => {
                self.read(self.offset(at), max_bytes, bound, min_one);
            }
            Op::RaiseHighWatermark { at } => {
                let to = self.offset(at);
                self.log.set_high_watermark(to);
                let to = to.min(self.model.log_end);
                self.model.high_watermark = self.model.high_watermark.max(to);
            }
            Op::DeleteRecords { at } => self.delete_records(self.offset(at)),
            Op::Retention { bytes } => self.retention(u64::from(bytes)),
            Op::Truncate { at } => self.truncate(self.offset(at)),
            Op::NewEpoch => {
                self.model.epoch = LeaderEpoch(self.model.epoch.get() + 1);
                self.model.producers.clear();
            }
            Op::Flush => {
                crate::harness::flush(&self.manager, &self.log);
                assert_eq!(self.log.flushed_offset(), self.model.log_end);
            }
            Op::Housekeeping => {
                self.now = self.now.saturating_add_millis(61_000);
                self.manager.housekeeping(self.now);
            }
            Op::Lookups => check_lookups(&self.log),
            Op::Reopen { clean } => self = self.reopen(clean),
        }
        self.check();
        self
    }

    fn check(&self) {
        let (log, model) = (&self.log, &self.model);
        assert_eq!(log.log_end_offset(), model.log_end);
        assert_eq!(log.log_start_offset(), model.log_start);
        assert_eq!(log.high_watermark(), model.high_watermark.max(model.log_start));
        assert!(log.flushed_offset() <= model.log_end);
    }

    fn finish(self) {
        let expected: Vec<u8> =
            self.model.batches.iter().flat_map(|batch| batch.bytes.iter().copied()).collect();
        assert_eq!(read_from(&self.log, self.model.log_start, ReadBound::LogEnd), expected);
        check_lookups(&self.log);
        let mut epochs: Vec<LeaderEpoch> = self.model.batches.iter().map(|batch| batch.epoch).collect();
        epochs.dedup();
        for pair in epochs.windows(2) {
            let end = self.model.batches.iter().find(|batch| batch.epoch == pair[1]).map(|batch| batch.base);
            let found = self.log.epoch_end_offset(pair[0]);
            assert_eq!(found.map(|(_, end)| end), end, "the end of epoch {}", pair[0]);
        }
    }
}

fn run(storage: Arc<dyn Storage>, dir: &Path, ops: Vec<Op>) {
    let mut pair = Pair::new(storage, dir);
    for op in ops {
        pair = pair.run(op);
    }
    pair.finish();
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(150))]
    #[test]
    fn the_log_is_the_model_on_a_simulated_disk(ops in prop::collection::vec(op(), 1..80)) {
        run(Arc::new(SimStorage::new(7)), Path::new("/data"), ops);
    }
}

proptest! {
    #![proptest_config(cases(20))]
    #[test]
    fn the_log_is_the_model_on_a_real_disk(ops in prop::collection::vec(op(), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        run(Arc::new(OsStorage::new()), dir.path(), ops);
    }
}
