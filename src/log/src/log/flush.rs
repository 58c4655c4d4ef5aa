//! Making appended records stable.

use super::{Life, Log};
use crate::committer::FlushListener;
use crate::error::StorageError;
use crate::segment::Segment;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;
use thalweg_core::Timestamp;

impl Log {
    /// Puts the log on its directory's committer, once. Cheap; returns at once.
    pub fn request_flush(&self) {
        if !self.queued.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
        {
            self.volume.queue.push(me);
        }
    }

    /// Who is told when records became stable. Called from the committer's thread.
    pub fn set_flush_listener(&self, listener: Weak<dyn FlushListener>) {
        *self.listener.write().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    fn listener(&self) -> Option<Arc<dyn FlushListener>> {
        let listener = self.listener.read().unwrap_or_else(PoisonError::into_inner);
        listener.as_ref().and_then(Weak::upgrade)
    }

    pub(crate) fn tell_failed(&self) {
        // One listener that panics must not keep the others from hearing.
        let tell = || self.listener().map(|listener| listener.failed());
        if catch_unwind(AssertUnwindSafe(tell)).is_err() {
            tracing::error!(partition = %self.topic_partition(), "a flush listener panicked");
        }
    }

    /// The committer's step: what is appended from here on asks for a sync of its own.
    pub(crate) fn flush_queued(&self) -> Result<(), StorageError> {
        self.queued.store(false, Ordering::Release);
        if self.life() == Life::Deleted {
            return Ok(());
        }
        self.flush().inspect_err(|_| self.tell_failed())
    }

    /// Syncs all that is appended by now, and tells the listener. Blocks; appends go on meanwhile.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.volume.check()?;
        let (target, closed, active) = {
            let mut appender = self.appender();
            (appender.since_flush, appender.dirty_since) = (0, None);
            (self.log_end_offset(), appender.unsynced.clone(), Arc::clone(&appender.active))
        };
        // Oldest first is not needed for safety, as the offset moves only after all; it keeps recovery's loss at the end.
        let sync = |segment: &Segment| {
            // The disk's time, which no seam makes shorter. Cleaners rest by it, but for no time where a step takes none.
            let begun = Instant::now();
            segment.sync().inspect(|()| self.volume.synced_in(begun.elapsed()))
        };
        let synced = (|| {
            for segment in &closed {
                if segment.take_dirty() {
                    sync(segment)?;
                }
                // Recovery will not scan this segment, so its indexes must be stable as well.
                segment.sync_index()?;
            }
            if active.take_dirty() { sync(&active) } else { Ok(()) }
        })();
        if let Err(err) = synced {
            // A log that was deleted meanwhile may have no file to sync any more.
            if self.life() != Life::Deleted {
                self.volume.fail(&err);
            }
            return Err(err);
        }
        let mut appender = self.appender();
        appender.unsynced.retain(|segment| !closed.iter().any(|done| Arc::ptr_eq(done, segment)));
        drop(appender);
        // A truncation waits for the lock taken above, so the target is still in the log.
        self.flushed.fetch_max(target.get(), Ordering::AcqRel);
        if let Some(listener) = self.listener() {
            listener.flushed(target);
        }
        Ok(())
    }

    /// With write caching: asks for a sync if the oldest unsynced record waits for longer than `flush.ms`. Takes no lock for
    /// a log that is all synced.
    pub(crate) fn flush_if_due(&self, now: Timestamp) {
        if self.flushed_offset() >= self.log_end_offset() {
            return;
        }
        let Some(limit) = self.config().flush_ms else { return };
        let due = self.appender().dirty_since.is_some_and(|since| now.millis_since(since) >= limit);
        if due {
            self.request_flush();
        }
    }

    /// Asks for a sync if closed segments wait for one, so that recovery has no more than the active one to scan.
    pub(crate) fn flush_closed(&self) {
        if !self.appender().unsynced.is_empty() {
            self.request_flush();
        }
    }

    /// Gives back the space that is reserved for a log to which nothing was appended since the last call, closes files that
    /// nobody reads, and forgets idle producers.
    pub(crate) fn rest(&self, now: Timestamp) {
        let segments = self.segments();
        let config = self.config();
        let mut appender = self.appender();
        appender.now = appender.now.max(now);
        let expired = appender.producers.expire(now, config.producer_id_expiration_ms);
        if expired > 0 {
            tracing::debug!(partition = %self.topic_partition(), count = expired, "forgot idle producers");
        }
        if !std::mem::take(&mut appender.busy)
            && self.life() == Life::Open
            && let Err(err) = appender.active.release_reserved()
        {
            tracing::warn!(partition = %self.topic_partition(), error = %err, "cannot release reserved space");
        }
        for segment in segments.iter() {
            if Arc::ptr_eq(segment, &appender.active) {
                segment.rest_active();
            } else {
                segment.rest();
            }
        }
    }

    /// Stores and syncs everything and takes no more appends. Reads go on.
    pub(crate) fn close(&self) -> Result<(), StorageError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut appender = self.appender();
            match self.life() {
                Life::Open => {}
                Life::Closed | Life::Deleted => return Ok(()),
                Life::Failed => self.check_writable()?,
            }
            self.volume.check()?;
            appender.active.seal()?;
            let (storage, dir) = (Arc::clone(&self.home.storage), Arc::clone(&self.home.dir));
            appender.producers.take_snapshot(&*storage, &dir)?;
            // An epoch without a record may be forgotten: its start says nothing that the log's end does not.
            if appender.epochs.unwritten_from().is_some_and(|from| from < self.log_end_offset()) {
                appender.epochs.persist()?;
            }
            self.tell_unwritten_epochs(&appender);
            self.set_life(Life::Closed);
            self.tail.clear();
        }
        self.flush()?;
        let active = Arc::clone(&self.appender().active);
        if !active.sync_index()? {
            // Nothing was written since it was opened, so no name is new: a thousand idle logs close at once.
            return Ok(());
        }
        let dir = &self.home.dir;
        self.home.storage.sync_dir(dir).map_err(|err| StorageError::io("sync", dir, err))
    }

    /// Runs `rename`, which takes the folder away, while nothing is written or synced: what opens a file by its path must not
    /// fail beside it. If it succeeds the log takes no more appends and reads; if it fails nothing has changed.
    pub(crate) fn delete_with<E>(&self, rename: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let _appender = self.appender();
        rename()?;
        self.set_life(Life::Deleted);
        self.tail.clear();
        Ok(())
    }
}
