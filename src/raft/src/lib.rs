//! The Raft node of the metadata quorum: the raft crate, stored in sled. No type of either leaves this crate.
//!
//! ```text
//!   RaftHandle ──requests──▶ ┌──────────────── RaftNode::run ────────────────┐ ──▶ StateMachine::apply
//!   (cheap clone)            │ raft core ─▶ persist ─▶ send ─▶ apply ─▶ answer │ ──▶ Transport::send
//!   peers ──step(bytes)────▶ └───────────────────────────────────────────────┘ ──▶ RaftStore
//! ```
//! [`RaftNode::run`] is one loop that owns everything. It syncs the disk in line, so in production it has a thread
//! of its own ([`RaftNode::spawn_thread`]); a simulation spawns it as a task over a [`MemStore`].
#![forbid(unsafe_code)]

mod config;
mod error;
mod handle;
mod logger;
mod machine;
mod node;
mod storage;
mod store;
mod thread;
mod transport;
mod types;
mod wire;

pub use config::{ConfigError, MAX_COMMAND_BYTES, MAX_MESSAGE_BYTES, RaftConfig};
pub use error::{ApplyError, RaftError, RaftFailure, RestoreError, StoreError};
pub use handle::{Queued, RaftHandle};
pub use machine::StateMachine;
pub use node::{RaftNode, Started};
pub use store::{
    ConfState, EntryKind, HardState, Identity, LogEntry, MemDisk, MemStore, RaftStore, SledStore, Snapshot,
    SnapshotMeta, Summary, WriteBatch, WritePoint,
};
pub use thread::RaftThread;
pub use transport::{MessageClass, NoTransport, Transport};
pub use types::{Membership, MembershipChange, Progress, RaftStatus, Role};
