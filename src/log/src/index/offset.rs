//! The offset index (`.index`): where in the segment's file a batch begins.

use super::IndexEntry;

/// The file name's extension.
pub(crate) const EXTENSION: &str = "index";

/// "The batch whose last offset is `base + relative` begins at `position`." Two big-endian `i32` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    /// The batch's last offset, less the segment's base offset.
    pub relative: u32,
    /// Where the batch begins, in bytes.
    pub position: u32,
}

impl IndexEntry for OffsetEntry {
    const SIZE: usize = 8;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relative.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let field = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        OffsetEntry { relative: field(0), position: field(4) }
    }
}
