//! Kafka's producer snapshot, version 1: `<20 digits>.snapshot`, the state just before the offset in the name.
//!
//! ```text
//!   i16 version (1) | u32 CRC-32C of all that follows | i32 count | count entries of 46 bytes, big-endian:
//!   i64 producer id, i16 epoch, i32 last sequence, i64 last offset, i32 offset delta, i64 timestamp,
//!   i32 coordinator epoch, i64 first offset of the open transaction (-1: none)
//! ```

use crate::state_file::{self, StateFileError};
use crate::storage::Storage;
use std::path::Path;
use thalweg_core::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

const VERSION: i16 = 1;
/// Where the checksummed part starts: behind the version and the checksum.
const CHECKED_FROM: usize = 6;
const HEADER_LEN: usize = 10;
const ENTRY_LEN: usize = 46;
const SUFFIX: &str = ".snapshot";
const NAME_DIGITS: usize = 20;

/// Why bytes are no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Fewer bytes than the header has.
    #[error("the producer snapshot is cut short: {0} bytes")]
    Short(usize),
    /// Not version 1.
    #[error("the producer snapshot has version {0}, this program reads 1")]
    Version(i16),
    /// The entries announced do not fill the file exactly.
    #[error("the producer snapshot announces {announced} entries in {bytes} bytes")]
    Count {
        /// The count in the header.
        announced: i32,
        /// The bytes behind the header.
        bytes: usize,
    },
    /// The checksum differs.
    #[error("the producer snapshot's checksum is {found:#010x}, its content gives {expected:#010x}")]
    Checksum {
        /// The checksum of what is there.
        expected: u32,
        /// The checksum stored.
        found: u32,
    },
}

/// One producer in a snapshot, field by field as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its newest epoch.
    pub producer_epoch: ProducerEpoch,
    /// Its last record's sequence; -1 if no batch of the epoch is known.
    pub last_sequence: Sequence,
    /// Its last record's offset; -1 likewise.
    pub last_offset: Offset,
    /// The last batch's last offset less its first.
    pub offset_delta: i32,
    /// The timestamp of its last batch or marker.
    pub timestamp: Timestamp,
    /// The coordinator epoch of its last marker; -1 before the first.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins; -1 if none is open.
    pub current_txn_first_offset: Offset,
}

/// Writes a snapshot's bytes.
pub fn encode_snapshot(entries: &[SnapshotEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + entries.len() * ENTRY_LEN);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(entries.len() as i32).to_be_bytes());
    for entry in entries {
        bytes.extend_from_slice(&entry.producer_id.get().to_be_bytes());
        bytes.extend_from_slice(&entry.producer_epoch.get().to_be_bytes());
        bytes.extend_from_slice(&entry.last_sequence.get().to_be_bytes());
        bytes.extend_from_slice(&entry.last_offset.get().to_be_bytes());
        bytes.extend_from_slice(&entry.offset_delta.to_be_bytes());
        bytes.extend_from_slice(&entry.timestamp.as_millis().to_be_bytes());
        bytes.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
        bytes.extend_from_slice(&entry.current_txn_first_offset.get().to_be_bytes());
    }
    let crc = crc32c::crc32c(&bytes[CHECKED_FROM..]);
    bytes[2..CHECKED_FROM].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Takes the next `N` bytes; the caller has checked that they are there.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (head, rest) = bytes.split_first_chunk().expect("the length was checked against the layout");
    *bytes = rest;
    *head
}

/// Reads a snapshot's bytes. The count is checked against the length before anything is allocated.
pub fn decode_snapshot(bytes: &[u8]) -> Result<Vec<SnapshotEntry>, SnapshotError> {
    if bytes.len() < HEADER_LEN {
        return Err(SnapshotError::Short(bytes.len()));
    }
    let mut rest = bytes;
    let version = i16::from_be_bytes(take(&mut rest));
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let found = u32::from_be_bytes(take(&mut rest));
    let announced = i32::from_be_bytes(take(&mut rest));
    if usize::try_from(announced).ok().and_then(|n| n.checked_mul(ENTRY_LEN)) != Some(rest.len()) {
        return Err(SnapshotError::Count { announced, bytes: rest.len() });
    }
    let expected = crc32c::crc32c(&bytes[CHECKED_FROM..]);
    if found != expected {
        return Err(SnapshotError::Checksum { expected, found });
    }
    let mut entries = Vec::with_capacity(rest.len() / ENTRY_LEN);
    while !rest.is_empty() {
        entries.push(SnapshotEntry {
            producer_id: ProducerId(i64::from_be_bytes(take(&mut rest))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(take(&mut rest))),
            last_sequence: Sequence(i32::from_be_bytes(take(&mut rest))),
            last_offset: Offset(i64::from_be_bytes(take(&mut rest))),
            offset_delta: i32::from_be_bytes(take(&mut rest)),
            timestamp: Timestamp(i64::from_be_bytes(take(&mut rest))),
            coordinator_epoch: i32::from_be_bytes(take(&mut rest)),
            current_txn_first_offset: Offset(i64::from_be_bytes(take(&mut rest))),
        });
    }
    Ok(entries)
}

/// The name of the snapshot at an offset.
pub fn snapshot_file_name(offset: Offset) -> String {
    format!("{:0NAME_DIGITS$}{SUFFIX}", offset.get())
}

/// The offset in a snapshot's name; `None` if it is the name of something else.
pub fn snapshot_offset(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(SUFFIX)?;
    let all_digits = digits.len() == NAME_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().ok().map(Offset)).flatten()
}

/// An encoded snapshot, to be written outside the log's lock.
#[derive(Debug, Clone)]
pub struct Snapshot {
    offset: Offset,
    bytes: Vec<u8>,
}

impl Snapshot {
    pub(super) fn new(offset: Offset, mut entries: Vec<SnapshotEntry>) -> Self {
        // The map's order is random; a stable one makes equal states equal files.
        entries.sort_unstable_by_key(|entry| entry.producer_id);
        Snapshot { offset, bytes: encode_snapshot(&entries) }
    }

    /// The snapshot covers every batch below this offset.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The file's content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the file into the partition's folder, stable when this returns.
    pub fn write(&self, storage: &dyn Storage, dir: &Path) -> Result<(), StateFileError> {
        state_file::replace(storage, &dir.join(snapshot_file_name(self.offset)), &self.bytes)
    }
}

/// The offsets of the snapshots in a folder, in no order.
pub(super) fn offsets(storage: &dyn Storage, dir: &Path) -> Result<Vec<Offset>, StateFileError> {
    let entries = storage.list(dir).map_err(|err| StateFileError::new(dir, err))?;
    Ok(entries.iter().filter_map(|entry| snapshot_offset(&entry.name)).collect())
}

/// Removes the snapshots whose offset `doomed` names, and makes that stable. Returns how many.
pub(super) fn delete(
    storage: &dyn Storage,
    dir: &Path,
    doomed: impl Fn(Offset) -> bool,
) -> Result<usize, StateFileError> {
    let mut count = 0;
    for offset in offsets(storage, dir)?.into_iter().filter(|offset| doomed(*offset)) {
        let path = dir.join(snapshot_file_name(offset));
        storage.remove_file(&path).map_err(|err| StateFileError::new(&path, err))?;
        count += 1;
    }
    if count > 0 {
        // A snapshot above the log's end that came back after a crash would be ahead of what is appended meanwhile.
        storage.sync_dir(dir).map_err(|err| StateFileError::new(dir, err))?;
    }
    Ok(count)
}

/// The newest good snapshot of the log `[log_start, log_end]`; see `ProducerStates::load`.
pub(super) fn load_newest(
    storage: &dyn Storage,
    dir: &Path,
    log_start: Offset,
    log_end: Offset,
) -> Result<Option<(Offset, Vec<SnapshotEntry>)>, StateFileError> {
    delete(storage, dir, |offset| offset > log_end || offset <= log_start)?;
    let mut found = offsets(storage, dir)?;
    found.sort_unstable();
    while let Some(offset) = found.pop() {
        let path = dir.join(snapshot_file_name(offset));
        let decoded = match state_file::read(storage, &path) {
            Ok(Some(bytes)) => decode_snapshot(&bytes).map_err(|err| StateFileError::new(&path, err)),
            Ok(None) => continue,
            Err(err) => Err(err),
        };
        match decoded {
            Ok(entries) => return Ok(Some((offset, entries))),
            Err(err) if err.is_corrupt() => {
                tracing::warn!(path = %path.display(), error = %err, "damaged producer snapshot removed");
                delete(storage, dir, |doomed| doomed == offset)?;
            }
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}
