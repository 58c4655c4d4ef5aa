//! Kafka's text checkpoints: a line with the version (0), a line with the number of entries, then one line an entry.
//!
//! | file | entry |
//! |---|---|
//! | `recovery-point-offset-checkpoint` | `<topic> <partition> <offset>` |
//! | `log-start-offset-checkpoint` | `<topic> <partition> <offset>` |
//! | `replication-offset-checkpoint` | `<topic> <partition> <offset>` |
//! | `cleaner-offset-checkpoint` | `<topic> <partition> <offset>` |
//! | `leader-epoch-checkpoint` | `<epoch> <start offset>` |

use crate::state_file::{self, StateFileError};
use crate::storage::Storage;
use std::fmt::Write;
use std::path::Path;
use thalweg_core::{Offset, PartitionId, TopicName, TopicPartition};

/// Offsets below which every record of a partition is stable; in each data directory.
pub const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// The log start offsets that delete-records and retention moved; in each data directory.
pub const LOG_START_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// The high watermarks; in each data directory.
pub const HIGH_WATERMARK_CHECKPOINT: &str = "replication-offset-checkpoint";

/// Offsets below which partitions are compacted; in each data directory.
pub const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";

/// The only version of the format.
const VERSION: &str = "0";

/// Why a text is no checkpoint. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are not UTF-8.
    #[error("the checkpoint is not text")]
    NotText,
    /// The first line is not a known version.
    #[error("the checkpoint's first line must be the version 0")]
    Version,
    /// The second line is not a number.
    #[error("the checkpoint's second line must be the number of entries")]
    Count,
    /// A line is no entry of this checkpoint.
    #[error("line {line} of the checkpoint is malformed")]
    Entry {
        /// The line's number.
        line: usize,
    },
    /// The number of entries is not as announced, as after a torn write.
    #[error("the checkpoint announces {announced} entries but has {found}")]
    CountDiffers {
        /// The number in the second line.
        announced: u64,
        /// The number of entry lines.
        found: u64,
    },
}

/// An entry of a checkpoint: its text is one line.
pub trait CheckpointEntry: Sized {
    /// Writes the line, without its end.
    fn format(&self, line: &mut String);
    /// Reads a line; `None` if it is malformed.
    fn parse(line: &str) -> Option<Self>;
}

/// A partition and an offset of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: Offset,
}

impl CheckpointEntry for PartitionOffset {
    fn format(&self, line: &mut String) {
        let TopicPartition { topic, partition } = &self.partition;
        // Writing to a String cannot fail.
        let _ = write!(line, "{topic} {partition} {}", self.offset);
    }

    fn parse(line: &str) -> Option<Self> {
        let [topic, partition, offset] = fields(line)?;
        let (topic, partition) = (TopicName::new(topic).ok()?, PartitionId(number(partition)?));
        Some(PartitionOffset {
            partition: TopicPartition::new(topic, partition),
            offset: Offset(number(offset)?),
        })
    }
}

/// Splits a line into exactly `N` fields.
pub(crate) fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    let mut fields = line.split_ascii_whitespace();
    let mut out = [""; N];
    for field in &mut out {
        *field = fields.next()?;
    }
    fields.next().is_none().then_some(out)
}

/// Parses a number that must not be negative.
pub(crate) fn number<T: std::str::FromStr + PartialOrd + Default>(text: &str) -> Option<T> {
    text.parse().ok().filter(|n| *n >= T::default())
}

/// Writes a checkpoint's text.
pub fn encode<E: CheckpointEntry>(entries: &[E]) -> String {
    let mut text = format!("{VERSION}\n{}\n", entries.len());
    for entry in entries {
        entry.format(&mut text);
        text.push('\n');
    }
    text
}

/// Reads a checkpoint's text. Memory grows with the lines that are there, not with the number announced.
pub fn decode<E: CheckpointEntry>(bytes: &[u8]) -> Result<Vec<E>, CheckpointError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CheckpointError::NotText)?;
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some(VERSION) {
        return Err(CheckpointError::Version);
    }
    let announced: u64 = lines.next().and_then(|line| number(line.trim())).ok_or(CheckpointError::Count)?;
    let mut entries = Vec::new();
    for (i, line) in lines.enumerate() {
        entries.push(E::parse(line).ok_or(CheckpointError::Entry { line: i + 3 })?);
    }
    if entries.len() as u64 != announced {
        return Err(CheckpointError::CountDiffers { announced, found: entries.len() as u64 });
    }
    Ok(entries)
}

/// Reads a checkpoint file; no file is an empty checkpoint.
pub fn read<E: CheckpointEntry>(storage: &dyn Storage, path: &Path) -> Result<Vec<E>, StateFileError> {
    match state_file::read(storage, path)? {
        Some(bytes) => decode(&bytes).map_err(|err| StateFileError::new(path, err)),
        None => Ok(Vec::new()),
    }
}

/// Replaces a checkpoint file: temporary file, sync, rename, folder sync.
pub fn write<E: CheckpointEntry>(
    storage: &dyn Storage,
    path: &Path,
    entries: &[E],
) -> Result<(), StateFileError> {
    state_file::replace(storage, path, encode(entries).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimStorage;
    use proptest::prelude::*;

    fn entry(topic: &str, partition: i32, offset: i64) -> PartitionOffset {
        let partition = TopicPartition::new(TopicName::new(topic).unwrap(), PartitionId(partition));
        PartitionOffset { partition, offset: Offset(offset) }
    }

    #[test]
    fn the_text_is_kafkas() {
        let entries = [entry("orders", 0, 17), entry("my.topic-x", 12, i64::MAX)];
        let text = "0\n2\norders 0 17\nmy.topic-x 12 9223372036854775807\n";
        assert_eq!(encode(&entries), text);
        assert_eq!(decode::<PartitionOffset>(text.as_bytes()).unwrap(), entries);
        assert_eq!(decode::<PartitionOffset>(b"0\n0\n").unwrap(), []);
    }

    #[test]
    fn damaged_texts_are_refused_with_the_reason() {
        use CheckpointError::*;
        let cases: [(&[u8], CheckpointError); 12] = [
            (b"", Version),
            (b"1\n0\n", Version),
            (b"0\n", Count),
            (b"0\n-1\n", Count),
            (b"0\nx\n", Count),
            (b"0\n1\n", CountDiffers { announced: 1, found: 0 }),
            (b"0\n18446744073709551615\nt 0 1\n", CountDiffers { announced: u64::MAX, found: 1 }),
            (b"0\n0\nt 0 1\n", CountDiffers { announced: 0, found: 1 }),
            (b"0\n1\nt 0\n", Entry { line: 3 }),
            (b"0\n1\nt 0 1 2\n", Entry { line: 3 }),
            (b"0\n2\nt 0 1\nt 0 -5\n", Entry { line: 4 }),
            (b"0\n1\n\xff 0 1\n", NotText),
        ];
        for (bytes, why) in cases {
            assert_eq!(decode::<PartitionOffset>(bytes), Err(why), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_missing_file_is_an_empty_checkpoint() {
        let sim = SimStorage::new(1);
        let path = Path::new("/checkpoint");
        assert_eq!(read::<PartitionOffset>(&sim, path).unwrap(), []);
        write(&sim, path, &[entry("t", 0, 5)]).unwrap();
        sim.power_cut_strict();
        assert_eq!(read::<PartitionOffset>(&sim, path).unwrap(), [entry("t", 0, 5)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_checkpoint_reads_back(
            entries in prop::collection::vec(("[a-zA-Z0-9_-]{1,20}", 0i32.., 0i64..), 0..20)
        ) {
            let entries: Vec<_> = entries.iter().map(|(topic, p, o)| entry(topic, *p, *o)).collect();
            prop_assert_eq!(decode::<PartitionOffset>(encode(&entries).as_bytes()).unwrap(), entries);
        }

        #[test]
        fn a_cut_text_is_refused(cut in 0usize..40) {
            let entries = [entry("orders", 0, 17), entry("topic", 12, 123_456)];
            let text = encode(&entries);
            // Losing only the last line end, or digits of the last number, cannot be seen in this format.
            let cut = cut.min(text.len() - "123456\n".len());
            prop_assert!(decode::<PartitionOffset>(&text.as_bytes()[..cut]).is_err());
        }

        #[test]
        fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<PartitionOffset>(&bytes);
            let _ = decode::<PartitionOffset>(&[b"0\n3\n", &bytes[..]].concat());
        }
    }
}
