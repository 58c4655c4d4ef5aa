//! One server process of a cluster: it is started, killed, stopped, frozen, and started again with the same arguments.

use super::cli::{Cli, program_in};
use super::live::read_lines;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

/// How long a start may take, recovery included, however slow the machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a clean stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of standard error that a failure shows.
const TAIL_BYTES: u64 = 8 * 1024;

/// A server, running or not. Dropping it kills the process.
pub struct Server {
    name: String,
    namespace: Option<String>,
    args: Vec<String>,
    stderr: PathBuf,
    running: Option<Running>,
    /// Started instead of the program under test.
    program: Option<PathBuf>,
    variables: Vec<(String, String)>,
}

struct Running {
    child: Child,
    stdout: Option<Receiver<Vec<u8>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// A server that has not been started. `stderr` is appended to.
    pub fn new(name: &str, namespace: Option<&str>, args: Vec<String>, stderr: PathBuf) -> Server {
        let namespace = namespace.map(str::to_owned);
        Server {
            name: name.to_owned(),
            namespace,
            args,
            stderr,
            running: None,
            program: None,
            variables: Vec::new(),
        }
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let stderr = OpenOptions::new().create(true).append(true).open(&self.stderr).unwrap();
        let mut command = program_in(self.program.as_deref(), self.namespace.as_deref());
        command
            .args(&self.args)
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = read_lines(child.stdout.take().expect("standard output is piped"));
        self.running = Some(Running { child, stdout: Some(stdout) });
    }

    /// Waits until it serves and gives the address that it says.
    #[track_caller]
    pub fn await_ready(&mut self) -> String {
        let running = self.running.as_mut().expect("it was spawned");
        let stdout = running.stdout.take().expect("it was not awaited before");
        let first = stdout.recv_timeout(START_TIMEOUT);
        // Read to the end: what it prints later must find a reader.
        thread::spawn(move || stdout.iter().for_each(drop));
        let text = first.as_ref().map(|line| String::from_utf8_lossy(line).into_owned());
        match text.as_deref().map(|line| line.strip_prefix("ready on ")) {
            Ok(Some(addr)) => addr.to_owned(),
            other => panic!(
                "{}: expected `ready on HOST:PORT`, got {other:?}; standard error:\n{}",
                self.name,
                self.stderr_tail()
            ),
        }
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(&mut self) -> String {
        self.spawn();
        self.await_ready()
    }

    /// Starts another program from the next start on; `None`: the one under test.
    pub fn set_program(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    /// Environment variables, from the next start on.
    pub fn set_variables(&mut self, variables: Vec<(String, String)>) {
        self.variables = variables;
    }

    /// Waits until the port for its metrics says that it serves, as a readiness probe does.
    #[track_caller]
    pub fn await_health(&self) {
        let flag = self.args.iter().position(|arg| arg == "--metrics-listen");
        let address = flag.map(|at| &self.args[at + 1]).expect("it has a port for its metrics");
        let begun = Instant::now();
        loop {
            let answer = Cli::new_in(self.namespace.as_deref(), &["health", address]).run();
            if answer.code == 0 {
                return;
            }
            assert!(begun.elapsed() < START_TIMEOUT, "{} is not ready: {}", self.name, answer.stderr);
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Replaces the value of a flag, for the next start.
    pub fn set_flag(&mut self, flag: &str, value: &str) {
        match self.args.iter().position(|arg| arg == flag) {
            Some(at) => self.args[at + 1] = value.to_owned(),
            None => self.args.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    /// Kills it in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut running = self.running.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        running.child.kill().unwrap();
        running.child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        kill_process(Pid::from_child(&running.child), signal).unwrap();
    }

    /// Freezes it: it keeps its connections and does nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen one go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(STOP_TIMEOUT)
    }

    #[track_caller]
    fn wait_within(&mut self, time: Duration) -> ExitStatus {
        let mut running = self.running.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        let deadline = Instant::now() + time;
        loop {
            if let Some(status) = running.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not stop; standard error:\n{}",
                self.name,
                self.stderr_tail()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it cleanly.
    #[track_caller]
    pub fn stop(&mut self) {
        self.stop_within(STOP_TIMEOUT);
    }

    /// The same within a grace.
    #[track_caller]
    pub fn stop_within(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        let status = self.wait_within(grace);
        assert!(
            status.success(),
            "{}: stopping ended with {status}; standard error:\n{}",
            self.name,
            self.stderr_tail()
        );
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).child.id()
    }

    /// The end of what it wrote to standard error.
    pub fn stderr_tail(&self) -> String {
        let Ok(mut file) = File::open(&self.stderr) else { return String::new() };
        let len = file.metadata().map_or(0, |meta| meta.len());
        let mut tail = Vec::new();
        drop(file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES))));
        drop(file.read_to_end(&mut tail));
        String::from_utf8_lossy(&tail).into_owned()
    }
}
