//! Consumer groups as pure rules: who gets which partitions, how they move, and what the internal topic holds of it.
//!
//! ```text
//!   heartbeat, commit, time ──► changes (records) ──► written with acks=all ──► replay ──► the group
//!   assign: target per member ──► reconcile: give back, move on, get what is free
//! ```

pub mod assignor;
mod bytes;
pub mod heartbeat;
pub mod ids;
#[cfg(test)]
mod late_tests;
pub mod marker;
pub mod member;
mod offset_value;
pub mod offsets;
pub mod positions;
mod reconcile;
pub mod records;
mod replay;
mod shard;
pub mod state;
pub mod target;
#[cfg(test)]
mod tests;

pub use assignor::{Assignment, Assignor, Subscriber, TopicSpec};
pub use heartbeat::{Heartbeat, HeartbeatAnswer, TopicLookup};
pub use ids::{GroupId, InstanceId, MemberEpoch, MemberId};
pub use marker::{LEASE_MARKER, LeaseMarker, decode_lease_marker, lease_marker};
pub use member::Membership;
pub use offsets::Committer;
pub use positions::{Places, Position, Positions};
pub use records::{Change, GroupRecord};
pub use shard::{OFFSETS_TOPIC, shard_of};
pub use state::{Attempt, CommittedOffset, Current, Group, GroupState, Member, Subscription};
