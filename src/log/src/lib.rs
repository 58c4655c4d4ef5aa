//! A partition's log on files, byte for byte in Kafka's layout: segments, sparse indexes, recovery, retention,
//! leader-epoch checkpoint and producer state.

pub mod checkpoint;
pub mod data_dir;
pub mod dump;
pub mod leader_epoch;
pub mod meta_properties;
pub mod partition_metadata;
pub mod producer_state;
pub mod state_file;
pub mod storage;
pub mod uuid_text;
