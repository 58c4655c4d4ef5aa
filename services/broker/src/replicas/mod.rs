//! The partitions on this broker, kept as the metadata says.

mod manager;
mod partition;
mod session;
mod table;

pub use manager::{Lookup, ReplicaManager};
pub use partition::{IsrProposal, Partition, Registration, Role};
pub use session::{Session, Slot};
