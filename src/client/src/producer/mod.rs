//! The producer: collects records into batches, and sends them to their leaders, in order.
//!
//! ```text
//! callers ──append──▶ PartitionQueue ──drain──▶ Sender (one for each leader) ──ProduceStream──▶ broker
//!                          ▲                      │  ▲
//!                          │ one lock, ~20 ns     ▼  │ Lane = queue + window, moved whole
//!                     buffer memory            Dispatcher: leaders, epochs, pauses
//! ```

mod batch;
mod config;
mod delivery;
mod dispatch;
mod error;
mod inbox;
mod interceptor;
mod lane;
mod memory;
mod outcome;
mod partitioner;
mod queue;
mod record;
mod send;
mod sender;
mod shared;
mod topics;
mod tracker;
mod typed;
mod window;

pub use config::{Acks, ProducerConfig};
pub use delivery::Delivery;
pub use error::{DeliveryError, SendError};
pub use interceptor::ProducerInterceptor;
pub use partitioner::{Partitioner, PartitionerFn};
pub use record::{OwnedHeader, OwnedRecord, ProducerRecord, RecordMetadata};
pub use typed::{Serializer, TypedProducer, serializers};

use crate::{Client, ClientError};
use dispatch::{Dispatcher, init_producer};
use shared::Shared;
use std::sync::Arc;

/// Sends records. Cheap to clone, and every method may be called from any thread at any time.
///
/// Order: records of one caller to one partition are written in the order of the calls; with idempotence (the default) that
/// holds over every retry, and nothing is written twice. The exception: a record whose `delivery_timeout` has passed may
/// have been written, and those behind it go on without it.
///
/// When the last clone is dropped, what is buffered is still sent in the background; [`close`](Producer::close) waits
/// for it.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Producer {
    pub(crate) async fn start(client: Client, config: ProducerConfig) -> Result<Producer, ClientError> {
        config.check()?;
        let identity = match config.idempotent() {
            true => Some(init_producer(&client, None).await?),
            false => None,
        };
        let shared = Arc::new(Shared::new(client, config, identity));
        shared.tasks.spawn(Dispatcher::new(Arc::clone(&shared)).run());
        Ok(Producer { handle: Arc::new(Handle { shared }) })
    }

    /// Sends what is buffered at once, and waits until everything that was sent before this call has an outcome.
    /// Failures are told by the deliveries and [`failed_records`](Self::failed_records), not here.
    pub async fn flush(&self) -> Result<(), SendError> {
        let shared = self.shared();
        shared.topics.urge_all();
        for batch in shared.tracker.snapshot() {
            batch.finished().await;
        }
        Ok(())
    }

    /// Takes no more records, sends what is buffered, and waits for its outcome: at most about `delivery_timeout`.
    /// Closes all clones. Failures are told by the deliveries and [`failed_records`](Self::failed_records) (ask a clone), not
    /// here.
    pub async fn close(self) -> Result<(), SendError> {
        let shared = Arc::clone(self.shared());
        shared.closing.cancel();
        self.flush().await?;
        shared.tasks.close();
        shared.tasks.wait().await;
        Ok(())
    }

    /// Records that were taken and not delivered, since the producer was made. All clones count together. For programs that
    /// drop their deliveries.
    pub fn failed_records(&self) -> u64 {
        self.shared().tracker.failures.records()
    }

    /// Why the first of the [failed records](Self::failed_records) was not delivered.
    pub fn first_failure(&self) -> Option<DeliveryError> {
        self.shared().tracker.failures.first().cloned()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.topics.urge_all();
    }
}
