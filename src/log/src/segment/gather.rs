//! Bytes gathered for writes that go past the page cache.

use crate::storage::DIRECT_ALIGN;

/// A buffer of a fixed size that begins at an address which direct writes accept. It never grows: growing would move it to
/// another address.
#[derive(Debug)]
pub(super) struct Gather {
    bytes: Vec<u8>,
    /// Where the aligned part begins.
    start: usize,
    size: usize,
}

impl Gather {
    /// An empty one for `size` bytes, of which a whole number of [`DIRECT_ALIGN`] is made.
    pub fn new(size: usize) -> Gather {
        let size = size.next_multiple_of(DIRECT_ALIGN);
        let mut bytes: Vec<u8> = Vec::with_capacity(size + DIRECT_ALIGN);
        let start = bytes.as_ptr().align_offset(DIRECT_ALIGN).min(DIRECT_ALIGN);
        bytes.resize(start, 0);
        Gather { bytes, start, size }
    }

    /// The number of bytes in it.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_full(&self) -> bool {
        self.len() == self.size
    }

    /// Takes as many of `bytes` as it has room for. Returns the others.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (mine, others) = bytes.split_at(bytes.len().min(self.size - self.len()));
        self.bytes.extend_from_slice(mine);
        others
    }

    /// The bytes in two parts: what a direct write takes, and the rest of less than [`DIRECT_ALIGN`] bytes.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        let bytes = &self.bytes[self.start..];
        bytes.split_at(bytes.len() - bytes.len() % DIRECT_ALIGN)
    }

    pub fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_its_address_whatever_it_takes() {
        let mut gather = Gather::new(2 * DIRECT_ALIGN - 1);
        let bytes: Vec<u8> = (0..3 * DIRECT_ALIGN + 5).map(|i| i as u8).collect();
        for round in 0..3 {
            let first = gather.take(&bytes[..7]);
            assert!(first.is_empty() && gather.len() == 7 && !gather.is_full(), "round {round}");
            let left = gather.take(&bytes[7..]);
            assert!(gather.is_full());
            assert_eq!(left.len(), DIRECT_ALIGN + 5);
            let (whole, rest) = gather.parts();
            assert_eq!(whole.as_ptr().align_offset(DIRECT_ALIGN), 0);
            assert_eq!((whole, rest), (&bytes[..2 * DIRECT_ALIGN], &[][..]));
            gather.clear();
        }
        gather.take(&bytes[..DIRECT_ALIGN + 3]);
        let (whole, rest) = gather.parts();
        assert_eq!((whole.len(), rest), (DIRECT_ALIGN, &bytes[DIRECT_ALIGN..DIRECT_ALIGN + 3]));
    }
}
