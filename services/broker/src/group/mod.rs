//! Consumer groups, at whichever broker the client knows.
//!
//! ```text
//!   client ─► GroupService ─┬─ check, call ─► lanes: one stream a coordinator ─► the group's coordinator
//!                           ├─ poll, subscribe: a member lives here ─► lanes, and forward (to the leaders)
//!                           └─ list, reset: what several coordinators or leaders must be asked for
//! ```
//! Nothing of a group is kept here. A call finds its coordinator by the metadata, and looks again when that one refuses.

pub mod call;
mod check;
mod cursor;
mod exchange;
mod lanes;
pub mod list;
pub mod member;
mod options;
pub mod poll;
pub mod reset;
mod starts;
pub mod subscribe;

pub use call::Caller;

use lanes::Lanes;
use subscribe::Streams;

/// What one broker has of groups: its ways to the coordinators, and the members that live on its streams.
#[derive(Debug)]
pub struct Groups {
    lanes: Lanes,
    streams: Streams,
}

impl Groups {
    /// Knows nobody yet.
    pub fn new() -> Groups {
        Groups { lanes: Lanes::new(), streams: Streams::default() }
    }
}
