//! Replication: followers copy their partitions from leaders over one stream for each pair of brokers.

pub mod follower;
pub mod leader;
