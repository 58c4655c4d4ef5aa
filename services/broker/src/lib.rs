//! The broker service: partition replicas, produce and fetch.
//!
//! ```text
//!   services (translate) ─► produce / read (decide) ─► replicas (partitions, high watermarks, waiters) ─► thalweg-log
//!               ├─► forward (to the leaders)
//!               └─► group (to the coordinators)
//!   controller (registration, heartbeats, metadata watch) ─► metadata (immutable image, swapped)
//! ```
#![forbid(unsafe_code)]

mod broker;
pub mod config;
pub mod controller;
mod describe;
mod forward;
mod group;
mod in_flight;
pub mod metadata;
pub mod metrics;
mod node;
mod produce;
mod producer_ids;
mod read;
mod reassignments;
mod refusal;
pub mod replicas;
pub mod replication;
mod services;
mod settings;
mod stopping;
mod trace;

pub use broker::{
    Broker, BrokerError, BrokerHandle, BrokerSeams, Port, ServeError, StartError, WallClock, serve,
};
pub use config::{
    BrokerConfig, BrokerIntervals, BrokerLimits, CleanerConfig, ConfigError, ReplicationConfig,
};
