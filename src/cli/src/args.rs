//! The command line. Every flag can be set as an environment variable too; the flag wins. A flag that may be given again has a
//! variable for one value.

mod admin;
mod cleaner;
mod groups;
mod operator;
mod servers;

pub use admin::{BrokerCommand, ClusterArgs, ClusterCommand, FeaturesCommand};
pub use groups::{GroupArgs, GroupCommand, MemberArgs, ResetArgs, ResetTo, StateArg, TopicChoice};
pub use operator::{OperatorArgs, OperatorCommand};
pub use servers::{
    BrokerArgs, ControllerArgs, CoordinatorArgs, DevArgs, SETTINGS_FILE, ServerArgs, WITH_SETTINGS_FILE,
};

use crate::commands::bench::args::BenchArgs;
use crate::commands::health::HealthArgs;
use crate::time::Moment;
use clap::builder::FalseyValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A message service for the cloud: Kafka's partitioned, replicated log, spoken over gRPC.
#[derive(Debug, Parser)]
#[command(
    name = "thalweg",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Examples:
  thalweg dev                                     start a broker here, on 127.0.0.1:9292
  thalweg topic create events --partitions 3
  thalweg produce events access.log               a record for each line
  tail -f access.log | thalweg produce events
  thalweg consume events --from-beginning")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub struct Global {
    /// Brokers to begin with; any one that answers is enough
    #[arg(
        long,
        global = true,
        env = "THALWEG_BOOTSTRAP",
        value_name = "HOST:PORT[,HOST:PORT]",
        value_delimiter = ',',
        default_value = "127.0.0.1:9292"
    )]
    pub bootstrap: Vec<String>,
    /// How to print results
    #[arg(short, long, global = true, env = "THALWEG_OUTPUT", value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
}

/// How to print results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole system in one process on one data folder
    Dev(DevArgs),
    /// Run a controller: it decides with the others of its group who leads what
    Controller(ControllerArgs),
    /// Run a broker: it holds partitions; or look after those that run
    Broker(Box<BrokerArgs>),
    /// Run a coordinator: it looks after consumer groups
    Coordinator(CoordinatorArgs),
    /// Run the operator: it looks after topics and brokers on Kubernetes; or print what it needs there
    Operator(OperatorArgs),
    /// Create, describe and change topics
    Topic(TopicArgs),
    /// Write records: one for each line of files or of standard input
    Produce(ProduceArgs),
    /// Read records, alone or as a member of a consumer group
    Consume(Box<ConsumeArgs>),
    /// Look at consumer groups, and move or forget what they committed
    Group(GroupArgs),
    /// Look into log files, without a server
    Log(LogArgs),
    /// Look at the cluster
    Cluster(ClusterArgs),
    /// Ask one server whether it serves
    Health(HealthArgs),
    /// Measure a cluster
    Bench(BenchArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  thalweg completions bash > /etc/bash_completion.d/thalweg")]
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub struct TopicArgs {
    #[command(subcommand)]
    pub command: TopicCommand,
}

#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    #[command(after_help = "Examples:
  thalweg topic create events --partitions 3
  thalweg topic create audit --config retention.ms=86400000 --config write.caching=true")]
    Create {
        /// 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'
        name: String,
        /// How many partitions; keys are spread over them [default: the cluster's, 1]
        #[arg(long, env = "THALWEG_PARTITIONS", value_name = "N", allow_hyphen_values = true)]
        partitions: Option<i32>,
        /// How many brokers hold each partition [default: the cluster's, 1]
        #[arg(long, env = "THALWEG_REPLICATION_FACTOR", value_name = "R", allow_hyphen_values = true)]
        replication_factor: Option<i32>,
        /// A key of the topic's configuration; may be given again
        #[arg(long = "config", env = "THALWEG_CONFIG", value_name = "K=V", value_parser = key_value)]
        configs: Vec<(String, String)>,
    },
    /// List the topics
    List,
    /// Show topics with their partitions, leaders, replicas and ISR
    Describe {
        /// The topic; all of them if not given
        name: Option<String>,
        /// Show every key of the topic's configuration (without a topic: the defaults) and what it does
        #[arg(long, env = "THALWEG_ALL_CONFIGS", value_parser = FalseyValueParser::new())]
        all_configs: bool,
    },
    /// Change a topic's configuration, or add partitions
    #[command(after_help = "Examples:
  thalweg topic alter events --config retention.ms=3600000
  thalweg topic alter events --delete-config retention.ms
  thalweg topic alter events --partitions 6      (keys may move to other partitions; partitions never shrink)")]
    Alter {
        /// The topic
        name: String,
        /// A key to set; may be given again
        #[arg(long = "config", env = "THALWEG_CONFIG", value_name = "K=V", value_parser = key_value)]
        configs: Vec<(String, String)>,
        /// A key to return to its default; may be given again
        #[arg(long = "delete-config", env = "THALWEG_DELETE_CONFIG", value_name = "K")]
        delete_configs: Vec<String>,
        /// How many partitions there shall be in all
        #[arg(long, env = "THALWEG_NEW_PARTITIONS", value_name = "N", allow_hyphen_values = true)]
        partitions: Option<i32>,
    },
    /// Delete a topic with all its records
    Delete {
        /// The topic
        name: String,
    },
    /// Give partitions other replicas, or show how far those that move are
    #[command(after_help = "Examples:
  thalweg topic reassign events --replicas 2,3,4                 all its partitions; the preferred leader first
  thalweg topic reassign events --partition 0 --replicas 2,3,4 --wait
  thalweg topic reassign events --partition 0 --cancel
  thalweg topic reassign                                         what moves at the moment")]
    Reassign {
        /// The topic; without one, what moves is shown of all
        name: Option<String>,
        /// Only this partition; may be given again [default: all]
        #[arg(
            long = "partition",
            env = "THALWEG_PARTITION",
            value_name = "P",
            value_delimiter = ',',
            requires = "name"
        )]
        partitions: Vec<i32>,
        /// The brokers that shall hold it, the preferred leader first
        #[arg(
            long,
            env = "THALWEG_REPLICAS",
            value_name = "ID,...",
            value_delimiter = ',',
            requires = "name"
        )]
        replicas: Vec<i32>,
        /// Stay where it is: take the replicas away again that are being added
        #[arg(long, env = "THALWEG_REASSIGN_CANCEL", value_parser = FalseyValueParser::new(), conflicts_with = "replicas", requires = "name")]
        cancel: bool,
        /// Wait until the replicas are where they shall be
        #[arg(long, env = "THALWEG_WAIT", value_parser = FalseyValueParser::new())]
        wait: bool,
    },
    /// Let the preferred replicas lead again, or revive partitions that have no leader
    #[command(after_help = "Examples:
  thalweg topic elect-leaders                          every partition's preferred replica, where it is in sync
  thalweg topic elect-leaders events --partition 0 --unclean
                                                       any live replica; what it does not have is lost")]
    ElectLeaders {
        /// The topic [default: all]
        name: Option<String>,
        /// Only this partition; may be given again [default: all]
        #[arg(
            long = "partition",
            env = "THALWEG_PARTITION",
            value_name = "P",
            value_delimiter = ',',
            requires = "name"
        )]
        partitions: Vec<i32>,
        /// Where nobody leads, let any live replica lead, in sync or not: records that it does not have are lost
        #[arg(long, env = "THALWEG_UNCLEAN", value_parser = FalseyValueParser::new(), requires = "name")]
        unclean: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thalweg produce events access.log error.log
  tail -f access.log | thalweg produce events
  thalweg produce events --key-separator : users.txt
  thalweg produce events -o json --acks all < lines    prints where each record went

Only a line's final \\n is cut; every other byte is kept.")]
pub struct ProduceArgs {
    /// The topic
    pub topic: String,
    /// Files to read, in order; '-' is standard input, which is also the default
    #[arg(value_name = "FILE|-")]
    pub files: Vec<PathBuf>,
    /// What parts a line's key from its value; a line without it has no key
    #[arg(long, env = "THALWEG_KEY_SEPARATOR", value_name = "S")]
    pub key_separator: Option<String>,
    /// The partition for every record [default: by key, or one after the other]
    #[arg(long, env = "THALWEG_PARTITION", value_name = "P", allow_hyphen_values = true)]
    pub partition: Option<i32>,
    /// When a record counts as written
    #[arg(long, env = "THALWEG_ACKS", value_name = "0|1|all", value_parser = acks, default_value = "all")]
    pub acks: thalweg_client::Acks,
    /// The codec for batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, env = "THALWEG_COMPRESSION", value_name = "C", default_value = "none", value_parser = compression)]
    pub compression: thalweg_core::compression::Compression,
    /// A header for every record; may be given again
    #[arg(long = "header", env = "THALWEG_HEADER", value_name = "K=V", value_parser = key_value)]
    pub headers: Vec<(String, String)>,
    /// Milliseconds to wait for more records before a batch is sent
    #[arg(long, env = "THALWEG_LINGER_MS", value_name = "MS", default_value_t = 5)]
    pub linger_ms: u64,
    /// Bytes of a batch
    #[arg(long, env = "THALWEG_BATCH_SIZE", value_name = "BYTES", default_value_t = 262_144)]
    pub batch_size: usize,
    /// Bytes of the largest record that is sent; the topic's max.message.bytes must allow it too
    #[arg(long, env = "THALWEG_MAX_REQUEST_SIZE", value_name = "BYTES", default_value_t = 1 << 20)]
    pub max_request_size: usize,
    /// Milliseconds after which a record that could not be written is given up
    #[arg(long, env = "THALWEG_DELIVERY_TIMEOUT_MS", value_name = "MS", default_value_t = 120_000)]
    pub delivery_timeout_ms: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thalweg consume events                               what comes from now on
  thalweg consume events --from-beginning --timeout-ms 1000
  thalweg consume events --partition 0 --offset 42 --max-records 1
  thalweg consume events --time 2026-01-31T12:00:00Z
  thalweg consume events -f '%t/%p@%o %k: %s\\n'
  thalweg consume events audit --group billing --auto-offset-reset earliest
  thalweg consume --pattern 'events-.*' --group billing --instance-id worker-1
  thalweg consume __consumer_offsets --include-internal --formatter offsets --from-beginning

A member of a group commits what it printed, once that is out; Ctrl-C and SIGTERM let it leave, and others take over at once.

Formats as in kcat: %t topic, %p partition, %o offset, %k key, %s value, %h headers, %T timestamp,
%K and %S lengths of key and value, %% a percent sign; \\n \\r \\t \\\\ \\xNN.")]
pub struct ConsumeArgs {
    /// The topics
    #[arg(value_name = "TOPIC", required_unless_present = "pattern")]
    pub topics: Vec<String>,
    /// Only this partition [default: all]
    #[arg(long, env = "THALWEG_PARTITION", value_name = "P", allow_hyphen_values = true)]
    pub partition: Option<i32>,
    /// Begin at the first record that is still there
    #[arg(long, env = "THALWEG_FROM_BEGINNING", value_parser = FalseyValueParser::new())]
    pub from_beginning: bool,
    /// Begin at this offset
    #[arg(
        long,
        env = "THALWEG_OFFSET",
        value_name = "N",
        conflicts_with = "time",
        allow_hyphen_values = true
    )]
    pub offset: Option<i64>,
    /// Begin at this time: milliseconds since 1970, RFC 3339, or "-10m" for ten minutes ago
    #[arg(long, env = "THALWEG_TIME", value_name = "T", allow_hyphen_values = true)]
    pub time: Option<Moment>,
    /// Stop after so many records
    #[arg(long, env = "THALWEG_MAX_RECORDS", value_name = "N")]
    pub max_records: Option<u64>,
    /// Stop when no record has come for so long
    #[arg(long, env = "THALWEG_TIMEOUT_MS", value_name = "T")]
    pub timeout_ms: Option<u64>,
    /// How to print a record
    #[arg(short, long, env = "THALWEG_FORMAT", value_name = "FORMAT", value_parser = crate::format::Format::parse)]
    pub format: Option<crate::format::Format>,
    /// Decode what a topic of the system holds, instead of printing it as it is
    #[arg(long, env = "THALWEG_FORMATTER", value_enum, value_name = "F", conflicts_with = "format")]
    pub formatter: Option<Formatter>,
    /// Read a topic of the system too, if it is named
    #[arg(long, env = "THALWEG_INCLUDE_INTERNAL", value_parser = FalseyValueParser::new())]
    pub include_internal: bool,
    #[command(flatten)]
    pub member: MemberArgs,
}

/// What decodes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Formatter {
    /// What consumer groups wrote to __consumer_offsets
    Offsets,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(subcommand)]
    pub command: LogCommand,
}

#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Print what a .log, .index, .timeindex, .snapshot or leader-epoch-checkpoint file holds
    #[command(after_help = "Examples:
  thalweg log dump thalweg-data/logs/events-0/00000000000000000000.log --records
  thalweg log dump thalweg-data/logs/events-0/00000000000000000000.log --verify   (exit 1 if it finds a fault)")]
    Dump {
        /// The file
        file: PathBuf,
        /// Print every record, not only the batches
        #[arg(long, env = "THALWEG_DUMP_RECORDS", value_parser = FalseyValueParser::new())]
        records: bool,
        /// Check checksums, counts, order and, for an index, every position
        #[arg(long, env = "THALWEG_DUMP_VERIFY", value_parser = FalseyValueParser::new())]
        verify: bool,
    },
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Of `--from-beginning`, `--offset` and `--time`, those that stand on the command line. Where one does, it wins over the
/// environment; two contradict each other.
pub fn consume_starts(matches: &ArgMatches) -> Vec<&'static str> {
    let given = |name: &&str| matches.value_source(name) == Some(ValueSource::CommandLine);
    ["from_beginning", "offset", "time"].into_iter().filter(given).collect()
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Parses `--acks`.
pub fn acks(text: &str) -> Result<thalweg_client::Acks, String> {
    match text {
        "0" => Ok(thalweg_client::Acks::None),
        "1" => Ok(thalweg_client::Acks::Leader),
        "all" | "-1" => Ok(thalweg_client::Acks::All),
        _ => Err("expected 0, 1 or all".to_owned()),
    }
}

/// Parses `--compression`.
pub fn compression(text: &str) -> Result<thalweg_core::compression::Compression, String> {
    text.parse().map_err(|_| "expected none, gzip, snappy, lz4 or zstd".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The contract: every flag can be set by an environment variable.
    #[test]
    fn every_flag_has_an_environment_variable() {
        fn check(command: &clap::Command, path: &str) {
            for arg in command.get_arguments().filter(|a| !a.is_positional()) {
                if matches!(arg.get_id().as_str(), "help" | "version") {
                    continue;
                }
                let env =
                    arg.get_env().unwrap_or_else(|| panic!("{path} --{} has no variable", arg.get_id()));
                assert!(env.to_string_lossy().starts_with("THALWEG_"), "{path} --{}", arg.get_id());
            }
            for sub in command.get_subcommands() {
                check(sub, &format!("{path} {}", sub.get_name()));
            }
        }
        check(&Cli::command(), "thalweg");
    }
}
