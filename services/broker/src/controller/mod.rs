//! The link to the controllers: calls to whichever answers, the registration and its heartbeats, and the watch that keeps the
//! metadata fresh.
//!
//! ```text
//!   calls      one connection to each controller; any of them forwards to the leader
//!   session    heartbeats on a stream to the leader, on a connection of its own (its end tells that the process is gone)
//!   watch      metadata from any controller, on a connection of its own
//! ```

mod addresses;
mod calls;
mod heartbeat;
mod link;
mod registration;
mod session;
mod watch;

pub use heartbeat::{Heartbeats, Standing, Wishes};
pub use link::{ControllerLink, was_not_sent};
pub use registration::{Introduction, Patience, RegisterError, register};
pub use watch::watch_metadata;
