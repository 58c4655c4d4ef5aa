//! What concerns the store on disk alone.

use crate::harness::identity;
use crate::store_suite::{entry, snapshot};
use std::fs;
use std::path::Path;
use thalweg_raft::{HardState, RaftStore, SledStore, StoreError, WriteBatch};

fn batch(index: u64) -> WriteBatch {
    WriteBatch {
        entries: vec![entry(index, index, 3_000)],
        hard_state: Some(HardState { term: index, vote: 1, commit: index }),
        ..WriteBatch::default()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &to.join(item.file_name()));
        } else {
            fs::copy(item.path(), to.join(item.file_name())).unwrap();
        }
    }
}

/// Copies the folder of a running store, as a killed process would leave it.
#[test]
fn after_each_write_the_files_alone_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = SledStore::open(&folder.path().join("live"), identity(1)).unwrap();
    for index in 1..=30u64 {
        store.write(batch(index)).unwrap();
        let cut = folder.path().join(format!("cut-{index}"));
        copy(&folder.path().join("live"), &cut);
        let found = SledStore::open(&cut, identity(1)).unwrap();
        let summary = found.summary().unwrap();
        assert_eq!(summary.last_index, index);
        assert_eq!(summary.hard_state, HardState { term: index, vote: 1, commit: index });
        drop(found);
        fs::remove_dir_all(&cut).unwrap();
    }
}

/// What was written after the last sync may be torn anywhere: the hard state and the entries of a batch are then
/// both there or both not.
#[test]
fn a_torn_tail_never_parts_the_hard_state_from_its_entries() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let mut store = SledStore::open(&live, identity(1)).unwrap();
    let used = |path: &Path| {
        fs::read(path.join("sled/db")).unwrap().iter().rposition(|byte| *byte != 0).unwrap_or(0)
    };
    for index in 1..=8 {
        store.write(batch(index)).unwrap();
    }
    let synced = used(&live);
    for index in 9..=12 {
        store.write(batch(index)).unwrap();
    }
    let written = used(&live);
    assert!(written > synced, "the later writes lie behind the earlier ones");
    let mut seen = std::collections::BTreeSet::new();
    for cut in (synced + 1..=written + 1).step_by((written - synced) / 40) {
        let torn = folder.path().join("torn");
        copy(&live, &torn);
        let db = torn.join("sled/db");
        let mut bytes = fs::read(&db).unwrap();
        bytes[cut..].fill(0);
        fs::write(&db, bytes).unwrap();
        let found = SledStore::open(&torn, identity(1)).unwrap();
        let summary = found.summary().unwrap();
        assert_eq!(summary.hard_state.term, summary.last_index, "cut at {cut}");
        assert!(summary.last_index >= 8, "cut at {cut}: what was synced is gone");
        assert_eq!(found.term(summary.last_index).unwrap(), summary.last_index);
        seen.insert(summary.last_index);
        drop(found);
        fs::remove_dir_all(&torn).unwrap();
    }
    assert!(seen.len() > 2, "the cuts fell between the batches: {seen:?}");
}

#[test]
fn a_store_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(SledStore::open(folder.path(), identity(1)).unwrap());
    let db = sled::open(folder.path().join("sled")).unwrap();
    let mut record = db.get(b"MI").unwrap().unwrap().to_vec();
    record[3] = 2;
    db.insert(b"MI", record).unwrap();
    db.flush().unwrap();
    drop(db);
    let refused = SledStore::open(folder.path(), identity(1)).err().unwrap();
    assert!(matches!(refused, StoreError::Format { found: 2, supported: 1 }), "{refused}");
}

#[test]
fn nothing_large_reaches_sled() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = SledStore::open(folder.path(), identity(1)).unwrap();
    for index in 1..=20 {
        let entries = vec![entry(index, 1, 400_000)];
        store.write(WriteBatch { entries, ..WriteBatch::default() }).unwrap();
    }
    let hard_state = Some(HardState { term: 1, vote: 1, commit: 20 });
    let snapshot = Some(snapshot(20, 1, 5_000_000));
    store.write(WriteBatch { snapshot, hard_state, ..WriteBatch::default() }).unwrap();
    store.compact(15).unwrap();
    // sled keeps large values in files of their own, which it does not sync.
    let blobs = fs::read_dir(folder.path().join("sled/blobs")).map_or(0, |files| files.count());
    assert_eq!(blobs, 0);
}
