//! The seam between the log and the file system.
//!
//! The log never touches `std::fs`: it asks a [`Storage`]. Two implementations keep the same contract, and one
//! conformance suite runs against both: `OsStorage` for real disks, and `SimStorage`, which keeps apart what was written and
//! what was synced, so that a test can cut the power at any call.
//!
//! ```text
//!   write_all_at ──► page cache ──(sync_data)──► stable
//!   open(Create) / rename / remove_file ──► directory ──(sync_dir)──► stable
//! ```
//!
//! What a caller may assume: bytes written are read back at once. What it may not: that any of them, or a created or
//! renamed name, survives a power cut before the matching `sync_data` **and** `sync_dir`; that writes reach the disk in
//! order; that a failed `sync_data` may be tried again (the kernel may have dropped the dirty pages).

mod os;
mod sim;
#[cfg(test)]
mod suite;

pub use os::OsStorage;
pub use sim::{FaultError, OpKind, PowerCut, SimStorage, is_power_cut};

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    ReadWrite,
    /// A file to read and write; created empty if it is not there.
    Create,
    /// A file to read and write; whatever it held is gone.
    Truncate,
}

/// Direct writes begin at addresses and places in the file that are multiples of this, and are as long, in bytes.
pub const DIRECT_ALIGN: usize = 4096;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without its folder. Names that are not UTF-8 are not listed.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Bytes of a file that stay readable without a copy: a memory map, or an owned copy.
pub type Mapping = Box<dyn AsRef<[u8]> + Send + Sync>;

/// Everything that is created and written below a directory since the batch was begun; made stable at once.
pub trait SyncBatch: Send {
    /// Makes files, their bytes and all names below the directory stable. An error is final, as that of
    /// [`LogFile::sync_data`].
    fn sync(self: Box<Self>) -> io::Result<()>;
}

/// Held while a data directory is in use; dropping it gives the directory free.
pub trait DirLock: Debug + Send + Sync {}

/// A file system, as far as the log needs one.
pub trait Storage: Debug + Send + Sync + 'static {
    /// Creates a directory and its parents; no error if it is there. Syncs what it created.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Creates a directory whose parent is there. Its name is not stable before the parent is synced. `AlreadyExists` if it is
    /// there.
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if self.exists(dir)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.create_dir_all(dir)
    }
    /// Begins a batch of creations and writes below `dir`, which are then made stable by one call instead of one for each file
    /// and directory. `None` where the storage has no such call: then each must be synced.
    fn begin_batch(&self, dir: &Path) -> io::Result<Option<Box<dyn SyncBatch>>> {
        let _ = dir;
        Ok(None)
    }
    /// The names in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether there is a file or directory of that name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn LogFile>>;
    /// One more handle on an existing file whose writes go past the page cache, so that they leave nothing behind to be written.
    /// They are not stable before [`LogFile::sync_data`], which any handle of the file may call, and must keep to
    /// [`DIRECT_ALIGN`]. `None` where the storage has no such writes; it may also refuse the first one with `InvalidInput`.
    fn open_direct(&self, path: &Path) -> io::Result<Option<Arc<dyn LogFile>>> {
        let _ = path;
        Ok(None)
    }
    /// Renames a file or directory, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all below it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` stable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be written below `dir`.
    fn available_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Bytes that the file system of `dir` holds in all, written or not. `Unsupported` where that is not known.
    fn capacity_bytes(&self, dir: &Path) -> io::Result<u64> {
        let _ = dir;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Takes the exclusive lock file `path`. `ErrorKind::WouldBlock` if another process (or this one) holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>>;
}

/// An open file. Reads and writes name their position, so handles are shared without a lock.
pub trait LogFile: Debug + Send + Sync {
    /// The file's length in bytes (reserved space beyond it does not count).
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads up to `buf.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Fills `buf` from `offset`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }
    /// Writes all of `bufs`, one behind the other, from `offset` on. After an error any prefix may have been written.
    fn write_all_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves disk space for `len` bytes from `offset` **without** changing the file's length, so that no crash leaves
    /// trailing garbage. `StorageFull` if there is none. A file system without reservations does nothing.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives back what was reserved beyond the file's length.
    fn release_reserved(&self) -> io::Result<()>;
    /// Makes all that was written, and the length, stable. An error is final: the caller must not try again (fsyncgate).
    fn sync_data(&self) -> io::Result<()>;
    /// The first `len` bytes, readable without a copy where the system allows. Only for files that are never cut while mapped.
    fn map(&self, len: usize) -> io::Result<Mapping>;
}
