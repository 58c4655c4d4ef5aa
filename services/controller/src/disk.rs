//! Keeps the controller's disk from running full: a Raft node whose store cannot be written ends, so a change is refused while
//! it still can be.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::metadata::Command;
use thalweg_proto::ApiError;
use tokio::time::Instant;

/// Bytes that must be available for a change of metadata.
const KEEP_FREE: u64 = 16 * 1024 * 1024;
/// Bytes that must be available for what keeps brokers and coordinators going, or frees space.
const KEEP_FREE_URGENT: u64 = 4 * 1024 * 1024;
/// How long an answer of the file system is good for.
const GOOD_FOR: Duration = Duration::from_millis(100);

/// Asks how many bytes are available; `None` if that is not known.
type Probe = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// The disk that holds the store.
pub struct Disk {
    probe: Probe,
    known: Mutex<Option<(Instant, Option<u64>)>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Disk {
    /// The disk of a folder.
    pub fn of(folder: PathBuf) -> Disk {
        Disk::probed(Box::new(move || {
            let found = rustix::fs::statvfs(&folder).ok()?;
            Some(found.f_bavail.saturating_mul(found.f_frsize))
        }))
    }

    /// A disk that is never full: none at all.
    pub fn boundless() -> Disk {
        Disk::probed(Box::new(|| None))
    }

    fn probed(probe: Probe) -> Disk {
        Disk { probe, known: Mutex::default() }
    }

    /// Whether the command may be written.
    ///
    /// Errors: `STORAGE_ERROR`; nothing was written.
    pub fn check(&self, command: &Command, now: Instant) -> Result<(), ApiError> {
        let keep = if is_urgent(command) { KEEP_FREE_URGENT } else { KEEP_FREE };
        match self.available(now) {
            Some(available) if available < keep => Err(ApiError::new(
                ErrorCode::StorageError,
                format!(
                    "nothing was changed, because {available} bytes are available to the controller and it keeps {keep} free; \
                     free space on the controller's disk"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Bytes that may still be written; `None` if that is not known.
    pub fn available(&self, now: Instant) -> Option<u64> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((at, available)) if now.saturating_duration_since(at) < GOOD_FOR => available,
            _ => known.insert((now, (self.probe)())).1,
        }
    }
}

/// Without these a broker or coordinator cannot come back after a restart, and no topic can be deleted to make room.
fn is_urgent(command: &Command) -> bool {
    matches!(
        command,
        Command::RegisterBroker(_)
            | Command::FenceBroker(_)
            | Command::UnfenceBroker(_)
            | Command::BeginControlledShutdown(_)
            | Command::DeleteTopic(_)
            | Command::AlterPartition(_)
            | Command::AlterPartitions(_)
            | Command::RegisterCoordinator(_)
            | Command::FenceCoordinator(_)
            | Command::BeginCoordinatorShutdown(_)
            | Command::UnregisterCoordinator(_)
            | Command::RenewShardLease(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use thalweg_core::metadata::command::{AllocateProducerIds, BrokerRef};
    use thalweg_core::{BrokerEpoch, BrokerId};

    #[test]
    fn a_full_disk_refuses_changes_and_the_last_room_is_for_what_is_urgent() {
        let free = Arc::new(AtomicU64::new(KEEP_FREE));
        let disk = Disk::probed(Box::new({
            let free = Arc::clone(&free);
            move || Some(free.load(Ordering::Relaxed))
        }));
        let broker = BrokerRef { id: BrokerId(0), epoch: BrokerEpoch(1) };
        let change = Command::AllocateProducerIds(AllocateProducerIds { broker, count: 1 });
        let fence = Command::FenceBroker(broker);
        let start = Instant::now();
        assert!(disk.check(&change, start).is_ok());
        free.store(KEEP_FREE - 1, Ordering::Relaxed);
        assert!(disk.check(&change, start).is_ok(), "the file system is not asked each time");
        let later = start + GOOD_FOR;
        let refused = disk.check(&change, later).unwrap_err();
        assert_eq!(refused.code, ErrorCode::StorageError);
        assert!(disk.check(&fence, later).is_ok());
        free.store(KEEP_FREE_URGENT - 1, Ordering::Relaxed);
        assert!(disk.check(&fence, later + GOOD_FOR).is_err());
        free.store(u64::MAX, Ordering::Relaxed);
        assert!(disk.check(&change, later + 2 * GOOD_FOR).is_ok());
    }

    #[test]
    fn an_unknown_disk_refuses_nothing() {
        let nowhere = Disk::of("/no/such/folder".into());
        let broker = BrokerRef { id: BrokerId(0), epoch: BrokerEpoch(1) };
        assert!(nowhere.check(&Command::FenceBroker(broker), Instant::now()).is_ok());
        assert!(Disk::of(std::env::temp_dir()).available(Instant::now()).is_some());
    }
}
