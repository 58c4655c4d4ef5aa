//! The server is killed in the middle of writes, again and again. What was acknowledged stays.

use crate::harness::{Dev, Live, dump_verify_all, log_files};
use rustix::process::Signal;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use thalweg_core::partitioner::partition_for_key;

const TOPIC: &str = "kills";
const PARTITIONS: u32 = 3;
/// Different keys among the lines.
const KEYS: u64 = 17;
/// Bytes that make a line long enough for segments to roll within some rounds.
const PADDING: usize = 400;
/// Acknowledgements in front of a kill; each round adds some, so that kills hit different moments.
const ACKS_BEFORE: usize = 600;
/// Acknowledgements that must come after the restart, when the producer lived through it.
const ACKS_AFTER: usize = 300;

#[test]
fn kill_rounds() {
    let rounds: u64 = match std::env::var("THALWEG_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("THALWEG_KILL_ROUNDS is a number"),
        Err(_) => 3,
    };
    let mut dev = Dev::start();
    let partitions = PARTITIONS.to_string();
    let config = ["--config", "segment.bytes=1048576"];
    dev.cli(&["topic", "create", TOPIC, "--partitions", &partitions]).args(config).run().ok();
    let mut acknowledged = Acknowledged::default();
    for round in 0..rounds {
        // The producer lives through every other kill and goes on by itself.
        let survives = round % 2 == 0;
        let mut run = Run::start(&dev, round);
        run.await_acks(ACKS_BEFORE + (round as usize * 137) % 500);
        dev.kill();
        if !survives {
            run.producer.signal(Signal::KILL);
        }
        dev.restart_on_same_port();
        if survives {
            let so_far = run.acks.len();
            run.await_acks(so_far + ACKS_AFTER);
        }
        let sent = run.finish(survives);
        let stored = read_all(&dev);
        println!(
            "round {round}: {} lines sent, {} acknowledged, {} records stored in all, producer {}",
            sent.lines.len(),
            sent.acks.len(),
            stored.values().map(Vec::len).sum::<usize>(),
            if survives { "lived on" } else { "killed too" },
        );
        acknowledged.add(&sent);
        acknowledged.check(&stored);
        check_run(&stored, &sent, round, survives);
        assert!(dump_verify_all(dev.data_dir()) >= 3 * PARTITIONS as usize);
    }
    dev.stop();
    dump_verify_all(dev.data_dir());
    assert!(log_files(dev.data_dir(), &["log"]).len() > PARTITIONS as usize || rounds < 3, "segments rolled");
    dev.restart();
    acknowledged.check(&read_all(&dev));
}

/// One producer's run.
struct Run {
    producer: Live,
    stop: Arc<AtomicBool>,
    feeder: JoinHandle<Vec<Line>>,
    acks: Vec<(i32, i64)>,
}

/// A line that was given to the producer, and where it must go.
struct Line {
    partition: i32,
    value: String,
}

/// What came of a run.
struct SentRun {
    lines: Vec<Line>,
    acks: Vec<(i32, i64)>,
}

impl Run {
    fn start(dev: &Dev, round: u64) -> Run {
        let bootstrap = dev.addr().to_string();
        // Small batches: many appends and fsyncs in flight when the kill comes.
        let mut producer = Live::start(&[
            "produce",
            TOPIC,
            "-o",
            "json",
            "--acks",
            "all",
            "--key-separator",
            ":",
            "--linger-ms",
            "1",
            "--batch-size",
            "8192",
            "--bootstrap",
            &bootstrap,
        ]);
        let mut stdin = producer.take_stdin();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let feeder = thread::spawn(move || {
            let padding = "x".repeat(PADDING);
            let mut lines = Vec::new();
            for n in 0u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (key, value) = (format!("key{}", n % KEYS), format!("{round}-{n}-{padding}"));
                if stdin.write_all(format!("{key}:{value}\n").as_bytes()).is_err() {
                    break;
                }
                lines.push(Line { partition: partition_for_key(key.as_bytes(), PARTITIONS).get(), value });
                if n % 64 == 63 {
                    // About as fast as acknowledgements come; a full buffer.memory would only make the test slow.
                    thread::sleep(Duration::from_millis(2));
                }
            }
            lines
        });
        Run { producer, stop, feeder, acks: Vec::new() }
    }

    fn await_acks(&mut self, count: usize) {
        while self.acks.len() < count {
            let line = self.producer.line();
            self.acks.push(position(&line));
        }
    }

    fn finish(mut self, survives: bool) -> SentRun {
        self.stop.store(true, Ordering::Relaxed);
        let lines = self.feeder.join().unwrap();
        for line in self.producer.rest_of_lines() {
            // A killed producer may leave half a line.
            if survives || line.ends_with(b"}") {
                self.acks.push(position(&line));
            }
        }
        let status = self.producer.wait();
        if survives {
            assert!(status.success(), "{status}: {}", self.producer.stderr_text());
            assert_eq!(
                self.acks.len(),
                lines.len(),
                "a producer that ends well has an acknowledgement for every line"
            );
        }
        SentRun { lines, acks: self.acks }
    }
}

fn position(line: &[u8]) -> (i32, i64) {
    let ack: serde_json::Value =
        serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    (ack["partition"].as_i64().unwrap().try_into().unwrap(), ack["offset"].as_i64().unwrap())
}

/// The values of each partition by offset; offsets start at 0 and have neither gaps nor repeats.
fn read_all(dev: &Dev) -> BTreeMap<i32, Vec<String>> {
    let args = ["consume", TOPIC, "--from-beginning", "--timeout-ms", "2000", "-o", "json"];
    let output = dev.cli(&args).run().ok();
    let mut stored: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for line in output.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let record: serde_json::Value = serde_json::from_slice(line).unwrap();
        let (partition, offset) = position(line);
        let values = stored.entry(partition).or_default();
        assert_eq!(offset, values.len() as i64, "partition {partition}: a gap or a repeat");
        values.push(record["value"].as_str().unwrap().to_owned());
    }
    stored
}

/// What was acknowledged in all rounds.
#[derive(Default)]
struct Acknowledged(HashMap<(i32, i64), String>);

impl Acknowledged {
    /// A partition's lines are acknowledged in the order in which they were sent.
    fn add(&mut self, run: &SentRun) {
        let mut lines: BTreeMap<i32, Vec<&Line>> = BTreeMap::new();
        for line in &run.lines {
            lines.entry(line.partition).or_default().push(line);
        }
        let mut taken: BTreeMap<i32, usize> = BTreeMap::new();
        for (partition, offset) in &run.acks {
            let nth = taken.entry(*partition).or_default();
            let line = lines[partition][*nth];
            *nth += 1;
            let before = self.0.insert((*partition, *offset), line.value.clone());
            assert_eq!(before, None, "partition {partition}, offset {offset} was acknowledged twice");
        }
    }

    fn check(&self, stored: &BTreeMap<i32, Vec<String>>) {
        assert!(!self.0.is_empty());
        for ((partition, offset), value) in &self.0 {
            let found =
                stored.get(partition).and_then(|values| values.get(usize::try_from(*offset).unwrap()));
            assert_eq!(found, Some(value), "partition {partition}, offset {offset} was acknowledged");
        }
    }
}

/// Within one producer's run each line is stored at most once, in order, and from the first to the last one without a hole.
fn check_run(stored: &BTreeMap<i32, Vec<String>>, run: &SentRun, round: u64, survived: bool) {
    let prefix = format!("{round}-");
    for partition in 0..PARTITIONS as i32 {
        let sent: Vec<&String> =
            run.lines.iter().filter(|line| line.partition == partition).map(|line| &line.value).collect();
        let found: Vec<&String> = stored
            .get(&partition)
            .map(|values| values.iter().filter(|value| value.starts_with(&prefix)).collect())
            .unwrap_or_default();
        assert!(found.len() <= sent.len(), "partition {partition}: more records than lines");
        for (nth, (found, sent)) in found.iter().zip(&sent).enumerate() {
            assert_eq!(found, sent, "partition {partition}: record {nth} of this run");
        }
        if survived {
            assert_eq!(
                found.len(),
                sent.len(),
                "partition {partition}: a line of a surviving producer is missing"
            );
        }
    }
}
