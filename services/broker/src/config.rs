//! What a broker is told at its start. Read once in `main` and passed by value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use thalweg_core::{BrokerId, ClusterId};
use thalweg_log::{DEFAULT_DEDUPE_BUFFER_BYTES, MIN_DEDUPE_BUFFER_BYTES};
use thalweg_runtime::ServerConfig;

/// Everything that a broker is told.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// The broker's id, unique in the cluster and kept for life.
    pub node_id: BrokerId,
    /// Where clients connect. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients are told to connect to, `host:port`. Default: the listener's own address, which only works when
    /// clients reach it under that name.
    pub advertise: Option<String>,
    /// Where other services connect: a port of its own. Port 0 takes a free one.
    pub internal_listen: SocketAddr,
    /// What other services are told to connect to, `host:port`. Default: the host of `advertise` with the internal listener's
    /// port, or that listener's own address.
    pub internal_advertise: Option<String>,
    /// The controllers, `host:port` each. At least one.
    pub controllers: Vec<String>,
    /// The folders that hold partitions. At least one; a partition lives in one of them.
    pub data_dirs: Vec<PathBuf>,
    /// The rack or zone of the broker. Default: none.
    pub rack: Option<String>,
    /// Refuse to join any other cluster. Default: whichever cluster the controllers name; from then on the data folders
    /// remember it.
    pub cluster_id: Option<ClusterId>,
    /// What a caller may ask for at most.
    pub limits: BrokerLimits,
    /// How followers copy, and when they count as in sync.
    pub replication: ReplicationConfig,
    /// How logs are compacted.
    pub cleaner: CleanerConfig,
    /// How often and how long.
    pub intervals: BrokerIntervals,
    /// HTTP/2 and connection limits of both ports.
    pub server: ServerConfig,
}

impl BrokerConfig {
    /// A configuration with defaults, listening on free loopback ports.
    pub fn new(node_id: BrokerId, controllers: Vec<String>, data_dirs: Vec<PathBuf>) -> BrokerConfig {
        BrokerConfig {
            node_id,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            internal_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            internal_advertise: None,
            controllers,
            data_dirs,
            rack: None,
            cluster_id: None,
            limits: BrokerLimits::default(),
            replication: ReplicationConfig::default(),
            cleaner: CleanerConfig::default(),
            intervals: BrokerIntervals::default(),
            server: ServerConfig::default(),
        }
    }

    /// Checks what can be checked without touching the machine.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |setting, problem| Err(ConfigError { setting, problem });
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
        if let Some(bad) = self.internal_advertise.iter().find(|address| !is_host_port(address)) {
            return wrong("internal_advertise", format!("{bad:?} is not host:port"));
        }
        if self.data_dirs.is_empty() {
            return wrong("data_dirs", "name at least one folder".to_owned());
        }
        self.limits.validate()?;
        self.replication.validate()?;
        self.cleaner.validate()?;
        self.intervals.validate()
    }
}

fn is_host_port(text: &str) -> bool {
    text.parse::<thalweg_runtime::config::HostPort>().is_ok()
}

/// A setting that cannot be used. Not worth a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("broker setting `{setting}`: {problem}")]
pub struct ConfigError {
    /// The field of [`BrokerConfig`].
    pub setting: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Largest message that the broker reads, in bytes: a batch of 8 MiB and what goes around it.
pub const DEFAULT_MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024 + 64 * 1024;
/// Bytes of produce requests that are appended and not yet acknowledged, over all connections.
pub const DEFAULT_IN_FLIGHT_BYTES: usize = 128 * 1024 * 1024;
/// Bytes of requests that have not come to their end, over all connections.
pub const DEFAULT_HALF_RECEIVED_BYTES: usize = 64 * 1024 * 1024;
/// Bytes in flight on one produce stream.
pub const DEFAULT_STREAM_IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;
/// Requests on one produce stream that are appended and not yet acknowledged.
pub const DEFAULT_STREAM_IN_FLIGHT_REQUESTS: usize = 4096;
/// Bytes to which one batch may inflate.
pub const DEFAULT_MAX_INFLATED_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that one Fetch answers with.
pub const DEFAULT_MAX_FETCH_BYTES: usize = 50 * 1024 * 1024;
/// Bytes of batches that unary Fetch answers hold over all connections, from the read until they are sent.
pub const DEFAULT_FETCH_ANSWERS_BYTES: usize = 256 * 1024 * 1024;
/// Bytes that one Fetch reads from one partition, unless it says otherwise.
pub const DEFAULT_PARTITION_FETCH_BYTES: usize = 1024 * 1024;
/// Bytes of one message of a FetchStream at most.
pub const DEFAULT_MAX_CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// What a caller may ask for at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerLimits {
    /// Largest message that is read, in bytes. Must exceed every topic's `max.message.bytes` that is to be usable.
    pub max_request_bytes: usize,
    /// Bytes of produce requests in flight over all connections; beyond it streams are no longer read and unary calls are
    /// refused with `THROTTLED`.
    pub in_flight_bytes: usize,
    /// Bytes of requests that have not come to their end, over all connections. Beyond it no more of them is read, and those
    /// that take longer than 5 s are refused with `THROTTLED`; beyond twice as much all but small ones are, at once.
    pub half_received_bytes: usize,
    /// Bytes of requests in flight on one produce stream; beyond it the stream is no longer read.
    pub stream_in_flight_bytes: usize,
    /// Requests in flight on one produce stream.
    pub stream_in_flight_requests: usize,
    /// Bytes to which one batch may inflate; beyond it the batch is refused.
    pub max_inflated_bytes: usize,
    /// Bytes that one Fetch answers with.
    pub max_fetch_bytes: usize,
    /// Bytes of batches that unary Fetch answers hold over all connections, from the read until they are sent; beyond it they
    /// bring less, or are refused with `THROTTLED`.
    pub fetch_answers_bytes: usize,
    /// Bytes that one Fetch reads from one partition, unless it says otherwise.
    pub partition_fetch_bytes: usize,
    /// Bytes of one message of a FetchStream at most.
    pub max_chunk_bytes: usize,
}

impl Default for BrokerLimits {
    fn default() -> BrokerLimits {
        BrokerLimits {
            max_request_bytes: DEFAULT_MAX_REQUEST_BYTES,
            in_flight_bytes: DEFAULT_IN_FLIGHT_BYTES,
            half_received_bytes: DEFAULT_HALF_RECEIVED_BYTES,
            stream_in_flight_bytes: DEFAULT_STREAM_IN_FLIGHT_BYTES,
            stream_in_flight_requests: DEFAULT_STREAM_IN_FLIGHT_REQUESTS,
            max_inflated_bytes: DEFAULT_MAX_INFLATED_BYTES,
            max_fetch_bytes: DEFAULT_MAX_FETCH_BYTES,
            fetch_answers_bytes: DEFAULT_FETCH_ANSWERS_BYTES,
            partition_fetch_bytes: DEFAULT_PARTITION_FETCH_BYTES,
            max_chunk_bytes: DEFAULT_MAX_CHUNK_BYTES,
        }
    }
}

impl BrokerLimits {
    fn validate(&self) -> Result<(), ConfigError> {
        let all = [
            ("limits.max_request_bytes", self.max_request_bytes),
            ("limits.in_flight_bytes", self.in_flight_bytes),
            ("limits.half_received_bytes", self.half_received_bytes),
            ("limits.stream_in_flight_bytes", self.stream_in_flight_bytes),
            ("limits.stream_in_flight_requests", self.stream_in_flight_requests),
            ("limits.max_inflated_bytes", self.max_inflated_bytes),
            ("limits.max_fetch_bytes", self.max_fetch_bytes),
            ("limits.fetch_answers_bytes", self.fetch_answers_bytes),
            ("limits.partition_fetch_bytes", self.partition_fetch_bytes),
            ("limits.max_chunk_bytes", self.max_chunk_bytes),
        ];
        match all.iter().find(|(_, value)| *value == 0) {
            Some((setting, _)) => Err(ConfigError { setting, problem: "must be above 0".to_owned() }),
            None => Ok(()),
        }
    }
}

/// `replica.lag.time.max.ms`.
pub const DEFAULT_REPLICA_LAG_TIME_MAX: Duration = Duration::from_secs(30);
/// `replication.throttled.rate`, in bytes a second.
pub const DEFAULT_REPLICATION_THROTTLED_RATE: u64 = 50 * 1024 * 1024;

/// How followers copy, and when they count as in sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationConfig {
    /// `replica.lag.time.max.ms`: a follower that has not caught up for so long leaves the ISR. Default 30 s.
    pub lag_time_max: Duration,
    /// `replication.throttled.rate`: bytes a second that this broker, as a follower, fetches from all leaders together for
    /// partitions that are being added or are far behind. Default 50 MiB/s.
    pub throttled_rate: u64,
}

impl Default for ReplicationConfig {
    fn default() -> ReplicationConfig {
        ReplicationConfig {
            lag_time_max: DEFAULT_REPLICA_LAG_TIME_MAX,
            throttled_rate: DEFAULT_REPLICATION_THROTTLED_RATE,
        }
    }
}

impl ReplicationConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let zero = |setting| Err(ConfigError { setting, problem: "must be above 0".to_owned() });
        if self.lag_time_max.is_zero() {
            return zero("replication.lag_time_max");
        }
        if self.throttled_rate == 0 {
            return zero("replication.throttled_rate");
        }
        Ok(())
    }
}

/// `log.cleaner.threads`.
pub const DEFAULT_CLEANER_THREADS: usize = 1;
/// `log.cleaner.backoff.ms`.
pub const DEFAULT_CLEANER_BACKOFF: Duration = Duration::from_secs(15);
/// The most logs that are compacted at a time.
pub const MAX_CLEANER_THREADS: usize = 64;

/// How logs are compacted (topics with `cleanup.policy=compact`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanerConfig {
    /// `log.cleaner.threads`: logs that are compacted at a time. Default 1.
    pub threads: usize,
    /// `log.cleaner.dedupe.buffer.size`: bytes of memory for the keys of all logs that are being compacted; at least
    /// [`MIN_DEDUPE_BUFFER_BYTES`] for each thread. A key takes 32 of them, whatever its length. Default 128 MiB.
    pub dedupe_buffer_bytes: usize,
    /// `log.cleaner.io.max.bytes.per.second`: bytes that all threads together read and write a second. Default: no limit; with or
    /// without one a cleaner works less while the syncs of appends take twice as long beside it ([`thalweg_log::Pace`]).
    pub max_bytes_per_second: Option<u64>,
    /// `log.cleaner.backoff.ms`: between two looks for a log to compact, when there was none. Default 15 s.
    pub backoff: Duration,
}

impl Default for CleanerConfig {
    fn default() -> CleanerConfig {
        CleanerConfig {
            threads: DEFAULT_CLEANER_THREADS,
            dedupe_buffer_bytes: DEFAULT_DEDUPE_BUFFER_BYTES,
            max_bytes_per_second: None,
            backoff: DEFAULT_CLEANER_BACKOFF,
        }
    }
}

impl CleanerConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |setting, problem| Err(ConfigError { setting, problem });
        if !(1..=MAX_CLEANER_THREADS).contains(&self.threads) {
            return wrong("cleaner.threads", format!("must be from 1 to {MAX_CLEANER_THREADS}"));
        }
        if self.dedupe_buffer_bytes / self.threads < MIN_DEDUPE_BUFFER_BYTES {
            let problem = format!("must be at least {MIN_DEDUPE_BUFFER_BYTES} for each thread");
            return wrong("cleaner.dedupe_buffer_bytes", problem);
        }
        if self.max_bytes_per_second == Some(0) {
            return wrong("cleaner.max_bytes_per_second", "must be above 0".to_owned());
        }
        if self.backoff.is_zero() {
            return wrong("cleaner.backoff", "must be above 0".to_owned());
        }
        Ok(())
    }
}

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerIntervals {
    /// Between two heartbeats. Default 2 s.
    pub heartbeat: Duration,
    /// For the answer to a heartbeat, before another controller is looked for. Default 3 s.
    pub heartbeat_answer: Duration,
    /// `broker.session.timeout.ms` of the controllers, who fence a broker that is silent for so long. Here it is only what is
    /// warned of. Default 9 s.
    pub session: Duration,
    /// Between two rounds of retention, time rolls, time flushes and checkpoints. Default 5 s.
    pub housekeeping: Duration,
    /// Between two tries to open a log that could not be opened. Default 3 s.
    pub reopen: Duration,
    /// A call to a controller. Default 5 s.
    pub controller_call: Duration,
    /// First pause after a controller could not be reached; it doubles. Default 50 ms.
    pub retry_first: Duration,
    /// Longest such pause. Default 1 s.
    pub retry_most: Duration,
    /// For a controller to let the broker go at a shutdown. Default 2 s.
    pub controlled_shutdown: Duration,
    /// For acks of what is appended to come at a shutdown, before they are refused. Default 3 s; less than the server's
    /// drain deadline.
    pub answer_grace: Duration,
    /// For calls and streams to end at a shutdown, and then for the logs to close. Default 20 s.
    pub shutdown: Duration,
    /// For a topic change to reach this broker, when the call names no deadline. Default 30 s.
    pub metadata_wait: Duration,
    /// For the first metadata at a start, and then, once the logs are open, for the registration. Default 60 s.
    pub start: Duration,
    /// For the cluster to let go of an earlier process of this broker, at a start: who holds the id for longer is alive, and
    /// another. Default 25 s: two sessions, and the grace of a session whose stream ended.
    pub predecessor: Duration,
}

impl Default for BrokerIntervals {
    fn default() -> BrokerIntervals {
        BrokerIntervals {
            heartbeat: Duration::from_secs(2),
            heartbeat_answer: Duration::from_secs(3),
            session: Duration::from_secs(9),
            housekeeping: Duration::from_secs(5),
            reopen: Duration::from_secs(3),
            controller_call: Duration::from_secs(5),
            retry_first: Duration::from_millis(50),
            retry_most: Duration::from_secs(1),
            controlled_shutdown: Duration::from_secs(2),
            answer_grace: Duration::from_secs(3),
            shutdown: Duration::from_secs(20),
            metadata_wait: Duration::from_secs(30),
            start: Duration::from_secs(60),
            predecessor: Duration::from_secs(25),
        }
    }
}

impl BrokerIntervals {
    fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |setting, problem: &str| Err(ConfigError { setting, problem: problem.to_owned() });
        if self.heartbeat.is_zero() {
            return wrong("intervals.heartbeat", "must be above 0");
        }
        if self.heartbeat >= self.session {
            return wrong("intervals.heartbeat", "must be less than the session, or the broker is fenced");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> BrokerConfig {
        BrokerConfig::new(BrokerId(0), vec!["127.0.0.1:1".into()], vec!["data".into()])
    }

    #[test]
    fn a_bad_setting_is_named() {
        assert_eq!(config().validate(), Ok(()));
        let named = |change: &dyn Fn(&mut BrokerConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().map_err(|error| error.setting)
        };
        assert_eq!(named(&|c| c.node_id = BrokerId(-1)), Err("node_id"));
        assert_eq!(named(&|c| c.controllers.clear()), Err("controllers"));
        assert_eq!(named(&|c| c.controllers[0] = "nowhere".into()), Err("controllers"));
        assert_eq!(named(&|c| c.advertise = Some(":".into())), Err("advertise"));
        assert_eq!(named(&|c| c.data_dirs.clear()), Err("data_dirs"));
        assert_eq!(named(&|c| c.limits.in_flight_bytes = 0), Err("limits.in_flight_bytes"));
        assert_eq!(named(&|c| c.internal_advertise = Some("x".into())), Err("internal_advertise"));
        assert_eq!(named(&|c| c.replication.throttled_rate = 0), Err("replication.throttled_rate"));
        assert_eq!(named(&|c| c.cleaner.threads = 0), Err("cleaner.threads"));
        assert_eq!(named(&|c| c.cleaner.dedupe_buffer_bytes = 1 << 19), Err("cleaner.dedupe_buffer_bytes"));
        assert_eq!(named(&|c| c.cleaner.max_bytes_per_second = Some(0)), Err("cleaner.max_bytes_per_second"));
        assert_eq!(named(&|c| c.intervals.heartbeat = c.intervals.session), Err("intervals.heartbeat"));
    }
}
