//! The link to the controllers: calls to whichever answers, the registration and its heartbeats, and the watch that keeps the
//! metadata fresh.

mod calls;
mod heartbeat;
mod link;
mod registration;
mod watch;

pub use heartbeat::{Heartbeats, say_goodbye};
pub use link::ControllerLink;
pub use registration::{Introduction, RegisterError, register};
pub use watch::watch_metadata;
