//! The part of a topic's configuration that produce reads for each batch, ready to use.

use thalweg_core::Timestamp;
use thalweg_core::batch::TimestampType;
use thalweg_core::compression::Compression;
use thalweg_core::config::TopicConfig;
use thalweg_log::LogConfig;

/// What a leader checks a batch against.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicSettings {
    /// `max.message.bytes`: the largest batch, as sent.
    pub max_message_bytes: usize,
    /// `min.insync.replicas`.
    pub min_insync_replicas: usize,
    /// `compression.type`; `None` for `producer`: as it was sent.
    pub compression: Option<Compression>,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`; `None` when any age is allowed.
    pub timestamp_before_max_ms: Option<i64>,
    /// `message.timestamp.after.max.ms`; `None` when any time to come is allowed.
    pub timestamp_after_max_ms: Option<i64>,
    /// `write.caching`.
    pub write_caching: bool,
    /// Whether `cleanup.policy` has `compact`: then a record without a key is refused.
    pub keys_required: bool,
}

impl From<&TopicConfig> for TopicSettings {
    fn from(config: &TopicConfig) -> TopicSettings {
        TopicSettings {
            max_message_bytes: config.max_message_bytes,
            min_insync_replicas: config.min_insync_replicas,
            compression: config.compression_type.codec(),
            timestamp_type: config.message_timestamp_type,
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
            write_caching: config.write_caching,
            keys_required: config.cleanup_policy.compact,
        }
    }
}

impl TopicSettings {
    /// Whether a record of that time may be appended at `now`.
    pub fn allows(&self, timestamp: Timestamp, now: Timestamp) -> bool {
        let age = now.millis_since(timestamp);
        self.timestamp_before_max_ms.is_none_or(|most| age <= most)
            && self.timestamp_after_max_ms.is_none_or(|most| age.saturating_neg() <= most)
    }
}

/// What a topic's configuration means for its partitions' logs.
pub fn log_config(config: &TopicConfig) -> LogConfig {
    LogConfig::from(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_held_against_both_bounds() {
        let now = Timestamp(1_000);
        let bounded = TopicSettings {
            timestamp_before_max_ms: Some(100),
            timestamp_after_max_ms: Some(10),
            ..TopicSettings::from(&TopicConfig::default())
        };
        for (at, allowed) in [(899, false), (900, true), (1_010, true), (1_011, false), (i64::MIN, false)] {
            assert_eq!(bounded.allows(Timestamp(at), now), allowed, "{at}");
        }
        let free = TopicSettings { timestamp_before_max_ms: None, timestamp_after_max_ms: None, ..bounded };
        assert!(free.allows(Timestamp(i64::MIN), now) && free.allows(Timestamp(i64::MAX), now));
    }
}
