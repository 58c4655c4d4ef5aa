//! [`Storage`] on the machine's own file system.
//!
//! The calls map one to one onto system calls: `pwritev`, `pread`, `fdatasync`, `fallocate(KEEP_SIZE)`, `flock`. What the
//! standard library has is used; `rustix` gives the rest without `unsafe`. Only the memory map needs it.

use super::{DirEntry, DirLock, LogFile, Mapping, OpenMode, Storage, SyncBatch};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most buffers that Linux takes in one vectored write (`UIO_MAXIOV`); more fail with `EINVAL`.
const MAX_IO_SLICES: usize = 1024;

/// The real file system. Has no state; any number may exist beside each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsStorage;

impl OsStorage {
    /// The file system of this machine.
    pub fn new() -> Self {
        OsStorage
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = retry(|| rustix::fs::open(dir, flags, Mode::empty()))?;
    File::from(dir).sync_all()
}

/// The folder that holds `path`'s name; a bare name lies in the working directory.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

impl Storage for OsStorage {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        let parent = parent_of(dir);
        if parent != dir {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(dir) {
            Ok(()) => sync_dir(parent),
            // Another thread was faster; its name must be as stable as ours.
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => sync_dir(parent),
            Err(err) => Err(err),
        }
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn begin_batch(&self, dir: &Path) -> io::Result<Option<Box<dyn SyncBatch>>> {
        // Opened before anything is written: the kernel reports to this handle each write-back that fails from here on.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = retry(|| rustix::fs::open(dir, flags, Mode::empty()))?;
        Ok(Some(Box::new(OsBatch { dir: File::from(dir) })))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                let mut is_dir = entry.file_type()?.is_dir();
                if entry.file_type()?.is_symlink() {
                    is_dir = entry.path().is_dir();
                }
                entries.push(DirEntry { name, is_dir });
            }
        }
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn LogFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create(true).truncate(false),
            OpenMode::Truncate => options.write(true).create(true).truncate(true),
        };
        let file = options.open(path)?;
        // Linux opens a directory for reading without complaint and fails only at the first read.
        if mode == OpenMode::Read && file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Arc::new(OsFile { file, path: path.to_owned() }))
    }

    fn open_direct(&self, path: &Path) -> io::Result<Option<Arc<dyn LogFile>>> {
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        match retry(|| rustix::fs::open(path, flags, Mode::empty())) {
            Ok(file) => Ok(Some(Arc::new(OsFile { file: File::from(file), path: path.to_owned() }))),
            // The file system has no such thing.
            Err(err) if err.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)
    }

    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = retry(|| rustix::fs::statvfs(dir))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn capacity_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = retry(|| rustix::fs::statvfs(dir))?;
        // What only root may write does not count: nobody else can fill it.
        let reserved = stat.f_bfree.saturating_sub(stat.f_bavail);
        Ok(stat.f_blocks.saturating_sub(reserved).saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        // flock belongs to the open file description, so a second open in this very process is refused as well.
        retry(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive))?;
        Ok(Box::new(OsLock { _file: file, path: path.to_owned() }))
    }
}

/// A directory whose whole file system is synced: one journal commit instead of one for each file.
struct OsBatch {
    dir: File,
}

impl SyncBatch for OsBatch {
    fn sync(self: Box<Self>) -> io::Result<()> {
        retry(|| rustix::fs::syncfs(&self.dir))
    }
}

/// An `flock`; the kernel gives it free when the file is closed, also when the process is killed.
struct OsLock {
    _file: File,
    path: PathBuf,
}

impl DirLock for OsLock {}

impl std::fmt::Debug for OsLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OsLock").field(&self.path).finish()
    }
}

// === impl OsFile ===

struct OsFile {
    file: File,
    path: PathBuf,
}

impl std::fmt::Debug for OsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OsFile").field(&self.path).finish()
    }
}

impl LogFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buf, offset) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_all_at(&self, mut bufs: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // Advancing drops leading empty slices, so a write of 0 bytes below always means that there was no progress.
        IoSlice::advance_slices(&mut bufs, 0);
        while !bufs.is_empty() {
            let batch = &bufs[..bufs.len().min(MAX_IO_SLICES)];
            let written = retry(|| rustix::io::pwritev(&self.file, batch, offset))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            IoSlice::advance_slices(&mut bufs, written);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match retry(|| rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len)) {
            Err(err) if err.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    /// Cuts the file at its own length, which makes Linux free the blocks behind it. Must not run beside a write.
    fn release_reserved(&self) -> io::Result<()> {
        self.file.set_len(self.file.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        if len == 0 {
            return Ok(Box::new(Vec::new()));
        }
        // Pages beyond the end of the file raise SIGBUS when touched.
        if self.len()? < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        #[allow(unsafe_code, reason = "no safe interface maps a file; the invariant below makes it sound")]
        // SAFETY: the caller promises (`LogFile::map`) that the file is not cut while it is mapped, the data directory's
        // lock keeps other processes of ours out, and the mapping is read-only and private to this process's readers.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(&self.file)? };
        Ok(Box::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_space_is_taken_on_the_disk_and_given_back() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let file = OsStorage.open(&path, OpenMode::Create).unwrap();
        file.write_all_at(&mut [IoSlice::new(b"abc")], 0).unwrap();
        file.reserve(3, 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 3);
        let reserved = fs::metadata(&path).unwrap().blocks();
        file.release_reserved().unwrap();
        assert_eq!(file.len().unwrap(), 3);
        let released = fs::metadata(&path).unwrap().blocks();
        // A file system without reservations shows no difference; one with them must give the megabyte back.
        assert!(released <= reserved && released < 1024, "{reserved} -> {released}");
    }

    #[test]
    fn more_slices_than_one_call_takes_are_all_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsStorage.open(&dir.path().join("a"), OpenMode::Create).unwrap();
        let pieces: Vec<[u8; 3]> = (0..3000u32).map(|i| [i as u8, (i >> 8) as u8, 7]).collect();
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        for piece in &pieces {
            slices.push(IoSlice::new(piece));
            slices.push(IoSlice::new(&[]));
        }
        // A whole call's worth of empty slices in a row must not be taken for a write without progress.
        slices.extend((0..2 * MAX_IO_SLICES).map(|_| IoSlice::new(&[])));
        slices.push(IoSlice::new(b"end"));
        file.write_all_at(&mut slices, 5).unwrap();
        let mut back = vec![0; 9003];
        file.read_exact_at(&mut back, 5).unwrap();
        assert_eq!(back, [pieces.concat(), b"end".to_vec()].concat());
        assert_eq!(file.len().unwrap(), 9008);
    }
}
