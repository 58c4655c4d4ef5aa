//! A partition's log on files, byte for byte in Kafka's layout: segments, sparse indexes, recovery, retention,
//! leader-epoch checkpoint and producer state.

pub mod storage;
