//! What the simulated disk keeps and loses.

use super::*;
use crate::storage::{LogFile, OpenMode, Storage};
use std::io::{ErrorKind, IoSlice};

fn write(file: &dyn LogFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(&mut [IoSlice::new(bytes)], offset)
}

fn read(storage: &SimStorage, path: &str) -> Option<Vec<u8>> {
    let file = storage.open(Path::new(path), OpenMode::Read).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// A file with stable content in a stable folder.
fn stable_file(storage: &SimStorage, path: &str, bytes: &[u8]) -> Arc<dyn LogFile> {
    let path = Path::new(path);
    storage.create_dir_all(path.parent().unwrap()).unwrap();
    let file = storage.open(path, OpenMode::Create).unwrap();
    write(&*file, 0, bytes).unwrap();
    file.sync_data().unwrap();
    storage.sync_dir(path.parent().unwrap()).unwrap();
    file
}

#[test]
fn synced_bytes_survive_every_cut() {
    for seed in 0..50 {
        let sim = SimStorage::new(seed);
        let file = stable_file(&sim, "/d/a", &[1; 3000]);
        write(&*file, 3000, &[2; 5000]).unwrap();
        sim.power_cut();
        let found = read(&sim, "/d/a").unwrap();
        assert_eq!(found[..3000], [1; 3000]);
        assert!(found[3000..].iter().all(|b| *b == 0 || *b == 2), "new bytes or a hole, nothing else");
    }
}

#[test]
fn a_strict_cut_drops_everything_unsynced() {
    let sim = SimStorage::new(1);
    let file = stable_file(&sim, "/d/a", b"stable");
    write(&*file, 0, b"STABLE and more").unwrap();
    let other = sim.open(Path::new("/d/b"), OpenMode::Create).unwrap();
    write(&*other, 0, b"b").unwrap();
    other.sync_data().unwrap();
    sim.rename(Path::new("/d/a"), Path::new("/d/c")).unwrap();
    sim.power_cut_strict();
    assert_eq!(read(&sim, "/d/a").unwrap(), b"stable");
    assert_eq!(sim.list(Path::new("/d")).unwrap().len(), 1, "neither the creation nor the rename was synced");
}

#[test]
fn unsynced_writes_are_lost_kept_and_torn_at_sectors() {
    let (mut lost, mut kept, mut torn) = (false, false, false);
    for seed in 0..200 {
        let sim = SimStorage::new(seed);
        let file = stable_file(&sim, "/d/a", &[0; 4096]);
        write(&*file, 100, &[9; 3000]).unwrap();
        sim.power_cut();
        let found = read(&sim, "/d/a").unwrap();
        assert_eq!(found.len(), 4096);
        let new: Vec<bool> = found[100..3100].iter().map(|b| *b == 9).collect();
        lost |= new.iter().all(|b| !b);
        kept |= new.iter().all(|b| *b);
        torn |= new.iter().any(|b| *b) && new.iter().any(|b| !b);
        for at in 1..new.len() {
            assert!(new[at] == new[at - 1] || (at + 100) % 512 == 0, "torn inside a sector at {at}");
        }
    }
    assert!(lost && kept && torn);
}

#[test]
fn unsynced_names_come_and_go_by_the_seed() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let sim = SimStorage::new(seed);
        stable_file(&sim, "/d/old", b"old");
        let new = sim.open(Path::new("/d/new"), OpenMode::Create).unwrap();
        write(&*new, 0, b"new").unwrap();
        new.sync_data().unwrap();
        sim.remove_file(Path::new("/d/old")).unwrap();
        sim.power_cut();
        let (old, new) = (read(&sim, "/d/old"), read(&sim, "/d/new"));
        assert!(old.as_ref().is_none_or(|bytes| bytes == b"old"));
        assert!(new.as_ref().is_none_or(|bytes| bytes == b"new"), "a synced file that is there is whole");
        seen.insert((old.is_some(), new.is_some()));
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_replacing_rename_leaves_the_old_or_the_new_file() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let sim = SimStorage::new(seed);
        stable_file(&sim, "/d/c", b"old");
        let temp = sim.open(Path::new("/d/c.tmp"), OpenMode::Truncate).unwrap();
        write(&*temp, 0, b"new").unwrap();
        temp.sync_data().unwrap();
        sim.rename(Path::new("/d/c.tmp"), Path::new("/d/c")).unwrap();
        sim.power_cut();
        seen.insert(read(&sim, "/d/c").unwrap());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [b"new".to_vec(), b"old".to_vec()]);
}

#[test]
fn handles_and_locks_from_before_the_cut_are_dead() {
    let sim = SimStorage::new(1);
    let file = stable_file(&sim, "/d/a", b"abc");
    let lock = sim.lock(Path::new("/d/.lock")).unwrap();
    sim.power_cut();
    assert!(is_power_cut(&file.len().unwrap_err()));
    assert!(is_power_cut(&write(&*file, 0, b"x").unwrap_err()));
    assert!(is_power_cut(&file.sync_data().unwrap_err()));
    let _again = sim.lock(Path::new("/d/.lock")).unwrap();
    drop(lock);
    assert!(sim.lock(Path::new("/d/.lock")).is_err(), "dropping a dead lock must not free the new one");
}

#[test]
fn a_planned_cut_stops_every_later_call() {
    let sim = SimStorage::new(1);
    let file = stable_file(&sim, "/d/a", b"abc");
    let before = sim.op_count();
    sim.cut_after_ops(2);
    write(&*file, 3, b"d").unwrap();
    file.sync_data().unwrap();
    assert_eq!(sim.op_count(), before + 2);
    assert!(!sim.is_off());
    assert!(is_power_cut(&write(&*file, 4, b"e").unwrap_err()));
    assert!(sim.is_off());
    assert!(is_power_cut(&sim.exists(Path::new("/d")).unwrap_err()));
    assert!(is_power_cut(&file.len().unwrap_err()));
    sim.restart();
    assert_eq!(read(&sim, "/d/a").unwrap(), b"abcd");
}

#[test]
fn the_nth_call_fails_once() {
    let sim = SimStorage::new(1);
    let file = stable_file(&sim, "/d/a", b"");
    let other = stable_file(&sim, "/d/b", b"");
    sim.fail_nth_on("/d/a", &[OpKind::Write], 2, FaultError::NoSpace);
    write(&*other, 0, b"x").unwrap();
    write(&*file, 0, b"x").unwrap();
    write(&*other, 0, b"x").unwrap();
    assert_eq!(write(&*file, 1, b"yyyy").unwrap_err().kind(), ErrorKind::StorageFull);
    let len = file.len().unwrap();
    assert!((1..=5).contains(&len), "some prefix may be there");
    write(&*file, 1, b"yyyy").unwrap();
    assert_eq!(read(&sim, "/d/a").unwrap(), b"xyyyy");
}

#[test]
fn retrying_a_failed_sync_loses_data() {
    let mut lost = false;
    for seed in 0..20 {
        let sim = SimStorage::new(seed);
        let file = stable_file(&sim, "/d/a", b"");
        write(&*file, 0, &[5; 2048]).unwrap();
        sim.fail_next_sync();
        assert!(file.sync_data().is_err());
        assert_eq!(read(&sim, "/d/a").unwrap(), [5; 2048], "the page cache still shows the bytes");
        file.sync_data().unwrap();
        sim.power_cut_strict();
        lost |= read(&sim, "/d/a").unwrap() != [5; 2048];
    }
    assert!(lost);
}

#[test]
fn a_full_disk_cuts_writes_short_and_recovers() {
    let sim = SimStorage::new(1);
    let file = stable_file(&sim, "/d/a", &[1; 100]);
    let other = stable_file(&sim, "/d/b", &[1; 100]);
    sim.set_capacity(Some(300));
    assert_eq!(sim.available_bytes(Path::new("/d")).unwrap(), 100);
    other.reserve(100, 60).unwrap();
    assert_eq!(other.reserve(100, 101).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(write(&*file, 100, &[2; 50]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 140, "as much as there was space for");
    write(&*other, 100, &[2; 60]).unwrap();
    sim.remove_file(Path::new("/d/b")).unwrap();
    assert_eq!(sim.used_bytes(), 300, "an open file keeps its space");
    drop(other);
    assert_eq!(sim.used_bytes(), 140);
    write(&*file, 140, &[3; 160]).unwrap();
    sim.set_capacity(None);
    write(&*file, 300, &[4; 160]).unwrap();
}

#[test]
fn the_same_seed_gives_the_same_crash() {
    let run = || {
        let sim = SimStorage::new(42);
        for i in 0..20 {
            let file = stable_file(&sim, &format!("/d/{i}"), b"");
            write(&*file, 0, &[i; 3000]).unwrap();
        }
        sim.power_cut();
        (0..20).map(|i| read(&sim, &format!("/d/{i}"))).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn unreachable_files_are_forgotten() {
    let sim = SimStorage::new(1);
    for _ in 0..5000 {
        stable_file(&sim, "/d/a", &[1; 10]);
        sim.remove_file(Path::new("/d/a")).unwrap();
    }
    assert!(lock(&sim.shared).inodes.len() < 2000);
}

#[test]
fn a_flipped_bit_is_read_and_survives() {
    let sim = SimStorage::new(1);
    stable_file(&sim, "/d/a", b"abc");
    sim.flip_bit(Path::new("/d/a"), 1, 0).unwrap();
    assert_eq!(read(&sim, "/d/a").unwrap(), b"acc");
    sim.power_cut();
    assert_eq!(read(&sim, "/d/a").unwrap(), b"acc");
}
