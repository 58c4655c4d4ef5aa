//! The coordinator: serves the consumer groups whose shards it leases. It keeps nothing on disk: groups live in the partitions
//! of `__consumer_offsets`, which it replays before it serves them and writes through the brokers with acks=all.
#![forbid(unsafe_code)]

pub mod shard;
