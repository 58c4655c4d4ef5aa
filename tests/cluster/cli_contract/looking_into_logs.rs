//! `thalweg log dump`: reads the files that the server wrote, without the server.

use crate::harness::{Cli, Dev, Output, log_files, partition_dir};
use std::path::{Path, PathBuf};

fn dump(file: &Path, args: &[&str]) -> Output {
    Cli::new(&["log", "dump"]).args(args).args([file]).run()
}

/// A stopped server with a few segments. About 3 MiB that hardly compress, so that the indexes have entries.
fn written() -> (Dev, PathBuf) {
    let mut dev = Dev::start();
    dev.cli(&["topic", "create", "t", "--config", "segment.bytes=1048576"]).run().ok();
    let line = "z".repeat(300);
    let lines: String = (0..10_000).map(|n| format!("line{n}:{line}\n")).collect();
    let produce = ["produce", "t", "--key-separator", ":", "--batch-size", "16384", "--header", "h=v"];
    dev.cli(&produce).input(lines).run().ok();
    dev.stop();
    let folder = partition_dir(dev.data_dir(), "t", 0);
    (dev, folder)
}

#[test]
fn files_are_dumped_and_verified_and_damage_is_found() {
    let (dev, folder) = written();
    let logs = log_files(dev.data_dir(), &["log"]);
    assert!(logs.len() >= 3, "{logs:?}");
    assert_eq!(logs[0], folder.join("00000000000000000000.log"));

    // Each record once, over all segments, in order.
    let mut next = 0;
    for log in &logs {
        let name: i64 = log.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(name, next, "a segment is named by its first offset");
        let text = dump(log, &["--records", "-o", "json"]).ok().text();
        for line in text.lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            if entry.get("value").is_some() {
                assert_eq!((&entry["offset"], &entry["key"]), (&next.into(), &format!("line{next}").into()));
                next += 1;
            } else {
                assert_eq!(entry["base_offset"], next, "batches join");
            }
        }
        let verdict = dump(log, &["--verify"]).ok().text();
        assert!(verdict.contains("clean"), "{verdict}");
    }
    assert_eq!(next, 10_000);
    let text = dump(&logs[0], &["--records"]).ok().text();
    assert!(text.starts_with("baseOffset: 0 ") && text.contains("| offset: 0 "), "{}", &text[..400]);

    for ending in ["index", "timeindex"] {
        let mut entries = 0;
        for index in log_files(dev.data_dir(), &[ending]) {
            entries += dump(&index, &[]).ok().text().lines().count();
            dump(&index, &["--verify"]).ok();
        }
        assert!(entries >= logs.len(), "{entries} entries in all .{ending} files");
    }
}

#[test]
fn damage_is_exit_1() {
    let (_dev, folder) = written();
    let whole = std::fs::read(folder.join("00000000000000000000.log")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("00000000000000000000.log");
    let verify = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        dump(&path, &["--verify"])
    };
    verify(&whole).ok();
    verify(&whole[..whole.len() - 1]).refused(&["inside a batch", "hint: "]);
    for at in [20, 70, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        let output = verify(&damaged).refused(&["error: "]);
        assert!(output.text().contains("NOT CLEAN"), "byte {at}: {}", output.text());
    }
    let mut trailing = whole.clone();
    trailing.extend_from_slice(b"what is this");
    assert_eq!(verify(&trailing).code, 1);

    // An index whose log is beside it, and which points elsewhere.
    let index = scratch.path().join("00000000000000000000.index");
    let mut entries = std::fs::read(folder.join("00000000000000000000.index")).unwrap();
    assert!(entries.len() >= 8 && entries.len().is_multiple_of(8), "{}", entries.len());
    std::fs::write(&path, &whole).unwrap();
    std::fs::write(&index, &entries).unwrap();
    dump(&index, &["--verify"]).ok();
    let position = entries.len() - 1;
    entries[position] ^= 1;
    std::fs::write(&index, &entries).unwrap();
    assert_eq!(dump(&index, &["--verify"]).code, 1);
}

#[test]
fn files_that_are_no_logs_are_exit_1() {
    let folder = tempfile::tempdir().unwrap();
    dump(&folder.path().join("00000000000000000000.log"), &[]).refused(&["cannot read"]);
    let other = folder.path().join("notes.txt");
    std::fs::write(&other, "text").unwrap();
    dump(&other, &[]).refused(&["notes.txt", ".log"]);
    let noise = folder.path().join("00000000000000000000.log");
    std::fs::write(&noise, vec![0xa5; 100_000]).unwrap();
    assert_eq!(dump(&noise, &["--verify"]).code, 1);
    std::fs::write(&noise, "").unwrap();
    dump(&noise, &["--verify"]).ok();
}
