//! Who may write the log: one leader epoch at a time, either as its leader or as its follower.
//!
//! ```text
//!   metadata ─► begin_epoch(7, Following) ─► from here on: append_as_follower(.., 7, ..), truncate_to(.., 7)
//!               (waits for an append in progress; whatever still comes from epoch 6 is refused)
//! ```

use super::{Appender, Log};
use crate::error::{AppendError, StorageError};
use std::fmt;
use std::sync::atomic::Ordering;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, TopicPartition};

/// As what a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMode {
    /// This broker leads the partition: producers append.
    Leading,
    /// Another does: only what it wrote is appended, and what it did not write is cut away.
    Following,
}

impl fmt::Display for LogMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogMode::Leading => "leading",
            LogMode::Following => "following",
        })
    }
}

/// The epoch and the mode that were begun last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fence {
    pub epoch: LeaderEpoch,
    pub mode: LogMode,
}

/// The caller's epoch or mode is not the log's. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log {partition} is {current_mode} in epoch {current}, so it cannot be written {wanted_mode} in epoch {wanted}"
)]
pub struct Fenced {
    /// The log.
    pub partition: TopicPartition,
    /// Its epoch.
    pub current: LeaderEpoch,
    /// Its mode.
    pub current_mode: LogMode,
    /// The caller's epoch.
    pub wanted: LeaderEpoch,
    /// The caller's mode.
    pub wanted_mode: LogMode,
}

impl Fenced {
    /// What a caller of the API is told: `NotLeader` where the log is followed now, else that its epoch is over or yet to come.
    pub fn code(&self) -> ErrorCode {
        match (self.wanted_mode, self.current_mode) {
            (LogMode::Leading, LogMode::Following) => ErrorCode::NotLeader,
            _ if self.wanted > self.current => ErrorCode::UnknownLeaderEpoch,
            _ => ErrorCode::FencedLeaderEpoch,
        }
    }
}

/// Where a log stands, its parts read at one moment: what a follower tells its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The first offset.
    pub log_start: Offset,
    /// The first offset that is not there.
    pub log_end: Offset,
    /// The leader epoch of the last record; `None` if there is no record.
    pub last_epoch: Option<LeaderEpoch>,
    /// Everything below is stable.
    pub flushed: Offset,
}

impl Log {
    /// From now on the log is written in this mode and epoch only; appends and truncations of any other are refused. One that
    /// is in progress ends first. Does no I/O. A leader's epoch starts at the log's end, which is returned.
    ///
    /// To begin the same again changes nothing. Errors: an older epoch, or another mode in the same epoch, except that a
    /// leader may resign; and a leader's epoch below that of a record in the log.
    pub fn begin_epoch(&self, epoch: LeaderEpoch, mode: LogMode) -> Result<Offset, AppendError> {
        let mut appender = self.appender();
        let end = self.log_end_offset();
        if let Some(fence) = appender.fence {
            if fence == (Fence { epoch, mode }) {
                let start = appender.epochs.epochs().latest().filter(|latest| latest.epoch == epoch);
                return Ok(start.map_or(end, |latest| latest.start));
            }
            let resigns = fence.epoch == epoch && mode == LogMode::Following;
            if fence.epoch > epoch || (fence.epoch == epoch && !resigns) {
                return Err(self.fenced(fence, epoch, mode).into());
            }
        }
        if mode == LogMode::Leading {
            let latest = appender.epochs.epochs().latest();
            if let Some(latest) = latest.filter(|latest| latest.epoch > epoch) {
                return Err(AppendError::StaleEpoch { current: latest.epoch, found: epoch });
            }
            self.note_epoch(&mut appender, epoch, end);
        }
        if mode == LogMode::Following {
            // Nobody follows this replica any more.
            self.tail.clear();
        }
        appender.fence = Some(Fence { epoch, mode });
        let start = appender.epochs.epochs().latest().filter(|latest| latest.epoch == epoch);
        Ok(start.map_or(end, |latest| latest.start))
    }

    /// Where the log stands, at one moment.
    pub fn position(&self) -> LogPosition {
        let appender = self.appender();
        let (log_start, log_end) = (self.log_start_offset(), self.log_end_offset());
        LogPosition {
            log_start,
            log_end,
            last_epoch: self.last_epoch(&appender),
            flushed: self.flushed_offset().min(log_end),
        }
    }

    /// Raises the log's start to where the leader's is, but not past the high watermark. What is below is not served any more;
    /// its files go with the next retention, and a crash before that may bring the old start back.
    pub fn raise_log_start(&self, to: Offset) {
        let to = to.min(self.high_watermark());
        if to > self.log_start_offset() {
            // Under the lock, so that a truncation beside it sees either start.
            let _appender = self.appender();
            let to = to.min(self.high_watermark());
            self.log_start.fetch_max(to.get(), Ordering::AcqRel);
        }
    }

    /// Below this every record is stable and every epoch is written down: a recovery may begin here.
    pub(crate) fn recovery_point(&self) -> Offset {
        // In this order: an epoch is noted before its first record is flushed.
        let flushed = self.flushed_offset();
        flushed.min(Offset(self.epochs_unwritten.load(Ordering::Acquire)))
    }

    /// Writes down the epochs that are only in memory, if flushed records depend on them.
    pub(crate) fn persist_epochs(&self) -> Result<(), StorageError> {
        if self.epochs_unwritten.load(Ordering::Acquire) < self.flushed_offset().get() {
            let mut appender = self.appender();
            if self.check_writable().is_ok() {
                appender.epochs.persist()?;
                self.tell_unwritten_epochs(&appender);
            }
        }
        Ok(())
    }

    pub(super) fn check_fence(
        &self,
        appender: &Appender,
        epoch: LeaderEpoch,
        mode: LogMode,
    ) -> Result<(), Fenced> {
        match appender.fence {
            Some(fence) if fence != (Fence { epoch, mode }) => Err(self.fenced(fence, epoch, mode)),
            _ => Ok(()),
        }
    }

    fn fenced(&self, current: Fence, wanted: LeaderEpoch, wanted_mode: LogMode) -> Fenced {
        Fenced {
            partition: self.topic_partition().clone(),
            current: current.epoch,
            current_mode: current.mode,
            wanted,
            wanted_mode,
        }
    }

    /// The epoch of the last record. An epoch in which this broker led without writing has none.
    pub(super) fn last_epoch(&self, appender: &Appender) -> Option<LeaderEpoch> {
        let end = self.log_end_offset();
        let has_records = self.log_start_offset() < end;
        appender.epochs.epochs().epoch_at(Offset(end.get().saturating_sub(1))).filter(|_| has_records)
    }

    /// To be called under the appender's lock after each change of its epochs.
    pub(super) fn tell_unwritten_epochs(&self, appender: &Appender) {
        let from = appender.epochs.unwritten_from().map_or(i64::MAX, Offset::get);
        self.epochs_unwritten.store(from, Ordering::Release);
    }
}
