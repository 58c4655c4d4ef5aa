//! The flags of consumer groups: `group`, and what makes `consume` a member of one.

use crate::time::Moment;
use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand, ValueEnum};
use std::str::FromStr;
use std::time::Duration;
use thalweg_runtime::config::parse_duration;

#[derive(Debug, Args)]
pub struct GroupArgs {
    #[command(subcommand)]
    pub command: GroupCommand,
}

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the consumer groups
    List {
        /// Only groups in this state; may be given again
        #[arg(
            long = "state",
            env = "THALWEG_GROUP_STATE",
            value_enum,
            value_name = "STATE",
            value_delimiter = ','
        )]
        states: Vec<StateArg>,
    },
    /// Show a group: its coordinator, its members and what they have, and how far it is in each partition
    #[command(after_help = "Examples:
  thalweg group describe billing
  thalweg group describe billing -o json | jq '[.partitions[].lag] | add'")]
    Describe {
        /// The group; several may be given
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Move a group's committed offsets. Shows where they would go; --execute does it
    #[command(after_help = "Examples:
  thalweg group reset-offsets billing --to-earliest                       shows what would be
  thalweg group reset-offsets billing --to-earliest --topic events:0,1 --execute
  thalweg group reset-offsets billing --to-time 2026-01-31T12:00:00Z --topic events --execute
  thalweg group reset-offsets billing --by-duration 2h --execute          to where the log was two hours ago
  thalweg group reset-offsets billing --shift-by -100 --execute

The group must have no members: stop its consumers first. Offsets outside the log go to its nearest end.")]
    ResetOffsets(ResetArgs),
    /// Forget groups with all their committed offsets
    Delete {
        /// The group; several may be given. It must have no members
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Forget what a group committed for some topics or partitions
    #[command(after_help = "Examples:
  thalweg group delete-offsets billing --topic events
  thalweg group delete-offsets billing --topic events:0,1 --topic audit

The group must have no members: stop its consumers first.")]
    DeleteOffsets {
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
        /// A topic, or some partitions of it; may be given again
        #[arg(long = "topic", env = "THALWEG_GROUP_TOPIC", value_name = "T[:P,...]", required = true)]
        topics: Vec<TopicChoice>,
    },
}

/// Where committed offsets are moved, and which.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("to").required(true).multiple(false)))]
pub struct ResetArgs {
    /// The group
    #[arg(value_name = "GROUP")]
    pub group: String,
    /// To the first record that is still there
    #[arg(long, env = "THALWEG_TO_EARLIEST", value_parser = FalseyValueParser::new(), group = "to")]
    pub to_earliest: bool,
    /// To the end: only what comes from now on
    #[arg(long, env = "THALWEG_TO_LATEST", value_parser = FalseyValueParser::new(), group = "to")]
    pub to_latest: bool,
    /// To this offset
    #[arg(
        long,
        env = "THALWEG_TO_OFFSET",
        value_name = "N",
        allow_hyphen_values = true,
        group = "to",
        value_parser = clap::value_parser!(i64).range(0..)
    )]
    pub to_offset: Option<i64>,
    /// To the first record that is not older: milliseconds since 1970, RFC 3339, or "-10m" for ten minutes ago
    #[arg(
        long,
        env = "THALWEG_TO_TIME",
        value_name = "T",
        allow_hyphen_values = true,
        group = "to",
        visible_alias = "to-datetime"
    )]
    pub to_time: Option<Moment>,
    /// To the first record that is not older than so long: 90s, 10m, 2h, 7d
    #[arg(long, env = "THALWEG_BY_DURATION", value_name = "TIME", value_parser = parse_duration, group = "to")]
    pub by_duration: Option<Duration>,
    /// So many records forward, or back if negative
    #[arg(long, env = "THALWEG_SHIFT_BY", value_name = "N", allow_hyphen_values = true, group = "to")]
    pub shift_by: Option<i64>,
    /// A topic, or some partitions of it; may be given again [default: everything that the group has committed]
    #[arg(long = "topic", env = "THALWEG_GROUP_TOPIC", value_name = "T[:P,...]")]
    pub topics: Vec<TopicChoice>,
    /// Do it; without this it is only shown
    #[arg(long, env = "THALWEG_EXECUTE", value_parser = FalseyValueParser::new())]
    pub execute: bool,
}

/// A topic, or some of its partitions: `events`, `events:0`, `events:0,3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicChoice {
    /// The topic.
    pub topic: String,
    /// The partitions; none: all.
    pub partitions: Vec<i32>,
}

impl FromStr for TopicChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<TopicChoice, String> {
        let expected =
            || format!("{text:?} is neither TOPIC nor TOPIC:PARTITION,..., for example events:0,3");
        let (topic, partitions) = match text.split_once(':') {
            None => (text, Vec::new()),
            Some((topic, numbers)) => {
                let number = |text: &str| text.trim().parse::<i32>().ok().filter(|number| *number >= 0);
                let numbers: Option<Vec<i32>> = numbers.split(',').map(number).collect();
                (topic, numbers.ok_or_else(expected)?)
            }
        };
        if topic.is_empty() {
            return Err(expected());
        }
        Ok(TopicChoice { topic: topic.to_owned(), partitions })
    }
}

/// What a group is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// It has no members
    Empty,
    /// The assignment is to be computed
    Assigning,
    /// Members are on their way to their assignment
    Reconciling,
    /// Every member has what it shall have
    Stable,
}

/// What makes `consume` a member of a group.
#[derive(Debug, Args)]
#[command(next_help_heading = "As a member of a consumer group")]
pub struct MemberArgs {
    /// Share the topics with the other members of this group, and commit what was printed
    #[arg(long, env = "THALWEG_GROUP", value_name = "G")]
    pub group: Option<String>,
    /// All topics whose whole name matches this regular expression, also those that are created later
    #[arg(long, env = "THALWEG_PATTERN", value_name = "RE", requires = "group", conflicts_with = "topics")]
    pub pattern: Option<String>,
    /// A name that stays: a member that comes back under it within its session finds its partitions again
    #[arg(long, env = "THALWEG_INSTANCE_ID", value_name = "I", requires = "group")]
    pub instance_id: Option<String>,
    /// The member's id [default: one that no other has]
    #[arg(long, env = "THALWEG_MEMBER_ID", value_name = "M", requires = "group")]
    pub member_id: Option<String>,
    /// How the group shares out partitions: uniform, range or roundrobin; what most members name counts
    #[arg(long, env = "THALWEG_ASSIGNOR", value_name = "A", requires = "group")]
    pub assignor: Option<String>,
    /// Where to begin in a partition that the group has committed nothing for [default: latest]
    #[arg(long, env = "THALWEG_AUTO_OFFSET_RESET", value_enum, value_name = "WHERE", requires = "group")]
    pub auto_offset_reset: Option<ResetTo>,
    /// Milliseconds between two commits of what was printed
    #[arg(long, env = "THALWEG_COMMIT_INTERVAL_MS", value_name = "MS", default_value_t = 1_000)]
    pub commit_interval_ms: u64,
    /// Milliseconds without a sign of life after which the group goes on without this member
    #[arg(long, env = "THALWEG_SESSION_TIMEOUT_MS", value_name = "MS", default_value_t = 45_000)]
    pub session_timeout_ms: u64,
    /// Milliseconds that printing may take before the group goes on without this member
    #[arg(long, env = "THALWEG_MAX_POLL_INTERVAL_MS", value_name = "MS", default_value_t = 300_000)]
    pub max_poll_interval_ms: u64,
}

/// Where a member begins without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResetTo {
    /// At the first record that is still there
    Earliest,
    /// At the end
    Latest,
    /// Nowhere: fail
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_partitions_are_read() {
        let choice = |topic: &str, partitions: &[i32]| {
            Ok(TopicChoice { topic: topic.to_owned(), partitions: partitions.to_vec() })
        };
        assert_eq!("events".parse(), choice("events", &[]));
        assert_eq!("events:3".parse(), choice("events", &[3]));
        assert_eq!("events:0,12".parse(), choice("events", &[0, 12]));
        for bad in ["", ":1", "events:", "events:x", "events:-1", "events:1,,2"] {
            assert!(bad.parse::<TopicChoice>().is_err(), "{bad}");
        }
    }
}
