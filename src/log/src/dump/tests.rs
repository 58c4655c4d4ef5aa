//! Every finding, on files made by hand.

use super::*;
use crate::storage::{OpenMode, SimStorage};
use proptest::prelude::*;
use std::io::IoSlice;
use thalweg_core::batch::{BatchBuilder, BatchHeader, HEADER_LEN, ProducerStamp, crc_of};
use thalweg_core::compression::Compression;
use thalweg_core::{LeaderEpoch, Timestamp};

const MAX: usize = 1 << 20;

/// A batch of `records` records at an offset, timestamps counting up to `timestamp`.
fn batch(base: i64, records: i64, timestamp: i64, epoch: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None, 4096);
    for i in 0..records {
        builder.append(Timestamp(timestamp - records + 1 + i), Some(b"key"), Some(b"value"), &[]);
    }
    let bytes = builder.finish(ProducerStamp::NONE);
    patch(bytes.to_vec(), |header| {
        header.base_offset = Offset(base);
        header.leader_epoch = LeaderEpoch(epoch);
    })
}

/// Changes a batch's header and makes its checksum good again.
fn patch(mut bytes: Vec<u8>, change: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
    let mut header = BatchHeader::parse(&bytes).unwrap();
    change(&mut header);
    header.crc = crc_of(&header.encode(), &bytes[HEADER_LEN..]);
    bytes[..HEADER_LEN].copy_from_slice(&header.encode());
    bytes
}

/// Three batches: offsets 10-11, 12-14 and 15, timestamps 100, 90 and 120.
fn three() -> Vec<Vec<u8>> {
    vec![batch(10, 2, 100, 0), batch(12, 3, 90, 1), batch(15, 1, 120, 1)]
}

fn file(sim: &SimStorage, name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new("/").join(name);
    let file = sim.open(&path, OpenMode::Truncate).unwrap();
    file.write_all_at(&mut [IoSlice::new(bytes)], 0).unwrap();
    path
}

const LOG: &str = "00000000000000000010.log";
const INDEX: &str = "00000000000000000010.index";
const TIME_INDEX: &str = "00000000000000000010.timeindex";

fn findings_of(name: &str, files: &[(&str, &[u8])]) -> Vec<Finding> {
    let sim = SimStorage::new(1);
    for (name, bytes) in files {
        file(&sim, name, bytes);
    }
    verify(&sim, &Path::new("/").join(name), MAX).unwrap().findings
}

fn log_findings(bytes: &[u8]) -> Vec<Finding> {
    findings_of(LOG, &[(LOG, bytes)])
}

fn kinds(findings: Vec<Finding>) -> Vec<FindingKind> {
    findings.into_iter().map(|finding| finding.kind).collect()
}

#[test]
fn a_good_log_is_clean_and_its_batches_are_listed() {
    let sim = SimStorage::new(1);
    let path = file(&sim, LOG, &three().concat());
    let report = verify(&sim, &path, MAX).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.entries, report.records, report.severity()), (3, 6, None));
    let mut listed = Vec::new();
    for entry in open(&sim, &path).unwrap() {
        let Entry::Batch(entry) = entry.unwrap() else { panic!() };
        listed.push((entry.position, entry.header.base_offset.get(), entry.bytes.to_vec()));
    }
    let [a, b, c] = <[Vec<u8>; 3]>::try_from(three()).unwrap();
    let (second, third) = (a.len() as u64, (a.len() + b.len()) as u64);
    assert_eq!(listed, [(0, 10, a), (second, 12, b), (third, 15, c)]);
    assert!(log_findings(b"").is_empty());
}

#[test]
fn a_torn_tail_is_told_with_its_length() {
    let whole = three().concat();
    let third = whole.len() - three()[2].len();
    for cut in third + 1..whole.len() {
        let found = log_findings(&whole[..cut]);
        let len = (cut - third) as u64;
        assert_eq!(found, [Finding { position: third as u64, kind: FindingKind::IncompleteTail { len } }]);
        assert_eq!(found[0].severity(), Severity::Torn);
    }
}

#[test]
fn a_batch_that_is_finished_meanwhile_is_read_and_is_the_last() {
    let whole = three().concat();
    let sim = SimStorage::new(1);
    let path = file(&sim, LOG, &whole[..whole.len() - 5]);
    let batches = Batches::open(&sim, &path).unwrap();
    file(&sim, LOG, &[whole, batch(16, 1, 130, 1)].concat());
    let listed: Vec<_> = batches.map(|entry| entry.unwrap().header.base_offset.get()).collect();
    assert_eq!(listed, [10, 12, 15], "what was appended later is not looked at");
}

#[test]
fn a_flipped_bit_is_found_and_what_follows_is_still_read() {
    let mut batches = three();
    let last = batches[1].len() - 1;
    batches[1][last] ^= 4;
    let found = log_findings(&batches.concat());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].position, batches[0].len() as u64);
    assert!(matches!(found[0].kind, FindingKind::BadBatch { offset: Offset(12), .. }));
    assert_eq!(found[0].severity(), Severity::Damage);
}

#[test]
fn zeros_and_garbage_behind_the_last_batch_are_found() {
    let end = three().concat().len() as u64;
    for len in [12, 60, 61, 200_000] {
        let found = log_findings(&[three().concat(), vec![0; len]].concat());
        let kind = FindingKind::TrailingZeros { len: len as u64 };
        assert_eq!(found, [Finding { position: end, kind }]);
    }
    let found = log_findings(&[three().concat(), vec![0; 100], vec![7; 100]].concat());
    assert_eq!(found.len(), 1);
    assert!(matches!(found[0].kind, FindingKind::Malformed { len: 200, .. }), "{found:?}");
}

#[test]
fn offsets_and_epochs_that_do_not_follow_are_found() {
    let [a, b, c] = <[Vec<u8>; 3]>::try_from(three()).unwrap();
    assert_eq!(
        kinds(log_findings(&[&a[..], &c].concat())),
        [FindingKind::OffsetGap { expected: Offset(12), found: Offset(15) }]
    );
    assert_eq!(
        kinds(log_findings(&[&a[..], &b, &b, &c].concat())),
        [FindingKind::OffsetOverlap { expected: Offset(15), found: Offset(12) }]
    );
    assert_eq!(
        kinds(log_findings(&batch(9, 1, 0, 0))),
        [FindingKind::BelowFileName { base: Offset(10), found: Offset(9) }]
    );
    let (before, found) = (LeaderEpoch(3), LeaderEpoch(2));
    assert_eq!(
        kinds(log_findings(&[batch(10, 1, 0, 3), batch(11, 1, 0, 2)].concat())),
        [FindingKind::EpochFell { offset: Offset(11), before, found }]
    );
    assert_eq!(kinds(findings_of("x.log", &[("x.log", &a)])), [FindingKind::NoBaseOffset]);
}

#[test]
fn records_that_are_not_as_the_header_says_are_found() {
    let more = patch(batch(10, 2, 100, 0), |header| header.max_timestamp = Timestamp(101));
    let (announced, found) = (Timestamp(101), Timestamp(100));
    assert_eq!(
        kinds(log_findings(&more)),
        [FindingKind::MaxTimestamp { offset: Offset(10), announced, found }]
    );
    let fewer = patch(batch(10, 3, 100, 0), |header| header.record_count = 2);
    let many = patch(batch(10, 3, 100, 0), |header| {
        header.record_count = i32::MAX;
        header.last_offset_delta = i32::MAX;
    });
    for bytes in [fewer, many] {
        let found = kinds(log_findings(&bytes));
        assert!(
            matches!(found[..], [FindingKind::BadRecords { .. } | FindingKind::RecordCount { .. }]),
            "{found:?}"
        );
    }
}

/// An `.index`: entries of relative offset and position.
fn index(entries: &[(i32, i32)]) -> Vec<u8> {
    entries.iter().flat_map(|(o, p)| [o.to_be_bytes(), p.to_be_bytes()].concat()).collect()
}

/// A `.timeindex`: entries of timestamp and relative offset.
fn time_index(entries: &[(i64, i32)]) -> Vec<u8> {
    entries.iter().flat_map(|(t, o)| [&t.to_be_bytes()[..], &o.to_be_bytes()].concat()).collect()
}

fn index_findings(bytes: &[u8]) -> Vec<Finding> {
    findings_of(INDEX, &[(LOG, &three().concat()), (INDEX, bytes)])
}

fn time_findings(bytes: &[u8]) -> Vec<Finding> {
    findings_of(TIME_INDEX, &[(LOG, &three().concat()), (TIME_INDEX, bytes)])
}

fn positions() -> [i32; 3] {
    let [a, b, _] = <[Vec<u8>; 3]>::try_from(three()).unwrap();
    [0, a.len() as i32, (a.len() + b.len()) as i32]
}

#[test]
fn a_good_index_is_clean_and_listed() {
    let [_, second, third] = positions();
    let bytes = index(&[(4, second), (5, third)]);
    assert_eq!(index_findings(&bytes), []);
    assert_eq!(index_findings(&[]), []);
    let sim = SimStorage::new(1);
    let path = file(&sim, INDEX, &bytes);
    let listed: Vec<_> = open(&sim, &path).unwrap().map(Result::unwrap).collect();
    assert!(
        matches!(listed[0], Entry::Position { offset: Offset(14), position } if position == second as u64)
    );
    assert_eq!(listed.len(), 2);
}

#[test]
fn index_entries_that_point_nowhere_are_found() {
    let [_, second, third] = positions();
    let target = |position: i32| FindingKind::PointsNowhere { offset: Offset(14), target: position as u64 };
    for wrong in [second + 1, third + 5, 1 << 30] {
        assert_eq!(kinds(index_findings(&index(&[(4, wrong)]))), [target(wrong)]);
    }
    // Read as unsigned: such a position is beyond any file.
    let beyond = FindingKind::PointsNowhere { offset: Offset(14), target: u64::from(u32::MAX) };
    assert_eq!(kinds(index_findings(&index(&[(4, -1)]))), [beyond]);
    let elsewhere = FindingKind::PointsElsewhere { offset: Offset(13), found: Offset(14) };
    assert_eq!(kinds(index_findings(&index(&[(3, second)]))), [elsewhere]);
}

#[test]
fn index_entries_that_do_not_rise_are_found() {
    let [_, second, third] = positions();
    let found = index_findings(&index(&[(5, third), (4, second)]));
    assert_eq!(found, [Finding { position: 8, kind: FindingKind::NotRising }]);
}

#[test]
fn bytes_and_zeros_behind_an_index_are_found() {
    let [_, second, _] = positions();
    let good = index(&[(4, second)]);
    let found = index_findings(&[&good[..], &[1, 2, 3]].concat());
    assert_eq!(found, [Finding { position: 8, kind: FindingKind::TrailingBytes { len: 3 } }]);
    let found = index_findings(&[&good[..], &[0; 80]].concat());
    assert_eq!(found, [Finding { position: 8, kind: FindingKind::TrailingZeros { len: 80 } }]);
    assert_eq!(kinds(findings_of(INDEX, &[(INDEX, &good)])), [FindingKind::NoLog]);
    let sim = SimStorage::new(1);
    let path = file(&sim, "x.index", &good);
    assert!(matches!(verify(&sim, &path, MAX), Err(DumpError::NoBaseOffset(_))));
}

#[test]
fn a_time_index_is_checked_against_the_batches() {
    let good = time_index(&[(100, 1), (120, 5)]);
    assert_eq!(time_findings(&good), []);
    let cases: [(&[(i64, i32)], FindingKind); 5] = [
        (
            &[(101, 1)],
            FindingKind::TimestampDiffers {
                offset: Offset(11),
                stored: Timestamp(101),
                found: Timestamp(100),
            },
        ),
        (
            &[(90, 4)],
            FindingKind::YoungerBefore { offset: Offset(14), stored: Timestamp(90), found: Timestamp(100) },
        ),
        (&[(100, 1), (120, 6)], FindingKind::NoSuchOffset { offset: Offset(16) }),
        (&[(100, 1), (100, 5)], FindingKind::NotRising),
        (&[(120, 5), (130, 1)], FindingKind::NotRising),
    ];
    for (entries, kind) in cases {
        assert_eq!(kinds(time_findings(&time_index(entries))), [kind]);
    }
    let found = time_findings(&[&good[..], &[0; 24]].concat());
    assert_eq!(found, [Finding { position: 24, kind: FindingKind::TrailingZeros { len: 24 } }]);
    let empty = findings_of(TIME_INDEX, &[(LOG, b""), (TIME_INDEX, &time_index(&[(-1, 0)]))]);
    assert_eq!(empty, []);
}

#[test]
fn small_files_are_listed_and_checked() {
    let name = "leader-epoch-checkpoint";
    assert_eq!(findings_of(name, &[(name, b"0\n2\n0 0\n1 5\n")]), []);
    assert_eq!(kinds(findings_of(name, &[(name, b"0\n2\n1 0\n0 5\n")])), [FindingKind::NotRising]);
    let found = kinds(findings_of(name, &[(name, b"0\n2\n0 0\n")]));
    assert!(matches!(found[..], [FindingKind::Checkpoint(_)]));
    let name = "recovery-point-offset-checkpoint";
    assert_eq!(findings_of(name, &[(name, b"0\n1\ntopic 0 5\n")]), []);
    let snapshot = crate::producer_state::encode_snapshot(&[]);
    let name = "00000000000000000042.snapshot";
    assert_eq!(findings_of(name, &[(name, &snapshot)]), []);
    let found = kinds(findings_of(name, &[(name, &snapshot[..9])]));
    assert!(matches!(found[..], [FindingKind::Snapshot(_)]));
    let sim = SimStorage::new(1);
    let path = file(&sim, "leader-epoch-checkpoint", b"0\n1\n3 7\n");
    let listed: Vec<_> = open(&sim, &path).unwrap().map(Result::unwrap).collect();
    assert!(matches!(listed[..], [Entry::Epoch(EpochStart { epoch: LeaderEpoch(3), start: Offset(7) })]));
}

#[test]
fn other_files_are_refused() {
    let sim = SimStorage::new(1);
    let path = file(&sim, "notes.txt", b"");
    assert!(matches!(verify(&sim, &path, MAX), Err(DumpError::UnknownKind(_))));
    assert!(matches!(open(&sim, Path::new("/none.log")), Err(DumpError::Io { .. })));
    assert!(matches!(verify(&sim, Path::new("/none.snapshot"), MAX), Err(DumpError::Io { .. })));
}

#[test]
fn a_report_keeps_a_bounded_number_of_findings() {
    let bytes: Vec<u8> = (0..(finding::MAX_FINDINGS + 10)).flat_map(|_| index(&[(1, 1)])).collect();
    let sim = SimStorage::new(1);
    let path = file(&sim, INDEX, &bytes);
    let report = verify(&sim, &path, MAX).unwrap();
    assert_eq!(report.findings.len(), finding::MAX_FINDINGS);
    assert_eq!(report.more_findings, 10, "one note that there is no log, and each entry but the first");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// Any damage to the checksummed part of a log is found; nothing panics on any bytes.
    #[test]
    fn no_damage_goes_unseen(at in 0usize..400, bit in 0u8..8) {
        let mut bytes = three().concat();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        // The leader epoch lies outside the checksum, and a higher one in the last batch, or one between, is legal.
        let in_epoch = positions().iter().any(|p| (12..16).contains(&(at as i64 - i64::from(*p))));
        prop_assert!(in_epoch || !log_findings(&bytes).is_empty(), "bit {} of byte {}", bit, at);
    }

    #[test]
    fn any_bytes_can_be_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..300), whole in 0usize..4) {
        let bytes = [three()[..whole.min(3)].concat(), bytes].concat();
        let sim = SimStorage::new(1);
        for name in [LOG, INDEX, TIME_INDEX, "00000000000000000010.snapshot", "leader-epoch-checkpoint"] {
            let path = file(&sim, name, &bytes);
            let _ = verify(&sim, &path, MAX);
            if let Ok(entries) = open(&sim, &path) {
                prop_assert!(entries.count() < 1000);
            }
        }
    }
}
