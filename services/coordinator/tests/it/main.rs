//! A coordinator over the wire. Controllers and brokers are played: the controllers by the real metadata machine without Raft, the
//! brokers by one log in memory that refuses, stalls and loses what a test tells it to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking; helpers outside of #[test] functions too")]
mod calls;
mod fake;
mod harness;
mod lag;
mod leases;
mod loading;
mod writing;
