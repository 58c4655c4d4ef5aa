//! The files of the logs on disk.

use super::cli::Cli;
use std::path::{Path, PathBuf};
use thalweg_core::group::OFFSETS_TOPIC;

/// The folder of a partition under a `dev`'s data folder.
pub fn partition_dir(data_dir: &Path, topic: &str, partition: i32) -> PathBuf {
    data_dir.join("logs").join(format!("{topic}-{partition}"))
}

/// The segments of a broker's replica, in the order of their offsets.
pub fn segments(broker_dir: &Path, topic: &str, partition: i32) -> Vec<PathBuf> {
    let folder = broker_dir.join(format!("{topic}-{partition}"));
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .collect();
    found.sort();
    found
}

/// All files of users' topics under the data folder's logs with one of these endings, in the order of their names.
pub fn log_files(data_dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let internal = |path: &PathBuf| {
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
        folder.to_string_lossy().starts_with(OFFSETS_TOPIC)
    };
    let mut files = all_log_files(data_dir, endings);
    files.retain(|path| !internal(path));
    files
}

fn all_log_files(data_dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![data_dir.join("logs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Runs `log dump --verify` on every file of the logs. Returns how many there were.
#[track_caller]
pub fn dump_verify_all(data_dir: &Path) -> usize {
    let files = all_log_files(data_dir, &["log", "index", "timeindex"]);
    for file in &files {
        let output = Cli::new(&["log", "dump", "--verify"]).args([file]).run();
        assert_eq!(output.code, 0, "{}:\n{}\n{}", file.display(), output.stderr, output.text());
    }
    files.len()
}
