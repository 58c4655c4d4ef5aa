//! What a case measured, and how it is printed.

use crate::args::{Global, OutputFormat};
use crate::error::CliError;
use crate::output::{print_json, print_line};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use thalweg_client::Admin;

/// Samples that are kept at most; a longer run keeps the first ones and says so.
const MAX_SAMPLES: usize = 4_000_000;

/// Durations, for percentiles.
#[derive(Debug, Default)]
pub struct Samples {
    nanos: Vec<u64>,
}

impl Samples {
    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        if self.nanos.len() < MAX_SAMPLES {
            self.nanos.push(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: Samples) {
        let room = MAX_SAMPLES - self.nanos.len();
        self.nanos.extend(other.nanos.into_iter().take(room));
    }

    /// The percentiles in microseconds; none without samples.
    pub fn percentiles(mut self) -> Option<Percentiles> {
        self.nanos.sort_unstable();
        let last = self.nanos.len().checked_sub(1)?;
        let at = |q: f64| self.nanos[(last as f64 * q).round() as usize] as f64 / 1_000.0;
        Some(Percentiles {
            p50: at(0.5),
            p99: at(0.99),
            p99_9: at(0.999),
            max: at(1.0),
            samples: self.nanos.len(),
        })
    }
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
    pub samples: usize,
}

/// CPU seconds of this process and of the brokers, taken at the start of a case.
pub struct CpuMeter<'a> {
    admin: &'a Admin,
    client: f64,
    servers: Servers,
    start: Instant,
}

impl<'a> CpuMeter<'a> {
    /// Starts to measure.
    pub async fn start(admin: &'a Admin) -> Result<CpuMeter<'a>, CliError> {
        let servers = Servers::ask(admin).await?;
        Ok(CpuMeter { admin, client: client_cpu(), servers, start: Instant::now() })
    }

    /// Ends it. The servers' share is that of all brokers that were there at the start and still are.
    pub async fn stop(self) -> Result<Usage, CliError> {
        let seconds = self.start.elapsed().as_secs_f64();
        let client = client_cpu() - self.client;
        let now = Servers::ask(self.admin).await?;
        let used = |(id, before): (&i32, &f64)| now.cpu.get(id).map(|after| (after - before).max(0.0));
        let server = self.servers.cpu.iter().filter_map(used).sum();
        Ok(Usage { seconds, client, server, server_resident_bytes: now.resident_bytes })
    }
}

/// What the brokers have used since they started.
struct Servers {
    /// CPU seconds, by broker.
    cpu: BTreeMap<i32, f64>,
    /// Of all together.
    resident_bytes: u64,
}

impl Servers {
    async fn ask(admin: &Admin) -> Result<Servers, CliError> {
        let reports = admin.describe_brokers().await.map_err(CliError::failed)?;
        let mut servers = Servers { cpu: BTreeMap::new(), resident_bytes: 0 };
        // The brokers of one `dev` share a process: what they say of it counts once.
        let mut processes = BTreeSet::new();
        for report in reports {
            let said = report.described.map_err(|error| {
                CliError::failed(format_args!(
                    "broker {} does not say what it used: {error}",
                    report.broker.id
                ))
            })?;
            if said.process_id.is_empty() || processes.insert(said.process_id) {
                servers.cpu.insert(said.id, said.cpu_seconds);
                servers.resident_bytes += said.resident_bytes;
            }
        }
        Ok(servers)
    }
}

/// What a case used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub seconds: f64,
    pub client: f64,
    pub server: f64,
    pub server_resident_bytes: u64,
}

fn client_cpu() -> f64 {
    thalweg_runtime::process::process_stats().cpu_seconds
}

/// The result of one case.
#[derive(Debug)]
pub struct Report {
    pub case: &'static str,
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    pub usage: Usage,
    pub latency: Option<Percentiles>,
    pub end_to_end: Option<Percentiles>,
    /// More figures of this case, by name.
    pub more: Vec<(&'static str, f64)>,
}

impl Report {
    /// Records a second.
    pub fn records_per_second(&self) -> f64 {
        self.records as f64 / self.usage.seconds
    }

    /// Megabytes (10^6) a second.
    pub fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.usage.seconds
    }

    /// CPU seconds for each gigabyte (10^9): client, server. Without bytes 0.
    pub fn cpu_per_gb(&self) -> (f64, f64) {
        if self.bytes == 0 {
            return (0.0, 0.0);
        }
        let gigabytes = self.bytes as f64 / 1e9;
        (self.usage.client / gigabytes, self.usage.server / gigabytes)
    }

    /// The figures as JSON.
    pub fn json(&self) -> Value {
        let (client, server) = self.cpu_per_gb();
        let mut value = json!({
            "case": self.case,
            "records": self.records,
            "bytes": self.bytes,
            "seconds": self.usage.seconds,
            "records_per_second": self.records_per_second(),
            "mb_per_second": self.mb_per_second(),
            "client_cpu_seconds_per_gb": client,
            "server_cpu_seconds_per_gb": server,
            "server_resident_bytes": self.usage.server_resident_bytes,
        });
        let mut percentiles = |prefix: &str, latency: Option<Percentiles>| {
            if let Some(latency) = latency {
                value[format!("{prefix}p50_us")] = json!(latency.p50);
                value[format!("{prefix}p99_us")] = json!(latency.p99);
                value[format!("{prefix}p99_9_us")] = json!(latency.p99_9);
                value[format!("{prefix}max_us")] = json!(latency.max);
                value[format!("{prefix}samples")] = json!(latency.samples);
            }
        };
        percentiles("", self.latency);
        percentiles("end_to_end_", self.end_to_end);
        for (name, figure) in &self.more {
            value[*name] = json!(figure);
        }
        value
    }

    /// Prints the figures.
    pub fn print(&self, global: &Global) -> Result<(), CliError> {
        if global.output == OutputFormat::Json {
            return print_json(&self.json());
        }
        let (client, server) = self.cpu_per_gb();
        print_line(&format!(
            "{}: {} records, {:.1} MB in {:.2} s: {:.0} records/s, {:.1} MB/s; CPU s/GB: client {client:.2}, server {server:.2}",
            self.case,
            self.records,
            self.bytes as f64 / 1e6,
            self.usage.seconds,
            self.records_per_second(),
            self.mb_per_second(),
        ))?;
        for (name, latency) in [
            (if self.case == "fetch" { "next chunk after" } else { "acknowledged after" }, self.latency),
            ("read after", self.end_to_end),
        ] {
            if let Some(l) = latency {
                print_line(&format!(
                    "  {name}: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
                    l.p50, l.p99, l.p99_9, l.max
                ))?;
            }
        }
        self.more.iter().try_for_each(|(name, figure)| print_line(&format!("  {name}: {figure:.2}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_samples() {
        let mut samples = Samples::default();
        for micros in (1..=1001).rev() {
            samples.add(Duration::from_micros(micros));
        }
        let p = samples.percentiles().unwrap();
        assert_eq!((p.p50, p.p99, p.p99_9, p.max), (501.0, 991.0, 1000.0, 1001.0));
        assert!(Samples::default().percentiles().is_none());
    }
}
