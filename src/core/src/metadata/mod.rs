//! The cluster's metadata as a deterministic machine: an immutable image, commands, and one function that applies them.
//!
//! ```text
//!   controller: propose(Command) -> Raft -> apply(&mut image, index, &command) -> Response | Refusal
//!   broker:     snapshot, then the same commands -> apply(..) -> the same image
//! ```
//! What a command does depends on the image and the command alone. Whoever proposes draws the ids and seeds.

mod apply;
pub mod balance;
pub mod codec;
pub mod command;
mod election;
pub mod features;
pub mod image;
pub mod invariants;
pub mod leaders;
pub mod limits;
mod partition;
mod placement;
pub mod shards;
#[cfg(test)]
mod tests;

pub use apply::{apply, dry_run};
pub use command::{Command, Refusal, Response};
pub use features::FeatureLevels;
pub use image::{BrokerRegistration, Changes, Endpoint, MetadataImage, PartitionImage, TopicImage};
pub use shards::{CoordinatorRegistration, ShardLease};
