//! A member of a consumer group: `thalweg consume --group` as a process, and what it printed when.

use super::cli::program_in;
use super::live::read_lines;
use base64::Engine;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long its end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record that a member printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub at: Instant,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub value: Vec<u8>,
}

/// A running member. Dropping it kills the process.
pub struct Member {
    child: Child,
    seen: Arc<Mutex<Vec<Seen>>>,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Member {
    /// Starts one that begins at the first record where nothing is committed.
    pub fn start(bootstrap: &str, topic: &str, group: &str, more: &[&str]) -> Member {
        let mut command = program_in(None, None);
        command
            .args(["consume", topic, "--group", group, "--auto-offset-reset", "earliest", "-o", "json"])
            .args(["--bootstrap", bootstrap])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = read_lines(child.stdout.take().expect("standard output is piped"));
        let stderr = read_lines(child.stderr.take().expect("standard error is piped"));
        let (seen, notes) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (into_seen, into_notes) = (Arc::clone(&seen), Arc::clone(&notes));
        thread::spawn(move || {
            for line in stdout {
                // A killed process may leave half a line: it counts as not printed.
                if let Some(record) = read(&line) {
                    lock(&into_seen).push(record);
                }
            }
        });
        thread::spawn(move || {
            for line in stderr {
                lock(&into_notes).push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Member { child, seen, notes }
    }

    /// What it printed so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// How many records that is.
    pub fn count(&self) -> usize {
        lock(&self.seen).len()
    }

    /// When it printed something of this partition for the first time after a moment.
    pub fn first_after(&self, partition: i32, moment: Instant) -> Option<Instant> {
        let seen = lock(&self.seen);
        seen.iter().find(|record| record.partition == partition && record.at > moment).map(|record| record.at)
    }

    /// The longest time without a record of this partition between two moments.
    pub fn longest_gap(&self, partition: i32, from: Instant, to: Instant) -> Duration {
        let seen = lock(&self.seen);
        let of_partition = seen.iter().filter(|record| record.partition == partition);
        let times = of_partition.map(|record| record.at).filter(|at| (from..to).contains(at));
        let (mut last, mut longest) = (from, Duration::ZERO);
        for at in times.chain([to]) {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }

    /// What it said on standard error.
    pub fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    /// Whether a line on standard error begins so.
    pub fn has_noted(&self, begin: &str) -> bool {
        lock(&self.notes).iter().any(|note| note.starts_with(begin))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .expect("the process is there until it is waited for");
    }

    /// Kills it in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "a member does not end: {:?}", self.notes());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to leave and waits until it has.
    #[track_caller]
    pub fn leave(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}: {:?}", self.notes());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            let notes = self.notes();
            let from = notes.len().saturating_sub(20);
            eprintln!("--- a member printed {} records; its last words: {:#?}", self.count(), &notes[from..]);
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(line: &[u8]) -> Option<Seen> {
    let record: Value = serde_json::from_slice(line).ok()?;
    let value = match &record["value"] {
        Value::String(text) => text.clone().into_bytes(),
        other => {
            let coded = other["base64"].as_str().unwrap_or_default();
            base64::engine::general_purpose::STANDARD.decode(coded).ok()?
        }
    };
    Some(Seen {
        at: Instant::now(),
        topic: record["topic"].as_str()?.to_owned(),
        partition: record["partition"].as_i64()?.try_into().ok()?,
        offset: record["offset"].as_i64()?,
        value,
    })
}
