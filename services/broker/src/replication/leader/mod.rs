//! The leader's side: what it knows of its followers, the streams that it feeds, and the changes of ISR that it asks for.

mod admission;
mod feed;
mod inbound;
pub mod isr;
mod service;
pub mod state;

pub use service::{Replication, service};
