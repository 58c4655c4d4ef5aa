//! The arguments of `thalweg bench`.

use crate::args::{acks, compression};
use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use thalweg_client::Acks;
use thalweg_core::compression::Compression;

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Write as fast as it goes: records/s, MB/s, and the time to a record's acknowledgement
    #[command(after_help = "Examples:
  thalweg bench produce --record-size 1024 --seconds 10 --acks 1 --config write.caching=true
  thalweg bench produce --record-size 100 --records 10000000 --acks 1 -o json")]
    Produce(ProduceBench),
    /// Read as fast as it goes; a topic without records is filled first
    #[command(after_help = "Examples:
  thalweg bench fetch --record-size 1024 --records 2000000
  thalweg bench fetch --topic events --seconds 10")]
    Fetch(FetchBench),
    /// The round trip of one request after the other on a stream, and the way to a reader that waits
    #[command(after_help = "Examples:
  thalweg bench latency --record-size 1024 --rate 1000 --acks 1 --config write.caching=true
  thalweg bench latency --record-size 4096 --in-flight 64 --acks all --seconds 5")]
    Latency(LatencyBench),
    /// One plain record a call, from many callers, beside an empty call
    Unary(UnaryBench),
    /// Consumer groups: many members, heartbeats, commits, and how fast one member reads
    #[command(
        subcommand,
        after_help = "Examples:
  thalweg bench group members --members 1000 --partitions 1000
  thalweg bench group heartbeats --members 10000 --groups 100 --pid $(pidof -s thalweg)
  thalweg bench group commits --callers 64 --seconds 10
  thalweg bench group subscribe --records 2000000
  thalweg bench group consumer --records 2000000"
    )]
    Group(GroupBench),
    /// What this machine can do without a broker: memcpy, page cache, loopback TCP, fdatasync
    Limits(LimitsBench),
    /// Every case of docs/PERFORMANCE.md in one run, as ratios to the machine's own limits
    #[command(after_help = "Examples:
  thalweg bench suite                                          one replica
  thalweg bench suite --replication-factor 3 --partitions 3    acks=all from three brokers")]
    Suite(SuiteBench),
}

/// What the cases have in common.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// The topic; without it one is made for this run and deleted again
    #[arg(long, env = "THALWEG_TOPIC", value_name = "T")]
    pub topic: Option<String>,
    /// Partitions of the topic that is made
    #[arg(long, env = "THALWEG_PARTITIONS", value_name = "N", default_value_t = 1)]
    pub partitions: i32,
    /// Replicas of the topic that is made
    #[arg(long, env = "THALWEG_REPLICATION_FACTOR", value_name = "R", default_value_t = 1)]
    pub replication_factor: i32,
    /// A key of the configuration of the topic that is made; may be given again
    #[arg(long = "config", env = "THALWEG_CONFIG", value_name = "K=V")]
    pub configs: Vec<String>,
    /// Bytes of a record's value
    #[arg(long, env = "THALWEG_RECORD_SIZE", value_name = "B", default_value_t = 1024)]
    pub record_size: usize,
    /// Stop after so many seconds [default: 10, unless --records is given]
    #[arg(long, env = "THALWEG_SECONDS", value_name = "S", conflicts_with = "records")]
    pub seconds: Option<f64>,
    /// Stop after so many records
    #[arg(long, env = "THALWEG_RECORDS", value_name = "N")]
    pub records: Option<u64>,
}

#[derive(Debug, Clone, Args)]
pub struct ProduceBench {
    #[command(flatten)]
    pub common: Common,
    /// When a record counts as written
    #[arg(long, env = "THALWEG_ACKS", value_name = "0|1|all", value_parser = acks, default_value = "all")]
    pub acks: Acks,
    /// The codec for batches
    #[arg(long, env = "THALWEG_COMPRESSION", value_name = "C", value_parser = compression, default_value = "none")]
    pub compression: Compression,
    /// Records a second, at most [default: no limit]
    #[arg(long, env = "THALWEG_RATE", value_name = "R")]
    pub rate: Option<f64>,
    /// Bytes of a batch
    #[arg(long, env = "THALWEG_BATCH_SIZE", value_name = "BYTES", default_value_t = 262_144)]
    pub batch_size: usize,
    /// Milliseconds to wait for a batch to fill
    #[arg(long, env = "THALWEG_LINGER_MS", value_name = "MS", default_value_t = 5)]
    pub linger_ms: u64,
    /// Batches in flight for each partition
    #[arg(long, env = "THALWEG_IN_FLIGHT", value_name = "N", default_value_t = 5)]
    pub in_flight: usize,
    /// Bytes of records that a producer holds at most. A few megabytes stay in the processor's caches
    #[arg(long, env = "THALWEG_BUFFER_MEMORY", value_name = "BYTES", default_value_t = 33_554_432)]
    pub buffer_memory: usize,
    /// Producers, each with a connection of its own
    #[arg(long, env = "THALWEG_PRODUCERS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub producers: u32,
}

#[derive(Debug, Clone, Args)]
pub struct FetchBench {
    #[command(flatten)]
    pub common: Common,
    /// When a record that is written first counts as written
    #[arg(long, env = "THALWEG_ACKS", value_name = "0|1|all", value_parser = acks, default_value = "1")]
    pub acks: Acks,
    /// Records a second to read, at most [default: no limit]
    #[arg(long, env = "THALWEG_RATE", value_name = "R")]
    pub rate: Option<f64>,
    /// The codec of the records that are written first
    #[arg(long, env = "THALWEG_COMPRESSION", value_name = "C", value_parser = compression, default_value = "none")]
    pub compression: Compression,
    /// Look at every record, not only at batches
    #[arg(long, env = "THALWEG_DECODE", value_parser = FalseyValueParser::new())]
    pub decode: bool,
    /// Trust the transport: do not check the batches' checksums
    #[arg(long, env = "THALWEG_SKIP_CRC", value_parser = FalseyValueParser::new())]
    pub skip_crc: bool,
}

#[derive(Debug, Clone, Args)]
pub struct LatencyBench {
    #[command(flatten)]
    pub common: Common,
    /// When a record counts as written
    #[arg(long, env = "THALWEG_ACKS", value_name = "1|all", value_parser = acks, default_value = "1")]
    pub acks: Acks,
    /// The codec for batches
    #[arg(long, env = "THALWEG_COMPRESSION", value_name = "C", value_parser = compression, default_value = "none")]
    pub compression: Compression,
    /// Requests a second, at most [default: 1000 with one in flight, else no limit]
    #[arg(long, env = "THALWEG_RATE", value_name = "R")]
    pub rate: Option<f64>,
    /// Requests in flight
    #[arg(long, env = "THALWEG_IN_FLIGHT", value_name = "N", default_value_t = 1)]
    pub in_flight: usize,
}

#[derive(Debug, Clone, Args)]
pub struct UnaryBench {
    #[command(flatten)]
    pub common: Common,
    /// When a record counts as written
    #[arg(long, env = "THALWEG_ACKS", value_name = "0|1|all", value_parser = acks, default_value = "1")]
    pub acks: Acks,
    /// Callers at the same time
    #[arg(long, env = "THALWEG_CALLERS", value_name = "N", default_value_t = 64)]
    pub callers: usize,
}

#[derive(Debug, Clone, Subcommand)]
pub enum GroupBench {
    /// Many members of one group on one topic: from the last join until all is stable; then some leave
    Members(MembersBench),
    /// Many members of many groups that do nothing but live: what that costs the coordinator
    Heartbeats(HeartbeatsBench),
    /// Commits of one partition each, from many callers: how many are durable a second
    Commits(CommitsBench),
    /// One member on a Subscribe stream with plain records; a topic without records is filled first
    Subscribe(SubscribeBench),
    /// One member of the SDK with encoded batches, beside `bench fetch` in the same run
    Consumer(ConsumerBench),
}

#[derive(Debug, Clone, Args)]
pub struct MembersBench {
    /// Members of the group
    #[arg(long, env = "THALWEG_MEMBERS", value_name = "N", default_value_t = 1_000)]
    pub members: usize,
    /// Partitions of the topic that is made
    #[arg(long, env = "THALWEG_PARTITIONS", value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Replicas of the topic that is made
    #[arg(long, env = "THALWEG_REPLICATION_FACTOR", value_name = "R", default_value_t = 1)]
    pub replication_factor: i32,
    /// How many members leave, one after the other
    #[arg(long, env = "THALWEG_LEAVES", value_name = "N", default_value_t = 10)]
    pub leaves: usize,
}

#[derive(Debug, Clone, Args)]
pub struct HeartbeatsBench {
    /// Members of all groups together
    #[arg(long, env = "THALWEG_MEMBERS", value_name = "N", default_value_t = 10_000)]
    pub members: usize,
    /// Groups
    #[arg(long, env = "THALWEG_GROUPS", value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub groups: u32,
    /// Partitions of the topic that all of them read
    #[arg(long, env = "THALWEG_PARTITIONS", value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Replicas of the topic that is made
    #[arg(long, env = "THALWEG_REPLICATION_FACTOR", value_name = "R", default_value_t = 1)]
    pub replication_factor: i32,
    /// Milliseconds that a heartbeat waits for news before it is answered, and the next one follows
    #[arg(long, env = "THALWEG_INTERVAL_MS", value_name = "MS", default_value_t = 3_000)]
    pub interval_ms: u64,
    /// How long to measure
    #[arg(long, env = "THALWEG_SECONDS", value_name = "S", default_value_t = 20.0)]
    pub seconds: f64,
    /// A coordinator's process on this machine, or that of a `dev`; several may be given
    #[arg(long = "pid", env = "THALWEG_PID", value_name = "PID", value_delimiter = ',')]
    pub pids: Vec<u32>,
}

#[derive(Debug, Clone, Args)]
pub struct CommitsBench {
    #[command(flatten)]
    pub common: Common,
    /// Callers at the same time
    #[arg(long, env = "THALWEG_CALLERS", value_name = "N", default_value_t = 64)]
    pub callers: usize,
    /// Groups that they commit for [default: one each]
    #[arg(long, env = "THALWEG_GROUPS", value_name = "N")]
    pub groups: Option<usize>,
    /// Connections that they share
    #[arg(long, env = "THALWEG_CONNECTIONS", value_name = "N", default_value_t = 4)]
    pub connections: usize,
}

#[derive(Debug, Clone, Args)]
pub struct SubscribeBench {
    #[command(flatten)]
    pub common: Common,
    /// Records that may be on their way
    #[arg(long, env = "THALWEG_CREDIT_RECORDS", value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u64).range(4..))]
    pub credit_records: u64,
}

#[derive(Debug, Clone, Args)]
pub struct ConsumerBench {
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Clone, Args)]
pub struct LimitsBench {
    /// The folder to write to
    #[arg(long, env = "THALWEG_SCRATCH_DIR", value_name = "DIR", default_value = ".")]
    pub scratch_dir: std::path::PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct SuiteBench {
    #[command(flatten)]
    pub limits: LimitsBench,
    /// Seconds for each case
    #[arg(long, env = "THALWEG_SECONDS", value_name = "S", default_value_t = 5.0)]
    pub seconds: f64,
    /// Replicas of the topics that are made; above 1 the cases are those of a cluster
    #[arg(long, env = "THALWEG_REPLICATION_FACTOR", value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub replication_factor: i32,
    /// Partitions of the topics that are written to as fast as it goes
    #[arg(long, env = "THALWEG_PARTITIONS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Partitions of the idle topic of a cluster; 0 leaves the case out
    #[arg(long, env = "THALWEG_IDLE_PARTITIONS", value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(i32).range(0..=10_000))]
    pub idle_partitions: i32,
    /// A shell command to run before each case, for example one that makes the page cache resident
    #[arg(long, env = "THALWEG_BEFORE_EACH", value_name = "COMMAND")]
    pub before_each: Option<String>,
}
