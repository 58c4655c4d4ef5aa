//! The reconcilers against an API server in memory: what they ask of it, and of the cluster.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod clusters;
mod fake_api;
mod fake_thalweg;
mod leases;
mod running;
mod topics;
