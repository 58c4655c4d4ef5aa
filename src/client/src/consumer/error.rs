//! What goes wrong for a member of a group.

use crate::{ClientError, ConfigError, ReadError};
use std::time::Duration;
use thalweg_core::batch::BatchError;
use thalweg_core::metadata::command::Refusal;
use thalweg_core::{ErrorCode, Offset, TopicPartition};
use thalweg_proto::ApiError;

/// Why a consumer has nothing to give. Unless [`is_fatal`](Self::is_fatal), the next call goes on.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// It is not subscribed to anything.
    #[error("the consumer is not subscribed; name topics, or a pattern")]
    NotSubscribed,
    /// The group does not take the member: another process goes by its instance id, or a setting is refused.
    #[error("the consumer cannot be in the group: {0}")]
    Rejected(Refusal),
    /// The application took longer than `max_poll_interval` to come back, and the member left the group. The next call joins
    /// again.
    #[error(
        "more than {interval:?} (max.poll.interval.ms) passed between two calls for records, and the member left the group; do \
         less with each batch, ask for fewer records, or raise it"
    )]
    PollInterval {
        /// The setting.
        interval: Duration,
    },
    /// Nothing is committed for the partition, and `offset_reset` is none: it waits for a seek.
    #[error("nothing is committed for {at}, and auto.offset.reset is none; seek to where it shall begin")]
    NoOffset {
        /// The partition.
        at: TopicPartition,
    },
    /// Where the partition begins could not be found out: it waits for a seek. It was not reset.
    #[error("the offset at which {at} begins could not be had: {source}")]
    NoPosition {
        /// The partition.
        at: TopicPartition,
        /// Why.
        source: ClientError,
    },
    /// A partition cannot be read; it waits for a seek, the others go on.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A batch is damaged; its partition waits for a seek.
    #[error("what was read of {at} from offset {offset} on is damaged: {source}")]
    Corrupt {
        /// The partition.
        at: TopicPartition,
        /// The offset that would have come next.
        offset: Offset,
        /// What is wrong.
        source: BatchError,
    },
    /// A key or value is not what the deserializer expects. The next call goes on behind the record.
    #[error("the {part} of the record at offset {offset} of {at} is not understood: {source}")]
    Deserialize {
        /// The partition.
        at: TopicPartition,
        /// The record's offset.
        offset: Offset,
        /// `key` or `value`.
        part: &'static str,
        /// What the deserializer says.
        source: super::typed::DeserializeError,
    },
    /// The consumer does not have the partition.
    #[error("the consumer does not have {at}")]
    NotAssigned {
        /// The partition.
        at: TopicPartition,
    },
    /// The last commit before leaving failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The cluster could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Why offsets are not committed. Whatever was committed before still is.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The consumer is not in the group at the moment: what it had, others may have.
    #[error("the consumer is not in the group at the moment; its partitions may be another's")]
    NotMember,
    /// So many commits wait already.
    #[error("{0} commits wait already; wait for some of them")]
    TooMany(usize),
    /// Some partitions could not be committed, the others are.
    #[error("{}", describe(.0))]
    Partitions(Vec<(TopicPartition, ApiError)>),
    /// The group refused the commit, or could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
}

fn describe(failures: &[(TopicPartition, ApiError)]) -> String {
    match failures.first() {
        Some((at, error)) => format!("{} partitions were not committed; {at}: {error}", failures.len()),
        None => "no partition was committed".to_owned(),
    }
}

impl CommitError {
    /// The code that fits, where one does.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            CommitError::NotMember => Some(ErrorCode::UnknownMember),
            CommitError::TooMany(_) => Some(ErrorCode::Throttled),
            CommitError::Partitions(failures) => failures.first().map(|(_, error)| error.code),
            CommitError::Client(error) => error.code(),
        }
    }

    /// Whether the same commit may succeed later. One that was refused because the member does not have a partition any more
    /// never will: another goes on from what was committed before.
    pub fn retriable(&self) -> bool {
        match self {
            CommitError::NotMember => false,
            CommitError::TooMany(_) => true,
            CommitError::Partitions(failures) => {
                let no = thalweg_core::Retriable::No;
                failures.iter().all(|(_, error)| error.retriable() != no)
            }
            CommitError::Client(error) => error.retriable(),
        }
    }
}

impl ConsumerError {
    /// The code that fits, where one does.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ConsumerError::Rejected(refusal) => Some(refusal.code),
            ConsumerError::PollInterval { .. } => Some(ErrorCode::UnknownMember),
            ConsumerError::NoOffset { .. } => Some(ErrorCode::OffsetOutOfRange),
            ConsumerError::Read(error) => error.code(),
            ConsumerError::Corrupt { source, .. } => Some(source.code()),
            ConsumerError::NoPosition { source, .. } | ConsumerError::Client(source) => source.code(),
            ConsumerError::Commit(error) => error.code(),
            ConsumerError::NotSubscribed
            | ConsumerError::Deserialize { .. }
            | ConsumerError::NotAssigned { .. } => None,
        }
    }

    /// Whether the same call may succeed later without the caller doing anything.
    pub fn retriable(&self) -> bool {
        match self {
            ConsumerError::PollInterval { .. } => true,
            ConsumerError::Read(error) => error.retriable(),
            ConsumerError::NoPosition { source, .. } | ConsumerError::Client(source) => source.retriable(),
            ConsumerError::Commit(error) => error.retriable(),
            ConsumerError::NotSubscribed
            | ConsumerError::Rejected(_)
            | ConsumerError::NoOffset { .. }
            | ConsumerError::Corrupt { .. }
            | ConsumerError::Deserialize { .. }
            | ConsumerError::NotAssigned { .. } => false,
        }
    }

    /// Whether the consumer is at its end: every further call for records fails with the same.
    pub fn is_fatal(&self) -> bool {
        matches!(self, ConsumerError::NotSubscribed | ConsumerError::Rejected(_))
    }
}

impl From<ConfigError> for ConsumerError {
    fn from(error: ConfigError) -> ConsumerError {
        ConsumerError::Client(error.into())
    }
}
