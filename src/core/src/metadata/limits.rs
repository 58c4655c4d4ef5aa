//! The bounds of the cluster's metadata. Everything here is held in the memory of every service, so all of it is bounded.

/// Topics in a cluster.
pub const MAX_TOPICS: usize = 20_000;
/// Partitions of one topic.
pub const MAX_PARTITIONS_PER_TOPIC: usize = 10_000;
/// Partitions in a cluster.
pub const MAX_PARTITIONS: usize = 100_000;
/// Replicas of one partition.
pub const MAX_REPLICATION_FACTOR: usize = 32;
/// Brokers in a cluster, fenced ones included.
pub const MAX_BROKERS: usize = 1_000;
/// Log directories of one broker.
pub const MAX_LOG_DIRS: usize = 64;
/// Log directories that are remembered as needed: one more than a broker can have, so that a list cut short is never all there.
pub const MAX_NEEDED_LOG_DIRS: usize = MAX_LOG_DIRS + 1;
/// Bytes of a log directory's id.
pub const MAX_LOG_DIR_ID_LEN: usize = 64;
/// Bytes of a rack's name.
pub const MAX_RACK_LEN: usize = 128;
/// Bytes of an endpoint's host: the longest name that DNS can carry, with its final dot.
pub const MAX_HOST_LEN: usize = 254;
/// Bytes of a cluster's id.
pub const MAX_CLUSTER_ID_LEN: usize = 64;
/// Keys that one command may set or remove, and that one topic may override.
pub const MAX_CONFIG_ENTRIES: usize = 100;
/// Bytes of a configuration key.
pub const MAX_CONFIG_KEY_LEN: usize = 128;
/// Partitions that one ElectLeaders command may name.
pub const MAX_ELECTIONS: usize = 10_000;
/// Producer ids in the block that brokers ask for, as in Kafka.
pub const PRODUCER_ID_BLOCK: i32 = 1_000;
/// Producer ids in one block at most.
pub const MAX_PRODUCER_ID_BLOCK: i32 = 1_000_000;
/// Partitions that one AlterPartitions or ReassignPartitions command may name.
pub const MAX_PARTITION_CHANGES: usize = 10_000;
/// Moves that one plan has at most, so that a command of them has room for the longest names.
pub const MAX_PLANNED_MOVES: usize = 2_000;
/// Controllers in a cluster, learners included.
pub const MAX_CONTROLLERS: usize = 32;
/// Coordinators in a cluster, fenced ones included; beyond it the one that is gone for longest is forgotten.
pub const MAX_COORDINATORS: usize = 1_000;
