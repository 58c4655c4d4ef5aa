//! The log against an in-memory model, against power cuts, and against the bug catalogue.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions are tests too")]

mod catalogue;
mod commits;
mod compacted;
mod compaction;
mod compaction_model;
mod conformance;
mod crash;
mod disk_full;
mod gated;
mod harness;
mod manager;
mod many;
mod model;
mod reads;
mod replicas;
mod tails;
