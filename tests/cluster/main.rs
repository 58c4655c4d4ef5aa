//! Black-box tests: the real program in processes of its own, driven by its command line and by plain gRPC.
//!
//! | variable | what it does |
//! |---|---|
//! | `THALWEG_TEST_BINARY` | the program to test, instead of the one built beside these tests |
//! | `THALWEG_TEST_LOGS` | files, parted by spaces, that `real_logs` sends instead of generated ones |
//! | `THALWEG_KILL_ROUNDS` | rounds of `kill_rounds`, by default 3 |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod cli_contract;
mod harness;
mod kill_rounds;
mod many_partitions;
mod real_logs;
mod streaming_input;
mod streams;
