//! The closed list of what can go wrong for a caller. It crosses the wire by name, so a code's meaning never
//! changes and a new code needs a reason on paper (`docs/adr/`).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether the same request may succeed if it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retriable {
    /// Never: the request itself must change.
    No,
    /// Yes, after a pause.
    Yes,
    /// Yes, after the caller has fetched fresh metadata (the leader moved).
    AfterRefresh,
}

macro_rules! codes {
    ($( $(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $retriable:ident; )*) => {
        /// A caller-visible error. The number is the wire's, the text the name in `google.rpc.ErrorInfo.reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $( $(#[$doc])* $name = $number, )*
        }

        impl ErrorCode {
            /// Every code, in the order of its number.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name),*];

            /// The code's name in upper snake case, as it stands in `ErrorInfo.reason`.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* }
            }

            /// Whether the request may be sent again.
            pub const fn retriable(self) -> Retriable {
                match self { $(ErrorCode::$name => Retriable::$retriable,)* }
            }
        }
    };
}

codes! {
    /// A fault of ours; the server's log says more.
    Internal = 1, "INTERNAL", No;
    /// A field of the request has an illegal value.
    InvalidRequest = 2, "INVALID_REQUEST", No;
    /// The topic does not exist.
    UnknownTopic = 3, "UNKNOWN_TOPIC", AfterRefresh;
    /// The topic has no such partition.
    UnknownPartition = 4, "UNKNOWN_PARTITION", AfterRefresh;
    /// A topic of that name exists.
    TopicAlreadyExists = 5, "TOPIC_ALREADY_EXISTS", No;
    /// The topic's name is not allowed.
    InvalidTopicName = 6, "INVALID_TOPIC_NAME", No;
    /// The partition count is not allowed, or would shrink.
    InvalidPartitions = 7, "INVALID_PARTITIONS", No;
    /// The replication factor is not allowed, or exceeds the live brokers.
    InvalidReplicationFactor = 8, "INVALID_REPLICATION_FACTOR", No;
    /// A configuration key is unknown or its value illegal.
    InvalidConfig = 9, "INVALID_CONFIG", No;
    /// A batch is malformed: bad checksum, length, count, varint or codec.
    CorruptBatch = 10, "CORRUPT_BATCH", No;
    /// A record or batch is larger than `max.message.bytes`.
    MessageTooLarge = 11, "MESSAGE_TOO_LARGE", No;
    /// A record's timestamp is out of the topic's bounds.
    InvalidTimestamp = 12, "INVALID_TIMESTAMP", No;
    /// The compression codec is unknown.
    UnsupportedCompression = 13, "UNSUPPORTED_COMPRESSION", No;
    /// The offset is outside the log; the details give the valid range.
    OffsetOutOfRange = 14, "OFFSET_OUT_OF_RANGE", No;
    /// This broker is not the partition's leader; the details name the leader.
    NotLeader = 15, "NOT_LEADER", AfterRefresh;
    /// The partition has no leader at the moment.
    LeaderNotAvailable = 16, "LEADER_NOT_AVAILABLE", AfterRefresh;
    /// The caller's leader epoch is older than the leader's.
    FencedLeaderEpoch = 17, "FENCED_LEADER_EPOCH", AfterRefresh;
    /// The caller's leader epoch is newer than this broker's.
    UnknownLeaderEpoch = 18, "UNKNOWN_LEADER_EPOCH", AfterRefresh;
    /// A producer's sequence leaves a gap.
    OutOfOrderSequence = 19, "OUT_OF_ORDER_SEQUENCE", No;
    /// The batch repeats one that is too old for its offset to be remembered.
    DuplicateSequence = 20, "DUPLICATE_SEQUENCE", No;
    /// The producer's epoch is old: another instance took over.
    InvalidProducerEpoch = 21, "INVALID_PRODUCER_EPOCH", No;
    /// The broker knows nothing of this producer id, and the sequence does not start at 0.
    UnknownProducerId = 22, "UNKNOWN_PRODUCER_ID", No;
    /// Fewer replicas in sync than `min.insync.replicas`; nothing was appended.
    NotEnoughReplicas = 23, "NOT_ENOUGH_REPLICAS", Yes;
    /// The ISR shrank below `min.insync.replicas` after the append.
    NotEnoughReplicasAfterAppend = 24, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", Yes;
    /// The request's time ran out; a write may or may not have happened.
    RequestTimedOut = 25, "REQUEST_TIMED_OUT", Yes;
    /// The log directory failed or is full; nothing was appended.
    StorageError = 26, "STORAGE_ERROR", Yes;
    /// The server has reached a limit of its own (memory, requests in flight).
    Throttled = 27, "THROTTLED", Yes;
    /// The server is stopping.
    ShuttingDown = 28, "SHUTTING_DOWN", AfterRefresh;
    /// No controller leads at the moment.
    ControllerNotAvailable = 29, "CONTROLLER_NOT_AVAILABLE", Yes;
    /// The broker's registration is not the current one.
    StaleBrokerEpoch = 30, "STALE_BROKER_EPOCH", No;
    /// A broker of that id is alive elsewhere.
    DuplicateBrokerId = 31, "DUPLICATE_BROKER_ID", No;
    /// The broker is not registered.
    BrokerNotRegistered = 32, "BROKER_NOT_REGISTERED", No;
    /// The caller belongs to another cluster.
    InconsistentClusterId = 33, "INCONSISTENT_CLUSTER_ID", No;
    /// The operation is not allowed by the topic's configuration.
    PolicyViolation = 34, "POLICY_VIOLATION", No;
    /// The partition's epoch is not the current one.
    InvalidPartitionEpoch = 35, "INVALID_PARTITION_EPOCH", AfterRefresh;
    /// The operation is not supported by this version.
    Unsupported = 36, "UNSUPPORTED", No;
    /// A leader that was just elected does not know yet how far its partition is committed.
    OffsetNotAvailable = 37, "OFFSET_NOT_AVAILABLE", Yes;
    /// No broker of that id is registered.
    UnknownBroker = 38, "UNKNOWN_BROKER", No;
    /// No reassignment of that partition is in progress.
    NoReassignmentInProgress = 39, "NO_REASSIGNMENT_IN_PROGRESS", No;
    /// The change of voters is not possible.
    InvalidVoters = 40, "INVALID_VOTERS", No;
    /// The group has no such member: it left, or its session ended. It joins anew.
    UnknownMember = 41, "UNKNOWN_MEMBER", No;
    /// The member's epoch is not the current one: it was fenced and gives up its partitions. It joins anew.
    FencedMemberEpoch = 42, "FENCED_MEMBER_EPOCH", No;
    /// A commit for a partition that the member does not have, or had before another did.
    StaleMemberEpoch = 43, "STALE_MEMBER_EPOCH", No;
    /// Another process goes by this instance id.
    FencedInstance = 44, "FENCED_INSTANCE", No;
    /// The group does not exist.
    UnknownGroup = 45, "UNKNOWN_GROUP", No;
    /// The group has members, and the operation is for empty groups.
    GroupNotEmpty = 46, "GROUP_NOT_EMPTY", No;
    /// No coordinator serves the group at the moment.
    CoordinatorNotAvailable = 47, "COORDINATOR_NOT_AVAILABLE", Yes;
    /// Another coordinator serves the group; the details name it.
    NotCoordinator = 48, "NOT_COORDINATOR", AfterRefresh;
    /// The coordinator's registration, or its lease of a shard, is not the current one.
    StaleCoordinatorEpoch = 49, "STALE_COORDINATOR_EPOCH", No;
    /// A process or an operation does not go with the feature level of the cluster.
    IncompatibleFeatureLevel = 50, "INCOMPATIBLE_FEATURE_LEVEL", No;
}

impl ErrorCode {
    /// The code of that name, if there is one.
    pub fn from_name(name: &str) -> Option<ErrorCode> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// The code of that number, if there is one.
    pub fn from_number(number: i32) -> Option<ErrorCode> {
        Self::ALL.iter().copied().find(|code| *code as i32 == number)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_parse_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(*code));
            assert_eq!(ErrorCode::from_number(*code as i32), Some(*code));
        }
    }
}
