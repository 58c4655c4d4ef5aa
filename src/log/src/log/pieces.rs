//! Bytes that came in several pieces, read as one row: batches are checked and written without being gathered.

use thalweg_core::batch::{BatchError, BatchHeader, CRC_START, HEADER_LEN};

/// What is left of a row of pieces.
#[derive(Debug, Clone)]
pub(super) struct Pieces<'a> {
    first: &'a [u8],
    others: &'a [&'a [u8]],
    len: usize,
}

impl<'a> Pieces<'a> {
    pub fn new(pieces: &'a [&'a [u8]]) -> Pieces<'a> {
        Pieces { first: &[], others: pieces, len: pieces.iter().map(|piece| piece.len()).sum() }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes that many bytes, or as many as there are, off the front, piece by piece.
    pub fn take(&mut self, bytes: usize, mut each: impl FnMut(&'a [u8])) {
        let mut wanted = bytes.min(self.len);
        self.len -= wanted;
        while wanted > 0 {
            if self.first.is_empty() {
                let Some((first, others)) = self.others.split_first() else { return };
                (self.first, self.others) = (first, others);
                continue;
            }
            let (taken, rest) = self.first.split_at(wanted.min(self.first.len()));
            each(taken);
            wanted -= taken.len();
            self.first = rest;
        }
    }

    /// Takes one whole batch whose checksum holds off the front; returns its header.
    pub fn checked_batch(&mut self) -> Result<BatchHeader, BatchError> {
        let available = self.len;
        let (mut front, mut at) = ([0; HEADER_LEN], 0);
        self.clone().take(HEADER_LEN, |piece| {
            front[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        });
        let header = BatchHeader::parse(&front[..at])?;
        if header.size() > available {
            return Err(BatchError::Truncated { needed: header.size(), available });
        }
        self.take(CRC_START, |_| {});
        let mut actual = 0;
        self.take(header.size() - CRC_START, |piece| actual = crc32c::crc32c_append(actual, piece));
        if actual != header.crc {
            return Err(BatchError::Crc { expected: header.crc, actual });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::Timestamp;
    use thalweg_core::batch::{BatchBuilder, BatchIter, ProducerStamp};
    use thalweg_core::compression::Compression;

    fn batches() -> Vec<u8> {
        let sizes = [1, 100, 700];
        let batch = |size: usize| {
            let mut builder = BatchBuilder::new(Compression::None, 1 << 20);
            builder.append(Timestamp(size as i64), None, Some(&vec![b'x'; size]), &[]);
            builder.finish(ProducerStamp::NONE).to_vec()
        };
        sizes.map(batch).concat()
    }

    fn headers(bytes: &[u8], step: usize) -> Result<Vec<BatchHeader>, BatchError> {
        let pieces: Vec<&[u8]> = bytes.chunks(step).flat_map(|piece| [&[][..], piece]).collect();
        let mut rest = Pieces::new(&pieces);
        let mut headers = Vec::new();
        while !rest.is_empty() {
            headers.push(rest.checked_batch()?);
        }
        Ok(headers)
    }

    #[test]
    fn batches_are_the_same_however_they_are_cut() {
        let bytes = batches();
        let whole: Vec<_> = BatchIter::new(&bytes).map(|batch| batch.unwrap().header).collect();
        for step in 1..=bytes.len() {
            assert_eq!(headers(&bytes, step).unwrap(), whole, "{step}");
        }
    }

    #[test]
    fn damage_is_seen_however_they_are_cut() {
        let bytes = batches();
        let contiguous = |bytes: &[u8]| {
            BatchIter::new(bytes).find_map(|batch| batch.and_then(|batch| batch.verify()).err())
        };
        for at in (0..bytes.len()).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            for step in [1, 13, 61, 62, 500, bytes.len()] {
                assert_eq!(headers(&bad, step).err(), contiguous(&bad), "byte {at} by {step}");
                assert_eq!(
                    headers(&bytes[..at], step).err(),
                    contiguous(&bytes[..at]),
                    "cut at {at} by {step}"
                );
            }
        }
    }
}
