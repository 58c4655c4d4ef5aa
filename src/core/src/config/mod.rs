//! A topic's configuration: the catalogue of keys, the checked overrides, and the typed result.

pub mod catalogue;
mod error;
#[cfg(test)]
mod tests;
mod value;

pub use catalogue::{CATALOGUE, ConfigKey};
pub use error::ConfigError;
pub use value::{Allowed, Kind, MAX_VALUE_LEN, Unit};

use crate::batch::TimestampType;
use crate::compression::Compression;
use std::collections::BTreeMap;

/// The overrides of one topic: key to value, both as text. What is not in it has its default.
pub type Overrides = BTreeMap<String, String>;

/// `compression.type`: how a topic's batches are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopicCompression {
    /// As the producer sent them.
    #[default]
    Producer,
    /// In this codec; others are encoded anew.
    Codec(Compression),
}

impl TopicCompression {
    /// The codec that batches must have, or `None` when any will do.
    pub const fn codec(self) -> Option<Compression> {
        match self {
            TopicCompression::Producer => None,
            TopicCompression::Codec(codec) => Some(codec),
        }
    }

    fn from_word(word: &str) -> TopicCompression {
        match word {
            "uncompressed" => TopicCompression::Codec(Compression::None),
            "gzip" => TopicCompression::Codec(Compression::Gzip),
            "snappy" => TopicCompression::Codec(Compression::Snappy),
            "lz4" => TopicCompression::Codec(Compression::Lz4),
            "zstd" => TopicCompression::Codec(Compression::Zstd),
            _ => TopicCompression::Producer,
        }
    }
}

/// `cleanup.policy`: what happens to old records. At least one of the two holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Whether only the last record of each key stays.
    pub compact: bool,
    /// Whether retention removes old segments.
    pub delete: bool,
}

impl Default for CleanupPolicy {
    fn default() -> Self {
        CleanupPolicy { compact: false, delete: true }
    }
}

impl CleanupPolicy {
    fn from_word(word: &str) -> CleanupPolicy {
        match word {
            "compact" => CleanupPolicy { compact: true, delete: false },
            "compact,delete" => CleanupPolicy { compact: true, delete: true },
            _ => CleanupPolicy::default(),
        }
    }
}

/// A topic's configuration, resolved: every key has its override or its default. The catalogue says what each key does.
/// `None` stands for Kafka's "no limit" or "never". Times are in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// `cleanup.policy`. Default `delete`.
    pub cleanup_policy: CleanupPolicy,
    /// `compression.type`. Default: as sent.
    pub compression_type: TopicCompression,
    /// `delete.retention.ms`. Default one day.
    pub delete_retention_ms: i64,
    /// `file.delete.delay.ms`. Default one minute.
    pub file_delete_delay_ms: i64,
    /// `flush.messages`. Default `None`.
    pub flush_messages: Option<u64>,
    /// `flush.ms`. Default `None`.
    pub flush_ms: Option<i64>,
    /// `index.interval.bytes`. Default 4096.
    pub index_interval_bytes: u64,
    /// `max.compaction.lag.ms`. Default `None`.
    pub max_compaction_lag_ms: Option<i64>,
    /// `max.message.bytes`, of a whole batch as sent. Default 1,048,588.
    pub max_message_bytes: usize,
    /// `message.timestamp.after.max.ms`. Default one hour.
    pub message_timestamp_after_max_ms: Option<i64>,
    /// `message.timestamp.before.max.ms`. Default `None`.
    pub message_timestamp_before_max_ms: Option<i64>,
    /// `message.timestamp.type`. Default the producer's time.
    pub message_timestamp_type: TimestampType,
    /// `min.cleanable.dirty.ratio`. Default 0.5.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`. Default 0.
    pub min_compaction_lag_ms: i64,
    /// `min.insync.replicas`. Default 1.
    pub min_insync_replicas: usize,
    /// `preallocate`. Default false.
    pub preallocate: bool,
    /// `retention.bytes`, of a partition. Default `None`.
    pub retention_bytes: Option<u64>,
    /// `retention.ms`. Default 7 days.
    pub retention_ms: Option<i64>,
    /// `segment.bytes`. Default 1 GiB.
    pub segment_bytes: u64,
    /// `segment.index.bytes`. Default 10 MiB.
    pub segment_index_bytes: u64,
    /// `segment.jitter.ms`. Default 0.
    pub segment_jitter_ms: i64,
    /// `segment.ms`. Default 7 days.
    pub segment_ms: i64,
    /// `unclean.leader.election.enable`. Default false.
    pub unclean_leader_election_enable: bool,
    /// `write.caching`. Default false: acks=all waits for fsync.
    pub write_caching: bool,
}

impl Default for TopicConfig {
    fn default() -> Self {
        const MINUTE_MS: i64 = 60_000;
        const HOUR_MS: i64 = 60 * MINUTE_MS;
        const DAY_MS: i64 = 24 * HOUR_MS;
        TopicConfig {
            cleanup_policy: CleanupPolicy::default(),
            compression_type: TopicCompression::Producer,
            delete_retention_ms: DAY_MS,
            file_delete_delay_ms: MINUTE_MS,
            flush_messages: None,
            flush_ms: None,
            index_interval_bytes: 4096,
            max_compaction_lag_ms: None,
            max_message_bytes: 1_048_588,
            message_timestamp_after_max_ms: Some(HOUR_MS),
            message_timestamp_before_max_ms: None,
            message_timestamp_type: TimestampType::CreateTime,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            min_insync_replicas: 1,
            preallocate: false,
            retention_bytes: None,
            retention_ms: Some(7 * DAY_MS),
            segment_bytes: 1 << 30,
            segment_index_bytes: 10 << 20,
            segment_jitter_ms: 0,
            segment_ms: 7 * DAY_MS,
            unclean_leader_election_enable: false,
            write_caching: false,
        }
    }
}

impl TopicConfig {
    /// The configuration that these overrides make. The first key at fault, in the order of the keys, is the error.
    pub fn resolve(overrides: &Overrides) -> Result<TopicConfig, ConfigError> {
        let mut config = TopicConfig::default();
        for (key, given) in overrides {
            let key = ConfigKey::find(key).ok_or_else(|| ConfigError::unknown(key))?;
            (key.set)(&mut config, key.kind.parse(key.name, key.unit, given)?);
        }
        config.check_conflicts()?;
        Ok(config)
    }

    /// Like [`TopicConfig::resolve`], but an override that this version does not know or allow has no effect. For
    /// metadata that another version wrote: it must stay readable.
    pub fn resolve_lossy(overrides: &Overrides) -> TopicConfig {
        let mut config = TopicConfig::default();
        for (key, given) in overrides {
            if let Some(key) = ConfigKey::find(key)
                && let Ok(value) = key.kind.parse(key.name, key.unit, given)
            {
                (key.set)(&mut config, value);
            }
        }
        config
    }

    fn check_conflicts(&self) -> Result<(), ConfigError> {
        match self.max_compaction_lag_ms {
            Some(limit) if self.min_compaction_lag_ms > limit => Err(ConfigError::Conflict {
                key: "min.compaction.lag.ms",
                value: self.min_compaction_lag_ms,
                limit_key: "max.compaction.lag.ms",
                limit,
            }),
            _ => Ok(()),
        }
    }
}

/// Checks one override and gives its value the one text form in which it is stored (`TRUE` becomes `true`, `007` becomes `7`).
pub fn normalize(key: &str, given: &str) -> Result<String, ConfigError> {
    let key = ConfigKey::find(key).ok_or_else(|| ConfigError::unknown(key))?;
    key.kind.parse(key.name, key.unit, given).map(|value| value.to_string())
}

/// One key of a topic's configuration, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key.
    pub name: &'static str,
    /// The value in force.
    pub value: String,
    /// The default.
    pub default_value: &'static str,
    /// Whether the topic does not override it.
    pub is_default: bool,
    /// What the key does.
    pub doc: &'static str,
    /// What its number counts.
    pub unit: Unit,
}

/// Every key with its value under these overrides, in the order of the names.
pub fn describe(overrides: &Overrides) -> Vec<ConfigEntry> {
    CATALOGUE
        .iter()
        .map(|key| {
            let given = overrides.get(key.name);
            ConfigEntry {
                name: key.name,
                value: given.map_or_else(|| key.default.to_owned(), Clone::clone),
                default_value: key.default,
                is_default: given.is_none(),
                doc: key.doc,
                unit: key.unit,
            }
        })
        .collect()
}
