//! A producer that writes all the time, and what it was promised.

use super::live::Live;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use thalweg_core::partitioner::partition_for_key;

/// Different keys among the lines.
const KEYS: u64 = 17;
/// Bytes that make a line long enough for segments to roll within some rounds.
const PADDING: usize = 400;

/// How fast lines come: so many at once, then a pause.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub burst: u64,
    pub pause: Duration,
}

impl Pace {
    /// About as fast as one server acknowledges; a full buffer.memory would only make the test slow.
    pub const FAST: Pace = Pace { burst: 64, pause: Duration::from_millis(2) };
    /// Some hundred lines a second, evenly: every partition gets some all the time.
    pub const EVEN: Pace = Pace { burst: 6, pause: Duration::from_millis(6) };
}

/// An idempotent producer with acks=all, fed with lines by a thread.
pub struct Steady {
    producer: Live,
    prefix: String,
    partitions: u32,
    stop: Arc<AtomicBool>,
    feeder: JoinHandle<Vec<Line>>,
    acks: Vec<(i32, i64)>,
}

/// A line that was given to the producer, and where it must go.
struct Line {
    partition: i32,
    value: String,
}

/// What came of a producer's run.
pub struct Sent {
    prefix: String,
    partitions: u32,
    lines: Vec<Line>,
    acks: Vec<(i32, i64)>,
}

/// The values of each partition by offset.
pub type Reading = BTreeMap<i32, Vec<String>>;

impl Steady {
    /// Starts one. `prefix` names its lines among those of others.
    pub fn start(
        bootstrap: &str,
        namespace: Option<&str>,
        topic: &str,
        partitions: u32,
        prefix: &str,
        pace: Pace,
    ) -> Steady {
        // Small batches: many appends and fsyncs in flight when something happens.
        let mut producer = Live::start_in(
            namespace,
            &[
                "produce",
                topic,
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
                bootstrap,
            ],
        );
        let mut stdin = producer.take_stdin();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, prefixed) = (Arc::clone(&stop), prefix.to_owned());
        let feeder = thread::spawn(move || {
            let padding = "x".repeat(PADDING);
            let mut lines = Vec::new();
            for n in 0u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (key, value) = (format!("key{}", n % KEYS), format!("{prefixed}-{n}-{padding}"));
                if stdin.write_all(format!("{key}:{value}\n").as_bytes()).is_err() {
                    break;
                }
                lines.push(Line { partition: partition_for_key(key.as_bytes(), partitions).get(), value });
                if n % pace.burst == pace.burst - 1 {
                    thread::sleep(pace.pause);
                }
            }
            lines
        });
        Steady { producer, prefix: prefix.to_owned(), partitions, stop, feeder, acks: Vec::new() }
    }

    /// How many acknowledgements have been taken so far.
    pub fn acknowledged(&self) -> usize {
        self.acks.len()
    }

    /// Waits for so many acknowledgements in all.
    #[track_caller]
    pub fn await_acks(&mut self, count: usize) {
        while self.acks.len() < count {
            let line = self.producer.line();
            self.acks.push(position(&line));
        }
    }

    /// The partitions that its keys go to.
    pub fn partitions(&self) -> Vec<i32> {
        let of_key = |n| partition_for_key(format!("key{n}").as_bytes(), self.partitions).get();
        let all: BTreeSet<i32> = (0..KEYS).map(of_key).collect();
        all.into_iter().collect()
    }

    /// Takes what has been acknowledged already.
    #[track_caller]
    pub fn catch_up(&mut self) {
        while let Some(line) = self.producer.line_within(Duration::ZERO) {
            self.acks.push(position(&line));
        }
        assert!(self.producer.is_running(), "the producer ended: {}", self.producer.stderr_text());
    }

    /// Waits until each of these partitions has had an acknowledgement from now on, and says when its first one came.
    #[track_caller]
    pub fn next_acks(&mut self, partitions: &[i32]) -> BTreeMap<i32, Instant> {
        self.catch_up();
        let mut first = BTreeMap::new();
        while !partitions.iter().all(|partition| first.contains_key(partition)) {
            let line = self.producer.line();
            let ack = position(&line);
            first.entry(ack.0).or_insert_with(Instant::now);
            self.acks.push(ack);
        }
        first
    }

    /// Takes acknowledgements for a while, and gives the longest time that each partition was without any.
    #[track_caller]
    pub fn longest_gaps(&mut self, time: Duration) -> BTreeMap<i32, Duration> {
        self.catch_up();
        let begun = Instant::now();
        let mut last: BTreeMap<i32, Instant> =
            self.partitions().into_iter().map(|partition| (partition, begun)).collect();
        let mut gaps: BTreeMap<i32, Duration> = BTreeMap::new();
        let mut note = |partition: i32, at: Instant| {
            let before = last.insert(partition, at).unwrap_or(begun);
            let gap = gaps.entry(partition).or_default();
            *gap = (*gap).max(at - before);
        };
        while let Some(left) = time.checked_sub(begun.elapsed()) {
            let Some(line) = self.producer.line_within(left) else { continue };
            let ack = position(&line);
            note(ack.0, Instant::now());
            self.acks.push(ack);
        }
        self.partitions().into_iter().for_each(|partition| note(partition, Instant::now()));
        gaps
    }

    /// Kills the producer.
    pub fn kill(&self) {
        self.producer.signal(Signal::KILL);
    }

    /// Ends the input and takes the rest of the acknowledgements. One that was not killed must end well, with an acknowledgement
    /// for every line.
    #[track_caller]
    pub fn finish(mut self, killed: bool) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let lines = self.feeder.join().unwrap();
        for line in self.producer.rest_of_lines() {
            // A killed producer may leave half a line.
            if !killed || line.ends_with(b"}") {
                self.acks.push(position(&line));
            }
        }
        let status = self.producer.wait();
        if !killed {
            assert!(status.success(), "{status}: {}", self.producer.stderr_text());
            assert_eq!(
                self.acks.len(),
                lines.len(),
                "a producer that ends well has an acknowledgement for every line"
            );
        }
        Sent { prefix: self.prefix, partitions: self.partitions, lines, acks: self.acks }
    }
}

fn position(line: &[u8]) -> (i32, i64) {
    let ack: serde_json::Value =
        serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    (ack["partition"].as_i64().unwrap().try_into().unwrap(), ack["offset"].as_i64().unwrap())
}

impl Sent {
    /// How many lines there were.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// How many of them were acknowledged.
    pub fn acks(&self) -> usize {
        self.acks.len()
    }

    /// Checks that each line is stored at most once, in order, and from the first to the last one without a hole; all of them, if the
    /// producer was not killed.
    #[track_caller]
    pub fn check(&self, stored: &Reading, killed: bool) {
        let prefix = format!("{}-", self.prefix);
        for partition in 0..self.partitions.cast_signed() {
            let of_partition = self.lines.iter().filter(|line| line.partition == partition);
            let sent: Vec<&String> = of_partition.map(|line| &line.value).collect();
            let found: Vec<&String> = stored
                .get(&partition)
                .map(|values| values.iter().filter(|value| value.starts_with(&prefix)).collect())
                .unwrap_or_default();
            for (nth, (found, sent)) in found.iter().zip(&sent).enumerate() {
                assert_eq!(
                    shown(found),
                    shown(sent),
                    "partition {partition}: record {nth} of this run is another one than was sent"
                );
            }
            assert!(found.len() <= sent.len(), "partition {partition}: more records than lines");
            if !killed {
                assert_eq!(
                    found.len(),
                    sent.len(),
                    "partition {partition}: a line of a surviving producer is missing"
                );
            }
        }
    }
}

/// A value without its padding.
fn shown(value: &str) -> &str {
    value.trim_end_matches('x')
}

/// Reads what `consume -o json` printed of a whole topic; offsets start at 0 and have neither gaps nor repeats.
#[track_caller]
pub fn reading(output: &[u8]) -> Reading {
    let mut stored = Reading::new();
    for line in output.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let record: serde_json::Value = serde_json::from_slice(line).unwrap();
        let (partition, offset) = position(line);
        let values = stored.entry(partition).or_default();
        assert_eq!(offset, i64::try_from(values.len()).unwrap(), "partition {partition}: a gap or a repeat");
        values.push(record["value"].as_str().unwrap().to_owned());
    }
    stored
}

/// What was acknowledged, of all producers.
#[derive(Default)]
pub struct Acknowledged(HashMap<(i32, i64), String>);

impl Acknowledged {
    /// A partition's lines are acknowledged in the order in which they were sent.
    #[track_caller]
    pub fn add(&mut self, run: &Sent) {
        let mut lines: BTreeMap<i32, Vec<&Line>> = BTreeMap::new();
        for line in &run.lines {
            lines.entry(line.partition).or_default().push(line);
        }
        let mut taken: BTreeMap<i32, usize> = BTreeMap::new();
        for (partition, offset) in &run.acks {
            let nth = taken.entry(*partition).or_default();
            let line = lines[partition][*nth];
            *nth += 1;
            // Written by an earlier try whose offset nobody remembers: it is there, but not where.
            if *offset < 0 {
                continue;
            }
            let before = self.0.insert((*partition, *offset), line.value.clone());
            assert_eq!(before, None, "partition {partition}, offset {offset} was acknowledged twice");
        }
    }

    /// Checks that all of it is where it was promised to be.
    #[track_caller]
    pub fn check(&self, stored: &Reading) {
        assert!(!self.0.is_empty());
        for ((partition, offset), value) in &self.0 {
            let found =
                stored.get(partition).and_then(|values| values.get(usize::try_from(*offset).unwrap()));
            assert_eq!(
                found.map(|found| shown(found)),
                Some(shown(value)),
                "partition {partition}, offset {offset} was acknowledged"
            );
        }
    }
}
