//! Where a group lives.

use super::ids::GroupId;
use crate::PartitionId;

/// The internal topic that holds groups and their offsets. Its partitions are the shards.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The shard of a group, of `shards` in all: Java's hash of the id, as in Kafka, so that the field's own tools find it.
pub fn shard_of(group: &GroupId, shards: i32) -> PartitionId {
    let hash = group
        .as_str()
        .encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    PartitionId(hash.checked_abs().unwrap_or(0) % shards.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_lie_where_kafka_looks_for_them() {
        // Their hashes are 97 and -421004483.
        let shard = |group: &str| shard_of(&GroupId::new(group).unwrap(), 50).get();
        assert_eq!((shard("a"), shard("consumers")), (47, 33));
        assert_eq!(
            shard("polygenelubricants"),
            0,
            "its hash is i32::MIN, whose absolute value does not exist"
        );
    }
}
