//! One endpoint is enough: calls with `ROUTING_ANY_BROKER` go on to the leaders, split where they span several.
//!
//! ```text
//!   client ─► public port ─► here ─┬─ led here ──► produce / read
//!                                  └─ elsewhere ─► the leader's internal port ─► produce / read there
//! ```
//! What comes in on an internal port never goes on from there, so that a call travels at most once however wrong the metadata is.
//! A leader that says NOT_LEADER before it did anything is left, the metadata awaited and the call made anew, until its deadline.
//! A write whose fate is not known is never repeated: its client is told so.

pub mod fetch;
pub mod fetch_stream;
mod lane;
mod local;
mod metered;
mod outcome;
mod patience;
mod peers;
pub mod produce;
pub mod produce_stream;
pub mod relay;
mod route;
pub mod scatter;
mod spread;
pub mod tail;

pub use patience::Patience;
pub use peers::Peers;

/// How many parts of one call are under way at once.
const PARTS_AT_ONCE: usize = 32;
