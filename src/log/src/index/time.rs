//! The time index (`.timeindex`): the largest timestamp up to an offset.

use super::IndexEntry;

/// The file name's extension.
pub(crate) const EXTENSION: &str = "timeindex";

/// "No record up to here is younger than `timestamp`, which the batch ending at `base + relative` was the first to reach."
/// A big-endian `i64` and `i32` in the file. Both rise strictly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The last offset of the batch that has it, less the segment's base offset.
    pub relative: u32,
}

impl IndexEntry for TimeEntry {
    const SIZE: usize = 12;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.relative.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut timestamp = [0; 8];
        timestamp.copy_from_slice(&bytes[..8]);
        let relative = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        TimeEntry { timestamp: i64::from_be_bytes(timestamp), relative }
    }
}
