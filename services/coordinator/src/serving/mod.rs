//! The shards that this coordinator serves: one task for each, which alone touches its shard.
//!
//! ```text
//!   messages ─► (loading: they wait) ─► Shard::handle ─► records ─► Writer ─► durable ─► answers
//! ```

mod early;
mod load;
mod renew;
mod task;
mod waiting;
mod write;

pub use task::{Lease, not_here, serve};

use crate::exchange::Answer;
use crate::shard::{CallId, ShardCall};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use thalweg_core::{LeaseEpoch, PartitionId};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A call on its way to a shard.
#[derive(Debug)]
pub struct Call {
    /// Its number.
    pub id: CallId,
    /// What is asked.
    pub what: ShardCall,
    /// Where the answer goes.
    pub answer: Answer,
    /// When it must leave; `None`: whenever.
    pub until: Option<Instant>,
}

/// What a shard's task is sent. The bytes of all that waits are bounded by the budget of calls.
#[derive(Debug)]
pub enum Message {
    /// Calls that came together.
    Calls(Vec<Call>),
    /// The callers of these are gone.
    Cancel(Vec<CallId>),
}

/// Where the calls of one shard go.
#[derive(Debug, Clone)]
pub struct Door {
    /// The epoch of the lease that the task serves.
    pub epoch: LeaseEpoch,
    messages: mpsc::UnboundedSender<Message>,
    served: Arc<AtomicBool>,
}

impl Door {
    /// A door, and what comes in by it.
    pub fn new(epoch: LeaseEpoch) -> (Door, mpsc::UnboundedReceiver<Message>) {
        let (messages, inbox) = mpsc::unbounded_channel();
        (Door { epoch, messages, served: Arc::default() }, inbox)
    }
}

/// The doors of the shards that are served or loaded here.
#[derive(Debug, Default)]
pub struct Shards {
    doors: RwLock<BTreeMap<PartitionId, Door>>,
}

impl Shards {
    /// Sends a message to a shard. Gives it back if the shard is not here.
    pub fn send(&self, shard: PartitionId, message: Message) -> Result<(), Message> {
        // A map of handles is whole at every step.
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        match doors.get(&shard) {
            Some(door) => door.messages.send(message).map_err(|error| error.0),
            None => Err(message),
        }
    }

    /// Opens a shard's door, in place of one that was there.
    pub fn open(&self, shard: PartitionId, door: Door) {
        self.doors.write().unwrap_or_else(PoisonError::into_inner).insert(shard, door);
    }

    /// Closes the door of that lease, unless another took its place.
    pub fn close(&self, shard: PartitionId, epoch: LeaseEpoch) {
        let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        if doors.get(&shard).is_some_and(|door| door.epoch == epoch) {
            doors.remove(&shard);
        }
    }

    /// The shard of that lease is loaded.
    fn set_served(&self, shard: PartitionId, epoch: LeaseEpoch) {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = doors.get(&shard).filter(|door| door.epoch == epoch) {
            door.served.store(true, Ordering::Release);
        }
    }

    /// The shards that are loaded and served.
    pub fn list_served(&self) -> Vec<PartitionId> {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        let served = doors.iter().filter(|(_, door)| door.served.load(Ordering::Acquire));
        served.map(|(shard, _)| *shard).collect()
    }

    /// How many shards are served or loaded here.
    pub fn len(&self) -> usize {
        self.doors.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no shard is served or loaded here.
    pub fn is_empty(&self) -> bool {
        self.doors.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// How many shards are loaded and served.
    pub fn served(&self) -> usize {
        self.list_served().len()
    }
}
