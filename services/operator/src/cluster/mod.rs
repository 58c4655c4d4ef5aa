//! Clusters: brokers come and go without a record in danger.
//!
//! ```text
//!   more:   raise replicas ──► brokers register ──► nothing moves for a while ──► done
//!   fewer:  drain the highest ──► it holds nothing ──► lower replicas by one ──► its pod ends ──► forget it ──► (its volumes) ──► the next
//! ```
//! The step follows from what is there, not from what was done: an operator that is killed anywhere goes on where it was. The one thing to
//! remember is which broker is being removed, and that is noted in the status before it is drained.

mod observe;
mod plan;
mod reconcile;

pub use observe::{SetView, set_view};
pub use plan::{Act, Observed, Phase, Plan, decide};
pub use reconcile::reconcile;
