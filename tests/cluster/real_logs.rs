//! Log files go in and come out byte for byte: for every codec, in a stream and from files, before and after a restart.

use crate::harness::{
    Consumed, Dev, Sent, bag, consumed, dump_format, dump_verify_all, log_files, log_like_files, split_lines,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;

const PARTITIONS: usize = 3;
/// What parts keys from values in the keyed topic: what stands first in most log lines.
const SEPARATOR: &str = " ";
/// How long `consume` waits for another record before it holds that it has all.
const IDLE_MS: &str = "1500";

#[test]
fn real_logs_plain() {
    there_and_back("none");
}

#[test]
fn real_logs_gzip() {
    there_and_back("gzip");
}

#[test]
fn real_logs_snappy() {
    there_and_back("snappy");
}

#[test]
fn real_logs_lz4() {
    there_and_back("lz4");
}

#[test]
fn real_logs_zstd() {
    there_and_back("zstd");
}

fn there_and_back(codec: &str) {
    let folder = tempfile::tempdir().unwrap();
    let files = log_like_files(folder.path());
    let input = Input::read(&files);
    let mut dev = Dev::start();
    for topic in ["plain", "keyed"] {
        dev.cli(&["topic", "create", topic, "--partitions", "3", "--config", "segment.bytes=1048576"])
            .run()
            .ok();
    }

    // Files by name for one topic, all of them through standard input for the other.
    let sent = dev.cli(&["produce", "plain", "--compression", codec]).args(&files).run().ok();
    assert!(sent.stdout.is_empty(), "text output says nothing on success: {:?}", sent.text());
    let keyed = ["produce", "keyed", "--compression", codec, "--key-separator", SEPARATOR, "-"];
    dev.cli(&keyed).input(input.joined()).run().ok();

    check_both(&dev, &input, "as written");
    let segments = log_files(dev.data_dir(), &["log"]).len();
    let topics = 2 * PARTITIONS;
    if std::env::var_os("THALWEG_TEST_LOGS").is_none() {
        assert!(
            segments > topics,
            "the input is large enough to roll: {segments} segments of {topics} partitions"
        );
    }

    dev.stop();
    assert!(dump_verify_all(dev.data_dir()) >= 3 * topics, "each partition has a log and two indexes");
    dev.restart();
    check_both(&dev, &input, "after a clean restart");
    dev.kill();
    dev.restart();
    let keyed = check_both(&dev, &input, "after a kill");
    check_reads_from_the_middle(&dev, &keyed);
}

/// The two topics at once: most of the time is spent waiting for records that do not come. Returns the keyed ones.
fn check_both(dev: &Dev, input: &Input, when: &str) -> Vec<Consumed> {
    thread::scope(|scope| {
        scope.spawn(|| input.check_plain(dev, when));
        input.check_keyed(dev, when)
    })
}

/// Some offsets of each partition are found through the indexes, and are the records that stand there.
fn check_reads_from_the_middle(dev: &Dev, all: &[Consumed]) {
    for partition in 0..PARTITIONS as i32 {
        let here: Vec<&Consumed> = all.iter().filter(|record| record.partition == partition).collect();
        let Some(last) = here.last() else { continue };
        for at in [0, last.offset / 2, last.offset] {
            let (partition, offset) = (partition.to_string(), at.to_string());
            let args =
                ["consume", "keyed", "--partition", &partition, "--offset", &offset, "--max-records", "1"];
            let output = dev.cli(&args).args(["-f", dump_format()]).run().ok();
            let found = consumed(&output.stdout);
            assert_eq!(found.len(), 1);
            assert_eq!(&found[0], here[usize::try_from(at).unwrap()]);
        }
    }
}

/// What is sent.
struct Input {
    /// The lines of each file.
    files: Vec<Vec<Vec<u8>>>,
}

impl Input {
    fn read(files: &[PathBuf]) -> Input {
        let lines = |file: &PathBuf| split_lines(&std::fs::read(file).unwrap());
        let input = Input { files: files.iter().map(lines).collect() };
        assert!(input.lines().count() > 0, "there is something to send");
        input
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.files.iter().flatten()
    }

    /// All lines behind each other, each with its newline.
    fn joined(&self) -> Vec<u8> {
        self.lines().flat_map(|line| line.iter().copied().chain([b'\n'])).collect()
    }

    /// The lines as `--key-separator` parts them.
    fn parted(&self) -> Vec<Sent> {
        let part = |line: &Vec<u8>| match line.iter().position(|b| *b == SEPARATOR.as_bytes()[0]) {
            Some(at) => Sent { key: Some(line[..at].to_vec()), value: line[at + 1..].to_vec() },
            None => Sent { key: None, value: line.clone() },
        };
        self.lines().map(part).collect()
    }

    fn check_plain(&self, dev: &Dev, when: &str) {
        let args = ["consume", "plain", "--from-beginning", "--timeout-ms", IDLE_MS];
        let output = dev.cli(&args).run().ok();
        let came = split_lines(&output.stdout);
        assert_eq!(came.len(), self.lines().count(), "{when}: lines came");
        // Not assert_eq: the difference would be megabytes.
        assert!(bag(&came) == bag(self.lines()), "{when}: another multiset of lines came back");
    }

    fn check_keyed(&self, dev: &Dev, when: &str) -> Vec<Consumed> {
        let args = ["consume", "keyed", "--from-beginning", "--timeout-ms", IDLE_MS, "-f", dump_format()];
        let came = consumed(&dev.cli(&args).run().ok().stdout);
        let sent = self.parted();
        assert_eq!(came.len(), sent.len(), "{when}: records came");
        assert!(bag(came.iter().map(|record| &record.sent)) == bag(&sent), "{when}: other records came back");

        let mut next = [0; PARTITIONS];
        for record in &came {
            let next = &mut next[usize::try_from(record.partition).unwrap()];
            assert_eq!(record.offset, *next, "{when}: offsets rise by one in partition {}", record.partition);
            *next += 1;
        }
        assert!(next.iter().all(|count| *count > 0), "{when}: every partition has records: {next:?}");

        let mut home: HashMap<&[u8], i32> = HashMap::new();
        for record in &came {
            let Some(key) = &record.sent.key else { continue };
            let home = *home.entry(key).or_insert(record.partition);
            assert_eq!(home, record.partition, "{when}: a key has one partition");
        }
        assert!(
            by_key(came.iter().map(|record| &record.sent)) == by_key(&sent),
            "{when}: a key's order changed"
        );
        came
    }
}

/// The values of each key, in order.
fn by_key<'a>(records: impl IntoIterator<Item = &'a Sent>) -> HashMap<&'a [u8], Vec<&'a [u8]>> {
    let mut values: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
    for record in records {
        if let Some(key) = &record.key {
            values.entry(key).or_default().push(&record.value);
        }
    }
    values
}
