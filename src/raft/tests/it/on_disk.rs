//! Three nodes as in production: each on its own thread, over sled, in real time.

use crate::harness::{Machine, Net, identity, ids, until};
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;
use thalweg_core::NodeId;
use thalweg_raft::{RaftConfig, RaftHandle, RaftNode, RaftThread, SledStore};

struct Node {
    handle: RaftHandle<usize>,
    machine: Machine,
    thread: RaftThread,
}

fn boot(folder: &Path, net: &Net, id: u64) -> Node {
    let store = SledStore::open(&folder.join(id.to_string()), identity(id)).unwrap();
    let mut config = RaftConfig::new(NodeId(id), ids(&[1, 2, 3]));
    config.tick = Duration::from_millis(20);
    config.snapshot_every_entries = 30;
    config.keep_entries = 5;
    let machine = Machine::default();
    let (node, handle) = RaftNode::start(config, store, machine.clone(), net.port(NodeId(id))).unwrap();
    net.connect(NodeId(id), handle.clone());
    Node { handle, machine, thread: node.spawn_thread().unwrap() }
}

async fn leader(nodes: &[Node]) -> usize {
    until("a leader", || nodes.iter().position(|node| node.handle.status().borrow().serving)).await
}

#[tokio::test]
async fn three_nodes_on_disk_survive_the_restart_of_each() {
    let folder = tempfile::tempdir().unwrap();
    let net = Net::default();
    let mut nodes: Vec<Node> = (1..=3).map(|id| boot(folder.path(), &net, id)).collect();
    let mut acknowledged = 0;
    for round in 0..4 {
        let mut last = 0;
        for n in 0..20 {
            // Leadership may move at any time in real time; a command whose fate is unknown is not counted.
            let at = leader(&nodes).await;
            if let Ok((index, _)) = nodes[at].handle.propose(Bytes::from(format!("{round}-{n}"))).await {
                acknowledged += 1;
                last = index;
            }
        }
        until("all to apply", || {
            nodes.iter().all(|node| node.handle.status().borrow().applied >= last).then_some(())
        })
        .await;
        let at = leader(&nodes).await;
        let stopped = nodes.remove(at);
        let id = stopped.handle.status().borrow().node_id;
        stopped.handle.shutdown();
        stopped.thread.join().await.unwrap();
        net.disconnect(id);
        drop(stopped.handle);
        leader(&nodes).await;
        nodes.push(boot(folder.path(), &net, id.get()));
    }
    until("all to agree", || {
        let first = nodes[0].machine.commands();
        (first.len() >= acknowledged && nodes.iter().all(|node| node.machine.commands() == first))
            .then_some(())
    })
    .await;
    for node in nodes {
        node.handle.shutdown();
        node.thread.join().await.unwrap();
    }
}
