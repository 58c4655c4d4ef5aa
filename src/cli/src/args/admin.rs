//! The flags of the commands that look after a cluster: `cluster`, `broker list|drain|unregister`.

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use thalweg_controller::Voter;

#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    pub command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the controllers, the brokers and what ails; exit 1 if a partition is offline
    Describe,
    /// Say whether all is well: a leading controller, every broker there, every replica in sync; exit 1 if not
    #[command(after_help = "Examples:
  thalweg cluster health
  thalweg cluster health --timeout-ms 60000      waits until all is well, at most so long")]
    Health {
        /// Milliseconds to wait until all is well
        #[arg(long, env = "THALWEG_TIMEOUT_MS", value_name = "T", default_value_t = 0)]
        timeout_ms: u64,
    },
    /// Take a running controller, started with --join, into the group of those that vote
    #[command(after_help = "Example:
  thalweg controller --node-id 4 --listen 10.0.0.4:9490 --data-dir DIR --join --voters 1@10.0.0.1:9490
  thalweg cluster add-voter 4@10.0.0.4:9490

A controller whose disk was lost is removed and comes back under a new id.")]
    AddVoter {
        /// The controller and where it is reached
        #[arg(value_name = "ID@HOST:PORT")]
        voter: Voter,
    },
    /// Show the feature level in force and which levels each process supports, or raise it
    #[command(after_help = "Examples:
  thalweg cluster features
  thalweg cluster features upgrade --dry-run      would it be taken?
  thalweg cluster features upgrade                when every process runs the new version

A level is never lowered: a program that does not know it can no longer be part of the cluster.")]
    Features {
        #[command(subcommand)]
        command: Option<FeaturesCommand>,
    },
    /// Forget a coordinator that is gone for good
    #[command(after_help = "Example:
  thalweg cluster remove-coordinator 3

One that was stopped on request is forgotten at once, and one that is gone for ten minutes too (the controllers'
--coordinator-forget-after). One that is alive is not forgotten: stop it.")]
    RemoveCoordinator {
        /// The coordinator
        #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
        id: i32,
    },
    /// Remove a controller from the group; its id is never used again
    RemoveVoter {
        /// The controller
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
    },
}

#[derive(Debug, Subcommand)]
pub enum FeaturesCommand {
    /// Raise the level, for ever; refused while a process is too old
    Upgrade {
        /// The level [default: the newest that the leading controller knows]
        #[arg(long, env = "THALWEG_FEATURE_LEVEL", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        level: Option<u16>,
        /// Check only; change nothing
        #[arg(long, env = "THALWEG_DRY_RUN", value_parser = FalseyValueParser::new())]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// List the brokers with their state, replicas and leaderships
    List,
    /// Move everything off a broker and say when it is safe to stop it
    #[command(after_help = "Examples:
  thalweg broker drain 3
  thalweg broker drain 3 --no-wait
  thalweg broker drain 3 --cancel      it may have replicas again

Ctrl-C ends the waiting, not the drain.")]
    Drain {
        /// The broker
        #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
        id: i32,
        /// Let it have replicas again
        #[arg(long, env = "THALWEG_DRAIN_CANCEL", value_parser = FalseyValueParser::new())]
        cancel: bool,
        /// Begin only; do not wait until it holds nothing
        #[arg(long, env = "THALWEG_NO_WAIT", value_parser = FalseyValueParser::new())]
        no_wait: bool,
        /// Milliseconds to wait at most [default: for ever]
        #[arg(long, env = "THALWEG_TIMEOUT_MS", value_name = "T", conflicts_with_all = ["cancel", "no_wait"])]
        timeout_ms: Option<u64>,
    },
    /// Forget a broker that holds no replica and is not alive
    Unregister {
        /// The broker
        #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
        id: i32,
    },
}
