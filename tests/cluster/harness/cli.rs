//! Runs the program's commands to their end.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long one command may take, however slow the machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(90);
/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// The program to test.
pub fn program_under_test() -> PathBuf {
    let Some(path) = std::env::var_os("THALWEG_TEST_BINARY") else {
        return PathBuf::from(env!("CARGO_BIN_EXE_thalweg-under-test"));
    };
    let path = from_workspace(Path::new(&path));
    assert!(path.is_file(), "THALWEG_TEST_BINARY: {} is no file", path.display());
    path
}

/// A path as the caller of `cargo test` meant it: cargo runs tests in the package's folder, people type at the root.
pub fn from_workspace(path: &Path) -> PathBuf {
    if path.exists() {
        return path.to_owned();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").join(path)
}

/// The program, with none of the caller's own settings.
pub fn program() -> Command {
    program_in(None, None)
}

/// A program in a network namespace; none: the one under test.
pub fn program_in(program: Option<&Path>, namespace: Option<&str>) -> Command {
    let binary = program.map_or_else(program_under_test, Path::to_owned);
    let mut command = match namespace {
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(binary);
            command
        }
        None => Command::new(binary),
    };
    for (name, _) in std::env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        if name_bytes.starts_with(b"THALWEG_") || name_bytes.starts_with(b"OTEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// One command to run.
pub struct Cli {
    command: Command,
    input: Vec<u8>,
}

impl Cli {
    /// The program with arguments.
    pub fn new(args: &[&str]) -> Cli {
        Cli::new_in(None, args)
    }

    /// The same in a network namespace.
    pub fn new_in(namespace: Option<&str>, args: &[&str]) -> Cli {
        let mut command = program_in(None, namespace);
        command.args(args);
        Cli { command, input: Vec::new() }
    }

    /// More arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Cli {
        self.command.args(args);
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Cli {
        self.command.env(name, value);
        self
    }

    /// What standard input gives, to its end.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Cli {
        self.input = bytes.into();
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Output {
        let shown = format!("{:?}", self.command);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Reaped(self.command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}")));
        let mut stdin = child.0.stdin.take().expect("standard input is piped");
        let input = self.input;
        // A command may end before it has read everything: then the pipe breaks, and its output says why.
        thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = drain(child.0.stdout.take().expect("standard output is piped"));
        let stderr = drain(child.0.stderr.take().expect("standard error is piped"));
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        let status = loop {
            if let Some(status) = child.0.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                drop(child);
                let stderr = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
                panic!("{shown} did not end within {COMMAND_TIMEOUT:?}; its standard error:\n{stderr}");
            }
            thread::sleep(POLL);
        };
        Output {
            shown,
            code: status.code().unwrap_or(-1),
            stdout: stdout.join().unwrap(),
            stderr: String::from_utf8_lossy(&stderr.join().unwrap()).into_owned(),
        }
    }
}

/// Kills the process when the test gives up on it.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(from.read_to_end(&mut bytes));
        bytes
    })
}

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    shown: String,
    /// The exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("the command prints text")
    }

    /// Checks that it went well.
    #[track_caller]
    pub fn ok(self) -> Output {
        assert_eq!(self.code, 0, "{}\nstandard error:\n{}", self.shown, self.stderr);
        self
    }

    /// Checks that it was refused, with exit code 1 and all these words on standard error, and nothing but them.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Output {
        self.failed(1, words)
    }

    /// Checks that the usage was wrong: exit code 2 and all these words on standard error.
    #[track_caller]
    pub fn misused(self, words: &[&str]) -> Output {
        self.failed(2, words)
    }

    #[track_caller]
    fn failed(self, code: i32, words: &[&str]) -> Output {
        assert_eq!(self.code, code, "{}\nstandard error:\n{}", self.shown, self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{}: no {word:?} in standard error:\n{}",
                self.shown,
                self.stderr
            );
        }
        self
    }
}
