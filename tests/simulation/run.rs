//! One run, from an empty cluster to the last look of the checker.

use crate::board::{Board, Phase};
use crate::checker::{Outcome as SendOutcome, Promise};
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::nemesis::Nemesis;
use crate::plan::{Outcome, Plan};
use crate::trace::{self, Detail, Listener};
use crate::{determinism, planted};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use thalweg_runtime::blocking;
use tracing::level_filters::LevelFilter;

/// Futures of an unoptimised build are large.
const STACK_BYTES: usize = 256 << 20;
/// A cluster that has not created its topics by then is broken.
const SETUP_LIMIT: Duration = Duration::from_secs(180);
/// Clients go on for so long after everything is healed.
const HEALED_FOR: Duration = Duration::from_secs(30);
/// Producers must have finished so long after that.
const FINISH_LIMIT: Duration = Duration::from_secs(120);
/// And everything must have been read so long after that.
const DRAIN_LIMIT: Duration = Duration::from_secs(900);

/// And groups must be stable and have read everything so long after that.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

/// What panicked, wherever it was caught.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a plan. The process should do nothing else: some of tokio's chance depends on what ran before.
pub fn run(plan: &Plan, show: LevelFilter) -> Outcome {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        let said = panic.to_string().replace('\n', " ");
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(said);
    }));
    let plan = plan.clone();
    let work = move || {
        determinism::begin(plan.seed);
        blocking::run_inline_on_this_thread();
        planted::plant(plan.planted.as_deref());
        let listener = Listener::new(Detail { network: plan.trace_network, show });
        tracing::subscriber::with_default(listener, || drive(&plan))
    };
    let thread = std::thread::Builder::new().name("simulation".to_owned()).stack_size(STACK_BYTES);
    let ended = thread.spawn(work).expect("a thread can be had").join();
    let mut outcome = ended.unwrap_or_default();
    let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.anomalies.extend(panics.iter().map(|said| format!("panicked: {said}")));
    outcome
}

fn drive(plan: &Plan) -> Outcome {
    let mut dice = Dice::new(plan.seed);
    let board = Rc::new(Board::new(dice.fork()));
    let mut cluster = Cluster::new(plan, &board, &mut dice);
    let mut nemesis = Nemesis::new(plan.profile, dice.fork());
    let mut anomalies = Vec::new();
    let mut now = Duration::ZERO;
    let mut entered = (Phase::Setup, now);
    loop {
        determinism::set_now(now);
        if let Err(error) = cluster.step() {
            anomalies.push(format!("the simulation broke: {error}"));
            break;
        }
        now += crate::cluster::TICK;
        if board.phase() != entered.0 {
            entered = (board.phase(), now);
        }
        let lasts = now - entered.1;
        match board.phase() {
            Phase::Setup if lasts > SETUP_LIMIT => {
                anomalies.push(format!("not-healed: no topics after {lasts:?}"));
                break;
            }
            Phase::Faults if lasts >= plan.faults_for => {
                nemesis.heal(&mut cluster);
                board.enter(Phase::Healed);
            }
            Phase::Faults => nemesis.turn(now, &mut cluster),
            Phase::Healed if lasts >= HEALED_FOR => board.enter(Phase::Finish),
            Phase::Finish if board.working.get() == 0 => board.enter(Phase::Drain),
            Phase::Finish if lasts > FINISH_LIMIT => {
                anomalies.push(format!("not-healed: producers still wait after {lasts:?}"));
                board.enter(Phase::Drain);
            }
            Phase::Drain if lasts > DRAIN_LIMIT => {
                anomalies.push(format!("not-healed: not drained after {lasts:?}"));
                break;
            }
            Phase::Settle if lasts > SETTLE_LIMIT => {
                let why = board.unsettled.borrow();
                anomalies.push(format!("not-healed: groups are not settled after {lasts:?}: {why}"));
                board.enter(Phase::Done);
            }
            Phase::Done => break,
            Phase::Setup | Phase::Healed | Phase::Finish | Phase::Drain | Phase::Settle => {}
        }
    }
    anomalies.extend(board.check().iter().map(ToString::to_string));
    if board.phase() == Phase::Done {
        anomalies.extend(cluster.differences().iter().map(ToString::to_string));
    }
    let history = board.history.borrow();
    trace::add(&format!("{history:?}"));
    let (digest, events) = trace::digest();
    let acknowledged = |send: &&crate::checker::Send| matches!(send.outcome, SendOutcome::Ok { .. });
    let durable =
        history.sends.iter().filter(|send| send.promise == Promise::FULL).filter(acknowledged).count();
    Outcome {
        simulated: now,
        faults: nemesis.injected(),
        sent: history.sends.len() as u64,
        acknowledged: durable as u64,
        read: history.polls.iter().map(|poll| poll.records.len() as u64).sum(),
        commits: history.groups.commits.iter().filter(|commit| commit.acked.is_some()).count() as u64,
        anomalies,
        digest,
        events,
    }
}
