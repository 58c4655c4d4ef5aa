//! The coordinator: serves the consumer groups whose shards it leases. It keeps nothing on disk: groups live in the partitions
//! of `__consumer_offsets`, which it replays before it serves them and writes through the brokers with acks=all.
//!
//! ```text
//!   brokers ─Exchange─► exchange ─► serving (one task a shard) ─► shard (pure)
//!                                      │ records            │ loads
//!                                      ▼                    ▼
//!                       leaders (internal ports of the brokers that lead the shard's partition)
//!   controllers ◄─ membership (registration, heartbeats)     controllers ─image─► leases (which tasks there are)
//! ```
#![forbid(unsafe_code)]

pub mod config;
mod error;
mod exchange;
mod lag;
mod leaders;
mod leases;
mod membership;
pub mod metrics;
mod node;
mod seams;
mod serving;
pub mod shard;
mod start;

pub use config::{ConfigError, CoordinatorConfig, CoordinatorIntervals, CoordinatorLimits};
pub use error::{CoordinatorError, ServeError, StartError};
pub use lag::{GroupSize, LagSnapshot, PartitionLag};
pub use membership::RegisterError;
pub use seams::CoordinatorSeams;
pub use shard::GroupConfig;
pub use start::{Coordinator, CoordinatorHandle, serve};
