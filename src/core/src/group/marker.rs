//! The first record that a new owner of a shard writes. Once it is in the log, the log itself refuses the former owner (its
//! producer epoch is older), and all that the shard was before lies in front of it.
//!
//! The key is the kind alone, so that compaction keeps the newest only. [`GroupRecord::decode`](super::GroupRecord::decode)
//! answers it with [`RecordError::UnknownKind`] of [`LEASE_MARKER`], which every reader passes over.

use super::records::{RecordError, pack, unpack};
use crate::{CoordinatorId, LeaseEpoch};
use serde::{Deserialize, Serialize};

/// The kind of a marker's key.
pub const LEASE_MARKER: i16 = 110;

/// Who begins to serve a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseMarker {
    /// The lease's epoch.
    pub epoch: LeaseEpoch,
    /// The coordinator.
    pub coordinator: CoordinatorId,
}

/// The key and the value of a marker.
pub fn lease_marker(epoch: LeaseEpoch, coordinator: CoordinatorId) -> (Vec<u8>, Vec<u8>) {
    (LEASE_MARKER.to_be_bytes().to_vec(), pack(&LeaseMarker { epoch, coordinator }))
}

/// The marker of that key and value; `None` for any other kind of record.
///
/// Errors: damage.
pub fn decode_lease_marker(key: &[u8], value: Option<&[u8]>) -> Result<Option<LeaseMarker>, RecordError> {
    match (key == LEASE_MARKER.to_be_bytes(), value) {
        (true, Some(value)) => unpack(value).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupRecord;

    #[test]
    fn markers_are_read_by_those_who_ask_and_passed_over_by_all_others() {
        let (key, value) = lease_marker(LeaseEpoch(3), CoordinatorId(7));
        let marker = LeaseMarker { epoch: LeaseEpoch(3), coordinator: CoordinatorId(7) };
        assert_eq!(decode_lease_marker(&key, Some(&value)), Ok(Some(marker)));
        assert_eq!(GroupRecord::decode(&key, Some(&value)), Err(RecordError::UnknownKind(LEASE_MARKER)));
        assert_eq!(decode_lease_marker(&[0, 100, 0, 1, b'g'], Some(&value)), Ok(None));
        assert_eq!(decode_lease_marker(&key, None), Ok(None));
        assert!(decode_lease_marker(&key, Some(&value[..3])).is_err());
    }
}
