//! The controllers of a cluster, for its services: brokers and coordinators. Clients do not need this; they know brokers only.
//!
//! ```text
//!   Controllers     calls: one connection to each controller; any of them forwards to the leader
//!   Session         heartbeats on a stream to the leader, on a connection of its own (its end tells that the process is gone)
//!   watch_metadata  the metadata from any controller, on a connection of its own, into a MetadataStore
//! ```
//! What a service says on them is its own: who it is, how it registers, when it beats.

mod addresses;
mod link;
mod session;
mod store;
mod watch;

pub use addresses::Addresses;
pub use link::{Controllers, Dial, Repeat, Target, Timing, timed, unreachable, was_not_sent};
pub use session::Session;
pub use store::MetadataStore;
pub use watch::watch_metadata;
