//! Every topic configuration there is: Kafka's names, defaults and bounds, and one key of our own.

use super::CleanupPolicy;
use super::TopicCompression;
use super::TopicConfig;
use super::value::{Kind, Unit, Value};
use crate::batch::TimestampType;

/// The largest number that fits the places where files and the protocol keep a size as a signed 32-bit number.
const MAX_I32: i64 = i32::MAX as i64;

/// Kafka's smallest `segment.bytes`: 1 MiB.
pub const MIN_SEGMENT_BYTES: i64 = 1 << 20;

/// The smallest `max.message.bytes`: a batch header of 61 bytes and one empty record of 7. Kafka allows 0, which would
/// refuse every record.
pub const MIN_MESSAGE_BYTES: i64 = 68;

/// The largest `max.message.bytes`: 64 MiB. Kafka has no such limit; here a batch is held in memory as a whole, so it needs one.
pub const MAX_MESSAGE_BYTES: i64 = 64 << 20;

/// The smallest `segment.index.bytes`: one entry of the time index. With Kafka's 4 no entry would fit.
pub const MIN_INDEX_BYTES: i64 = 12;

/// The largest `min.insync.replicas`, as many as a partition can have replicas.
pub const MAX_MIN_INSYNC_REPLICAS: i64 = crate::metadata::limits::MAX_REPLICATION_FACTOR as i64;

/// One key of the catalogue.
#[derive(Debug)]
pub struct ConfigKey {
    /// The key, as in Kafka.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What its number counts.
    pub unit: Unit,
    /// Its default, in text form.
    pub default: &'static str,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
    /// Puts a checked value into its field.
    pub(super) set: fn(&mut TopicConfig, Value),
}

impl ConfigKey {
    /// The key of that name, if there is one.
    pub fn find(name: &str) -> Option<&'static ConfigKey> {
        CATALOGUE.binary_search_by(|key| key.name.cmp(name)).ok().map(|found| &CATALOGUE[found])
    }
}

const fn at_least(min: i64) -> Kind {
    Kind::Int { min, max: i64::MAX, minus_one: None }
}

const fn between(min: i64, max: i64) -> Kind {
    Kind::Int { min, max, minus_one: None }
}

const fn or_minus_one(min: i64, minus_one: &'static str) -> Kind {
    Kind::Int { min, max: i64::MAX, minus_one: Some(minus_one) }
}

/// `i64::MAX` is Kafka's way to say "never".
fn unless_never(number: i64) -> Option<i64> {
    (number != i64::MAX).then_some(number)
}

/// `-1` is Kafka's way to say "no limit".
fn unless_negative(number: i64) -> Option<i64> {
    (number >= 0).then_some(number)
}

macro_rules! catalogue {
    ($( $name:literal $kind:expr, $unit:ident, $default:literal, $variant:ident($value:ident) => $config:ident $set:block, $doc:literal; )*) => {
        /// Every key, in the order of its name.
        pub static CATALOGUE: &[ConfigKey] = &[$(
            ConfigKey {
                name: $name,
                kind: $kind,
                unit: Unit::$unit,
                default: $default,
                doc: $doc,
                // The kind decides the variant, so no other one can arrive here; a test sets every key.
                set: |$config, value| if let Value::$variant($value) = value { $set },
            },
        )*];
    };
}

catalogue! {
    "cleanup.policy" Kind::CleanupPolicy, None, "delete",
        Word(word) => config { config.cleanup_policy = CleanupPolicy::from_word(word) },
        "What happens to old records. \"delete\" drops whole segments when retention.ms or retention.bytes is reached; \"compact\" keeps the last record of each key, and refuses records without one; \"compact,delete\" does both.";
    "compression.type" Kind::Choice(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]), None, "producer",
        Word(word) => config { config.compression_type = TopicCompression::from_word(word) },
        "The codec that batches are stored with. \"producer\" stores what was sent; any other makes the leader encode batches anew when they come in another codec.";
    "delete.retention.ms" at_least(0), Milliseconds, "86400000",
        Int(number) => config { config.delete_retention_ms = number },
        "How long a compacted log keeps the marker of a deleted key (a record without a value) after it was compacted, so that readers can see it.";
    "file.delete.delay.ms" at_least(0), Milliseconds, "60000",
        Int(number) => config { config.file_delete_delay_ms = number },
        "How long the files of deleted segments and partitions stay on disk, renamed, before they are removed.";
    "flush.messages" at_least(1), Records, "9223372036854775807",
        Int(number) => config { config.flush_messages = unless_never(number).map(|number| number as u64) },
        "With write.caching, fsync after this many records. The default never does for this reason. Without write.caching every acks=all append is fsynced anyway.";
    "flush.ms" at_least(0), Milliseconds, "9223372036854775807",
        Int(number) => config { config.flush_ms = unless_never(number) },
        "With write.caching, fsync when the oldest record not yet on disk is this old. The default never does for this reason.";
    "index.interval.bytes" between(0, MAX_I32), Bytes, "4096",
        Int(number) => config { config.index_interval_bytes = number as u64 },
        "How much log lies between two entries of the offset index. Less makes lookups exact and the index large.";
    "max.compaction.lag.ms" at_least(1), Milliseconds, "9223372036854775807",
        Int(number) => config { config.max_compaction_lag_ms = unless_never(number) },
        "How long a record of a compacted log may stay uncompacted at most, whatever min.cleanable.dirty.ratio says. The active segment is rolled when it is this old.";
    "max.message.bytes" between(MIN_MESSAGE_BYTES, MAX_MESSAGE_BYTES), Bytes, "1048588",
        Int(number) => config { config.max_message_bytes = number as usize },
        "The largest batch of records that is accepted, as it was sent (after compression).";
    "message.timestamp.after.max.ms" at_least(0), Milliseconds, "3600000",
        Int(number) => config { config.message_timestamp_after_max_ms = unless_never(number) },
        "How far a record's timestamp may lie ahead of the leader's clock. Only with message.timestamp.type=CreateTime.";
    "message.timestamp.before.max.ms" at_least(0), Milliseconds, "9223372036854775807",
        Int(number) => config { config.message_timestamp_before_max_ms = unless_never(number) },
        "How far a record's timestamp may lie behind the leader's clock. Only with message.timestamp.type=CreateTime. The default sets no limit.";
    "message.timestamp.type" Kind::Choice(&["CreateTime", "LogAppendTime"]), None, "CreateTime",
        Word(word) => config { config.message_timestamp_type = if word == "LogAppendTime" { TimestampType::LogAppendTime } else { TimestampType::CreateTime } },
        "Whether a record keeps the producer's timestamp (CreateTime) or gets the leader's at the append (LogAppendTime).";
    "min.cleanable.dirty.ratio" Kind::Ratio, Ratio, "0.5",
        Ratio(number) => config { config.min_cleanable_dirty_ratio = number },
        "The part of a compacted log that must be uncompacted before compaction starts.";
    "min.compaction.lag.ms" at_least(0), Milliseconds, "0",
        Int(number) => config { config.min_compaction_lag_ms = number },
        "How long a record of a compacted log stays uncompacted at least.";
    "min.insync.replicas" between(1, MAX_MIN_INSYNC_REPLICAS), Replicas, "1",
        Int(number) => config { config.min_insync_replicas = number as usize },
        "How many replicas must be in sync for an acks=all append to be accepted.";
    "preallocate" Kind::Bool, None, "false",
        Bool(flag) => config { config.preallocate = flag },
        "Kept for Kafka's tools. Disk space is always reserved in growing steps ahead of the writes, and given back when a segment is closed.";
    "retention.bytes" or_minus_one(0, "no limit"), Bytes, "-1",
        Int(number) => config { config.retention_bytes = unless_negative(number).map(|number| number as u64) },
        "The size of a partition from which on its oldest segments are deleted.";
    "retention.ms" or_minus_one(0, "no limit"), Milliseconds, "604800000",
        Int(number) => config { config.retention_ms = unless_negative(number) },
        "How long records are kept. A segment is deleted when its newest record is this old.";
    "segment.bytes" between(MIN_SEGMENT_BYTES, MAX_I32), Bytes, "1073741824",
        Int(number) => config { config.segment_bytes = number as u64 },
        "The size of a segment file from which on the next one is started.";
    "segment.index.bytes" between(MIN_INDEX_BYTES, MAX_I32), Bytes, "10485760",
        Int(number) => config { config.segment_index_bytes = number as u64 },
        "The largest size of a segment's index files. A full index starts the next segment.";
    "segment.jitter.ms" at_least(0), Milliseconds, "0",
        Int(number) => config { config.segment_jitter_ms = number },
        "Up to this much is taken off segment.ms, differing from segment to segment, so that not all partitions roll at once.";
    "segment.ms" at_least(1), Milliseconds, "604800000",
        Int(number) => config { config.segment_ms = number },
        "The age of a segment from which on the next one is started even if it is not full.";
    "unclean.leader.election.enable" Kind::Bool, None, "false",
        Bool(flag) => config { config.unclean_leader_election_enable = flag },
        "Whether a replica that is not in sync may lead when no other can. It makes the partition available and loses acknowledged records.";
    "write.caching" Kind::Bool, None, "false",
        Bool(flag) => config { config.write_caching = flag },
        "Whether acks=all is answered before the records are fsynced. Faster; a power cut on every in-sync replica at once loses records.";
}
