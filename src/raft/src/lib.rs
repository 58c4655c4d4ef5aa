//! The Raft node of the metadata quorum: the raft crate, stored in sled.
