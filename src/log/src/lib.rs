//! A partition's log on files, byte for byte in Kafka's layout: segments, sparse indexes, recovery, retention,
//! leader-epoch checkpoint and producer state.
//!
//! A [`LogManager`] opens the data directories and holds a [`Log`] for each partition. Appends go to the page cache; the
//! [`Committer`] of each directory makes them stable in groups.

pub mod checkpoint;
mod cleaner;
mod committer;
mod config;
pub mod data_dir;
pub mod dump;
mod error;
mod index;
pub mod leader_epoch;
mod log;
mod manager;
pub mod meta_properties;
pub mod partition_metadata;
mod pool;
pub mod producer_state;
mod segment;
pub mod state_file;
pub mod storage;
mod tail;
pub mod uuid_text;
mod volume;

pub use cleaner::{
    CleanJob, CleanStats, CleanStep, DEFAULT_DEDUPE_BUFFER_BYTES, MIN_DEDUPE_BUFFER_BYTES, Pace, Syncs,
};
pub use committer::{Committer, FlushListener};
pub use config::{FIRST_RESERVE_BYTES, LogConfig, MAX_RESERVE_BYTES, MAX_SEGMENT_BYTES};
pub use error::{AppendError, OpenError, ReadError, StorageError};
pub use log::{
    Appended, Fenced, Log, LogMode, LogPosition, LogRead, MAX_READ_BYTES, ReadBound, RecoveryReport,
    TailRead, TailReader,
};
pub use manager::{
    CommitMode, DEFAULT_CHECKPOINT_MS, DEFAULT_FREE_BUFFER_BYTES, DEFAULT_HIGH_WATERMARK_CHECKPOINT_MS,
    DEFAULT_RETENTION_CHECK_MS, DirState, LogManager, LogManagerConfig, NewLog,
};
pub use pool::{BufferPool, PooledBuffer};
pub use producer_state::SequenceError;
pub use tail::DEFAULT_TAIL_BYTES;
pub use uuid_text::DirectoryId;
pub use volume::FlushObserver;
