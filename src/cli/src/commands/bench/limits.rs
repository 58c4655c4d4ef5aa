//! What the machine can do without a broker, measured in the same run as the cases that are held against it.

use super::args::LimitsBench;
use super::report::Samples;
use crate::args::{Global, OutputFormat};
use crate::error::CliError;
use crate::output::{print_json, print_line};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// Bytes that memcpy and loopback TCP move.
const MOVE_BYTES: usize = 4 << 30;
/// Bytes of the page-cache file; it is written once to make its pages resident, then measured.
const FILE_BYTES: usize = 1 << 30;
/// Appends that are synced one by one.
const SYNCED_APPENDS: usize = 500;
/// Writers of the grouped loop.
pub const GROUP_WRITERS: usize = 64;
/// Bytes of a grouped append.
pub const GROUP_BYTES: usize = 4096;
/// How long the grouped loop runs.
const GROUP_TIME: Duration = Duration::from_secs(2);

/// The figures.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// GB/s of copying 1 MiB blocks between large buffers.
    pub memcpy_gb: f64,
    /// GB/s of writing 1 MiB blocks to a file whose pages are resident.
    pub page_cache_write_gb: f64,
    /// GB/s of reading it in 1 MiB blocks.
    pub page_cache_read_gb: f64,
    /// GB/s of one loopback connection with 1 MiB writes.
    pub loopback_gb: f64,
    /// Microseconds of fdatasync after a 4 KiB append.
    pub fdatasync_p50_us: f64,
    /// The same, 99th percentile.
    pub fdatasync_p99_us: f64,
    /// Appends of 4 KiB a second by 64 writers whose appends are synced in groups.
    pub grouped_appends: f64,
    /// Median microseconds of such an append.
    pub grouped_p50_us: f64,
}

/// Measures and prints.
pub fn run(global: &Global, args: &LimitsBench) -> Result<(), CliError> {
    let limits = measure(&args.scratch_dir)?;
    match global.output {
        OutputFormat::Json => print_json(&limits.json()),
        OutputFormat::Text => print_line(&limits.text()),
    }
}

impl Limits {
    /// The figures as JSON.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "memcpy_gb_per_second": self.memcpy_gb,
            "page_cache_write_gb_per_second": self.page_cache_write_gb,
            "page_cache_read_gb_per_second": self.page_cache_read_gb,
            "loopback_tcp_gb_per_second": self.loopback_gb,
            "fdatasync_p50_us": self.fdatasync_p50_us,
            "fdatasync_p99_us": self.fdatasync_p99_us,
            "grouped_appends_per_second": self.grouped_appends,
            "grouped_append_p50_us": self.grouped_p50_us,
        })
    }

    /// The figures for people.
    pub fn text(&self) -> String {
        format!(
            "memcpy: {:.1} GB/s\npage cache: write {:.1} GB/s, read {:.1} GB/s\nloopback TCP: {:.1} GB/s\n\
             fdatasync after 4 KiB: p50 {:.0} us, p99 {:.0} us\n{GROUP_WRITERS} writers of 4 KiB, synced in groups: {:.0} appends/s, p50 {:.0} us",
            self.memcpy_gb,
            self.page_cache_write_gb,
            self.page_cache_read_gb,
            self.loopback_gb,
            self.fdatasync_p50_us,
            self.fdatasync_p99_us,
            self.grouped_appends,
            self.grouped_p50_us,
        )
    }
}

/// Measures all limits; takes some 10 seconds and 1 GiB below `scratch_dir`.
pub fn measure(scratch_dir: &Path) -> Result<Limits, CliError> {
    let failed = |error: io::Error| {
        CliError::failed(format_args!("cannot measure in {}: {error}", scratch_dir.display()))
    };
    let scratch = Scratch::new(scratch_dir).map_err(failed)?;
    let (page_cache_write_gb, page_cache_read_gb) =
        page_cache(&scratch.file("page-cache")).map_err(failed)?;
    let fdatasync = synced_appends(&scratch.file("fdatasync")).map_err(failed)?;
    let fdatasync = fdatasync.percentiles().expect("SYNCED_APPENDS is not zero");
    let (grouped_appends, grouped) = grouped_appends(&scratch.file("grouped")).map_err(failed)?;
    Ok(Limits {
        memcpy_gb: memcpy(),
        page_cache_write_gb,
        page_cache_read_gb,
        loopback_gb: loopback().map_err(failed)?,
        fdatasync_p50_us: fdatasync.p50,
        fdatasync_p99_us: fdatasync.p99,
        grouped_appends,
        grouped_p50_us: grouped.percentiles().map_or(0.0, |p| p.p50),
    })
}

fn gb_per_second(bytes: usize, start: Instant) -> f64 {
    bytes as f64 / 1e9 / start.elapsed().as_secs_f64()
}

fn memcpy() -> f64 {
    const LARGE: usize = 256 * MIB;
    let from = vec![1u8; LARGE];
    let mut to = vec![2u8; LARGE];
    let start = Instant::now();
    for _ in 0..MOVE_BYTES / LARGE {
        for (to, from) in to.chunks_exact_mut(MIB).zip(from.chunks_exact(MIB)) {
            to.copy_from_slice(std::hint::black_box(from));
        }
        std::hint::black_box(&mut to);
    }
    gb_per_second(MOVE_BYTES, start)
}

fn page_cache(path: &Path) -> io::Result<(f64, f64)> {
    let file = create(path)?;
    let mut block = vec![7u8; MIB];
    let write = || -> io::Result<()> {
        (0..FILE_BYTES / MIB).try_for_each(|i| file.write_all_at(&block, (i * MIB) as u64))
    };
    write()?;
    let start = Instant::now();
    write()?;
    let written = gb_per_second(FILE_BYTES, start);
    let start = Instant::now();
    (0..FILE_BYTES / MIB).try_for_each(|i| file.read_exact_at(&mut block, (i * MIB) as u64))?;
    Ok((written, gb_per_second(FILE_BYTES, start)))
}

fn loopback() -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reader = std::thread::spawn(move || -> io::Result<usize> {
        let (mut stream, _) = listener.accept()?;
        let (mut block, mut total) = (vec![0u8; MIB], 0);
        loop {
            match stream.read(&mut block)? {
                0 => return Ok(total),
                n => total += n,
            }
        }
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let block = vec![3u8; MIB];
    let start = Instant::now();
    (0..MOVE_BYTES / MIB).try_for_each(|_| stream.write_all(&block))?;
    drop(stream);
    let total = reader.join().map_err(|_| io::Error::other("the reader panicked"))??;
    Ok(gb_per_second(total, start))
}

fn synced_appends(path: &Path) -> io::Result<Samples> {
    let file = create(path)?;
    let block = [5u8; GROUP_BYTES];
    let mut samples = Samples::default();
    for i in 0..SYNCED_APPENDS {
        file.write_all_at(&block, (i * GROUP_BYTES) as u64)?;
        let start = Instant::now();
        file.sync_data()?;
        samples.add(start.elapsed());
    }
    Ok(samples)
}

/// The bare loop that a log's group commit is held against: writers append, one thread syncs back to back, each writer
/// goes on when a sync that began after its write has ended.
fn grouped_appends(path: &Path) -> io::Result<(f64, Samples)> {
    struct State {
        written: u64,
        synced: u64,
        stop: bool,
        error: Option<io::Error>,
    }
    let file = create(path)?;
    let state = Mutex::new(State { written: 0, synced: 0, stop: false, error: None });
    let (dirty, clean) = (Condvar::new(), Condvar::new());
    let lock = || state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let start = Instant::now();
    let samples = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut guard = lock();
            loop {
                if guard.synced == guard.written {
                    if guard.stop {
                        return;
                    }
                    guard = dirty.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
                    continue;
                }
                let target = guard.written;
                drop(guard);
                let result = file.sync_data();
                guard = lock();
                guard.synced = target;
                if let Err(error) = result {
                    guard.error.get_or_insert(error);
                }
                clean.notify_all();
            }
        });
        let writers: Vec<_> = (0..GROUP_WRITERS)
            .map(|_| {
                scope.spawn(|| {
                    let block = [9u8; GROUP_BYTES];
                    let mut samples = Samples::default();
                    while start.elapsed() < GROUP_TIME {
                        let begun = Instant::now();
                        let mut guard = lock();
                        if let Err(error) = file.write_all_at(&block, guard.written * GROUP_BYTES as u64) {
                            guard.error.get_or_insert(error);
                            break;
                        }
                        guard.written += 1;
                        let mine = guard.written;
                        dirty.notify_one();
                        while guard.synced < mine {
                            guard = clean.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
                        }
                        drop(guard);
                        samples.add(begun.elapsed());
                    }
                    samples
                })
            })
            .collect();
        let mut all = Samples::default();
        for writer in writers {
            match writer.join() {
                Ok(samples) => all.merge(samples),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        lock().stop = true;
        dirty.notify_all();
        all
    });
    let elapsed = start.elapsed().as_secs_f64();
    let state = state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match state.error {
        Some(error) => Err(error),
        None => Ok((state.synced as f64 / elapsed, samples)),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// A folder that goes when the measurement ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path) -> io::Result<Scratch> {
        let dir = below.join(format!("thalweg-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            drop(writeln!(io::stderr(), "warning: {} could not be removed: {error}", self.0.display()));
        }
    }
}
