//! The operator: topics and clusters as Kubernetes resources.
//!
//! ```text
//!   Topic, Cluster ──watch──► controller ──► dereference, validate, build, apply, update status
//!                                                │                          │
//!                                   Thalweg's own API (SDK)       StatefulSet's scale, claims, status
//! ```
//! What is to be done is decided by pure functions ([`topic::decide`], [`cluster::decide`]) from what is there; nothing is remembered but
//! what stands in a resource's status. So an operator may be killed anywhere, and the next one goes on.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod context;
pub mod crd;
pub mod lease;
pub mod metrics;
mod operator;
pub mod thalweg;
pub mod topic;

pub use context::{Context, Listing, Pace, ReconcileError};
pub use lease::LeaseConfig;
pub use operator::{Kubernetes, Operator, OperatorConfig, OperatorError, Scope};
