//! The partitions on this broker, kept as the metadata says.

mod manager;
mod partition;
mod role;
mod session;
mod table;
mod traffic;

pub use manager::{Lookup, ReplicaManager};
pub use partition::{Partition, Registration};
pub use role::{IsrProposal, Role};
pub use session::{Session, Slot};
pub use traffic::Traffic;
