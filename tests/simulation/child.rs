//! Runs in processes of their own: what one leaves behind in statics cannot reach the next, a crash ends only itself, and
//! every processor has one.

use crate::plan::{Outcome, Plan};
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The test that runs one plan.
pub const ONE_RUN: &str = "one_run";
/// The plan of a child process, as [`Plan::encode`] writes it.
pub const PLAN: &str = "THALWEG_SIM_PLAN";
/// Stands before the outcome in a child's output.
const MARK: &str = "simulation-outcome ";
/// Real time after which a run counts as hanging.
const HANGS_AFTER: Duration = Duration::from_secs(1_800);
/// How often a running child is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Tells the parent process what came of a run.
pub fn report(outcome: &Outcome) {
    println!("{MARK}{}", outcome.encode());
}

/// Runs a plan in a process of its own. What goes wrong with the process is an anomaly too.
pub fn run(plan: &Plan) -> Outcome {
    run_program(plan).unwrap_or_else(|why| Outcome { anomalies: vec![why], ..Outcome::default() })
}

fn run_program(plan: &Plan) -> Result<Outcome, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut child = Command::new(std::env::current_exe().map_err(text)?)
        .args(["--exact", ONE_RUN, "--nocapture", "--test-threads=1"])
        .env(PLAN, plan.encode())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let out = collect(child.stdout.take());
    let err = collect(child.stderr.take());
    let begun = std::time::Instant::now();
    let status = loop {
        match child.try_wait().map_err(text)? {
            Some(status) => break status,
            None if begun.elapsed() > HANGS_AFTER => {
                child.kill().map_err(text)?;
                child.wait().map_err(text)?;
                return Err(format!("the run was still at it after {HANGS_AFTER:?}"));
            }
            None => thread::sleep(LOOK),
        }
    };
    let (out, err) = (out.recv().unwrap_or_default(), err.recv().unwrap_or_default());
    let outcome =
        out.lines().find_map(|line| line.split_once(MARK)).and_then(|(_, text)| Outcome::decode(text));
    outcome.ok_or_else(|| {
        let mut last: Vec<&str> = err.lines().rev().take(12).collect();
        last.reverse();
        format!("the run ended with {status}: {}", last.join(" | "))
    })
}

fn collect(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is worth as much.
            let _ = stream.read_to_end(&mut bytes);
        }
        let _ = tell.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    told
}

/// Runs plans side by side, as many as there are processors, for as long as `next` gives some. Each outcome goes to `done`
/// as it comes.
pub fn run_all(mut next: impl FnMut() -> Option<Plan>, mut done: impl FnMut(Plan, Outcome)) {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (tell, told) = mpsc::channel();
    let mut running = 0;
    loop {
        while running < workers {
            let Some(plan) = next() else { break };
            let tell = tell.clone();
            running += 1;
            thread::spawn(move || {
                let outcome = run(&plan);
                // The receiver lives until every worker has told.
                let _ = tell.send((plan, outcome));
            });
        }
        if running == 0 {
            return;
        }
        let (plan, outcome) = told.recv().expect("a worker tells before it ends");
        running -= 1;
        done(plan, outcome);
    }
}
