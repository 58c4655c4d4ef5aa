//! What a coordinator is told at its start. Read once in `main` and passed by value.

use crate::shard::GroupConfig;
use std::net::SocketAddr;
use std::time::Duration;
use thalweg_core::{ClusterId, CoordinatorId};
use thalweg_runtime::ServerConfig;

/// Everything that a coordinator is told.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// The coordinator's id, unique among the coordinators of the cluster. Another process that comes under the same id takes
    /// its place, and ends it.
    pub node_id: CoordinatorId,
    /// Where brokers connect. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What brokers are told to connect to, `host:port`. Default: the listener's own address.
    pub advertise: Option<String>,
    /// The controllers, `host:port` each. At least one.
    pub controllers: Vec<String>,
    /// The rack or zone of the coordinator. Default: none.
    pub rack: Option<String>,
    /// Refuse to join any other cluster. Default: whichever cluster the controllers name.
    pub cluster_id: Option<ClusterId>,
    /// What groups are held to.
    pub groups: GroupConfig,
    /// How much at once.
    pub limits: CoordinatorLimits,
    /// How often and how long.
    pub intervals: CoordinatorIntervals,
    /// HTTP/2 and connection limits of the port.
    pub server: ServerConfig,
}

impl CoordinatorConfig {
    /// A configuration with defaults, listening on a free loopback port.
    pub fn new(node_id: CoordinatorId, controllers: Vec<String>) -> CoordinatorConfig {
        CoordinatorConfig {
            node_id,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            controllers,
            rack: None,
            cluster_id: None,
            groups: GroupConfig::default(),
            limits: CoordinatorLimits::default(),
            intervals: CoordinatorIntervals::default(),
            server: ServerConfig::default(),
        }
    }

    /// Checks what can be checked without touching the machine.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |setting, problem: String| Err(ConfigError { setting, problem });
        if self.node_id.get() < 0 {
            return wrong("node_id", "must not be negative".to_owned());
        }
        if self.controllers.is_empty() {
            return wrong("controllers", "name at least one controller as host:port".to_owned());
        }
        if let Some(bad) = self.controllers.iter().find(|address| !is_host_port(address)) {
            return wrong("controllers", format!("{bad:?} is not host:port"));
        }
        if let Some(bad) = self.advertise.iter().find(|address| !is_host_port(address)) {
            return wrong("advertise", format!("{bad:?} is not host:port"));
        }
        self.limits.validate()?;
        self.intervals.validate()
    }
}

fn is_host_port(text: &str) -> bool {
    text.parse::<thalweg_runtime::config::HostPort>().is_ok()
}

/// A setting that cannot be used. Not worth a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("coordinator setting `{setting}`: {problem}")]
pub struct ConfigError {
    /// The field of [`CoordinatorConfig`].
    pub setting: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Bytes of the largest message that is read from a broker.
pub const DEFAULT_MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of calls that are not answered yet, over all brokers.
pub const DEFAULT_IN_FLIGHT_BYTES: usize = 256 * 1024 * 1024;
/// Shards that are loaded at once.
pub const DEFAULT_LOADS_AT_ONCE: usize = 16;
/// Bytes that one read of a shard's log asks for.
pub const DEFAULT_LOAD_FETCH_BYTES: usize = 2 * 1024 * 1024;

/// Bytes of calls that wait while their shard is loaded, for each shard.
pub const DEFAULT_EARLY_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of records and answers that wait while a shard's log takes no writes, for each shard.
pub const DEFAULT_BACKLOG_BYTES: usize = 32 * 1024 * 1024;

/// How much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorLimits {
    /// Bytes of the largest message that is read from a broker. Default 16 MiB.
    pub max_request_bytes: usize,
    /// Bytes of calls that are not answered yet, over all brokers; beyond it their streams are not read. Default 256 MiB, and at
    /// least as much as the largest message.
    pub in_flight_bytes: usize,
    /// Shards that are loaded at once. Each holds up to four reads. Default 16.
    pub loads_at_once: usize,
    /// Bytes that one read of a shard's log asks for. Default 2 MiB.
    pub load_fetch_bytes: usize,
    /// Bytes of calls that wait while their shard is loaded, for each shard; others are refused at once with
    /// COORDINATOR_NOT_AVAILABLE. Default 16 MiB.
    pub early_bytes: usize,
    /// Bytes of records and answers that wait while a shard's log takes no writes, for each shard, roughly. Beyond it calls that
    /// write are refused with COORDINATOR_NOT_AVAILABLE. Default 32 MiB.
    pub backlog_bytes: usize,
}

impl Default for CoordinatorLimits {
    fn default() -> CoordinatorLimits {
        CoordinatorLimits {
            max_request_bytes: DEFAULT_MAX_REQUEST_BYTES,
            in_flight_bytes: DEFAULT_IN_FLIGHT_BYTES,
            loads_at_once: DEFAULT_LOADS_AT_ONCE,
            load_fetch_bytes: DEFAULT_LOAD_FETCH_BYTES,
            early_bytes: DEFAULT_EARLY_BYTES,
            backlog_bytes: DEFAULT_BACKLOG_BYTES,
        }
    }
}

impl CoordinatorLimits {
    fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |setting, problem: &str| Err(ConfigError { setting, problem: problem.to_owned() });
        if self.max_request_bytes == 0 {
            return wrong("limits.max_request_bytes", "must be above 0");
        }
        // One message at a time must always fit, twice over for what is counted for each call.
        if self.in_flight_bytes / 2 < self.max_request_bytes {
            return wrong("limits.in_flight_bytes", "must be at least twice the largest message");
        }
        if self.loads_at_once == 0 {
            return wrong("limits.loads_at_once", "must be above 0");
        }
        if self.early_bytes == 0 || self.backlog_bytes == 0 {
            return wrong("limits", "early_bytes and backlog_bytes must be above 0");
        }
        // A Fetch's own bound.
        if self.load_fetch_bytes == 0 || self.load_fetch_bytes > 50 << 20 {
            return wrong("limits.load_fetch_bytes", "must be above 0 and at most 50 MiB");
        }
        Ok(())
    }
}

/// Between two writes of a shard that has nothing to write. Far below the day after which a log forgets a producer that wrote
/// nothing, and with it the fence; what is written then keeps both.
pub const DEFAULT_MARKER: Duration = Duration::from_secs(3600);

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorIntervals {
    /// Between two heartbeats. Default 1 s.
    pub heartbeat: Duration,
    /// For the answer to a heartbeat, before another controller is looked for. Default 2 s.
    pub heartbeat_answer: Duration,
    /// The controllers' session of a coordinator, after which they give its shards to others. Default 6 s.
    pub session: Duration,
    /// A call to a controller. Default 5 s.
    pub controller_call: Duration,
    /// First pause after something could not be reached; it doubles. Default 50 ms.
    pub retry_first: Duration,
    /// Longest such pause. Default 1 s.
    pub retry_most: Duration,
    /// For the acks of one write, before it is sent again. Default 5 s.
    pub write_acks: Duration,
    /// For a call to a leader. Default 5 s.
    pub leader_call: Duration,
    /// For writes under way to be answered when a shard goes to another coordinator in good order. Default 500 ms.
    pub hand_over: Duration,
    /// For the cluster to give the shards to others at a shutdown. Default 3 s.
    pub controlled_shutdown: Duration,
    /// For calls and streams to end at a shutdown. Default 10 s.
    pub shutdown: Duration,
    /// For the first metadata at a start, and then for the registration. Default 60 s.
    pub start: Duration,
    /// Between two looks at the lag of all groups. Default 10 s.
    pub lag: Duration,
    /// Between two writes of a shard that has nothing to write; far below the brokers' `producer.id.expiration.ms`. Default 1 h.
    pub marker: Duration,
}

impl Default for CoordinatorIntervals {
    fn default() -> CoordinatorIntervals {
        CoordinatorIntervals {
            heartbeat: Duration::from_secs(1),
            heartbeat_answer: Duration::from_secs(2),
            session: Duration::from_secs(6),
            controller_call: Duration::from_secs(5),
            retry_first: Duration::from_millis(50),
            retry_most: Duration::from_secs(1),
            write_acks: Duration::from_secs(5),
            leader_call: Duration::from_secs(5),
            hand_over: Duration::from_millis(500),
            controlled_shutdown: Duration::from_secs(3),
            shutdown: Duration::from_secs(10),
            start: Duration::from_secs(60),
            lag: Duration::from_secs(10),
            marker: DEFAULT_MARKER,
        }
    }
}

impl CoordinatorIntervals {
    fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |setting, problem: &str| Err(ConfigError { setting, problem: problem.to_owned() });
        if self.heartbeat.is_zero() || self.retry_first.is_zero() {
            return wrong("intervals", "heartbeat and retry_first must be above 0");
        }
        if self.lag.is_zero() || self.marker.is_zero() {
            return wrong("intervals", "lag and marker must be above 0");
        }
        if self.heartbeat >= self.session {
            return wrong(
                "intervals.heartbeat",
                "must be less than the session, or the coordinator is fenced",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_setting_is_named() {
        let config = || CoordinatorConfig::new(CoordinatorId(0), vec!["127.0.0.1:1".into()]);
        assert_eq!(config().validate(), Ok(()));
        let named = |change: &dyn Fn(&mut CoordinatorConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().map_err(|error| error.setting)
        };
        assert_eq!(named(&|c| c.node_id = CoordinatorId(-1)), Err("node_id"));
        assert_eq!(named(&|c| c.controllers.clear()), Err("controllers"));
        assert_eq!(named(&|c| c.controllers[0] = "nowhere".into()), Err("controllers"));
        assert_eq!(named(&|c| c.advertise = Some(":".into())), Err("advertise"));
        assert_eq!(named(&|c| c.limits.in_flight_bytes = 1), Err("limits.in_flight_bytes"));
        assert_eq!(named(&|c| c.limits.loads_at_once = 0), Err("limits.loads_at_once"));
        assert_eq!(named(&|c| c.intervals.heartbeat = c.intervals.session), Err("intervals.heartbeat"));
    }
}
