//! What went through one partition since it came to this broker: for metrics, counted without locks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one partition's replica.
#[derive(Debug, Default)]
pub struct Traffic {
    records_in: AtomicU64,
    bytes_in: AtomicU64,
    records_out: AtomicU64,
    bytes_out: AtomicU64,
    replicated_in: AtomicU64,
    replicated_out: AtomicU64,
    isr_shrinks: AtomicU64,
    isr_expands: AtomicU64,
}

macro_rules! counters {
    ($( $(#[$doc:meta])* $field:ident; )*) => {
        $(
            $(#[$doc])*
            pub fn $field(&self) -> u64 {
                self.$field.load(Ordering::Relaxed)
            }
        )*
    };
}

impl Traffic {
    /// A batch of a producer was appended.
    pub fn appended(&self, records: u64, bytes: usize) {
        self.records_in.fetch_add(records, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Batches were read for a consumer; so many bytes, as they lie in the log or as decoded records.
    pub fn read(&self, records: u64, bytes: usize) {
        self.records_out.fetch_add(records, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Batches of the leader were appended.
    pub fn followed(&self, bytes: usize) {
        self.replicated_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Batches were read for a follower.
    pub fn sent(&self, bytes: usize) {
        self.replicated_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The ISR of a partition that is led here went from so many members to so many.
    pub fn isr_moved(&self, from: usize, to: usize) {
        let counter = if to < from { &self.isr_shrinks } else { &self.isr_expands };
        if to != from {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    counters! {
        /// Records that producers wrote.
        records_in;
        /// Bytes of their batches, as stored.
        bytes_in;
        /// Records that consumers read; all of a batch, even if they wanted only its end.
        records_out;
        /// Bytes that consumers read.
        bytes_out;
        /// Bytes that came from the leader.
        replicated_in;
        /// Bytes that went to followers.
        replicated_out;
        /// How often the ISR shrank while this broker led.
        isr_shrinks;
        /// How often it grew.
        isr_expands;
    }
}
