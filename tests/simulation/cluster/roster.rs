//! Who takes part in a run.

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A voter of the Raft group.
    Controller,
    /// A broker.
    Broker,
    /// A coordinator of groups.
    Coordinator,
    /// A machine with clients on it.
    Client,
}

/// The names of all nodes, in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    nodes: Vec<(String, NodeKind)>,
}

impl Roster {
    /// Adds a node.
    pub fn add(&mut self, name: String, kind: NodeKind) {
        self.nodes.push((name, kind));
    }

    /// All of one kind.
    pub fn of(&self, kind: NodeKind) -> Vec<String> {
        self.nodes.iter().filter(|(_, of)| *of == kind).map(|(name, _)| name.clone()).collect()
    }

    /// Everyone.
    pub fn all(&self) -> Vec<String> {
        self.nodes.iter().map(|(name, _)| name.clone()).collect()
    }

    /// What a node is.
    pub fn kind(&self, name: &str) -> Option<NodeKind> {
        self.nodes.iter().find(|(node, _)| node == name).map(|(_, kind)| *kind)
    }
}
