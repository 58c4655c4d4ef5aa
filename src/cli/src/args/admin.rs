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
    /// Remove a controller from the group; its id is never used again
    RemoveVoter {
        /// The controller
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
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
