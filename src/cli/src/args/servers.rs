//! The flags of what runs until it is told to stop: `dev`, `controller`, `broker`, `coordinator` (and `operator`, beside this). Each can stand in a settings file too.

use super::OutputFormat;
use super::admin::BrokerCommand;
use super::cleaner::CleanerArgs;
use clap::Args;
use clap::builder::BoolishValueParser;
use std::path::PathBuf;
use std::time::Duration;
use thalweg_broker::config as broker;
use thalweg_controller as controller;
use thalweg_controller::Voter;
use thalweg_runtime::config::{HostPort, parse_bytes, parse_duration};

/// The commands that read a settings file, and where it is named on their command line.
pub const WITH_SETTINGS_FILE: [&str; 5] = ["dev", "controller", "broker", "coordinator", "operator"];
/// The id of the argument that names the settings file.
pub const SETTINGS_FILE: &str = "settings_file";

/// Brokers, controllers or coordinators of one `dev` at most.
const MAX_DEV_NODES: i64 = 9;

/// What every server understands.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// A TOML file with values for these flags; the environment wins over it, and the command line over both
    #[arg(id = SETTINGS_FILE, long = "config", env = "THALWEG_CONFIG_FILE", value_name = "FILE")]
    pub settings_file: Option<PathBuf>,
    /// How to write the log, to standard error
    #[arg(long, env = "THALWEG_LOG_FORMAT", value_enum, default_value_t = OutputFormat::Text)]
    pub log_format: OutputFormat,
    /// What to log: a level, or a filter such as "info,thalweg_log=debug" [default: info; of dev: warn]
    #[arg(long, env = "THALWEG_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Where to show metrics (GET /metrics), health (gRPC) and the log's filter (GET and PUT /log-filter); not for the outside
    /// world [default: nowhere]
    #[arg(long, env = "THALWEG_METRICS_LISTEN", value_name = "HOST:PORT")]
    pub metrics_listen: Option<HostPort>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thalweg dev
  thalweg dev --data-dir /tmp/thalweg --listen 127.0.0.1:9300
  thalweg dev --brokers 3 --controllers 3      a cluster in one process: brokers on ports 9292 to 9294

SIGTERM and Ctrl-C stop it cleanly; the same folder serves the same data again.")]
pub struct DevArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// The folder that holds all data
    #[arg(long, env = "THALWEG_DATA_DIR", value_name = "DIR", default_value = "thalweg-data")]
    pub data_dir: PathBuf,
    /// Where the first broker listens, the others on the ports behind it; port 0 takes free ones
    #[arg(long, env = "THALWEG_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:9292")]
    pub listen: HostPort,
    /// The endpoint that clients are told, if it is not the one listened on; with several brokers the first one's
    #[arg(long, env = "THALWEG_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<HostPort>,
    /// Brokers; the replication factor of new topics is as many by default, at most 3
    #[arg(long, env = "THALWEG_DEV_BROKERS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_DEV_NODES))]
    pub brokers: u16,
    /// Controllers; a folder keeps the number that it was founded with
    #[arg(long, env = "THALWEG_DEV_CONTROLLERS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_DEV_NODES))]
    pub controllers: u16,
    /// Coordinators of consumer groups
    #[arg(long, env = "THALWEG_DEV_COORDINATORS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_DEV_NODES))]
    pub coordinators: u16,
    #[command(flatten)]
    pub cleaner: CleanerArgs,
}

/// `thalweg coordinator`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thalweg coordinator --node-id 1 --listen 0.0.0.0:9590 --advertise coordinator-1:9590 \\
      --controllers controller-1:9490,controller-2:9490,controller-3:9490
  thalweg coordinator --config /etc/thalweg/coordinator.toml

It keeps nothing on disk. Run as many as you like: groups are shared out over those that are there.
SIGTERM and Ctrl-C stop it cleanly: its groups move first.")]
pub struct CoordinatorArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// This coordinator's number: 0 or more, no other that runs has it
    #[arg(long, env = "THALWEG_NODE_ID", value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub node_id: i32,
    /// Where brokers connect; port 0 takes a free one
    #[arg(long, env = "THALWEG_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:9590")]
    pub listen: HostPort,
    /// The endpoint that brokers are told [default: where it listens]
    #[arg(long, env = "THALWEG_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<HostPort>,
    /// The controllers; any one that answers is enough
    #[arg(
        long,
        env = "THALWEG_CONTROLLERS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        required = true
    )]
    pub controllers: Vec<HostPort>,
    /// Its rack or zone
    #[arg(long, env = "THALWEG_RACK", value_name = "R")]
    pub rack: Option<String>,
    /// The cluster that it belongs to; it refuses any other [default: the one that the controllers name]
    #[arg(long, env = "THALWEG_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thalweg controller --node-id 1 --listen 10.0.0.1:9490 --data-dir /var/lib/thalweg/controller \\
      --voters 1@10.0.0.1:9490,2@10.0.0.2:9490,3@10.0.0.3:9490
  thalweg controller --config /etc/thalweg/controller.toml
  thalweg controller --node-id 4 --listen 10.0.0.4:9490 --data-dir /var/lib/thalweg/controller --join \\
      --voters 1@10.0.0.1:9490              then: thalweg cluster add-voter 4@10.0.0.4:9490

Every founding controller is started with the same --voters. SIGTERM and Ctrl-C stop it cleanly.")]
pub struct ControllerArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// This controller's number in the group: 1 or more, never used again for another
    #[arg(long, env = "THALWEG_NODE_ID", value_name = "N")]
    pub node_id: u64,
    /// Where it listens; port 0 takes a free one
    #[arg(long, env = "THALWEG_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:9490")]
    pub listen: HostPort,
    /// Where the others reach it [default: its entry in --voters, or where it listens]
    #[arg(long, env = "THALWEG_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<HostPort>,
    /// The group's founders; none: this controller alone
    #[arg(long, env = "THALWEG_VOTERS", value_name = "ID@HOST:PORT,...", value_delimiter = ',')]
    pub voters: Vec<Voter>,
    /// Found nothing, but wait to be added to the group of --voters
    #[arg(long, env = "THALWEG_JOIN", value_parser = BoolishValueParser::new())]
    pub join: bool,
    /// The folder that holds its store
    #[arg(long, env = "THALWEG_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Partitions of a topic whose creator names no number
    #[arg(long, env = "THALWEG_DEFAULT_PARTITIONS", value_name = "N", default_value_t = controller::DEFAULT_PARTITIONS, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub default_partitions: i32,
    /// Replicas of a topic whose creator names no number
    #[arg(long, env = "THALWEG_DEFAULT_REPLICATION_FACTOR", value_name = "R", default_value_t = controller::DEFAULT_REPLICATION_FACTOR, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub default_replication_factor: i32,
    /// A broker that is silent for so long is held for gone
    #[arg(long, env = "THALWEG_BROKER_SESSION", value_name = "TIME", default_value = "9s", value_parser = parse_duration)]
    pub broker_session: Duration,
    /// A broker or coordinator whose connection broke is held for gone if it does not come back within this
    #[arg(long, env = "THALWEG_SESSION_GRACE", value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    pub session_grace: Duration,
    /// A coordinator that is silent for so long is held for gone
    #[arg(long, env = "THALWEG_COORDINATOR_SESSION", value_name = "TIME", default_value = "6s", value_parser = parse_duration)]
    pub coordinator_session: Duration,
    /// A coordinator that has been gone for so long is forgotten: it keeps nothing of its own; 0s: never
    #[arg(long, env = "THALWEG_COORDINATOR_FORGET_AFTER", value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub coordinator_forget_after: Duration,
    /// Partitions of the topic that keeps consumer groups, from when it is created
    #[arg(long, env = "THALWEG_OFFSETS_TOPIC_PARTITIONS", value_name = "N", default_value_t = controller::OFFSETS_TOPIC_PARTITIONS, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub offsets_topic_partitions: i32,
    /// Replicas of that topic; it is created when there are so many brokers
    #[arg(long, env = "THALWEG_OFFSETS_TOPIC_REPLICATION_FACTOR", value_name = "R", default_value_t = controller::OFFSETS_TOPIC_REPLICATION_FACTOR, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub offsets_topic_replication_factor: i32,
    /// How often leaderships go back to the preferred replicas; 0s: never
    #[arg(long, env = "THALWEG_LEADER_BALANCE_INTERVAL", value_name = "TIME", default_value = "300s", value_parser = parse_duration)]
    pub leader_balance_interval: Duration,
    /// Per cent of a broker's preferred leaderships that may be elsewhere before that
    #[arg(long, env = "THALWEG_LEADER_IMBALANCE_PERCENT", value_name = "P", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub leader_imbalance_percent: u32,
    /// Whether a new broker gets its share of replicas by itself
    #[arg(long, env = "THALWEG_AUTO_BALANCE", value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set)]
    pub auto_balance: bool,
    /// Partitions that a broker gets new replicas of at once
    #[arg(long, env = "THALWEG_MAX_MOVES_PER_BROKER", value_name = "N", default_value_t = 5)]
    pub max_moves_per_broker: usize,
    /// Partitions that get new replicas at once in the whole cluster
    #[arg(long, env = "THALWEG_MAX_MOVES", value_name = "N", default_value_t = 20)]
    pub max_moves: usize,
    /// The step of the group's clock; an election begins after 10 to 20 of them without a leader
    #[arg(long, env = "THALWEG_RAFT_TICK", value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    pub raft_tick: Duration,
}

/// `thalweg broker` runs one, `thalweg broker list` and the like look after those that run.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  thalweg broker --node-id 1 --listen 0.0.0.0:9292 --advertise broker-1:9292 --internal-listen 0.0.0.0:9392 \\
      --controllers controller-1:9490,controller-2:9490,controller-3:9490 --data-dir /var/lib/thalweg --rack eu-1a
  thalweg broker --config /etc/thalweg/broker.toml
  thalweg broker list

SIGTERM and Ctrl-C stop it cleanly: its leaderships move first.")]
pub struct BrokerArgs {
    #[command(subcommand)]
    pub command: Option<BrokerCommand>,
    #[command(flatten)]
    pub server: ServerArgs,
    /// This broker's number: 0 or more, kept for life
    #[arg(long, env = "THALWEG_NODE_ID", value_name = "N", required = true, value_parser = clap::value_parser!(i32).range(0..))]
    pub node_id: Option<i32>,
    /// Where clients connect; port 0 takes a free one
    #[arg(long, env = "THALWEG_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:9292")]
    pub listen: HostPort,
    /// The endpoint that clients are told [default: where it listens]
    #[arg(long, env = "THALWEG_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<HostPort>,
    /// Where other brokers connect; port 0 takes a free one
    #[arg(long, env = "THALWEG_INTERNAL_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:9392")]
    pub internal_listen: HostPort,
    /// The endpoint that other brokers are told [default: the host of --advertise, or where it listens]
    #[arg(long, env = "THALWEG_INTERNAL_ADVERTISE", value_name = "HOST:PORT")]
    pub internal_advertise: Option<HostPort>,
    /// The controllers; any one that answers is enough
    #[arg(
        long,
        env = "THALWEG_CONTROLLERS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        required = true
    )]
    pub controllers: Vec<HostPort>,
    /// The folders that hold partitions, one for each disk
    #[arg(long, env = "THALWEG_DATA_DIR", value_name = "DIR,...", value_delimiter = ',', required = true)]
    pub data_dir: Vec<PathBuf>,
    /// Its rack or zone: replicas are spread over them
    #[arg(long, env = "THALWEG_RACK", value_name = "R")]
    pub rack: Option<String>,
    /// The cluster that it belongs to; it refuses any other [default: the one that the controllers name]
    #[arg(long, env = "THALWEG_CLUSTER_ID", value_name = "ID")]
    pub cluster_id: Option<String>,
    /// A follower that has not caught up for so long is no longer waited for
    #[arg(long, env = "THALWEG_REPLICA_LAG_TIME_MAX", value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub replica_lag_time_max: Duration,
    /// Bytes a second that this broker fetches at most for partitions it is being given or is far behind in
    #[arg(long, env = "THALWEG_REPLICATION_THROTTLED_RATE", value_name = "BYTES", default_value_t = broker::DEFAULT_REPLICATION_THROTTLED_RATE, value_parser = parse_bytes)]
    pub replication_throttled_rate: u64,
    /// The controllers' --broker-session
    #[arg(long, env = "THALWEG_BROKER_SESSION", value_name = "TIME", default_value = "9s", value_parser = parse_duration)]
    pub broker_session: Duration,
    /// How often it tells the controllers that it lives
    #[arg(long, env = "THALWEG_HEARTBEAT_INTERVAL", value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub heartbeat_interval: Duration,
    #[command(flatten)]
    pub cleaner: CleanerArgs,
}
