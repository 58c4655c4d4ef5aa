//! A group of nodes in one process: disks in memory, a network in memory, time that jumps.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_core::{ClusterId, NodeId};
use thalweg_raft::{
    Identity, MemDisk, MemStore, MessageClass, RaftConfig, RaftError, RaftFailure, RaftHandle, RaftNode,
    RaftStatus, RestoreError, Role, StateMachine, Transport,
};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Simulated time after which a test that waits for something fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn identity(node: u64) -> Identity {
    Identity { cluster_id: Some(ClusterId("test".into())), node_id: NodeId(node) }
}

pub fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

// === a state machine: the list of its commands ===

#[derive(Default)]
pub struct Applied {
    pub commands: Vec<(u64, Vec<u8>)>,
    pub roles: Vec<Role>,
    pub restores: u64,
}

/// Answers how many commands it has applied. What it holds can be looked at from outside.
#[derive(Clone, Default)]
pub struct Machine(pub Arc<Mutex<Applied>>);

impl Machine {
    pub fn commands(&self) -> Vec<(u64, Vec<u8>)> {
        self.0.lock().unwrap().commands.clone()
    }

    pub fn texts(&self) -> Vec<String> {
        self.commands().into_iter().map(|(_, command)| String::from_utf8(command).unwrap()).collect()
    }
}

impl StateMachine for Machine {
    type Output = usize;

    fn apply(&mut self, index: u64, command: &[u8]) -> usize {
        let mut inner = self.0.lock().unwrap();
        assert!(inner.commands.last().is_none_or(|(last, _)| *last < index), "applied out of order");
        inner.commands.push((index, command.to_vec()));
        inner.commands.len()
    }

    fn snapshot(&self) -> Bytes {
        let inner = self.0.lock().unwrap();
        let mut out = Vec::new();
        for (index, command) in &inner.commands {
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(&(command.len() as u32).to_be_bytes());
            out.extend_from_slice(command);
        }
        out.into()
    }

    fn restore(&mut self, _index: u64, mut snapshot: &[u8]) -> Result<(), RestoreError> {
        let bad = || RestoreError { reason: "cut off".to_owned() };
        let mut commands = Vec::new();
        while !snapshot.is_empty() {
            let (index, rest) = snapshot.split_first_chunk::<8>().ok_or_else(bad)?;
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(bad)?;
            let (command, rest) =
                rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(bad)?;
            commands.push((u64::from_be_bytes(*index), command.to_vec()));
            snapshot = rest;
        }
        let mut inner = self.0.lock().unwrap();
        inner.commands = commands;
        inner.restores += 1;
        Ok(())
    }

    fn role_changed(&mut self, role: Role) {
        self.0.lock().unwrap().roles.push(role);
    }
}

// === a network ===

type Watcher = Arc<dyn Fn(NodeId, &[u8]) -> bool + Send + Sync>;

#[derive(Default)]
struct Wires {
    nodes: BTreeMap<NodeId, RaftHandle<usize>>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Senders whose appends are swallowed.
    mute_appends: BTreeSet<NodeId>,
    loss_percent: u64,
    random: u64,
    watcher: Option<Watcher>,
    sent: HashMap<(NodeId, MessageClass), u64>,
}

/// Delivers at once, unless it was told to lose, cut or mute.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Wires>>);

impl Net {
    pub fn lose(&self, percent: u64, seed: u64) {
        let mut wires = self.0.lock().unwrap();
        wires.loss_percent = percent;
        wires.random = seed | 1;
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: u64, all: &[u64]) {
        let mut wires = self.0.lock().unwrap();
        for other in all.iter().filter(|other| **other != node) {
            wires.cut.insert((NodeId(node), NodeId(*other)));
            wires.cut.insert((NodeId(*other), NodeId(node)));
        }
    }

    pub fn heal(&self) {
        let mut wires = self.0.lock().unwrap();
        wires.cut.clear();
        wires.mute_appends.clear();
        wires.loss_percent = 0;
    }

    pub fn mute_appends_of(&self, node: u64) {
        self.0.lock().unwrap().mute_appends.insert(NodeId(node));
    }

    /// Shows every message to `watcher` before it leaves; `false` swallows it.
    pub fn watch(&self, watcher: impl Fn(NodeId, &[u8]) -> bool + Send + Sync + 'static) {
        self.0.lock().unwrap().watcher = Some(Arc::new(watcher));
    }

    pub fn sent(&self, from: u64, class: MessageClass) -> u64 {
        self.0.lock().unwrap().sent.get(&(NodeId(from), class)).copied().unwrap_or(0)
    }

    pub fn connect(&self, id: NodeId, handle: RaftHandle<usize>) {
        self.0.lock().unwrap().nodes.insert(id, handle);
    }

    pub fn disconnect(&self, id: NodeId) {
        self.0.lock().unwrap().nodes.remove(&id);
    }

    pub fn port(&self, from: NodeId) -> Port {
        Port { from, net: self.clone() }
    }
}

pub struct Port {
    from: NodeId,
    net: Net,
}

impl Transport for Port {
    fn send(&self, to: NodeId, class: MessageClass, message: Bytes) {
        let watcher = self.net.0.lock().unwrap().watcher.clone();
        if watcher.is_some_and(|watcher| !watcher(self.from, &message)) {
            return;
        }
        let mut wires = self.net.0.lock().unwrap();
        *wires.sent.entry((self.from, class)).or_default() += 1;
        if wires.cut.contains(&(self.from, to)) {
            return;
        }
        if class == MessageClass::Append && wires.mute_appends.contains(&self.from) {
            return;
        }
        if wires.loss_percent > 0 {
            wires.random ^= wires.random << 13;
            wires.random ^= wires.random >> 7;
            wires.random ^= wires.random << 17;
            if wires.random % 100 < wires.loss_percent {
                return;
            }
        }
        if let Some(node) = wires.nodes.get(&to) {
            node.step(message);
        }
    }
}

// === a group ===

pub struct Running {
    pub handle: RaftHandle<usize>,
    pub machine: Machine,
    pub task: JoinHandle<Result<(), RaftFailure>>,
}

pub struct Cluster {
    pub net: Net,
    pub disks: BTreeMap<u64, MemDisk>,
    pub nodes: BTreeMap<u64, Running>,
    voters: Vec<NodeId>,
    tune: fn(&mut RaftConfig),
}

impl Cluster {
    /// Starts a group of these voters.
    pub fn start(voters: &[u64]) -> Cluster {
        Self::start_tuned(voters, |_| {})
    }

    pub fn start_tuned(voters: &[u64], tune: fn(&mut RaftConfig)) -> Cluster {
        let mut cluster = Self::prepare(voters, tune);
        voters.iter().for_each(|id| cluster.boot(*id));
        cluster
    }

    /// A group of which nobody runs yet.
    pub fn prepare(voters: &[u64], tune: fn(&mut RaftConfig)) -> Cluster {
        let disks = voters.iter().map(|id| (*id, MemDisk::new())).collect();
        Cluster { net: Net::default(), disks, nodes: BTreeMap::new(), voters: ids(voters), tune }
    }

    /// Starts a node on its disk. One that is no founding voter joins.
    pub fn boot(&mut self, id: u64) {
        self.try_boot(id).unwrap();
    }

    pub fn try_boot(&mut self, id: u64) -> Result<(), RaftFailure> {
        let disk = self.disks.entry(id).or_default().clone();
        let voters = if self.voters.contains(&NodeId(id)) { self.voters.clone() } else { Vec::new() };
        let mut config = RaftConfig::new(NodeId(id), voters);
        (self.tune)(&mut config);
        let store = MemStore::open(&disk, identity(id))?;
        let machine = Machine::default();
        let (node, handle) = RaftNode::start(config, store, machine.clone(), self.net.port(NodeId(id)))?;
        self.net.connect(NodeId(id), handle.clone());
        let task = tokio::spawn(node.run());
        self.nodes.insert(id, Running { handle, machine, task });
        Ok(())
    }

    /// The machine stops between two instructions.
    pub async fn crash(&mut self, id: u64) {
        self.net.disconnect(NodeId(id));
        let node = self.nodes.remove(&id).unwrap();
        node.task.abort();
        let _ = node.task.await;
    }

    /// Waits for a node to end by itself.
    pub async fn end_of(&mut self, id: u64) -> Result<(), RaftFailure> {
        let node = self.nodes.remove(&id).unwrap();
        let end = timeout(PATIENCE, node.task).await.expect("the node ends").unwrap();
        self.net.disconnect(NodeId(id));
        end
    }

    pub fn handle(&self, id: u64) -> &RaftHandle<usize> {
        &self.nodes[&id].handle
    }

    pub fn status(&self, id: u64) -> RaftStatus {
        self.handle(id).status().borrow().clone()
    }

    /// Waits until a node other than `not` serves as leader of the highest term, and answers it.
    pub async fn leader_other_than(&self, not: &[u64]) -> u64 {
        self.until("a leader", || {
            let top = self.nodes.keys().map(|id| self.status(*id).term).max()?;
            let leads = |id: &u64| {
                let status = self.status(*id);
                status.serving && status.term == top && !not.contains(id)
            };
            self.nodes.keys().copied().find(leads)
        })
        .await
    }

    pub async fn leader(&self) -> u64 {
        self.leader_other_than(&[]).await
    }

    pub async fn until<R>(&self, what: &str, condition: impl Fn() -> Option<R>) -> R {
        until(what, condition).await
    }

    pub async fn propose(&self, id: u64, command: &str) -> Result<(u64, usize), RaftError> {
        let answer = self.handle(id).propose(Bytes::copy_from_slice(command.as_bytes()));
        timeout(PATIENCE, answer).await.expect("every proposal is answered")
    }

    /// Proposes to whoever leads, again and again, until it is acknowledged.
    pub async fn propose_anywhere(&self, command: &str) -> u64 {
        for _ in 0..200 {
            let leader = self.leader().await;
            if let Ok((index, _)) = self.propose(leader, command).await {
                return index;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody took {command:?}");
    }

    /// Waits until all these nodes have applied the same commands, up to `index` at least.
    pub async fn converge(&self, nodes: &[u64], index: u64) -> Vec<(u64, Vec<u8>)> {
        self.until("all nodes to agree", || {
            let first = self.nodes[&nodes[0]].machine.commands();
            let same = nodes
                .iter()
                .all(|id| self.status(*id).applied >= index && self.nodes[id].machine.commands() == first);
            same.then_some(first)
        })
        .await
    }
}

pub async fn until<R>(what: &str, condition: impl Fn() -> Option<R>) -> R {
    let wait = async {
        loop {
            if let Some(found) = condition() {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
