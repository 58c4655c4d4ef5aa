//! The partitions on this broker, kept as the metadata says.

mod high_watermark;
mod manager;
mod partition;
mod session;

pub use manager::{Lookup, ReplicaManager};
pub use partition::{Partition, Registration, Role};
pub use session::{Session, Slot};
