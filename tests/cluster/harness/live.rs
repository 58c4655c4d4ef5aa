//! A command that runs while the test goes on: lines in, lines out.

use super::cli::{program, program_in};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long the test waits for a line or for the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running command.
pub struct Live {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

impl Live {
    /// Starts the program with arguments.
    pub fn start(args: &[&str]) -> Live {
        let mut command = program();
        command.args(args);
        Live::spawn(command)
    }

    /// The same in a network namespace.
    pub fn start_in(namespace: Option<&str>, args: &[&str]) -> Live {
        let mut command = program_in(None, namespace);
        command.args(args);
        Live::spawn(command)
    }

    /// The same with environment variables.
    pub fn start_with_env(args: &[&str], vars: &[(&str, &str)]) -> Live {
        let mut command = program();
        command.args(args).envs(vars.iter().copied());
        Live::spawn(command)
    }

    fn spawn(mut command: Command) -> Live {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let lines = read_lines(child.stdout.take().expect("standard output is piped"));
        let stderr = read_lines(child.stderr.take().expect("standard error is piped"));
        Live { child, stdin, lines, stderr }
    }

    /// Writes to its standard input. False once it no longer reads.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).is_ok()
    }

    /// Takes its standard input, to be written by another thread.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("standard input is open")
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Stops reading its standard output: the pipe breaks when it writes on.
    pub fn close_stdout(&mut self) {
        self.lines = mpsc::channel().1;
    }

    /// Its next line, without the newline.
    #[track_caller]
    pub fn line(&mut self) -> Vec<u8> {
        match self.line_within(PATIENCE) {
            Some(line) => line,
            None => panic!("no line on standard output; standard error:\n{}", self.stderr_text()),
        }
    }

    /// Its next line, if it comes in time; none too when its output has ended.
    pub fn line_within(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        self.lines.recv_timeout(timeout).ok()
    }

    /// All lines up to the end of its output.
    pub fn rest_of_lines(&mut self) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        while let Some(line) = self.line_within(PATIENCE) {
            lines.push(line);
        }
        lines
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .expect("the process is there until it is waited for");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running; standard error:\n{}", self.stderr_text());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has written to standard error so far.
    pub fn stderr_text(&self) -> String {
        let lines: Vec<_> = self.stderr.try_iter().collect();
        String::from_utf8_lossy(&lines.join(&b'\n')).into_owned()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads lines on a thread until the pipe ends.
pub fn read_lines(from: impl std::io::Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            let mut line = Vec::new();
            match from.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
