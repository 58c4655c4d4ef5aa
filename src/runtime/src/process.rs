//! What the process takes from its machine, and how much it may take.

use std::io;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
static ID: LazyLock<String> = LazyLock::new(|| {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), since_epoch.as_nanos())
});

/// A moment's look at the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessStats {
    /// Processor time of all threads so far, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Memory held in RAM, in bytes. `None` where the system does not tell (other than Linux).
    pub resident_bytes: Option<u64>,
    /// Time since this module was first used: [`raise_nofile_limit`] or [`process_stats`], whichever came first.
    pub uptime: Duration,
    /// Open file descriptors. `None` where the system does not tell.
    pub open_fds: Option<u64>,
}

/// A name for this process that no other has, here or on another machine: its number and when it was first asked for.
pub fn process_id() -> &'static str {
    &ID
}

/// Reads the process's numbers. Costs a few small system files; meant for once a second, not for a hot path.
pub fn process_stats() -> ProcessStats {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    ProcessStats {
        // The process's clock counts user and system time together, which is what is asked for here.
        cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        resident_bytes: resident_bytes(),
        uptime: STARTED.elapsed(),
        open_fds: open_fds(),
    }
}

/// Raises the soft limit on open files to the hard one, and returns the limit now in force
/// (`u64::MAX` for none). A broker holds several files for each partition; the usual soft limit of 1,024 is too low.
pub fn raise_nofile_limit() -> io::Result<u64> {
    LazyLock::force(&STARTED);
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let wanted = Rlimit { current: limit.maximum.map(reachable), maximum: limit.maximum };
        setrlimit(Resource::Nofile, wanted)?;
    }
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

// macOS reports a hard limit that it then refuses to set as a soft one; OPEN_MAX is the most it takes.
#[cfg(target_os = "macos")]
fn reachable(hard: u64) -> u64 {
    const OPEN_MAX: u64 = 10_240;
    hard.min(OPEN_MAX)
}

#[cfg(not(target_os = "macos"))]
fn reachable(hard: u64) -> u64 {
    hard
}

/// Processors this process may use (cgroup quotas and affinity counted), at least 1.
pub fn available_parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<u64> {
    // Second field of statm: resident pages.
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<u64> {
    None
}

fn open_fds() -> Option<u64> {
    let folder = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let count = std::fs::read_dir(folder).ok()?.count() as u64;
    // One of them is the folder being read.
    Some(count.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_move_the_right_way() {
        let before = process_stats();
        let mut sum = 0_u64;
        // Busy until the clock has seen it, so that nothing depends on the machine's speed.
        while process_stats().cpu_seconds <= before.cpu_seconds {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(before.cpu_seconds > 0.0);
        assert!(process_stats().uptime >= before.uptime);
        assert!(available_parallelism() >= 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_memory_and_files() {
        let stats = process_stats();
        assert!(stats.resident_bytes.unwrap() > 0);
        assert!(stats.open_fds.unwrap() >= 3);
    }

    #[test]
    fn the_file_limit_goes_up_to_the_hard_one_and_stays() {
        let first = raise_nofile_limit().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current.unwrap_or(u64::MAX), first);
        assert_eq!(raise_nofile_limit().unwrap(), first);
        if cfg!(target_os = "linux") {
            assert_eq!(limit.current, limit.maximum);
        }
    }
}
