//! Tests of the Raft node from outside: stores, one voter, groups over a network in memory, and the bugs that
//! others had (the numbers are those of the project's bug catalogue).

mod catalogue;
mod cluster;
mod harness;
mod membership;
mod one_voter;
mod sled_store;
mod snapshots;
mod store_suite;
