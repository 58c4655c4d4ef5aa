//! Every case of `docs/PERFORMANCE.md` in one run, as ratios to what the machine can do without a broker.

mod replicated;

use super::args::{Common, FetchBench, LatencyBench, ProduceBench, SuiteBench, UnaryBench};
use super::limits::{self, Limits};
use super::report::{Percentiles, Report};
use super::{BenchTopic, fetch, latency, produce, unary};
use crate::args::{Global, OutputFormat};
use crate::commands::connect;
use crate::error::CliError;
use crate::output::{print_json, print_line};
use serde_json::{Value, json};
use thalweg_client::{Acks, Client};
use thalweg_core::compression::Compression;

/// Records of 1 KiB that the fetch case reads from page cache: 1 GB.
const FETCH_RECORDS: u64 = 1_000_000;

/// Bytes that the producers of the suite hold: enough for five batches in flight, and little enough to stay in cache.
const BUFFER_MEMORY: usize = 4 << 20;

struct Suite<'a> {
    global: &'a Global,
    client: Client,
    seconds: f64,
    replication_factor: i32,
    partitions: i32,
    idle_partitions: i32,
    before_each: Option<&'a str>,
    results: Vec<Value>,
}

/// Runs all cases against the broker of `--bootstrap`, which should have nothing else to do.
pub async fn run(global: &Global, args: &SuiteBench) -> Result<(), CliError> {
    let client = connect(global).await?;
    let dir = args.limits.scratch_dir.clone();
    let mut suite = Suite {
        global,
        client,
        seconds: args.seconds,
        replication_factor: args.replication_factor,
        partitions: args.partitions,
        idle_partitions: args.idle_partitions,
        before_each: args.before_each.as_deref(),
        results: Vec::new(),
    };
    suite.prepare().await?;
    let limits = tokio::task::spawn_blocking(move || limits::measure(&dir))
        .await
        .map_err(|error| CliError::failed(format_args!("the measurement of limits died: {error}")))??;
    if global.output == OutputFormat::Text {
        print_line(&limits.text())?;
    }
    match args.replication_factor {
        1 => suite.run(&limits).await?,
        _ => suite.run_replicated(&limits).await?,
    }
    if global.output == OutputFormat::Json {
        print_json(&json!({"limits": limits.json(), "cases": suite.results}))?;
    }
    Ok(())
}

impl Suite<'_> {
    async fn run(&mut self, limits: &Limits) -> Result<(), CliError> {
        let loopback_mb = limits.loopback_gb * 1_000.0;
        // The first writes touch fresh pages, which cost ten times a warm one on some machines: not counted.
        self.produce("warm-up", self.common(1024, true), Acks::Leader).await?;
        let cached =
            self.produce("produce 1 KiB, acks=1, cached", self.common(1024, true), Acks::Leader).await?;
        self.ratio("loopback TCP", cached.mb_per_second() / loopback_mb, 0.20)?;
        let small =
            self.produce("produce 100 B, acks=1, cached", self.common(100, true), Acks::Leader).await?;
        self.ratio("3 M records/s", small.records_per_second() / 3e6, 1.0)?;
        let synced =
            self.produce("produce 1 KiB, acks=all, fsync", self.common(1024, false), Acks::All).await?;
        self.ratio("cached produce", synced.mb_per_second() / cached.mb_per_second(), 0.5)?;

        let grouped = self
            .latency("64 appends of 4 KiB in flight, acks=all, fsync", 4096, false, Acks::All, 64)
            .await?;
        let ratio = grouped.records_per_second() / limits.grouped_appends;
        self.ratio("bare grouped write+fdatasync", ratio, 0.6)?;
        let p50 = |latency: Option<Percentiles>| latency.map_or(0.0, |l| l.p50);
        self.at_most("p50 to fdatasync's p50", p50(grouped.latency) / limits.fdatasync_p50_us, 3.0)?;

        let single = self
            .latency("1,000/s of 1 KiB, one at a time, acks=1, cached", 1024, true, Acks::Leader, 1)
            .await?;
        self.at_most("p50 us", p50(single.latency), 120.0)?;
        self.at_most("p99 us", single.latency.map_or(0.0, |l| l.p99), 400.0)?;
        self.at_most("p99 us to a waiting reader", single.end_to_end.map_or(0.0, |l| l.p99), 1000.0)?;

        let fetched = self.fetch().await?;
        self.ratio("loopback TCP", fetched.mb_per_second() / loopback_mb, 0.35)?;

        let args = UnaryBench { common: self.common(100, true), acks: Acks::Leader, callers: 64 };
        let plain = unary::run(self.global, &self.client, &args).await?;
        self.show("plain records, unary, 64 callers", &plain)?;
        let ratio = plain
            .more
            .iter()
            .find(|(name, _)| *name == "ratio_to_empty_calls")
            .map_or(0.0, |(_, ratio)| *ratio);
        self.ratio("empty unary call", ratio, 0.6)
    }

    /// Brings the machine into the state that each case shall find.
    async fn prepare(&self) -> Result<(), CliError> {
        let Some(command) = self.before_each else { return Ok(()) };
        let status = tokio::process::Command::new("sh").arg("-c").arg(command).status().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                Err(CliError::failed(format_args!("--before-each {command:?} ended with {status}")))
            }
            Err(error) => {
                Err(CliError::failed(format_args!("--before-each {command:?} cannot run: {error}")))
            }
        }
    }

    /// Of a replicated topic two replicas must have a record, as in every comparison.
    fn configs(&self, cached: bool) -> Vec<String> {
        let mut configs = vec![format!("write.caching={cached}")];
        if self.replication_factor > 1 {
            configs.push("min.insync.replicas=2".to_owned());
        }
        configs
    }

    fn common(&self, record_size: usize, cached: bool) -> Common {
        Common {
            topic: None,
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: self.configs(cached),
            record_size,
            seconds: Some(self.seconds),
            records: None,
        }
    }

    async fn produce(&mut self, name: &str, common: Common, acks: Acks) -> Result<Report, CliError> {
        let args = ProduceBench {
            common,
            acks,
            compression: Compression::None,
            rate: None,
            batch_size: 262_144,
            linger_ms: 5,
            in_flight: 5,
            buffer_memory: BUFFER_MEMORY,
            producers: 1,
        };
        self.prepare().await?;
        let report = produce::run(&self.client, &args).await?;
        self.show(name, &report)?;
        Ok(report)
    }

    async fn latency(
        &mut self,
        name: &str,
        record_size: usize,
        cached: bool,
        acks: Acks,
        in_flight: usize,
    ) -> Result<Report, CliError> {
        let args = LatencyBench {
            common: self.common(record_size, cached),
            acks,
            compression: Compression::None,
            rate: None,
            in_flight,
        };
        self.prepare().await?;
        let report = latency::run(&self.client, &args).await?;
        self.show(name, &report)?;
        Ok(report)
    }

    async fn fetch(&mut self) -> Result<Report, CliError> {
        let mut common = self.common(1024, true);
        common.seconds = None;
        common.records = Some(FETCH_RECORDS);
        let mut args = FetchBench {
            common,
            acks: Acks::Leader,
            rate: None,
            compression: Compression::None,
            decode: false,
            skip_crc: false,
        };
        self.prepare().await?;
        let topic = BenchTopic::open(&self.client, &args.common).await?;
        fetch::measure(&self.client, &args, &topic).await?;
        // What was just written is read again and again for the time of a case.
        args.common.records = None;
        args.common.seconds = Some(self.seconds);
        let report = fetch::measure(&self.client, &args, &topic).await;
        topic.close().await?;
        let report = report?;
        self.show("fetch 1 KiB, encoded batches, page cache", &report)?;
        Ok(report)
    }

    fn show(&mut self, name: &str, report: &Report) -> Result<(), CliError> {
        let mut value = report.json();
        value["name"] = json!(name);
        value["ratios"] = json!([]);
        self.results.push(value);
        if self.global.output == OutputFormat::Text {
            print_line(&format!("\n{name}"))?;
            report.print(self.global)?;
        }
        Ok(())
    }

    fn ratio(&mut self, to: &str, ratio: f64, at_least: f64) -> Result<(), CliError> {
        self.verdict(to, ratio, at_least, ratio >= at_least, "at least")
    }

    fn at_most(&mut self, to: &str, figure: f64, at_most: f64) -> Result<(), CliError> {
        self.verdict(to, figure, at_most, figure <= at_most, "at most")
    }

    fn verdict(
        &mut self,
        to: &str,
        figure: f64,
        goal: f64,
        reached: bool,
        word: &str,
    ) -> Result<(), CliError> {
        let verdict = json!({"to": to, "figure": figure, "goal": goal, "kind": word, "reached": reached});
        if let Some(ratios) = self.results.last_mut().and_then(|case| case["ratios"].as_array_mut()) {
            ratios.push(verdict);
        }
        if self.global.output == OutputFormat::Text {
            let mark = if reached { "reached" } else { "MISSED" };
            print_line(&format!("  => {to}: {figure:.2} ({word} {goal}: {mark})"))?;
        }
        Ok(())
    }
}
