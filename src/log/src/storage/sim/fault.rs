//! What shall go wrong, and when.

use std::io;
use std::path::Path;

/// A call of the storage seam, to name in a fault plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// `create_dir_all`, counted once for each directory that it creates.
    CreateDir,
    /// `list` and `exists`.
    List,
    /// `open`, in any mode.
    Open,
    /// `rename`.
    Rename,
    /// `remove_file` and `remove_dir_all`.
    Remove,
    /// `sync_dir`.
    SyncDir,
    /// `lock`.
    Lock,
    /// `read_at` and `map`.
    Read,
    /// `write_all_at`.
    Write,
    /// `set_len`.
    SetLen,
    /// `reserve` and `release_reserved`.
    Reserve,
    /// `sync_data`.
    SyncData,
    /// `SyncBatch::sync`.
    SyncBatch,
}

/// The error that an injected fault returns; the same `ErrorKind` as the operating system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultError {
    /// `EIO`: the device failed.
    Io,
    /// `ENOSPC`: the device is full.
    NoSpace,
}

impl FaultError {
    pub(super) fn to_io(self) -> io::Error {
        match self {
            FaultError::Io => rustix::io::Errno::IO.into(),
            FaultError::NoSpace => rustix::io::Errno::NOSPC.into(),
        }
    }
}

/// Every call fails with this after the simulated power went, and every call on a handle from before the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the simulated machine lost its power")]
pub struct PowerCut;

/// Whether an error comes from the simulated power cut, so that a test can tell it from a real fault.
pub fn is_power_cut(err: &io::Error) -> bool {
    err.get_ref().is_some_and(|inner| inner.is::<PowerCut>())
}

#[derive(Debug)]
struct Planned {
    ops: Vec<OpKind>,
    path_contains: String,
    remaining: u64,
    error: FaultError,
}

/// The faults to come, and the count of calls that changed something.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    planned: Vec<Planned>,
    changes: u64,
    cut_at: Option<u64>,
    off: bool,
}

impl FaultPlan {
    pub(super) fn add(&mut self, ops: &[OpKind], path_contains: &str, nth: u64, error: FaultError) {
        let path_contains = path_contains.to_owned();
        self.planned.push(Planned { ops: ops.to_vec(), path_contains, remaining: nth.max(1), error });
    }

    pub(super) fn cut_after(&mut self, n: u64) {
        self.cut_at = Some(self.changes.saturating_add(n));
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    pub(super) fn power_on(&mut self) {
        self.off = false;
        self.cut_at = None;
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    /// Whether the machine is on. Every call asks first.
    pub(super) fn alive(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other(PowerCut)) } else { Ok(()) }
    }

    /// Counts a call and says whether it fails before it has any effect (power) or as planned (fault).
    pub(super) fn before(&mut self, op: OpKind, path: &Path, changes: bool) -> Result<(), Failure> {
        if self.off || (changes && self.cut_at == Some(self.changes)) {
            self.off = true;
            return Err(Failure::Power);
        }
        if changes {
            self.changes += 1;
        }
        let text = path.to_string_lossy();
        let mut hit = None;
        self.planned.retain_mut(|plan| {
            if !plan.ops.contains(&op) || !text.contains(&plan.path_contains) {
                return true;
            }
            plan.remaining -= 1;
            if plan.remaining > 0 {
                return true;
            }
            hit = hit.or(Some(plan.error));
            false
        });
        match hit {
            Some(error) => Err(Failure::Fault(error)),
            None => Ok(()),
        }
    }
}

/// Why a simulated call fails.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failure {
    Power,
    Fault(FaultError),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure {
            Failure::Power => io::Error::other(PowerCut),
            Failure::Fault(error) => error.to_io(),
        }
    }
}
