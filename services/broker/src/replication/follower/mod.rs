//! The follower side: which partitions to copy from whom, and the streams that do it.
//!
//! ```text
//!   ReplicaManager ─► Assignments ─► follow_leaders ─┬► Link (leader 2)            ─┐  each a task with one stream,
//!                     (latest wins)                  ├► Link (leader 2, catch-up)   ├─ decided by `Stream`, which is pure
//!                                                    └► Link (leader 3)            ─┘
//!   Link:  commands, messages, flushes, time ─► Stream ─► requests; appends and truncations of logs
//! ```
//! A partition begins on its leader's main stream, or on the catch-up stream if it is being added. One that falls far behind
//! moves to the catch-up stream, whose pace is bounded, and back when it is near the end.

mod apply;
mod assignment;
mod backoff;
mod config;
mod inbound;
mod link;
mod mailbox;
mod manager;
mod pace;
mod request;
mod stream;

pub use assignment::{Assignment, Assignments, Target};
pub use config::FollowerConfig;
pub use manager::{FollowerSeams, follow_leaders};
pub use pace::PaceCounts;
