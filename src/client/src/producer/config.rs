//! A producer's settings, and what they may not contradict.

use super::interceptor::ProducerInterceptor;
use super::partitioner::Partitioner;
use crate::{ConfigError, proto};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::batch::HEADER_LEN;
use thalweg_core::compression::Compression;

/// In-flight batches of a partition that an idempotent producer may have: what a broker remembers.
const MAX_IDEMPOTENT_IN_FLIGHT: usize = 5;
/// The longest time that a broker waits for acks.
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// What must hold before a record counts as delivered (`acks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Acks {
    /// Nothing: it was written to the connection. Records can be lost without notice.
    None,
    /// The leader has appended it. A crash of the leader can lose it.
    Leader,
    /// Every in-sync replica has it.
    #[default]
    All,
}

impl From<Acks> for proto::Acks {
    fn from(acks: Acks) -> proto::Acks {
        match acks {
            Acks::None => proto::Acks::None,
            Acks::Leader => proto::Acks::Leader,
            Acks::All => proto::Acks::All,
        }
    }
}

/// Settings of a [`Producer`](super::Producer), with Kafka's names and, but for `batch_size`, Kafka's defaults.
#[derive(Clone)]
pub struct ProducerConfig {
    /// What must hold before a record counts as delivered (`acks`). Default [`Acks::All`]. Anything else turns
    /// idempotence off, as in Kafka.
    pub acks: Acks,
    /// How long a batch waits for more records (`linger.ms`). Default 5 ms. Zero sends at once whenever nothing of the
    /// partition is in flight, and otherwise collects until an answer comes.
    pub linger: Duration,
    /// Bytes of a batch before compression (`batch.size`). Default 256 KiB. A larger record gets a batch of its own.
    pub batch_size: usize,
    /// Bytes that all batches without answer may hold (`buffer.memory`). Default 32 MiB. Each batch takes `batch_size`
    /// from it as soon as it has one record, so it bounds the partitions that fill at the same time.
    pub buffer_memory: usize,
    /// The codec of batches (`compression.type`). Default none.
    pub compression: Compression,
    /// The largest record with its batch's header, before compression (`max.request.size`). Default 1 MiB.
    pub max_request_size: usize,
    /// Batches of one partition without answer (`max.in.flight.requests.per.connection`). Default 5, and at most 5 with
    /// idempotence. Without idempotence only 1 keeps the order over retries.
    pub max_in_flight: usize,
    /// Whether retries can neither duplicate nor reorder (`enable.idempotence`). Default true.
    pub enable_idempotence: bool,
    /// How long a record may take from `send` to its answer, retries included (`delivery.timeout.ms`). Default 120 s.
    pub delivery_timeout: Duration,
    /// How long one answer may take (`request.timeout.ms`). Default 30 s.
    pub request_timeout: Duration,
    /// How long `send` waits for buffer memory or metadata (`max.block.ms`). Default 60 s.
    pub max_block: Duration,
    /// The first pause before a retry (`retry.backoff.ms`). Default 100 ms.
    pub retry_backoff: Duration,
    /// The longest pause before a retry (`retry.backoff.max.ms`). Default 1 s.
    pub retry_backoff_max: Duration,
    /// Chooses the partition of records that name none (`partitioner.class`).
    pub partitioner: Partitioner,
    /// See every record before it is sent and every answer, in this order (`interceptor.classes`). Default none. Any
    /// costs a copy of each record.
    pub interceptors: Vec<Arc<dyn ProducerInterceptor>>,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            acks: Acks::All,
            linger: Duration::from_millis(5),
            batch_size: 256 << 10,
            buffer_memory: 32 << 20,
            compression: Compression::None,
            max_request_size: 1 << 20,
            max_in_flight: 5,
            enable_idempotence: true,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            max_block: Duration::from_secs(60),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            partitioner: Partitioner::default(),
            interceptors: Vec::new(),
        }
    }
}

impl ProducerConfig {
    /// Whether batches carry a producer id.
    pub fn idempotent(&self) -> bool {
        self.enable_idempotence && self.acks == Acks::All
    }

    /// Refuses what makes no sense or contradicts.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |setting, reason: String| Err(ConfigError::new(setting, reason));
        if self.max_in_flight == 0 {
            return refuse("max_in_flight", "at least 1 batch must be allowed in flight".into());
        }
        if self.idempotent() && self.max_in_flight > MAX_IDEMPOTENT_IN_FLIGHT {
            let reason = format!(
                "{} is more than the {MAX_IDEMPOTENT_IN_FLIGHT} that an idempotent producer may have; lower it or set \
                 enable_idempotence to false",
                self.max_in_flight
            );
            return refuse("max_in_flight", reason);
        }
        if self.batch_size <= HEADER_LEN {
            return refuse("batch_size", format!("a batch's header alone has {HEADER_LEN} bytes; raise it"));
        }
        if self.max_request_size <= HEADER_LEN || u32::try_from(self.max_request_size).is_err() {
            return refuse(
                "max_request_size",
                format!("it must be between {} bytes and 4 GiB", HEADER_LEN + 1),
            );
        }
        if self.buffer_memory < self.effective_batch_size() {
            let reason =
                format!("{} bytes do not hold one batch; raise it or lower batch_size", self.buffer_memory);
            return refuse("buffer_memory", reason);
        }
        if self.request_timeout.is_zero() || self.request_timeout > MAX_REQUEST_TIMEOUT {
            return refuse(
                "request_timeout",
                format!("it must be above 0 and at most {MAX_REQUEST_TIMEOUT:?}"),
            );
        }
        if self.delivery_timeout < self.linger.saturating_add(self.request_timeout) {
            let reason = format!(
                "{:?} is shorter than linger + request_timeout ({:?}); raise it or lower request_timeout",
                self.delivery_timeout,
                self.linger.saturating_add(self.request_timeout)
            );
            return refuse("delivery_timeout", reason);
        }
        Ok(())
    }

    /// How often records are looked through for those whose time has run out.
    pub(super) fn expiry_interval(&self) -> Duration {
        (self.delivery_timeout / 20).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }

    /// Bytes at which a batch is full.
    pub(super) fn effective_batch_size(&self) -> usize {
        self.batch_size.min(self.max_request_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut ProducerConfig)) -> &'static str {
        let mut config = ProducerConfig::default();
        change(&mut config);
        config.check().expect_err("the settings contradict").setting
    }

    #[test]
    fn contradictions_are_refused_and_named() {
        assert!(ProducerConfig::default().check().is_ok());
        assert_eq!(refused(|c| c.max_in_flight = 6), "max_in_flight");
        assert_eq!(refused(|c| c.max_in_flight = 0), "max_in_flight");
        assert_eq!(refused(|c| c.batch_size = 61), "batch_size");
        assert_eq!(refused(|c| c.buffer_memory = 1000), "buffer_memory");
        assert_eq!(refused(|c| c.max_request_size = 0), "max_request_size");
        assert_eq!(refused(|c| c.delivery_timeout = Duration::from_secs(30)), "delivery_timeout");
        assert_eq!(refused(|c| c.request_timeout = Duration::ZERO), "request_timeout");
    }

    #[test]
    fn weaker_acks_turn_idempotence_off() {
        let config = ProducerConfig { acks: Acks::Leader, max_in_flight: 64, ..ProducerConfig::default() };
        assert!(!config.idempotent());
        assert!(config.check().is_ok());
    }
}
