//! What a controller is told at its start.

use crate::error::StartError;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use thalweg_core::NodeId;
use thalweg_core::metadata::Endpoint;
use thalweg_core::metadata::limits::{MAX_CONTROLLERS, MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR};

/// Partitions of a topic whose creator names no number (`num.partitions`).
pub const DEFAULT_PARTITIONS: i32 = 1;
/// Replicas of a topic whose creator names no number (`default.replication.factor`).
pub const DEFAULT_REPLICATION_FACTOR: i32 = 1;
/// A broker that sends no heartbeat for so long is fenced (`broker.session.timeout.ms`).
pub const BROKER_SESSION: Duration = Duration::from_secs(9);
/// A coordinator that sends no heartbeat for so long is fenced.
pub const COORDINATOR_SESSION: Duration = Duration::from_secs(6);
/// How long a fenced coordinator is remembered.
const COORDINATOR_FORGET_AFTER: Duration = Duration::from_secs(600);
/// Partitions of the topic that holds groups and their offsets (`offsets.topic.num.partitions`).
pub const OFFSETS_TOPIC_PARTITIONS: i32 = 50;
/// Replicas of that topic (`offsets.topic.replication.factor`).
pub const OFFSETS_TOPIC_REPLICATION_FACTOR: i32 = 3;
/// A process whose session's stream ended and that does not come back within this is fenced.
pub const SESSION_GRACE: Duration = Duration::from_millis(500);
/// How often the leader looks whether too many leaderships are not where they should be
/// (`leader.imbalance.check.interval.seconds`).
pub const LEADER_BALANCE_INTERVAL: Duration = Duration::from_secs(300);
/// Per cent of a broker's preferred leaderships that may be elsewhere (`leader.imbalance.per.broker.percentage`).
pub const LEADER_IMBALANCE_PERCENT: u32 = 10;
/// Partitions that a broker gets new replicas of at once.
pub const MAX_MOVES_PER_BROKER: usize = 5;
/// Partitions that get new replicas at once in the whole cluster.
pub const MAX_MOVES: usize = 20;
/// How long a controller that is added may take to be reached and to get the log.
pub const CATCH_UP: Duration = Duration::from_secs(45);
/// How long a request waits for the Raft group.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open calls may take to end when the controller stops.
pub const DRAIN: Duration = Duration::from_secs(5);

/// A controller and where it is reached: `1@controller-1:9490`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// Its id in the Raft group, 1 or more.
    pub id: NodeId,
    /// Where services reach it.
    pub endpoint: Endpoint,
}

/// A text is no `ID@HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no controller; write ID@HOST:PORT, for example 1@controller-1:9490")]
pub struct VoterError(String);

impl FromStr for Voter {
    type Err = VoterError;

    fn from_str(text: &str) -> Result<Voter, VoterError> {
        let wrong = || VoterError(text.to_owned());
        let (id, endpoint) = text.split_once('@').ok_or_else(wrong)?;
        let id: u64 = id.parse().map_err(|_| wrong())?;
        if id == 0 {
            return Err(wrong());
        }
        Ok(Voter { id: NodeId(id), endpoint: endpoint.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.endpoint)
    }
}

/// The settings of one controller.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// This controller's id in the Raft group.
    pub node_id: NodeId,
    /// The group's founding voters, this one among them; the same list for each of them. Empty (and not `join`): this one
    /// founds a cluster alone. With `join`, controllers of the running group, to find it.
    pub voters: Vec<Voter>,
    /// Founds nothing, but waits until a running group takes this controller in (`AdminService.AddVoter`).
    pub join: bool,
    /// Where it listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the others reach it. Default: its entry in `voters`, else the address it listens on.
    pub advertise: Option<Endpoint>,
    /// The folder that holds its store.
    pub data_dir: PathBuf,
    /// Partitions of a topic whose creator names no number.
    pub default_partitions: i32,
    /// Replicas of a topic whose creator names no number.
    pub default_replication_factor: i32,
    /// A broker that sends no heartbeat for so long is fenced. Default 9 s.
    pub broker_session: Duration,
    /// A coordinator that sends no heartbeat for so long is fenced. Default 6 s.
    pub coordinator_session: Duration,
    /// A coordinator that has been fenced for so long is forgotten: it keeps nothing that could come back. Default 10 min; zero:
    /// never.
    pub coordinator_forget_after: Duration,
    /// A broker or coordinator whose session's stream ended is fenced if it does not come back within this. Default 500 ms.
    pub session_grace: Duration,
    /// Partitions of the topic that holds groups and their offsets, from when it is created. Default 50.
    pub offsets_topic_partitions: i32,
    /// Replicas of that topic; it is created when there are so many brokers. Default 3.
    pub offsets_topic_replication_factor: i32,
    /// How often leaderships go back to the preferred replicas. Default 300 s; zero: never.
    pub leader_balance_interval: Duration,
    /// Per cent of a broker's preferred leaderships that may be elsewhere before that happens. Default 10.
    pub leader_imbalance_percent: u32,
    /// Whether replicas move to new brokers without an operator. Draining works either way. Default true.
    pub auto_balance: bool,
    /// Partitions that a broker gets new replicas of at once. Default 5.
    pub max_moves_per_broker: usize,
    /// Partitions that get new replicas at once in the whole cluster. Default 20.
    pub max_moves: usize,
    /// How long a controller that is added may take to be reached and to get the log. Default 45 s.
    pub catch_up: Duration,
    /// The length of a tick of the Raft group; an election begins after 10 to 20 without a leader. Default 100 ms.
    pub raft_tick: Duration,
}

impl ControllerConfig {
    /// The defaults, listening on a free port of the loopback address.
    pub fn new(node_id: NodeId, voters: Vec<Voter>, data_dir: PathBuf) -> ControllerConfig {
        ControllerConfig {
            node_id,
            voters,
            join: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            data_dir,
            default_partitions: DEFAULT_PARTITIONS,
            default_replication_factor: DEFAULT_REPLICATION_FACTOR,
            broker_session: BROKER_SESSION,
            coordinator_session: COORDINATOR_SESSION,
            coordinator_forget_after: COORDINATOR_FORGET_AFTER,
            session_grace: SESSION_GRACE,
            offsets_topic_partitions: OFFSETS_TOPIC_PARTITIONS,
            offsets_topic_replication_factor: OFFSETS_TOPIC_REPLICATION_FACTOR,
            leader_balance_interval: LEADER_BALANCE_INTERVAL,
            leader_imbalance_percent: LEADER_IMBALANCE_PERCENT,
            auto_balance: true,
            max_moves_per_broker: MAX_MOVES_PER_BROKER,
            max_moves: MAX_MOVES,
            catch_up: CATCH_UP,
            raft_tick: Duration::from_millis(100),
        }
    }

    /// Checks what can be known to be wrong before anything is opened.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let wrong = |message: String| Err(StartError::Config(message));
        if self.node_id.get() == 0 {
            return wrong("a controller's id is 1 or more".to_owned());
        }
        if self.voters.len() > MAX_CONTROLLERS {
            return wrong(format!("a cluster has at most {MAX_CONTROLLERS} controllers"));
        }
        let ids: BTreeSet<NodeId> = self.voters.iter().map(|voter| voter.id).collect();
        if ids.len() != self.voters.len() || ids.contains(&NodeId(0)) {
            return wrong("each voter is listed once, with an id of 1 or more".to_owned());
        }
        let endpoints: BTreeSet<&Endpoint> = self.voters.iter().map(|voter| &voter.endpoint).collect();
        if endpoints.len() != self.voters.len() {
            return wrong("two voters have the same address".to_owned());
        }
        if !self.join && !ids.is_empty() && !ids.contains(&self.node_id) {
            return wrong(format!(
                "controller {} is not among the founding voters; list it, or let it join a running group",
                self.node_id
            ));
        }
        if self.join && self.voters.is_empty() {
            return wrong("a controller that joins must be told where the running group is".to_owned());
        }
        if [self.broker_session, self.coordinator_session, self.raft_tick].iter().any(Duration::is_zero) {
            return wrong("the sessions and the raft tick must be longer than 0".to_owned());
        }
        let within = |given: i32, most| (1..=most).contains(&usize::try_from(given).unwrap_or(0));
        if !within(self.offsets_topic_partitions, MAX_PARTITIONS_PER_TOPIC)
            || !within(self.offsets_topic_replication_factor, MAX_REPLICATION_FACTOR)
        {
            return wrong(format!(
                "the topic of groups has 1 to {MAX_PARTITIONS_PER_TOPIC} partitions and 1 to {MAX_REPLICATION_FACTOR} replicas"
            ));
        }
        if self.max_moves == 0 || self.max_moves_per_broker == 0 {
            return wrong("at least one partition must be allowed to move at a time".to_owned());
        }
        Ok(())
    }

    /// The voters with which the Raft group is founded; none for one that joins.
    pub(crate) fn founding(&self) -> Vec<NodeId> {
        match (self.join, self.voters.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => vec![self.node_id],
            (false, false) => self.voters.iter().map(|voter| voter.id).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(text: &str) -> Voter {
        text.parse().unwrap()
    }

    #[test]
    fn a_voter_is_an_id_and_an_address() {
        for good in ["1@localhost:9490", "3@[::1]:1", "18446744073709551615@10.0.0.1:65535"] {
            assert_eq!(voter(good).to_string(), good);
        }
        for bad in ["", "1", "1@", "@h:1", "0@h:1", "x@h:1", "1@h", "1@h:0", "-1@h:1", "1@h:70000", "1@h:1@"]
        {
            assert!(bad.parse::<Voter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_that_cannot_be_are_refused() {
        let config = |voters: &[&str], join: bool| ControllerConfig {
            join,
            ..ControllerConfig::new(NodeId(1), voters.iter().map(|text| voter(text)).collect(), "x".into())
        };
        assert_eq!(config(&[], false).founding(), [NodeId(1)]);
        assert_eq!(config(&["2@b:1"], true).founding(), []);
        assert_eq!(config(&["2@b:1", "1@a:1"], false).founding(), [NodeId(2), NodeId(1)]);
        for good in [config(&[], false), config(&["2@b:1"], true), config(&["1@a:1", "2@b:1"], false)] {
            good.check().unwrap();
        }
        for bad in [
            config(&[], true),
            config(&["2@b:1"], false),
            config(&["1@a:1", "1@b:1"], false),
            config(&["1@a:1", "2@a:1"], false),
            ControllerConfig { node_id: NodeId(0), ..config(&[], false) },
            ControllerConfig { offsets_topic_partitions: 0, ..config(&[], false) },
            ControllerConfig { offsets_topic_partitions: 10_001, ..config(&[], false) },
            ControllerConfig { offsets_topic_replication_factor: -1, ..config(&[], false) },
            ControllerConfig { coordinator_session: Duration::ZERO, ..config(&[], false) },
        ] {
            assert!(matches!(bad.check(), Err(StartError::Config(_))), "{bad:?}");
        }
    }
}
