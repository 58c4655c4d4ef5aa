//! What a topic's configuration means for its partitions' logs.

use thalweg_core::batch::TimestampType;
use thalweg_core::config::TopicConfig;

/// The largest segment, in bytes: index entries hold positions as `i32`.
pub const MAX_SEGMENT_BYTES: u64 = i32::MAX as u64;

/// The first reservation of disk space for a segment that gets its first batch, in bytes.
pub const FIRST_RESERVE_BYTES: u64 = 1 << 20;

/// The largest single reservation of disk space, in bytes. Reservations double up to here.
pub const MAX_RESERVE_BYTES: u64 = 64 << 20;

/// One log's configuration. The names and defaults are Kafka's; `None` stands for Kafka's `-1` or "never".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment is closed before it grows beyond this. Default 1 GiB; at most [`MAX_SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// `segment.ms`: a segment is closed when its first batch is this old, in milliseconds. Default 7 days.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: up to this many milliseconds are taken off `segment.ms`, differing from segment to segment, so
    /// that not all partitions roll at once. Default 0.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: the largest index file; a full one closes the segment. Default 10 MiB.
    pub segment_index_bytes: u64,
    /// `index.interval.bytes`: bytes of log between two index entries. Default 4096.
    pub index_interval_bytes: u64,
    /// `retention.ms`: records older than this may go. `None`: kept for ever. Default 7 days.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: the oldest segments go while the log is larger than this. `None`, the default: no limit.
    pub retention_bytes: Option<u64>,
    /// Whether `cleanup.policy` has `delete`, so that retention applies. Default true.
    pub cleanup_delete: bool,
    /// Whether `cleanup.policy` has `compact`, so that offsets may have gaps. Default false.
    pub cleanup_compact: bool,
    /// `min.cleanable.dirty.ratio`, in thousandths: how much of a log must be uncompacted before it is compacted. Default 500.
    pub min_cleanable_dirty_permille: u16,
    /// `min.compaction.lag.ms`: a record stays uncompacted for this long at least. Default 0.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: a record is compacted after this long at most. `None`, the default: no such limit.
    pub max_compaction_lag_ms: Option<i64>,
    /// `delete.retention.ms`: how long tombstones outlive their compaction. Default 1 day.
    pub delete_retention_ms: i64,
    /// `flush.messages`: with write caching, fsync after this many records. `None`, the default: never for this reason.
    pub flush_messages: Option<u64>,
    /// `flush.ms`: with write caching, fsync when the oldest unsynced record is this old. `None`, the default: never.
    pub flush_ms: Option<i64>,
    /// `write.caching`: acknowledgements do not wait for fsync. Default false.
    pub write_caching: bool,
    /// `max.message.bytes`: the largest batch. Default 1,048,588. Checked by whoever makes the `ValidBatch`.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`. Default `CreateTime`.
    pub message_timestamp_type: TimestampType,
    /// `file.delete.delay.ms`: how long a deleted partition's files stay, renamed. Default 60 s.
    pub file_delete_delay_ms: i64,
    /// `producer.id.expiration.ms`: an idle producer's state is forgotten after this. Default 1 day.
    pub producer_id_expiration_ms: i64,
    /// The first reservation of disk space. 0 switches reservations off. Default [`FIRST_RESERVE_BYTES`].
    pub first_reserve_bytes: u64,
    /// The largest reservation of disk space. Default [`MAX_RESERVE_BYTES`].
    pub max_reserve_bytes: u64,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            cleanup_delete: true,
            cleanup_compact: false,
            min_cleanable_dirty_permille: 500,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: None,
            delete_retention_ms: DAY_MS,
            flush_messages: None,
            flush_ms: None,
            write_caching: false,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            file_delete_delay_ms: 60_000,
            producer_id_expiration_ms: DAY_MS,
            first_reserve_bytes: FIRST_RESERVE_BYTES,
            max_reserve_bytes: MAX_RESERVE_BYTES,
        }
    }
}

impl LogConfig {
    /// The largest size a segment may reach, in bytes.
    pub(crate) fn segment_limit(&self) -> u64 {
        self.segment_bytes.clamp(1, MAX_SEGMENT_BYTES)
    }

    /// How much to reserve behind a segment of `size` bytes: as much again as it holds, within the bounds.
    pub(crate) fn reserve_step(&self, size: u64) -> u64 {
        if self.first_reserve_bytes == 0 {
            return 0;
        }
        size.max(self.first_reserve_bytes).min(self.max_reserve_bytes)
    }
}

impl From<&TopicConfig> for LogConfig {
    /// What a topic's configuration says about its logs. `preallocate` changes nothing: disk space is always reserved in
    /// growing steps, without changing a file's length.
    fn from(topic: &TopicConfig) -> Self {
        LogConfig {
            segment_bytes: topic.segment_bytes,
            segment_ms: topic.segment_ms,
            segment_jitter_ms: topic.segment_jitter_ms,
            segment_index_bytes: topic.segment_index_bytes,
            index_interval_bytes: topic.index_interval_bytes,
            retention_ms: topic.retention_ms,
            retention_bytes: topic.retention_bytes,
            cleanup_delete: topic.cleanup_policy.delete,
            cleanup_compact: topic.cleanup_policy.compact,
            // The ratio lies between 0 and 1.
            min_cleanable_dirty_permille: (topic.min_cleanable_dirty_ratio * 1000.0).round() as u16,
            min_compaction_lag_ms: topic.min_compaction_lag_ms,
            max_compaction_lag_ms: topic.max_compaction_lag_ms,
            delete_retention_ms: topic.delete_retention_ms,
            flush_messages: topic.flush_messages,
            flush_ms: topic.flush_ms,
            write_caching: topic.write_caching,
            max_message_bytes: topic.max_message_bytes,
            message_timestamp_type: topic.message_timestamp_type,
            file_delete_delay_ms: topic.file_delete_delay_ms,
            ..LogConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_a_topic() {
        assert_eq!(LogConfig::from(&TopicConfig::default()), LogConfig::default());
    }

    #[test]
    fn reservations_grow_with_the_segment_within_their_bounds() {
        let config = LogConfig::default();
        assert_eq!(config.reserve_step(0), FIRST_RESERVE_BYTES);
        assert_eq!(config.reserve_step(5 << 20), 5 << 20);
        assert_eq!(config.reserve_step(1 << 30), MAX_RESERVE_BYTES);
        assert_eq!(LogConfig { first_reserve_bytes: 0, ..config }.reserve_step(1 << 20), 0);
    }
}
