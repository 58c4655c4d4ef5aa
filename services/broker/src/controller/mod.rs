//! What this broker says to the controllers: its registration and its heartbeats, and the calls that serve a client's.
//!
//! How controllers are reached at all, and the watch that keeps the metadata fresh, is [`thalweg_client::controllers`].

mod calls;
mod certainty;
mod heartbeat;
mod link;
mod registration;

pub use heartbeat::{Heartbeats, Standing, Wishes};
pub use link::ControllerLink;
pub use registration::{Introduction, Patience, RegisterError, register};
