//! The producer state against Kafka's rules, a simple model, and damaged files.

use super::entry::retreat;
use super::*;
use crate::state_file::StateFileErrorKind;
use crate::storage::{FaultError, OpKind, OpenMode, SimStorage};
use proptest::prelude::*;
use std::collections::BTreeMap;
use thalweg_core::{ErrorCode, Sequence};

const NOW: Timestamp = Timestamp(1_000);

fn batch(id: i64, epoch: i16, first: i32, records: i32, base: i64) -> ProducerBatch {
    ProducerBatch {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        first_sequence: Sequence(first),
        last_sequence: Sequence(first).advance(records - 1),
        base_offset: Offset(base),
        last_offset: Offset(base + i64::from(records) - 1),
        timestamp: Timestamp(500),
        transactional: false,
    }
}

fn code(states: &ProducerStates, batch: &ProducerBatch) -> ErrorCode {
    states.check(batch).unwrap_err().code()
}

/// A log that holds sequences 0..`records` of producer 7 at epoch 0, in batches of one record.
fn seven(records: i32) -> ProducerStates {
    let mut states = ProducerStates::new(Offset(0));
    for i in 0..records {
        let batch = batch(7, 0, i, 1, i64::from(i));
        assert_eq!(states.check(&batch), Ok(SequenceCheck::Accept));
        states.apply(&batch, NOW);
    }
    states
}

#[test]
fn the_last_five_batches_are_answered_with_their_offsets() {
    let states = seven(8);
    for i in 3..8 {
        let want = SequenceCheck::Duplicate {
            base_offset: Offset(i.into()),
            last_offset: Offset(i.into()),
            timestamp: Timestamp(500),
        };
        assert_eq!(states.check(&batch(7, 0, i, 1, 99)), Ok(want));
    }
    for i in 0..3 {
        assert_eq!(code(&states, &batch(7, 0, i, 1, 99)), ErrorCode::DuplicateSequence);
    }
}

#[test]
fn gaps_and_overlaps_are_refused() {
    let states = seven(8);
    assert_eq!(code(&states, &batch(7, 0, 9, 1, 8)), ErrorCode::OutOfOrderSequence);
    assert_eq!(code(&states, &batch(7, 0, i32::MAX, 1, 8)), ErrorCode::OutOfOrderSequence);
    assert_eq!(code(&states, &batch(7, 0, 7, 2, 8)), ErrorCode::OutOfOrderSequence, "half old, half new");
    assert_eq!(code(&states, &batch(7, 0, 6, 2, 8)), ErrorCode::DuplicateSequence, "old, cut differently");
    assert_eq!(states.check(&batch(7, 0, 8, 3, 8)), Ok(SequenceCheck::Accept));
}

#[test]
fn epochs_fence_and_start_at_zero() {
    let mut states = seven(3);
    assert_eq!(code(&states, &batch(7, 1, 3, 1, 3)), ErrorCode::OutOfOrderSequence);
    let next = batch(7, 1, 0, 2, 3);
    assert_eq!(states.check(&next), Ok(SequenceCheck::Accept));
    states.apply(&next, NOW);
    assert_eq!(code(&states, &batch(7, 0, 3, 1, 5)), ErrorCode::InvalidProducerEpoch);
    assert_eq!(
        code(&states, &batch(7, 0, 2, 1, 5)),
        ErrorCode::InvalidProducerEpoch,
        "even an old duplicate"
    );
    assert_eq!(states.check(&batch(7, 1, 2, 1, 5)), Ok(SequenceCheck::Accept));
}

#[test]
fn an_unknown_producer_starts_at_zero() {
    let states = seven(1);
    assert_eq!(code(&states, &batch(8, 0, 5, 1, 1)), ErrorCode::UnknownProducerId);
    assert_eq!(states.check(&batch(8, 3, 0, 1, 1)), Ok(SequenceCheck::Accept));
}

#[test]
fn sequences_wrap_around() {
    let mut states = ProducerStates::new(Offset(0));
    states.apply(&batch(7, 0, i32::MAX - 1, 1, 0), NOW);
    let wrapping = batch(7, 0, i32::MAX, 3, 1);
    assert_eq!(wrapping.last_sequence, Sequence(1));
    assert_eq!(states.check(&wrapping), Ok(SequenceCheck::Accept));
    states.apply(&wrapping, NOW);
    assert!(matches!(states.check(&wrapping), Ok(SequenceCheck::Duplicate { .. })));
    assert_eq!(states.check(&batch(7, 0, 2, 1, 4)), Ok(SequenceCheck::Accept));
    assert_eq!(code(&states, &batch(7, 0, 3, 1, 4)), ErrorCode::OutOfOrderSequence);
    assert_eq!(code(&states, &batch(7, 0, i32::MAX - 9, 2, 4)), ErrorCode::DuplicateSequence);
    for (sequence, n) in [(0, 0), (0, 1), (1, 3), (5, 5), (0, i32::MAX), (i32::MAX, 7)] {
        assert_eq!(retreat(Sequence(sequence), n).advance(n), Sequence(sequence));
    }
}

#[test]
fn batches_without_a_producer_pass_and_malformed_ones_do_not() {
    let mut states = ProducerStates::new(Offset(0));
    let plain = batch(-1, -1, 0, 1, 0);
    assert_eq!(states.check(&plain), Ok(SequenceCheck::Accept));
    states.apply(&plain, NOW);
    assert!(states.is_empty());
    assert_eq!(states.map_end_offset(), Offset(1));
    let none = ProducerBatch { first_sequence: Sequence::NONE, ..batch(7, 0, 0, 1, 0) };
    assert_eq!(code(&states, &none), ErrorCode::InvalidRequest);
    assert_eq!(code(&states, &batch(7, -1, 0, 1, 0)), ErrorCode::InvalidRequest);
}

#[test]
fn transactions_are_open_from_first_batch_to_marker() {
    let mut states = ProducerStates::new(Offset(0));
    let first = ProducerBatch { transactional: true, ..batch(7, 0, 0, 2, 0) };
    states.apply(&first, NOW);
    states.apply(&ProducerBatch { transactional: true, ..batch(8, 0, 0, 2, 2) }, NOW);
    states.apply(&ProducerBatch { transactional: true, ..batch(7, 0, 2, 2, 4) }, NOW);
    assert_eq!(states.first_undecided_offset(), Some(Offset(0)));
    assert_eq!(code(&states, &batch(7, 0, 4, 1, 6)), ErrorCode::InvalidRequest);
    assert_eq!(states.expire(Timestamp(i64::MAX), 1), 0, "an open transaction is never forgotten");
    states.apply_end_marker(ProducerId(7), ProducerEpoch(0), 3, Offset(6), NOW, NOW);
    assert_eq!(states.first_undecided_offset(), Some(Offset(2)));
    assert_eq!(states.get(ProducerId(7)).unwrap().coordinator_epoch, 3);
    assert_eq!(states.map_end_offset(), Offset(7));
    assert_eq!(states.check(&batch(7, 0, 4, 1, 7)), Ok(SequenceCheck::Accept));
}

#[test]
fn expiry_goes_by_the_brokers_clock_too() {
    let mut states = ProducerStates::new(Offset(0));
    let old = ProducerBatch { timestamp: Timestamp(5), ..batch(7, 0, 0, 1, 0) };
    states.apply(&old, Timestamp(90_000_000));
    assert_eq!(
        states.expire(Timestamp(90_000_001), DEFAULT_EXPIRATION_MS),
        0,
        "records of 1970, heard of just now"
    );
    assert_eq!(states.expire(Timestamp(90_000_000 + DEFAULT_EXPIRATION_MS), DEFAULT_EXPIRATION_MS), 1);
    assert!(states.is_empty());
}

#[test]
fn the_number_of_producers_is_bounded() {
    let mut states = ProducerStates::new(Offset(0));
    for id in 0..(MAX_PRODUCER_IDS as i64 + 10) {
        states.apply(&batch(id, 0, 0, 1, id), Timestamp(id));
    }
    assert!(states.len() <= MAX_PRODUCER_IDS);
    assert!(states.get(ProducerId(0)).is_none(), "the oldest went");
    assert!(states.get(ProducerId(MAX_PRODUCER_IDS as i64 + 9)).is_some());
}

#[test]
fn a_snapshots_bytes_are_kafkas_version_1() {
    let entry = SnapshotEntry {
        producer_id: ProducerId(0x0102030405060708),
        producer_epoch: ProducerEpoch(0x0a0b),
        last_sequence: Sequence(9),
        last_offset: Offset(100),
        offset_delta: 4,
        timestamp: Timestamp(-1),
        coordinator_epoch: -1,
        current_txn_first_offset: Offset(-1),
    };
    let bytes = encode_snapshot(&[entry]);
    let body = [
        &[0, 0, 0, 1][..],                       // count
        &[1, 2, 3, 4, 5, 6, 7, 8, 0x0a, 0x0b],   // producer id, epoch
        &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 100], // last sequence, last offset
        &[0, 0, 0, 4],                           // offset delta
        &[0xff; 8],                              // timestamp
        &[0xff; 4],                              // coordinator epoch
        &[0xff; 8],                              // open transaction
    ]
    .concat();
    assert_eq!(bytes[..2], [0, 1]);
    assert_eq!(bytes[2..6], crc32c::crc32c(&body).to_be_bytes());
    assert_eq!(bytes[6..], body);
    assert_eq!(decode_snapshot(&bytes), Ok(vec![entry]));
    // The CRC-32C check value of the published catalogue, so that the polynomial itself is pinned.
    assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
}

#[test]
fn damaged_snapshots_are_refused() {
    let bytes = seven(3).snapshot().unwrap().bytes().to_vec();
    for cut in 0..bytes.len() {
        assert!(decode_snapshot(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(decode_snapshot(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
    let mut trailing = bytes.clone();
    trailing.push(0);
    assert!(matches!(decode_snapshot(&trailing), Err(SnapshotError::Count { .. })));
    let mut many = bytes;
    many[6..10].copy_from_slice(&i32::MAX.to_be_bytes());
    assert!(matches!(decode_snapshot(&many), Err(SnapshotError::Count { announced: i32::MAX, .. })));
}

#[test]
fn names_parse_back() {
    assert_eq!(snapshot_file_name(Offset(42)), "00000000000000000042.snapshot");
    assert_eq!(snapshot_offset("00000000000000000042.snapshot"), Some(Offset(42)));
    for bad in ["42.snapshot", "0000000000000000004x.snapshot", "00000000000000000042.snapshot.tmp", "x"] {
        assert_eq!(snapshot_offset(bad), None, "{bad}");
    }
    assert_eq!(snapshot_offset("99999999999999999999.snapshot"), None);
}

fn folder() -> (SimStorage, &'static Path) {
    let sim = SimStorage::new(1);
    sim.create_dir_all(Path::new("/t-0")).unwrap();
    (sim, Path::new("/t-0"))
}

#[test]
fn a_producer_is_known_right_after_a_restart() {
    let (sim, dir) = folder();
    let mut states = seven(8);
    states.take_snapshot(&sim, dir).unwrap();
    let ops = sim.op_count();
    states.take_snapshot(&sim, dir).unwrap();
    assert_eq!(sim.op_count(), ops, "nothing new, nothing written");
    sim.power_cut_strict();
    let mut states = ProducerStates::load(&sim, dir, Offset(0), Offset(8), NOW).unwrap();
    assert_eq!(states.map_end_offset(), Offset(8));
    assert!(matches!(states.check(&batch(7, 0, 7, 1, 8)), Ok(SequenceCheck::Duplicate { .. })));
    assert_eq!(states.check(&batch(7, 0, 8, 1, 8)), Ok(SequenceCheck::Accept));
    assert_eq!(code(&states, &batch(7, 0, 6, 1, 8)), ErrorCode::DuplicateSequence);
    let tail: Vec<_> = (0..8).map(|i| batch(7, 0, i, 1, i64::from(i))).collect();
    states.recall(&tail);
    assert_eq!(states.get(ProducerId(7)), seven(8).get(ProducerId(7)), "nothing of it was forgotten");
    assert!(matches!(states.check(&batch(7, 0, 3, 1, 8)), Ok(SequenceCheck::Duplicate { .. })));
}

#[test]
fn a_snapshot_ahead_of_the_log_is_not_used() {
    let (sim, dir) = folder();
    seven(3).take_snapshot(&sim, dir).unwrap();
    seven(8).take_snapshot(&sim, dir).unwrap();
    // The crash took the log's end back to 5.
    let states = ProducerStates::load(&sim, dir, Offset(0), Offset(5), NOW).unwrap();
    assert_eq!(states.map_end_offset(), Offset(3));
    assert_eq!(states.get(ProducerId(7)).unwrap().last_sequence(), Some(Sequence(2)));
    sim.power_cut_strict();
    assert!(!sim.exists(&dir.join(snapshot_file_name(Offset(8)))).unwrap(), "and it does not come back");
}

#[test]
fn a_damaged_snapshot_gives_way_to_an_older_one() {
    let (sim, dir) = folder();
    seven(3).take_snapshot(&sim, dir).unwrap();
    seven(8).take_snapshot(&sim, dir).unwrap();
    sim.flip_bit(&dir.join(snapshot_file_name(Offset(8))), 20, 3).unwrap();
    let states = ProducerStates::load(&sim, dir, Offset(0), Offset(8), NOW).unwrap();
    assert_eq!(states.map_end_offset(), Offset(3));
    assert!(!sim.exists(&dir.join(snapshot_file_name(Offset(8)))).unwrap());
}

#[test]
fn a_failing_disk_is_no_damaged_snapshot() {
    let (sim, dir) = folder();
    seven(3).take_snapshot(&sim, dir).unwrap();
    sim.fail_nth(&[OpKind::Read], 1, FaultError::Io);
    let err = ProducerStates::load(&sim, dir, Offset(0), Offset(8), NOW).unwrap_err();
    assert!(matches!(err.kind, StateFileErrorKind::Io(_)));
    assert!(sim.exists(&dir.join(snapshot_file_name(Offset(3)))).unwrap(), "it must not be removed");
}

#[test]
fn old_and_stray_snapshots_are_deleted() {
    let (sim, dir) = folder();
    for n in [2, 4, 6, 8] {
        seven(n).take_snapshot(&sim, dir).unwrap();
    }
    assert_eq!(ProducerStates::delete_snapshots_before(&sim, dir, Offset(4)).unwrap(), 1);
    assert_eq!(ProducerStates::delete_stray_snapshots(&sim, dir, &[Offset(4)]).unwrap(), 1);
    let mut left = snapshot::offsets(&sim, dir).unwrap();
    left.sort_unstable();
    assert_eq!(left, [Offset(4), Offset(8)]);
}

#[test]
fn a_power_cut_while_a_snapshot_is_written_leaves_a_good_state() {
    for cut in 0..6 {
        for seed in 0..20 {
            let sim = SimStorage::new(seed);
            let dir = Path::new("/t-0");
            sim.create_dir_all(dir).unwrap();
            seven(3).take_snapshot(&sim, dir).unwrap();
            sim.cut_after_ops(cut);
            let done = seven(8).take_snapshot(&sim, dir).is_ok();
            sim.restart();
            let end = ProducerStates::load(&sim, dir, Offset(0), Offset(8), NOW).unwrap().map_end_offset();
            assert!(end == Offset(8) || (!done && end == Offset(3)));
        }
    }
}

/// The model: every batch ever accepted, kept whole.
#[derive(Default)]
struct Model {
    /// For each producer: its epoch and the batches of that epoch.
    producers: BTreeMap<i64, (i16, Vec<ProducerBatch>)>,
}

impl Model {
    /// What must come out, from the full history. Sequences in the test start near the wrap, so positions are counted from
    /// the epoch's first batch instead of compared.
    fn verdict(&self, batch: &ProducerBatch) -> &'static str {
        let Some((epoch, history)) = self.producers.get(&batch.producer_id.get()) else {
            return if batch.first_sequence == Sequence(0) { "accept" } else { "unknown" };
        };
        if batch.producer_epoch.get() < *epoch {
            return "fenced";
        }
        if batch.producer_epoch.get() > *epoch {
            return if batch.first_sequence == Sequence(0) { "accept" } else { "gap" };
        }
        let recent = &history[history.len().saturating_sub(REMEMBERED_BATCHES)..];
        if recent
            .iter()
            .any(|b| b.first_sequence == batch.first_sequence && b.last_sequence == batch.last_sequence)
        {
            return "duplicate";
        }
        let mut all = history.iter().flat_map(|b| {
            (0..=(b.last_offset.get() - b.base_offset.get()) as i32).map(|n| b.first_sequence.advance(n))
        });
        if history.last().unwrap().last_sequence.advance(1) == batch.first_sequence {
            return "accept";
        }
        let seen: Vec<_> = all.by_ref().collect();
        let wholly = seen.contains(&batch.first_sequence) && seen.contains(&batch.last_sequence);
        if wholly { "old" } else { "gap" }
    }
}

fn verdict(result: Result<SequenceCheck, SequenceError>) -> &'static str {
    match result {
        Ok(SequenceCheck::Accept) => "accept",
        Ok(SequenceCheck::Duplicate { .. }) => "duplicate",
        Err(SequenceError::OutOfOrderSequence { .. }) => "gap",
        Err(SequenceError::DuplicateSequence { .. }) => "old",
        Err(SequenceError::InvalidProducerEpoch { .. }) => "fenced",
        Err(SequenceError::UnknownProducerId { .. }) => "unknown",
        Err(other) => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// Batches near what is expected, so that every verdict occurs; with snapshots and reloads in between.
    #[test]
    fn the_state_agrees_with_the_full_history(
        steps in prop::collection::vec((0i64..3, -1i16..2, -12i32..4, 1i32..4, 0u8..12), 1..120)
    ) {
        let (sim, dir) = folder();
        let (mut states, mut model) = (ProducerStates::new(Offset(0)), Model::default());
        let (mut log, mut end) = (Vec::new(), 0i64);
        for (id, epoch_step, sequence_step, records, reload) in steps {
            let (epoch, next) = match model.producers.get(&id) {
                Some((epoch, history)) => (*epoch, history.last().unwrap().last_sequence.get() + 1),
                None => (0, 0),
            };
            let epoch = (epoch + epoch_step).max(0);
            let first = if epoch_step == 1 { sequence_step.max(0) } else { (next + sequence_step.min(2)).max(0) };
            let batch = batch(id, epoch, first, records, end);
            let result = states.check(&batch);
            prop_assert_eq!(verdict(result), model.verdict(&batch), "{:?} on {:?}", batch, states.get(ProducerId(id)));
            if let Ok(SequenceCheck::Duplicate { base_offset, last_offset, .. }) = result {
                let history = &model.producers[&id].1;
                let original = history.iter().rev().find(|b| b.first_sequence == batch.first_sequence).unwrap();
                prop_assert_eq!((base_offset, last_offset), (original.base_offset, original.last_offset));
            }
            if result == Ok(SequenceCheck::Accept) {
                states.apply(&batch, NOW);
                let known = model.producers.entry(id).or_insert((epoch, Vec::new()));
                if known.0 != epoch {
                    *known = (epoch, Vec::new());
                }
                known.1.push(batch);
                log.push(batch);
                end += i64::from(records);
            }
            match reload {
                0 => states.take_snapshot(&sim, dir).unwrap(),
                1 => {
                    let before = states.clone();
                    states = ProducerStates::load(&sim, dir, Offset(0), Offset(end), NOW).unwrap();
                    let from = states.map_end_offset();
                    states.recall(&log.iter().filter(|b| b.base_offset < from).copied().collect::<Vec<_>>());
                    for batch in log.iter().filter(|b| b.base_offset >= from) {
                        states.apply(batch, NOW);
                    }
                    prop_assert_eq!(&states.producers, &before.producers, "a reload changes nothing");
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_snapshot_reads_back(
        entries in prop::collection::vec(any::<((i64, i16, i32, i64), (i32, i64, i32, i64))>(), 0..20)
    ) {
        let entries: Vec<_> = entries.into_iter().map(|((id, epoch, seq, last), (delta, at, coordinator, txn))| {
            SnapshotEntry {
                producer_id: ProducerId(id),
                producer_epoch: ProducerEpoch(epoch),
                last_sequence: Sequence(seq),
                last_offset: Offset(last),
                offset_delta: delta,
                timestamp: Timestamp(at),
                coordinator_epoch: coordinator,
                current_txn_first_offset: Offset(txn),
            }
        }).collect();
        prop_assert_eq!(decode_snapshot(&encode_snapshot(&entries)), Ok(entries));
    }

    #[test]
    fn random_bytes_are_no_snapshot(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_snapshot(&bytes).is_err());
    }

    /// A snapshot with a good checksum but wild values (another program's bug) must not bring the broker down.
    #[test]
    fn wild_values_do_no_harm(
        id in 0i64..3, epoch: i16, seq: i32, last: i64, delta: i32, first: i32, records in 1i32..5, base in 0i64..10
    ) {
        let (sim, dir) = folder();
        let entry = SnapshotEntry {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            last_sequence: Sequence(seq),
            last_offset: Offset(last),
            offset_delta: delta,
            timestamp: Timestamp(last),
            coordinator_epoch: delta,
            current_txn_first_offset: Offset(last),
        };
        let file = sim.open(&dir.join(snapshot_file_name(Offset(5))), OpenMode::Create).unwrap();
        file.write_all_at(&mut [std::io::IoSlice::new(&encode_snapshot(&[entry]))], 0).unwrap();
        let mut states = ProducerStates::load(&sim, dir, Offset(0), Offset(10), NOW).unwrap();
        let batch = batch(id, epoch, first.max(0), records, base);
        let _ = states.check(&batch);
        states.recall(&[batch]);
        states.apply(&batch, NOW);
        states.expire(NOW, 1);
    }
}
