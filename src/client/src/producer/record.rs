//! What is sent, and what is known of it once it is written.

use thalweg_core::batch::Header;
use thalweg_core::{Offset, PartitionId, Timestamp, TopicName};

/// A record to send. It borrows everything: its bytes are copied once, into their batch.
#[derive(Debug, Clone, Copy)]
pub struct ProducerRecord<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition; `None` lets the partitioner choose.
    pub partition: Option<i32>,
    /// What the partition is chosen by and compaction keeps the latest of.
    pub key: Option<&'a [u8]>,
    /// The payload; `None` is a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// In the order in which they are to be read.
    pub headers: &'a [Header<'a>],
    /// The record's time; `None` is now.
    pub timestamp: Option<Timestamp>,
}

impl<'a> ProducerRecord<'a> {
    /// An empty record for a topic.
    pub const fn new(topic: &'a str) -> ProducerRecord<'a> {
        ProducerRecord { topic, partition: None, key: None, value: None, headers: &[], timestamp: None }
    }

    /// With this key.
    #[must_use]
    pub const fn key(mut self, key: &'a [u8]) -> Self {
        self.key = Some(key);
        self
    }

    /// With this value.
    #[must_use]
    pub const fn value(mut self, value: &'a [u8]) -> Self {
        self.value = Some(value);
        self
    }

    /// For this partition.
    #[must_use]
    pub const fn partition(mut self, partition: PartitionId) -> Self {
        self.partition = Some(partition.0);
        self
    }

    /// With these headers.
    #[must_use]
    pub const fn headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.headers = headers;
        self
    }

    /// With this time.
    #[must_use]
    pub const fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}

/// Where a record was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset. [`Offset::NONE`] where it is not known: with [`Acks::None`](super::Acks::None), and for a
    /// repeated batch that is too old for the broker to remember its offset.
    pub offset: Offset,
    /// The record's time: the leader's, if the topic uses LogAppendTime.
    pub timestamp: Timestamp,
}

/// A record that an interceptor may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    /// The topic's name.
    pub topic: String,
    /// The partition; `None` lets the partitioner choose.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<OwnedHeader>,
    /// The record's time; `None` is now.
    pub timestamp: Option<Timestamp>,
}

/// A header that an interceptor may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedHeader {
    /// The header's name.
    pub key: Vec<u8>,
    /// Its value; `None` is Kafka's null.
    pub value: Option<Vec<u8>>,
}

impl From<&ProducerRecord<'_>> for OwnedRecord {
    fn from(record: &ProducerRecord<'_>) -> OwnedRecord {
        let headers = record.headers.iter();
        OwnedRecord {
            topic: record.topic.to_owned(),
            partition: record.partition,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers
                .map(|h| OwnedHeader { key: h.key.to_vec(), value: h.value.map(<[u8]>::to_vec) })
                .collect(),
            timestamp: record.timestamp,
        }
    }
}

impl OwnedRecord {
    /// The headers, borrowed: [`as_record`](Self::as_record) needs them.
    pub fn borrowed_headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|h| Header { key: &h.key, value: h.value.as_deref() }).collect()
    }

    /// The record, borrowed.
    pub fn as_record<'a>(&'a self, headers: &'a [Header<'a>]) -> ProducerRecord<'a> {
        ProducerRecord {
            topic: &self.topic,
            partition: self.partition,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers,
            timestamp: self.timestamp,
        }
    }
}
