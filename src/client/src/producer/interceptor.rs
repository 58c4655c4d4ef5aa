//! Hooks around sending (Kafka's `ProducerInterceptor`).

use super::error::DeliveryError;
use super::record::{OwnedRecord, RecordMetadata};

/// Sees each record before it is sent, and each outcome. Called on the sender's and the callers' threads: it must be
/// quick and must not block.
pub trait ProducerInterceptor: Send + Sync + 'static {
    /// May change the record, before partition and batch are chosen. The default gives it back as it is.
    fn on_send(&self, record: OwnedRecord) -> OwnedRecord {
        record
    }

    /// Told the outcome of each record that [`on_send`](Self::on_send) saw and that was taken.
    fn on_acknowledgement(&self, outcome: &Result<RecordMetadata, DeliveryError>) {
        let _ = outcome;
    }
}
