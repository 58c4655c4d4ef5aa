//! What every [`Storage`] must do. Each implementation runs all of it.

use super::{DIRECT_ALIGN, LogFile, OpenMode, OsStorage, SimStorage, Storage};
use proptest::prelude::*;
use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};

/// A storage with an empty folder to work in.
struct World {
    storage: Box<dyn Storage>,
    root: PathBuf,
    _temp: Option<tempfile::TempDir>,
}

impl World {
    fn os() -> World {
        let temp = tempfile::tempdir().unwrap();
        World { storage: Box::new(OsStorage::new()), root: temp.path().to_owned(), _temp: Some(temp) }
    }

    fn sim() -> World {
        let storage = Box::new(SimStorage::new(7));
        let root = PathBuf::from("/data");
        storage.create_dir_all(&root).unwrap();
        World { storage, root, _temp: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod os { $( #[test] fn $name() { super::$name(&super::World::os()); } )* }
        mod sim { $( #[test] fn $name() { super::$name(&super::World::sim()); } )* }
    };
}

conformance!(
    written_bytes_are_read_back,
    slices_are_written_one_behind_the_other,
    reads_stop_at_the_end,
    writes_beyond_the_end_fill_with_zeros,
    reservations_do_not_change_the_length,
    files_are_cut_and_extended,
    direct_writes_and_others_share_a_file,
    open_modes_keep_their_word,
    a_read_handle_cannot_write,
    a_mapping_holds_the_first_bytes,
    renames_replace_files,
    renames_move_folders_with_what_they_hold,
    an_open_file_outlives_its_name,
    folders_are_created_with_parents_and_listed,
    removing_a_folder_removes_all_below,
    missing_names_are_not_found,
    a_lock_is_held_once,
    syncs_succeed_and_space_is_known,
);

fn read_all(file: &dyn LogFile) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn put(world: &World, name: &str, bytes: &[u8]) {
    let file = world.storage.open(&world.path(name), OpenMode::Truncate).unwrap();
    file.write_all_at(&mut [IoSlice::new(bytes)], 0).unwrap();
}

fn get(world: &World, name: &str) -> Vec<u8> {
    read_all(&*world.storage.open(&world.path(name), OpenMode::Read).unwrap())
}

fn written_bytes_are_read_back(world: &World) {
    let file = world.storage.open(&world.path("a"), OpenMode::Create).unwrap();
    assert!(file.is_empty().unwrap());
    file.write_all_at(&mut [IoSlice::new(b"hello world")], 0).unwrap();
    file.write_all_at(&mut [IoSlice::new(b"W")], 6).unwrap();
    assert_eq!(read_all(&*file), b"hello World");
    assert_eq!(get(world, "a"), b"hello World");
}

fn slices_are_written_one_behind_the_other(world: &World) {
    let file = world.storage.open(&world.path("a"), OpenMode::Create).unwrap();
    let parts = [&b""[..], b"ab", b"", b"", b"cde", b""];
    let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_all_at(&mut slices, 1).unwrap();
    assert_eq!(read_all(&*file), b"\0abcde");
    file.write_all_at(&mut [], 100).unwrap();
    file.write_all_at(&mut [IoSlice::new(b"")], 100).unwrap();
    assert_eq!(file.len().unwrap(), 6, "writing nothing changes nothing");
}

fn reads_stop_at_the_end(world: &World) {
    put(world, "a", b"0123456789");
    let file = world.storage.open(&world.path("a"), OpenMode::Read).unwrap();
    let mut buf = [0; 8];
    assert_eq!(file.read_at(&mut buf, 6).unwrap(), 4);
    assert_eq!(&buf[..4], b"6789");
    assert_eq!(file.read_at(&mut buf, 10).unwrap(), 0);
    assert_eq!(file.read_at(&mut buf, 1 << 40).unwrap(), 0);
    assert_eq!(file.read_exact_at(&mut buf, 6).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

fn writes_beyond_the_end_fill_with_zeros(world: &World) {
    let file = world.storage.open(&world.path("a"), OpenMode::Create).unwrap();
    file.write_all_at(&mut [IoSlice::new(b"x")], 5).unwrap();
    assert_eq!(read_all(&*file), b"\0\0\0\0\0x");
}

fn reservations_do_not_change_the_length(world: &World) {
    let file = world.storage.open(&world.path("a"), OpenMode::Create).unwrap();
    file.write_all_at(&mut [IoSlice::new(b"abc")], 0).unwrap();
    file.reserve(0, 1 << 20).unwrap();
    file.reserve(0, 0).unwrap();
    assert_eq!(file.len().unwrap(), 3);
    file.write_all_at(&mut [IoSlice::new(b"def")], 3).unwrap();
    file.release_reserved().unwrap();
    assert_eq!(read_all(&*file), b"abcdef");
}

fn files_are_cut_and_extended(world: &World) {
    let file = world.storage.open(&world.path("a"), OpenMode::Create).unwrap();
    file.write_all_at(&mut [IoSlice::new(b"abcdef")], 0).unwrap();
    file.set_len(2).unwrap();
    assert_eq!(read_all(&*file), b"ab");
    file.set_len(4).unwrap();
    assert_eq!(read_all(&*file), b"ab\0\0", "what was cut away does not come back");
}

fn direct_writes_and_others_share_a_file(world: &World) {
    let missing = world.storage.open_direct(&world.path("none"));
    assert!(missing.map_or_else(|err| err.kind() == ErrorKind::NotFound, |direct| direct.is_none()));
    let file = world.storage.open(&world.path("a"), OpenMode::Truncate).unwrap();
    let Some(direct) = world.storage.open_direct(&world.path("a")).unwrap() else { return };
    let mut bytes = vec![0; 3 * DIRECT_ALIGN];
    let start = bytes.as_ptr().align_offset(DIRECT_ALIGN);
    let block = &mut bytes[start..start + 2 * DIRECT_ALIGN];
    block.fill(b'x');
    match direct.write_all_at(&mut [IoSlice::new(block)], 0) {
        Err(err) if err.kind() == ErrorKind::InvalidInput => return,
        done => done.unwrap(),
    }
    let end = 2 * DIRECT_ALIGN as u64;
    file.write_all_at(&mut [IoSlice::new(b"end")], end).unwrap();
    file.sync_data().unwrap();
    let read = read_all(&*file);
    assert_eq!((read.len() as u64, &read[end as usize - 1..]), (end + 3, &b"xend"[..]));
    assert!(read[..end as usize].iter().all(|byte| *byte == b'x'));
}

fn open_modes_keep_their_word(world: &World) {
    let path = world.path("a");
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert_eq!(world.storage.open(&path, mode).unwrap_err().kind(), ErrorKind::NotFound);
    }
    put(world, "a", b"abc");
    world.storage.open(&path, OpenMode::Create).unwrap();
    let file = world.storage.open(&path, OpenMode::ReadWrite).unwrap();
    assert_eq!(read_all(&*file), b"abc");
    world.storage.open(&path, OpenMode::Truncate).unwrap();
    assert!(file.is_empty().unwrap());
    world.storage.create_dir_all(&world.path("dir")).unwrap();
    for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::Create, OpenMode::Truncate] {
        assert_eq!(world.storage.open(&world.path("dir"), mode).unwrap_err().kind(), ErrorKind::IsADirectory);
    }
    assert_eq!(
        world.storage.open(&world.path("no/a"), OpenMode::Create).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

fn a_read_handle_cannot_write(world: &World) {
    put(world, "a", b"abc");
    let file = world.storage.open(&world.path("a"), OpenMode::Read).unwrap();
    assert!(file.write_all_at(&mut [IoSlice::new(b"x")], 0).is_err());
    assert!(file.set_len(0).is_err());
    assert_eq!(get(world, "a"), b"abc");
}

fn a_mapping_holds_the_first_bytes(world: &World) {
    put(world, "a", b"0123456789");
    let file = world.storage.open(&world.path("a"), OpenMode::Read).unwrap();
    assert_eq!((*file.map(4).unwrap()).as_ref(), b"0123");
    assert_eq!((*file.map(10).unwrap()).as_ref(), b"0123456789");
    assert_eq!((*file.map(0).unwrap()).as_ref(), b"");
    assert_eq!(file.map(11).err().unwrap().kind(), ErrorKind::UnexpectedEof);
    let map = file.map(10).unwrap();
    drop(file);
    world.storage.remove_file(&world.path("a")).unwrap();
    assert_eq!((*map).as_ref(), b"0123456789", "a mapping outlives handle and name");
}

fn renames_replace_files(world: &World) {
    put(world, "old", b"old");
    put(world, "new", b"new");
    world.storage.rename(&world.path("new"), &world.path("old")).unwrap();
    assert_eq!(get(world, "old"), b"new");
    assert!(!world.storage.exists(&world.path("new")).unwrap());
    world.storage.rename(&world.path("old"), &world.path("old")).unwrap();
    assert_eq!(get(world, "old"), b"new");
}

fn renames_move_folders_with_what_they_hold(world: &World) {
    world.storage.create_dir_all(&world.path("t-0/deep")).unwrap();
    put(world, "t-0/deep/a", b"abc");
    world.storage.rename(&world.path("t-0"), &world.path("t-0-delete")).unwrap();
    assert_eq!(get(world, "t-0-delete/deep/a"), b"abc");
    assert!(!world.storage.exists(&world.path("t-0")).unwrap());
    put(world, "file", b"");
    let err = world.storage.rename(&world.path("t-0-delete"), &world.path("file")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotADirectory);
    let err = world.storage.rename(&world.path("file"), &world.path("t-0-delete")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::IsADirectory);
    world.storage.create_dir_all(&world.path("other")).unwrap();
    let err = world.storage.rename(&world.path("other"), &world.path("t-0-delete")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::DirectoryNotEmpty);
}

fn an_open_file_outlives_its_name(world: &World) {
    put(world, "a", b"abc");
    let file = world.storage.open(&world.path("a"), OpenMode::ReadWrite).unwrap();
    world.storage.remove_file(&world.path("a")).unwrap();
    world.storage.sync_dir(&world.root).unwrap();
    file.write_all_at(&mut [IoSlice::new(b"d")], 3).unwrap();
    assert_eq!(read_all(&*file), b"abcd");
    put(world, "a", b"other");
    assert_eq!(read_all(&*file), b"abcd", "a new file of the old name is another file");
}

fn folders_are_created_with_parents_and_listed(world: &World) {
    world.storage.create_dir_all(&world.path("a/b/c")).unwrap();
    world.storage.create_dir_all(&world.path("a/b/c")).unwrap();
    put(world, "a/file", b"x");
    let mut names: Vec<_> = world.storage.list(&world.path("a")).unwrap();
    names.sort_by(|x, y| x.name.cmp(&y.name));
    let names: Vec<_> = names.into_iter().map(|entry| (entry.name, entry.is_dir)).collect();
    assert_eq!(names, [("b".to_owned(), true), ("file".to_owned(), false)]);
    assert!(world.storage.create_dir_all(&world.path("a/file/x")).is_err());
}

fn removing_a_folder_removes_all_below(world: &World) {
    world.storage.create_dir_all(&world.path("a/b")).unwrap();
    put(world, "a/b/file", b"x");
    assert_eq!(world.storage.remove_file(&world.path("a/b")).unwrap_err().kind(), ErrorKind::IsADirectory);
    world.storage.remove_dir_all(&world.path("a")).unwrap();
    assert!(!world.storage.exists(&world.path("a/b/file")).unwrap());
    assert!(world.storage.list(&world.root).unwrap().is_empty());
}

fn missing_names_are_not_found(world: &World) {
    let no = world.path("no");
    assert!(!world.storage.exists(&no).unwrap());
    let kinds = [
        world.storage.list(&no).unwrap_err().kind(),
        world.storage.rename(&no, &world.path("x")).unwrap_err().kind(),
        world.storage.remove_file(&no).unwrap_err().kind(),
        world.storage.remove_dir_all(&no).unwrap_err().kind(),
        world.storage.sync_dir(&no).unwrap_err().kind(),
        world.storage.available_bytes(&no).unwrap_err().kind(),
        world.storage.lock(&no.join("lock")).unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::NotFound; 7]);
}

fn a_lock_is_held_once(world: &World) {
    let path = world.path(".lock");
    let lock = world.storage.lock(&path).unwrap();
    assert_eq!(world.storage.lock(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(lock);
    let again = world.storage.lock(&path).unwrap();
    assert!(world.storage.exists(&path).unwrap(), "the file stays; only the lock on it goes");
    drop(again);
}

fn syncs_succeed_and_space_is_known(world: &World) {
    let file = world.storage.open(&world.path("a"), OpenMode::Create).unwrap();
    file.write_all_at(&mut [IoSlice::new(b"abc")], 0).unwrap();
    file.sync_data().unwrap();
    world.storage.sync_dir(&world.root).unwrap();
    assert!(world.storage.available_bytes(&world.root).unwrap() > 0);
    if let Ok(capacity) = world.storage.capacity_bytes(&world.root) {
        assert!(capacity >= world.storage.available_bytes(&world.root).unwrap());
    }
}

// === both at once: any sequence of calls has the same result on either ===

#[derive(Debug, Clone)]
enum Call {
    Write { name: usize, offset: u64, data: Vec<u8> },
    SetLen { name: usize, len: u64 },
    Truncate { name: usize },
    Rename { from: usize, to: usize },
    RemoveFile { name: usize },
    RemoveDir { name: usize },
    Mkdir { name: usize },
    Sync { name: usize },
    Reserve { name: usize, len: u64 },
    Release { name: usize },
}

const NAMES: [&str; 6] = ["a", "b", "d", "d/a", "d/e", "d/e/a"];

fn call() -> impl Strategy<Value = Call> {
    let name = 0..NAMES.len();
    prop_oneof![
        (name.clone(), 0u64..2000, prop::collection::vec(any::<u8>(), 0..1500))
            .prop_map(|(name, offset, data)| Call::Write { name, offset, data }),
        (name.clone(), 0u64..3000).prop_map(|(name, len)| Call::SetLen { name, len }),
        name.clone().prop_map(|name| Call::Truncate { name }),
        (name.clone(), name.clone()).prop_map(|(from, to)| Call::Rename { from, to }),
        name.clone().prop_map(|name| Call::RemoveFile { name }),
        name.clone().prop_map(|name| Call::RemoveDir { name }),
        name.clone().prop_map(|name| Call::Mkdir { name }),
        name.clone().prop_map(|name| Call::Sync { name }),
        (name.clone(), 0u64..100_000).prop_map(|(name, len)| Call::Reserve { name, len }),
        name.prop_map(|name| Call::Release { name }),
    ]
}

fn perform(world: &World, call: &Call) -> Result<(), ()> {
    let storage = &world.storage;
    let path = |name: usize| world.path(NAMES[name]);
    let create = |name| storage.open(&path(name), OpenMode::Create);
    let result = match call {
        Call::Write { name, offset, data } => {
            create(*name).and_then(|f| f.write_all_at(&mut [IoSlice::new(data)], *offset))
        }
        Call::SetLen { name, len } => create(*name).and_then(|f| f.set_len(*len)),
        Call::Truncate { name } => storage.open(&path(*name), OpenMode::Truncate).map(drop),
        Call::Rename { from, to } => storage.rename(&path(*from), &path(*to)),
        Call::RemoveFile { name } => storage.remove_file(&path(*name)),
        Call::RemoveDir { name } => storage.remove_dir_all(&path(*name)),
        Call::Mkdir { name } => storage.create_dir_all(&path(*name)),
        Call::Sync { name } => storage.sync_dir(&path(*name)),
        Call::Reserve { name, len } => create(*name).and_then(|f| f.reserve(100, *len)),
        Call::Release { name } => create(*name).and_then(|f| f.release_reserved()),
    };
    result.map_err(drop)
}

fn contents(world: &World, dir: &Path, found: &mut Vec<(PathBuf, Option<Vec<u8>>)>) {
    let mut entries = world.storage.list(dir).unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in entries {
        let path = dir.join(&entry.name);
        let short = path.strip_prefix(&world.root).unwrap().to_owned();
        if entry.is_dir {
            found.push((short, None));
            contents(world, &path, found);
        } else {
            let file = world.storage.open(&path, OpenMode::Read).unwrap();
            found.push((short, Some(read_all(&*file))));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_simulation_behaves_as_the_file_system(calls in prop::collection::vec(call(), 1..40)) {
        let (os, sim) = (World::os(), World::sim());
        for call in &calls {
            prop_assert_eq!(perform(&os, call), perform(&sim, call), "{:?}", call);
        }
        let (mut on_os, mut on_sim) = (Vec::new(), Vec::new());
        contents(&os, &os.root.clone(), &mut on_os);
        contents(&sim, &sim.root.clone(), &mut on_sim);
        prop_assert_eq!(on_os, on_sim);
    }
}
