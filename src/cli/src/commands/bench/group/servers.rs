//! What processes on this machine use, read from /proc.

use crate::error::CliError;
use std::time::Instant;

/// Processes that are watched: the coordinators, or a `dev`.
pub struct Watched {
    pids: Vec<u32>,
    cpu: f64,
    begun: Instant,
}

/// What they used.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Processors' worth of time: 0.5 is half a core.
    pub cores: f64,
    /// Memory that is resident, of all together.
    pub resident_bytes: u64,
}

impl Watched {
    /// Begins to watch. Without processes there is nothing to tell.
    pub fn start(pids: &[u32]) -> Result<Option<Watched>, CliError> {
        if pids.is_empty() {
            return Ok(None);
        }
        Ok(Some(Watched { pids: pids.to_vec(), cpu: cpu_seconds(pids)?, begun: Instant::now() }))
    }

    /// What they used since then.
    pub fn stop(self) -> Result<Used, CliError> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let cores = (cpu_seconds(&self.pids)? - self.cpu) / seconds;
        let mut resident_bytes = 0;
        for pid in &self.pids {
            let status = read(*pid, "status")?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            resident_bytes += kib.unwrap_or(0) * 1024;
        }
        Ok(Used { cores, resident_bytes })
    }
}

fn cpu_seconds(pids: &[u32]) -> Result<f64, CliError> {
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let mut ticks = 0;
    for pid in pids {
        ticks += ticks_of(&read(*pid, "stat")?)
            .ok_or_else(|| CliError::failed(format_args!("/proc/{pid}/stat cannot be understood")))?;
    }
    Ok(ticks as f64 / ticks_per_second)
}

/// User and system time: the 14th and 15th field, counted behind the name, which may hold anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn read(pid: u32, file: &str) -> Result<String, CliError> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|error| {
        CliError::usage(format_args!("--pid {pid}: no such process on this machine: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0";
        assert_eq!(ticks_of(stat), Some(123));
        assert_eq!(ticks_of("nonsense"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_seen_to_work_and_to_hold_memory() {
        let watched = Watched::start(&[std::process::id()]).unwrap().unwrap();
        let used = watched.stop().unwrap();
        assert!(used.cores >= 0.0 && used.resident_bytes > 0, "{used:?}");
        assert!(Watched::start(&[]).unwrap().is_none());
    }
}
