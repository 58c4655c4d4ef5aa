//! The controller service: cluster metadata, kept by a Raft group.
