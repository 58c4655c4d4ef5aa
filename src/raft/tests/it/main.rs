//! Tests of the Raft node from outside: stores, one voter, groups over a network in memory, and the bugs that
//! others had (the numbers are those of the project's bug catalogue).

#![allow(
    clippy::unwrap_used,
    reason = "a test's helper fails the test by panicking, as the test itself does"
)]

mod catalogue;
mod cluster;
mod harness;
mod membership;
mod on_disk;
mod one_voter;
mod sled_store;
mod snapshots;
mod store_suite;
