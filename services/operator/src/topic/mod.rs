//! Topics: dereference, validate, build, apply, update status.

mod plan;
mod reconcile;
mod validate;

pub use plan::{Change, Decision, Known, Plan, decide};
pub use reconcile::reconcile;
pub use validate::{Refusal, Wanted, rival, topic_name, validate};
