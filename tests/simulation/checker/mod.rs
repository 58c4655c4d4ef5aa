//! The checker: looks at what clients did and saw, and names what a log must never do.
//!
//! The anomalies are those of Jepsen's Kafka workload, thought out anew: values are unique, so one look at where each
//! value was seen tells whether it was lost, doubled, reordered or replaced. A send without an answer may have happened or
//! not. A run ends with healing and a read of every partition from its start to its end (the drain).

mod anomaly;
mod check;
mod check_groups;
#[cfg(test)]
mod group_tests;
mod groups;
mod history;
#[cfg(test)]
mod tests;

pub use anomaly::{Anomaly, Kind};
pub use check::check;
pub use check_groups::behind;
pub use groups::{CommitId, Group, Hold, HoldId, OffsetRead};
pub use history::{Drain, History, Outcome, Partition, Poll, Process, Promise, Send, Value, Watermark};
