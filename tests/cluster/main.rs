//! Black-box tests: the real program in processes of its own, driven by its command line and by plain gRPC.
//!
//! | variable | what it does |
//! |---|---|
//! | `THALWEG_TEST_BINARY` | the program to test, instead of the one built beside these tests |
//! | `THALWEG_TEST_LOGS` | files, parted by spaces, that `real_logs` sends instead of generated ones |
//! | `THALWEG_KILL_ROUNDS` | kills of the tests that kill, by default 3 of one server and 4 of a cluster's processes |
//! | `THALWEG_KILL_SEED` | which processes of a cluster are killed when: a run prints its own |
//! | `THALWEG_GROUP_KILL_ROUNDS` | faults under a running consumer group, by default 2 |
//! | `THALWEG_GROUP_OFFSETS` | committed offsets of the group whose coordinator is killed, by default 2,000 |
//! | `THALWEG_FAILOVER_ROUNDS` | how often `failover` measures each kind, by default once |
//! | `THALWEG_MANY_PARTITIONS` | partitions of a cluster that has many, by default 300 |
//! | `THALWEG_ROLL_ROUNDS` | how often every process is stopped and started again in `rolling`, by default once |
//! | `THALWEG_OLD_BINARY` | an older program that `rolling` upgrades a cluster from; without it that test does nothing |
//! | `THALWEG_TEST_KEEP` | keeps the folders of clusters, and with them the logs of their processes |
//! | `THALWEG_TEST_LOG_LEVEL` | what those processes log, by default info |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod cli_contract;
mod groups;
mod harness;
mod kill_rounds;
mod many_partitions;
mod metrics;
mod operator;
mod real_logs;
mod replicated;
mod rolling;
mod streaming_input;
mod streams;
mod telemetry;
mod traces;
