//! Texts and numbers as Kafka lays them out in the records of its internal topics.

use super::records::RecordError;

/// Appends a text with its length in front, as keys and values of Kafka's inflexible versions have it.
pub(super) fn put_text(to: &mut Vec<u8>, text: &str) {
    // Ids, topics and metadata are all bounded far below 32 KiB.
    let len = i16::try_from(text.len()).unwrap_or(i16::MAX);
    to.extend(len.to_be_bytes());
    to.extend(&text.as_bytes()[..usize::try_from(len).unwrap_or(0)]);
}

/// Appends an unsigned varint.
pub(super) fn put_varint(to: &mut Vec<u8>, mut n: u32) {
    while n >= 0x80 {
        to.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

/// Reads what was appended.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(RecordError::Malformed("it is too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(RecordError::Malformed("it is too short"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, RecordError> {
        let len = usize::try_from(i16::from_be_bytes(self.take()?))
            .map_err(|_| RecordError::Malformed("a negative length"))?;
        self.text_of(len)
    }

    pub(super) fn text_of(&mut self, len: usize) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.bytes(len)?).map_err(|_| RecordError::Malformed("a text is not UTF-8"))
    }

    pub(super) fn varint(&mut self) -> Result<usize, RecordError> {
        let mut n = 0u32;
        for shift in [0, 7, 14, 21] {
            let [byte] = self.take()?;
            n |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n as usize);
            }
        }
        Err(RecordError::Malformed("a length is too long"))
    }
}
