//! Records that a consumer gives, decoded one by one out of a chunk.

use crate::reader::Chunk;
use bytes::Bytes;
use thalweg_core::batch::{BatchError, BatchHeader, BatchIter, HEADER_LEN, Records, RecordsPosition};
use thalweg_core::compression::Compression;
use thalweg_core::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicName, TopicPartition};

/// Bytes that one batch may inflate to.
const MAX_INFLATED: usize = 64 << 20;

/// A record of a topic. Its bytes are shared with what was read, not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// The epoch of the leader that took it.
    pub leader_epoch: LeaderEpoch,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its payload; `None` is a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<RecordHeader>,
}

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    /// The name: UTF-8 by convention.
    pub key: Bytes,
    /// The value; `None` is Kafka's null.
    pub value: Option<Bytes>,
}

impl ConsumerRecord {
    /// Where it is.
    pub fn at(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }
}

/// A chunk whose records are being given.
#[derive(Debug)]
pub(super) struct Decoding {
    at: TopicPartition,
    chunk: Chunk,
    /// Bytes of the chunk whose batches are done with, or being given.
    walked: usize,
    batch: Option<Batch>,
    /// Records below this were given.
    next: Offset,
}

#[derive(Debug)]
struct Batch {
    header: BatchHeader,
    body: Bytes,
    position: RecordsPosition,
}

impl Decoding {
    pub(super) fn new(chunk: Chunk) -> Decoding {
        let at = TopicPartition::new(chunk.topic.0.clone(), chunk.partition);
        Decoding { at, next: chunk.first_wanted, chunk, walked: 0, batch: None }
    }

    pub(super) fn at(&self) -> &TopicPartition {
        &self.at
    }

    /// The offset behind the last record that was given.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Where the chunk ends, and the epoch of its last batch.
    pub(super) fn end(&self) -> (Offset, LeaderEpoch) {
        (self.chunk.next_offset, last_epoch(&self.chunk.data))
    }

    /// The offset that the next committed record will get.
    pub(super) fn high_watermark(&self) -> Offset {
        self.chunk.high_watermark
    }

    /// What has not been given, as a chunk.
    pub(super) fn into_rest(mut self) -> Chunk {
        self.chunk.first_wanted = self.next;
        self.chunk
    }

    /// The next record; `None` when the chunk is done with. After an error there is none.
    pub(super) fn next_record(&mut self) -> Option<Result<ConsumerRecord, BatchError>> {
        loop {
            if let Some(batch) = &mut self.batch {
                let mut records = Records::resume(&batch.header, &batch.body, batch.position);
                let view = match records.next() {
                    None => {
                        self.batch = None;
                        continue;
                    }
                    Some(Err(error)) => return Some(Err(self.stop(error))),
                    Some(Ok(view)) => view,
                };
                batch.position = records.position();
                if view.offset < self.next {
                    continue;
                }
                self.next = view.offset.advance(1);
                let share = |bytes: &[u8]| batch.body.slice_ref(bytes);
                let headers = view.headers.iter();
                return Some(Ok(ConsumerRecord {
                    topic: self.at.topic.clone(),
                    partition: self.at.partition,
                    offset: view.offset,
                    leader_epoch: batch.header.leader_epoch,
                    timestamp: view.timestamp,
                    key: view.key.map(share),
                    value: view.value.map(share),
                    headers: headers
                        .map(|header| RecordHeader { key: share(header.key), value: header.value.map(share) })
                        .collect(),
                }));
            }
            match self.open_batch()? {
                Ok(batch) => self.batch = batch,
                Err(error) => return Some(Err(self.stop(error))),
            }
        }
    }

    /// The next batch with records in it; `Ok(None)` for one to pass over.
    fn open_batch(&mut self) -> Option<Result<Option<Batch>, BatchError>> {
        let batch = match BatchIter::new(&self.chunk.data[self.walked..]).next()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error)),
        };
        let (from, len) = (self.walked, batch.bytes.len());
        self.walked += len;
        let last = batch.header.base_offset.advance(i64::from(batch.header.last_offset_delta));
        // Control batches are the brokers' own and hold no records.
        if batch.header.attributes.is_control() || last < self.next {
            return Some(Ok(None));
        }
        let mut inflated = Vec::new();
        let position = match batch.records(&mut inflated, MAX_INFLATED) {
            Ok(records) => records.position(),
            Err(error) => return Some(Err(error)),
        };
        let body = match batch.header.attributes.compression() {
            Ok(Compression::None) => self.chunk.data.slice(from + HEADER_LEN..from + len),
            _ => Bytes::from(inflated),
        };
        Some(Ok(Some(Batch { header: batch.header, body, position })))
    }

    fn stop(&mut self, error: BatchError) -> BatchError {
        self.batch = None;
        self.walked = self.chunk.data.len();
        error
    }
}

/// The leader epoch of the last of some batches.
pub(super) fn last_epoch(batches: &[u8]) -> LeaderEpoch {
    let last = BatchIter::new(batches).map_while(Result::ok).last();
    last.map_or(LeaderEpoch::NONE, |batch| batch.header.leader_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::ChunkTopic;
    use thalweg_core::batch::{BatchBuilder, Header, ProducerStamp};

    fn chunk(codec: Compression, first_wanted: i64) -> Chunk {
        let mut data = Vec::new();
        for batch in 0..2 {
            let mut builder = BatchBuilder::new(codec, 1 << 12);
            for index in 0..3 {
                let value = format!("v{}", batch * 3 + index);
                let header = Header { key: b"h", value: None };
                builder.append(Timestamp(7), Some(b"k"), Some(value.as_bytes()), &[header]);
            }
            let mut bytes = builder.finish(ProducerStamp::NONE).to_vec();
            bytes[..8].copy_from_slice(&(batch * 3i64).to_be_bytes());
            bytes[12..16].copy_from_slice(&(batch as i32 + 4).to_be_bytes());
            data.extend(bytes);
        }
        Chunk {
            topic: ChunkTopic(TopicName::new("t").unwrap()),
            partition: PartitionId(2),
            data: data.into(),
            first_wanted: Offset(first_wanted),
            next_offset: Offset(9),
            high_watermark: Offset(9),
        }
    }

    #[test]
    fn records_come_once_and_share_the_bytes() {
        for codec in [Compression::None, Compression::Lz4] {
            let mut decoding = Decoding::new(chunk(codec, 1));
            let records: Vec<_> = std::iter::from_fn(|| decoding.next_record()).map(Result::unwrap).collect();
            let offsets: Vec<i64> = records.iter().map(|record| record.offset.get()).collect();
            assert_eq!(offsets, [1, 2, 3, 4, 5]);
            assert_eq!(records[0].value.as_deref(), Some(&b"v1"[..]));
            assert_eq!((records[0].leader_epoch, records[4].leader_epoch), (LeaderEpoch(4), LeaderEpoch(5)));
            assert_eq!((records[4].headers.len(), &records[4].headers[0].key[..]), (1, &b"h"[..]));
            assert_eq!((decoding.next(), decoding.end()), (Offset(6), (Offset(9), LeaderEpoch(5))));
        }
    }

    #[test]
    fn the_rest_is_a_chunk_and_damage_is_told_once() {
        let mut decoding = Decoding::new(chunk(Compression::None, 0));
        decoding.next_record().unwrap().unwrap();
        decoding.next_record().unwrap().unwrap();
        assert_eq!(decoding.into_rest().first_wanted, Offset(2));
        let mut damaged = chunk(Compression::None, 0);
        damaged.data = damaged.data.slice(..damaged.data.len() - 3);
        let mut decoding = Decoding::new(damaged);
        let outcomes: Vec<bool> = std::iter::from_fn(|| decoding.next_record()).map(|r| r.is_ok()).collect();
        assert_eq!(outcomes, [true, true, true, false]);
    }
}
