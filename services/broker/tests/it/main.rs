//! A broker over the wire, with the real log and the real metadata machine behind it. The controllers are played by one fake
//! that applies commands without Raft.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking; helpers outside of #[test] functions too")]
mod admin;
mod brokers;
mod compaction;
mod controller;
mod coordinator;
mod fence;
mod fetch;
mod following;
mod forward;
mod gate;
mod group;
mod harness;
mod lifecycle;
mod membership;
mod produce;
mod produce_stream;
mod refusals;
mod replication;
mod subscribe;
