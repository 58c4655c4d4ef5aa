//! What the process itself takes.

use super::family::Family;
use super::registry::{DROPPED, Samples, Source};
use crate::process::process_stats;

static CPU: Family =
    Family::counter("process_cpu_seconds_total", "Processor time, user and system, in seconds.", &[]);
static RESIDENT: Family = Family::gauge("process_resident_memory_bytes", "Memory held in RAM.", &[]);
static FILES: Family = Family::gauge("process_open_fds", "Open file descriptors.", &[]);
static UPTIME: Family = Family::gauge("thalweg_uptime_seconds", "Since the process started.", &[]);
static BUILD: Family =
    Family::gauge("thalweg_build_info", "Always 1; the label tells the version.", &["version"]);

/// The metrics of every process.
pub static FAMILIES: [&Family; 6] = [&CPU, &RESIDENT, &FILES, &UPTIME, &BUILD, &DROPPED];

/// Tells the process's own numbers.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSource {
    /// The program's version.
    pub version: &'static str,
}

impl Source for ProcessSource {
    fn collect(&self, samples: &mut Samples<'_>) {
        let stats = process_stats();
        samples.number(&CPU, &[], stats.cpu_seconds);
        if let Some(bytes) = stats.resident_bytes {
            samples.count(&RESIDENT, &[], bytes);
        }
        if let Some(files) = stats.open_fds {
            samples.count(&FILES, &[], files);
        }
        samples.number(&UPTIME, &[], stats.uptime.as_secs_f64());
        samples.count(&BUILD, &[self.version], 1);
    }
}
