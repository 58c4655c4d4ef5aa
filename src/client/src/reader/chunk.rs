//! What a reader gives: whole batches as they are stored.

use bytes::Bytes;
use thalweg_core::batch::{
    BatchError, BatchIter, BatchRef, HEADER_LEN, RecordView, Records, RecordsPosition,
};
use thalweg_core::compression::Compression;
use thalweg_core::{Offset, PartitionId, TopicName};

/// Bytes that one batch may inflate to.
const MAX_INFLATED: usize = 64 << 20;

/// Records of one partition, in order, as whole batches.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The topic.
    pub topic: ChunkTopic,
    /// The partition.
    pub partition: PartitionId,
    /// Whole record batches v2, one behind the other. The first may begin below `first_wanted`.
    pub data: Bytes,
    /// Records below this were not asked for, or were given before.
    pub first_wanted: Offset,
    /// Where the next chunk begins.
    pub next_offset: Offset,
    /// The offset that the next committed record will get.
    pub high_watermark: Offset,
}

/// A topic's name, which is also a `&str`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkTopic(pub TopicName);

impl std::ops::Deref for ChunkTopic {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_str()
    }
}

impl std::fmt::Display for ChunkTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The records of a chunk, one by one. It lends each until the next is asked for, because compressed batches share one
/// scratch buffer.
#[derive(Debug)]
pub struct ChunkRecords<'a> {
    batches: BatchIter<'a>,
    current: Option<Current<'a>>,
    first_wanted: Offset,
    scratch: &'a mut Vec<u8>,
}

/// The batch whose records are being given.
#[derive(Debug, Clone, Copy)]
struct Current<'a> {
    batch: BatchRef<'a>,
    inflated: bool,
    position: RecordsPosition,
}

impl Chunk {
    /// The batches.
    pub fn batches(&self) -> BatchIter<'_> {
        BatchIter::new(&self.data)
    }

    /// The records that were asked for. `scratch` takes the inflated bytes of compressed batches; reuse it.
    pub fn records<'a>(&'a self, scratch: &'a mut Vec<u8>) -> ChunkRecords<'a> {
        ChunkRecords { batches: self.batches(), current: None, first_wanted: self.first_wanted, scratch }
    }

    /// Calls `each` with every record that was asked for, in order. Faster than [`records`](Self::records).
    pub fn for_each_record(
        &self,
        scratch: &mut Vec<u8>,
        mut each: impl FnMut(RecordView<'_>),
    ) -> Result<(), BatchError> {
        for batch in self.batches() {
            let batch = batch?;
            // Control batches are the brokers' own and hold no records.
            if batch.header.attributes.is_control() {
                continue;
            }
            for record in batch.records(scratch, MAX_INFLATED)? {
                let record = record?;
                if record.offset >= self.first_wanted {
                    each(record);
                }
            }
        }
        Ok(())
    }
}

impl ChunkRecords<'_> {
    /// The next record. After an error there is none.
    pub fn next_record(&mut self) -> Option<Result<RecordView<'_>, BatchError>> {
        loop {
            if let Some(mut current) = self.current {
                let header = &current.batch.header;
                let body = if current.inflated {
                    self.scratch.as_slice()
                } else {
                    &current.batch.bytes[HEADER_LEN..]
                };
                let mut records = Records::resume(header, body, current.position);
                let next = records.next();
                current.position = records.position();
                match next {
                    None => self.current = None,
                    Some(Ok(record)) if record.offset < self.first_wanted => self.current = Some(current),
                    Some(_) => break,
                }
                continue;
            }
            match self.batches.next()? {
                Err(error) => return Some(Err(error)),
                // Control batches are the brokers' own and hold no records.
                Ok(batch) if batch.header.attributes.is_control() => {}
                Ok(batch) => match batch.records(self.scratch, MAX_INFLATED) {
                    Ok(records) => {
                        let position = records.position();
                        let inflated =
                            !matches!(batch.header.attributes.compression(), Ok(Compression::None));
                        self.current = Some(Current { batch, inflated, position });
                    }
                    Err(error) => {
                        self.batches = BatchIter::new(&[]);
                        return Some(Err(error));
                    }
                },
            }
        }
        // The loop above only finds the record: what it borrowed could not be returned from inside it.
        let current = self.current.as_mut()?;
        let body =
            if current.inflated { self.scratch.as_slice() } else { &current.batch.bytes[HEADER_LEN..] };
        let mut records = Records::resume(&current.batch.header, body, current.position);
        let record = records.next()?;
        current.position = records.position();
        if record.is_err() {
            self.current = None;
            self.batches = BatchIter::new(&[]);
        }
        Some(record)
    }
}
