//! The stored format against bytes from elsewhere, against itself, and against bytes that lie.

mod golden;
mod hostile;
mod malformed;
mod round_trip;

use super::{BatchHeader, BatchIter, Limits, RecordView, ValidBatch, header};
use crate::Timestamp;
use bytes::Bytes;

/// A record with its own memory, to compare by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    timestamp: Timestamp,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Owned {
    fn of(view: &RecordView<'_>) -> Owned {
        let headers: Vec<_> =
            view.headers.iter().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec))).collect();
        assert_eq!(headers.len(), view.headers.len());
        Owned {
            timestamp: view.timestamp,
            key: view.key.map(<[u8]>::to_vec),
            value: view.value.map(<[u8]>::to_vec),
            headers,
        }
    }

    fn plain(timestamp: i64, key: Option<&str>, value: &str) -> Owned {
        Owned {
            timestamp: Timestamp(timestamp),
            key: key.map(|key| key.as_bytes().to_vec()),
            value: Some(value.as_bytes().to_vec()),
            headers: Vec::new(),
        }
    }

    fn with_header(mut self, key: &str, value: Option<&str>) -> Owned {
        self.headers.push((key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec())));
        self
    }
}

/// All records with their offsets.
fn records(bytes: &[u8]) -> Vec<(i64, Owned)> {
    let mut scratch = Vec::new();
    let mut all = Vec::new();
    for batch in BatchIter::new(bytes) {
        let batch = batch.unwrap();
        batch.verify().unwrap();
        for record in batch.records(&mut scratch, 1 << 20).unwrap() {
            let record = record.unwrap();
            all.push((record.offset.get(), Owned::of(&record)));
        }
    }
    all
}

fn check(bytes: &[u8]) -> Result<ValidBatch, super::BatchError> {
    ValidBatch::check(Bytes::copy_from_slice(bytes), &Limits::default())
}

/// The batch with its header changed, and length and checksum right again.
fn resealed(batch: &[u8], change: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
    let mut bytes = batch.to_vec();
    let mut fields = BatchHeader::parse(batch).unwrap();
    change(&mut fields);
    header::seal(&mut bytes, fields);
    bytes
}

/// Bytes written as hexadecimal digits with spaces.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
