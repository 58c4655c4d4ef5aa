//! What the parts of a run share: the phase it is in, and the history that is written down.

use crate::checker::{Group, History, Partition, Process, Value};
use crate::dice::Dice;
use crate::{checker, determinism};
use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::time::sleep;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The cluster starts and the topics are created.
    Setup,
    /// Clients work, faults happen.
    Faults,
    /// Everything is healed; clients still work.
    Healed,
    /// Producers finish what they have begun.
    Finish,
    /// Every partition is read from its start to its end.
    Drain,
    /// Groups get to where the drain got.
    Settle,
    /// Nothing more to do.
    Done,
}

/// A topic of a run.
#[derive(Debug, Clone, Copy)]
pub struct Topic {
    /// Its name.
    pub name: &'static str,
    /// How many partitions it has.
    pub partitions: u32,
    /// `min.insync.replicas`, if the cluster is large enough.
    pub min_insync: u32,
}

/// One topic that survives any one broker, and one that accepts being down to its last replica (KIP-966).
pub const TOPICS: [Topic; 2] = [
    Topic { name: "firm", partitions: 3, min_insync: 2 },
    Topic { name: "thin", partitions: 2, min_insync: 1 },
];

/// A consumer group of a run.
#[derive(Debug, Clone, Copy)]
pub struct GroupPlan {
    /// Its number in the history.
    pub group: Group,
    /// Its name.
    pub name: &'static str,
    /// Whether it commits automatically. Those commits are not in the history.
    pub auto: bool,
}

/// One group whose members commit themselves, and one that commits automatically.
pub const GROUPS: [GroupPlan; 2] = [
    GroupPlan { group: Group(0), name: "by-hand", auto: false },
    GroupPlan { group: Group(1), name: "by-itself", auto: true },
];

/// Every partition, numbered over the topics.
pub fn partitions() -> impl Iterator<Item = (Partition, &'static str, i32)> {
    let each = |topic: &'static Topic| (0..topic.partitions).map(move |index| (topic.name, index as i32));
    TOPICS
        .iter()
        .flat_map(each)
        .enumerate()
        .map(|(place, (name, index))| (Partition(place as u32), name, index))
}

/// The number of a partition, if it is one of ours.
pub fn number(topic: &str, index: i32) -> Option<Partition> {
    partitions().find(|(_, name, number)| *name == topic && *number == index).map(|(partition, ..)| partition)
}

/// Shared by everything that runs in one simulation, which is one thread.
pub struct Board {
    phase: Cell<Phase>,
    next_process: Cell<u32>,
    next_value: Cell<u64>,
    next_session: Cell<u32>,
    dice: RefCell<Dice>,
    /// What happened so far.
    pub history: RefCell<History>,
    /// Why groups are not settled, as of the last look.
    pub unsettled: RefCell<String>,
    /// Producers that have not finished.
    pub working: Cell<u32>,
}

impl Board {
    /// An empty board.
    pub fn new(dice: Dice) -> Board {
        Board {
            phase: Cell::new(Phase::Setup),
            next_process: Cell::new(1),
            next_value: Cell::new(1),
            next_session: Cell::new(1),
            dice: RefCell::new(dice),
            history: RefCell::default(),
            unsettled: RefCell::default(),
            working: Cell::new(0),
        }
    }

    /// Where the run is.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Goes on to the next phase.
    pub fn enter(&self, phase: Phase) {
        tracing::info!(target: "thalweg_simulation", ?phase, "phase");
        self.phase.set(phase);
    }

    /// Waits until the run is in `phase` or further.
    pub async fn reached(&self, phase: Phase) {
        while self.phase() < phase {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A client that was never there before.
    pub fn process(&self) -> Process {
        let process = self.next_process.get();
        self.next_process.set(process + 1);
        Process(process)
    }

    /// A value that was never sent before.
    pub fn value(&self) -> Value {
        let value = self.next_value.get();
        self.next_value.set(value + 1);
        Value(value)
    }

    /// A session of polls that no other member's hold has.
    pub fn session(&self) -> u32 {
        let session = self.next_session.get();
        self.next_session.set(session + 1);
        session
    }

    /// Dice for one client.
    pub fn dice(&self) -> Dice {
        self.dice.borrow_mut().fork()
    }

    /// The simulated time.
    pub fn now(&self) -> Duration {
        determinism::now()
    }

    /// The anomalies of what was written down.
    pub fn check(&self) -> Vec<checker::Anomaly> {
        checker::check(&self.history.borrow())
    }
}
