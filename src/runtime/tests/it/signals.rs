//! Signals, sent to a real process: this test binary, started again.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use thalweg_runtime::{Shutdown, shutdown_on_signals};

/// Set in the process that gets the signals.
const CHILD: &str = "THALWEG_TEST_SIGNAL_CHILD";

/// Ends the child if the test fails before it has ended.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child's part; in a usual run it has nothing to do.
#[tokio::test]
async fn signal_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let shutdown = Shutdown::new();
    shutdown_on_signals(&shutdown).unwrap();
    println!("ready");
    shutdown.triggered().await;
    println!("shutting down");
    // A shutdown that hangs: only the second signal ends it.
    std::future::pending::<()>().await;
}

#[test]
fn the_second_signal_does_not_wait() {
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::INT)] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signals::signal_child", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Guard(child);
        let pid = Pid::from_child(&child.0);
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut wait_for = |word: &str| {
            let found = lines.by_ref().any(|line| line.unwrap().contains(word));
            assert!(found, "the child ended without saying {word:?}");
        };
        wait_for("ready");
        kill_process(pid, first).unwrap();
        wait_for("shutting down");
        kill_process(pid, second).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(thalweg_runtime::signals::FORCED_EXIT_CODE));
    }
}
