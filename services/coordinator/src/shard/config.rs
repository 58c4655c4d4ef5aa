//! What a shard is told to keep to. Every bound is here.

use std::ops::RangeInclusive;
use std::time::Duration;
use thalweg_core::group::heartbeat::MAX_MEMBERS;
use thalweg_core::group::records::{MAX_OFFSET_METADATA, MAX_VALUE_BYTES};

/// Limits and times of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// Members of one group (`group.max.size`). Default, and at most, 10,000.
    pub max_group_size: usize,
    /// Groups of one shard. Default 10,000. Beyond it a new group is refused with THROTTLED.
    pub max_groups: usize,
    /// Members of one shard, over all its groups. Default 50,000. Beyond it a new member is refused with THROTTLED.
    pub max_members: usize,
    /// Committed offsets of one shard, over all its groups. Default 2,000,000. Beyond it only offsets that are there already
    /// can be committed; others are refused with THROTTLED.
    pub max_offsets: usize,
    /// Heartbeats of one shard that wait for something to tell. Default 50,000. Beyond it a heartbeat is answered at once.
    pub max_held: usize,
    /// Offsets in one commit. Default 10,000.
    pub max_commit: usize,
    /// Partitions that one heartbeat or question may name. Default 200,000.
    pub max_named: usize,
    /// Bytes of one record, as far as the `max.message.bytes` of `__consumer_offsets` allows it. What needs a larger one is
    /// refused with INVALID_REQUEST. Default, and at most, 8 MiB.
    pub max_record_bytes: usize,
    /// What a member may ask for (`group.consumer.min.session.timeout.ms` and `max`). Default 1 s to 30 min.
    pub session_timeouts: RangeInclusive<Duration>,
    /// `session.timeout.ms` of a member that says nothing (`group.consumer.session.timeout.ms`). Default 45 s.
    pub session_timeout: Duration,
    /// What a member may ask for. Default 1 s to 24 h.
    pub rebalance_timeouts: RangeInclusive<Duration>,
    /// `max.poll.interval.ms` of a member that says nothing. Default 5 min.
    pub rebalance_timeout: Duration,
    /// How soon members are told to send the next heartbeat (`group.consumer.heartbeat.interval.ms`). Default 3 s.
    pub heartbeat_interval: Duration,
    /// For how long a heartbeat may be held, whatever its `max_wait_ms`. Default 60 s.
    pub max_hold: Duration,
    /// Changes within this are one assignment. Default 20 ms.
    pub assignment_delay: Duration,
    /// What each member of a group adds to that, so that a great group that fills up is not assigned too often. Default 100 µs.
    pub assignment_delay_per_member: Duration,
    /// For how long offsets live after their group became empty (`offsets.retention.minutes`). Default 7 d.
    pub offsets_retention: Duration,
    /// How often offsets are looked at (`offsets.retention.check.interval.ms`). Default 10 min.
    pub offsets_check_interval: Duration,
    /// How long after the start a shard trusts its image to be as new as its former owner's. Default 10 s, more than a
    /// coordinator's session.
    pub image_settles: Duration,
    /// Bytes of a committer's own text (`offset.metadata.max.bytes`). Default, and at most, 4,096.
    pub max_offset_metadata: usize,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            max_group_size: MAX_MEMBERS,
            max_groups: 10_000,
            max_members: 50_000,
            max_offsets: 2_000_000,
            max_held: 50_000,
            max_commit: 10_000,
            max_named: 200_000,
            max_record_bytes: MAX_VALUE_BYTES,
            session_timeouts: Duration::from_secs(1)..=Duration::from_secs(1_800),
            session_timeout: Duration::from_secs(45),
            rebalance_timeouts: Duration::from_secs(1)..=Duration::from_secs(86_400),
            rebalance_timeout: Duration::from_secs(300),
            heartbeat_interval: Duration::from_secs(3),
            max_hold: Duration::from_secs(60),
            assignment_delay: Duration::from_millis(20),
            assignment_delay_per_member: Duration::from_micros(100),
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
            offsets_check_interval: Duration::from_secs(600),
            image_settles: Duration::from_secs(10),
            max_offset_metadata: MAX_OFFSET_METADATA,
        }
    }
}
