//! `thalweg dev` as a process on a folder of its own.

use super::cli::{Cli, program};
use super::live::read_lines;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a start may take, recovery included, however slow the machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a clean stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of standard error that a failure shows.
const TAIL_BYTES: u64 = 8 * 1024;

/// A `dev` and its folder. Dropping it kills the process and removes the folder.
pub struct Dev {
    // Dropped first: the process must be gone before its folder.
    running: Option<Running>,
    addr: SocketAddr,
    home: TempDir,
    data_dir: PathBuf,
    variables: Vec<(&'static str, String)>,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Dev {
    /// Starts one on a new folder and a free port.
    pub fn start() -> Dev {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().join("data");
        Dev::start_with(home, data_dir)
    }

    /// Starts one on `data_dir`, which may lie elsewhere; what it says goes to `home`.
    pub fn start_with(home: TempDir, data_dir: PathBuf) -> Dev {
        Dev::launched(home, data_dir, Vec::new())
    }

    /// Starts one on a new folder whose calls run on so many threads, whatever the machine has.
    pub fn start_with_threads(threads: usize) -> Dev {
        Dev::start_with_variables(vec![("TOKIO_WORKER_THREADS", threads.to_string())])
    }

    /// Starts one on a new folder with environment variables of its own.
    pub fn start_with_variables(variables: Vec<(&'static str, String)>) -> Dev {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().join("data");
        Dev::launched(home, data_dir, variables)
    }

    fn launched(home: TempDir, data_dir: PathBuf, variables: Vec<(&'static str, String)>) -> Dev {
        let mut dev = Dev { running: None, addr: ([127, 0, 0, 1], 0).into(), home, data_dir, variables };
        dev.launch(dev.addr);
        dev
    }

    /// Starts one whose standard output is a pipe that nobody reads.
    pub fn start_unread() -> Dev {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().join("data");
        // Nobody can tell which port it took: find a free one for it.
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
        let mut dev = Dev { running: None, addr, home, data_dir, variables: Vec::new() };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        dev.spawn(addr, writer.into());
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(addr).is_err() {
            assert!(
                dev.is_running() && Instant::now() < deadline,
                "it does not serve: {}",
                dev.stderr_tail()
            );
            thread::sleep(Duration::from_millis(20));
        }
        dev
    }

    /// Where it serves.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A command that talks to it.
    pub fn cli(&self, args: &[&str]) -> Cli {
        Cli::new(args).args(["--bootstrap", &self.addr.to_string()])
    }

    /// Starts it again on the same folder, on a port that may be another.
    pub fn restart(&mut self) {
        self.launch(([127, 0, 0, 1], 0).into());
    }

    /// Starts it again on the same folder and the same port.
    pub fn restart_on_same_port(&mut self) {
        self.launch(self.addr);
    }

    /// Kills it in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.0.kill().unwrap();
        running.0.wait().unwrap();
    }

    /// Asks it to stop, as `kill PID` and Ctrl-C do.
    pub fn terminate(&self) {
        let running = self.running.as_ref().expect("it runs");
        kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("it runs");
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = running.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not stop; standard error:\n{}", self.stderr_tail());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it cleanly.
    #[track_caller]
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "stopping ended with {status}; standard error:\n{}", self.stderr_tail());
    }

    /// Whether the process that was started last still runs.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| running.0.try_wait().unwrap().is_none())
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").0.id()
    }

    /// Bytes of its memory that are resident.
    pub fn resident_bytes(&self) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has a VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap();
        kib * 1024
    }

    /// The end of what it wrote to standard error.
    pub fn stderr_tail(&self) -> String {
        let Ok(mut file) = File::open(self.stderr_path()) else { return String::new() };
        let len = file.metadata().map_or(0, |meta| meta.len());
        let mut tail = Vec::new();
        drop(file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES))));
        drop(file.read_to_end(&mut tail));
        String::from_utf8_lossy(&tail).into_owned()
    }

    fn stderr_path(&self) -> PathBuf {
        self.home.path().join("stderr")
    }

    fn launch(&mut self, listen: SocketAddr) {
        let stdout = self.spawn(listen, Stdio::piped()).take().expect("standard output is piped");
        let stdout = read_lines(stdout);
        let first = stdout.recv_timeout(START_TIMEOUT);
        // Read to the end: what it prints later must find a reader.
        thread::spawn(move || stdout.iter().for_each(drop));
        let text = first.as_ref().map(|line| String::from_utf8_lossy(line).into_owned());
        match text.as_deref().map(|line| line.strip_prefix("ready on ").map(str::parse)) {
            Ok(Some(Ok(addr))) => self.addr = addr,
            other => {
                panic!(
                    "expected `ready on HOST:PORT`, got {other:?}; standard error:\n{}",
                    self.stderr_tail()
                )
            }
        }
    }

    fn spawn(&mut self, listen: SocketAddr, stdout: Stdio) -> &mut Option<ChildStdout> {
        assert!(self.running.is_none(), "it runs already");
        let stderr = OpenOptions::new().create(true).append(true).open(self.stderr_path()).unwrap();
        let mut command = program();
        command.arg("dev").arg("--data-dir").arg(&self.data_dir).args(["--listen", &listen.to_string()]);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        &mut self.running.insert(Running(child)).0.stdout
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the end of the server's standard error:\n{}", self.stderr_tail());
        }
    }
}
