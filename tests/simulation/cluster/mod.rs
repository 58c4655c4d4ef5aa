//! Controllers, brokers and clients on one simulated network.

mod broker;
mod compare;
mod controller;
mod coordinator;
mod roster;

pub use broker::BrokerNode;
pub use roster::{NodeKind, Roster};

use crate::board::{Board, Phase, TOPICS};
use crate::dice::Dice;
use crate::plan::Plan;
use crate::workload;
use controller::ControllerNode;
use coordinator::CoordinatorNode;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::BrokerEpoch;
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::metadata::{MetadataImage, PartitionImage};
use thalweg_log::storage::SimStorage;

/// The simulated network and its hosts.
pub type Sim = turmoil::Sim<'static>;

/// One step of simulated time: messages arrive at its edges.
pub const TICK: Duration = Duration::from_millis(5);
/// How long a message takes at most, unless a fault makes it slow.
pub const MAX_LATENCY: Duration = Duration::from_millis(25);
/// Segments that a connection holds before its writer must wait.
const TCP_SEGMENTS: usize = 4096;
/// Machines with clients on them; each has a producer, a reader and one who asks for ends.
const CLIENTS: usize = 3;
/// Coordinators, of a run with groups.
const COORDINATORS: i32 = 2;
/// Longer than any run.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// The machines of a run.
pub struct Cluster {
    sim: Sim,
    roster: Roster,
    brokers: BTreeMap<String, BrokerNode>,
}

impl Cluster {
    /// Puts all machines on the network and starts their processes.
    pub fn new(plan: &Plan, board: &Rc<Board>, dice: &mut Dice) -> Cluster {
        let mut sim = turmoil::Builder::new()
            .rng_seed(dice.next())
            .epoch(std::time::SystemTime::now())
            .simulation_duration(FOR_EVER)
            .tick_duration(TICK)
            .min_message_latency(Duration::ZERO)
            .max_message_latency(MAX_LATENCY)
            .tcp_capacity(TCP_SEGMENTS)
            .enable_random_order()
            .build();
        let mut roster = Roster::default();
        let voters: Vec<String> = (1..=plan.controllers).map(|id| format!("controller-{id}")).collect();
        let endpoints: Vec<String> =
            voters.iter().map(|name| format!("{name}:{}", controller::PORT)).collect();
        for (index, name) in voters.iter().enumerate() {
            let replicas = plan.brokers.min(3) as i32;
            let node = ControllerNode::new(index as u64 + 1, name.clone(), endpoints.clone(), replicas);
            sim.host(name.as_str(), move || node.clone().run());
            roster.add(name.clone(), NodeKind::Controller);
        }
        let mut brokers = BTreeMap::new();
        for id in 1..=plan.brokers {
            let name = format!("broker-{id}");
            let node = BrokerNode::new(id as i32, name.clone(), endpoints.clone(), dice.next());
            brokers.insert(name.clone(), node.clone());
            sim.host(name.as_str(), move || node.clone().run());
            roster.add(name, NodeKind::Broker);
        }
        for id in 1..=if plan.groups { COORDINATORS } else { 0 } {
            let name = format!("coordinator-{id}");
            let node = CoordinatorNode::new(id, name.clone(), endpoints.clone());
            sim.host(name.as_str(), move || node.clone().run());
            roster.add(name, NodeKind::Coordinator);
        }
        let bootstrap: Vec<String> =
            brokers.keys().map(|name| format!("{name}:{}", broker::PUBLIC_PORT)).collect();
        for index in 1..=CLIENTS {
            let name = format!("client-{index}");
            let work = Work {
                board: Rc::clone(board),
                bootstrap: bootstrap.clone(),
                brokers: plan.brokers,
                groups: plan.groups,
                index,
            };
            sim.client(name.as_str(), work.run());
            roster.add(name, NodeKind::Client);
        }
        Cluster { sim, roster, brokers }
    }

    /// One step of simulated time.
    pub fn step(&mut self) -> Result<(), String> {
        self.sim.step().map(drop).map_err(|error| error.to_string())
    }

    /// The network.
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// Who takes part.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// A broker's disk.
    pub fn disk(&self, broker: &str) -> SimStorage {
        self.broker(broker).disk()
    }

    /// A broker's disk is lost for good, and an empty one takes its place. To be called while it does not run.
    pub fn replace_disk(&self, broker: &str, seed: u64) {
        self.broker(broker).replace_disk(seed);
    }

    /// The newest view of the cluster that a broker has.
    fn image(&self) -> Option<Arc<MetadataImage>> {
        let images = self.brokers.values().filter_map(|broker| Some(broker.running()?.metadata.snapshot()));
        images.max_by_key(|image| image.version())
    }

    /// Under which epoch a broker is registered.
    pub fn epoch_of(&self, broker: &str) -> Option<BrokerEpoch> {
        self.image()?.broker(self.broker(broker).id()).map(|broker| broker.epoch)
    }

    /// Whether a broker registered anew since that epoch and is in sync somewhere.
    pub fn has_rejoined(&self, broker: &str, since: BrokerEpoch) -> bool {
        let (Some(image), id) = (self.image(), self.broker(broker).id()) else { return false };
        let anew = image.broker(id).is_some_and(|broker| broker.epoch > since);
        anew && partitions_of(&image).any(|partition| partition.isr.contains(&id))
    }

    /// The broker that leads most partitions.
    pub fn busiest(&self) -> Option<String> {
        let image = self.image()?;
        let led = |id| partitions_of(&image).filter(|partition| partition.leader == id).count();
        self.brokers.iter().max_by_key(|(_, broker)| led(broker.id())).map(|(name, _)| name.clone())
    }

    fn broker(&self, name: &str) -> &BrokerNode {
        self.brokers.get(name).expect("only brokers have such disks")
    }

    /// Whether all brokers run and know of nothing but that every replica is in sync.
    pub fn is_whole(&self) -> bool {
        self.brokers.values().all(|broker| {
            let Some(running) = broker.running() else { return false };
            let image = running.metadata.snapshot();
            TOPICS.iter().map(|topic| topic.name).chain([OFFSETS_TOPIC]).all(|topic| {
                let partitions = image.topic(topic).map(|topic| topic.partitions.as_slice());
                partitions.unwrap_or_default().iter().all(|one| one.isr.len() == self.brokers.len().min(3))
            })
        })
    }

    /// Ends a node's process between two instructions.
    pub fn crash(&mut self, node: &str) {
        if let Some(broker) = self.brokers.get(node) {
            broker.crashed();
        }
        self.sim.crash(node);
    }

    /// Starts a node's process anew.
    pub fn start(&mut self, node: &str) {
        self.sim.bounce(node);
    }

    /// Replicas that differ below the high watermark, a sentence each.
    pub fn differences(&self) -> Vec<crate::checker::Anomaly> {
        compare::differences(&self.brokers)
    }
}

/// Every partition of our topics.
fn partitions_of(image: &MetadataImage) -> impl Iterator<Item = &PartitionImage> {
    let topics = TOPICS.iter().filter_map(|topic| image.topic(topic.name));
    topics.flat_map(|topic| topic.partitions.iter().map(AsRef::as_ref))
}

/// What one client machine does.
struct Work {
    board: Rc<Board>,
    bootstrap: Vec<String>,
    brokers: usize,
    groups: bool,
    index: usize,
}

impl Work {
    async fn run(self) -> turmoil::Result {
        let Work { board, bootstrap, brokers, groups, index } = self;
        let first = index == 1;
        if first {
            workload::create_topics(&board, &bootstrap, brokers).await;
            board.enter(Phase::Faults);
        }
        let producing = tokio::task::spawn_local(workload::produce(Rc::clone(&board), bootstrap.clone()));
        let reading = tokio::task::spawn_local(workload::read(Rc::clone(&board), bootstrap.clone()));
        let asking = tokio::task::spawn_local(workload::ask_ends(Rc::clone(&board), bootstrap.clone()));
        if groups {
            workload::consume(&board, &bootstrap, index);
        }
        producing.await?;
        reading.await?;
        asking.await?;
        board.reached(Phase::Drain).await;
        if first {
            workload::drain(Rc::clone(&board), bootstrap.clone()).await;
            board.enter(Phase::Settle);
            if groups {
                workload::settle(&board, &bootstrap).await;
            }
            board.enter(Phase::Done);
        }
        board.reached(Phase::Done).await;
        Ok(())
    }
}
