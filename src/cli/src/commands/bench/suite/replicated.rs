//! The cases of a cluster: replicated writes, a replica that catches up, idleness.

use super::super::args::{LatencyBench, ProduceBench};
use super::super::limits::Limits;
use super::super::report::{CpuMeter, Percentiles, Report};
use super::super::{BenchTopic, latency, produce};
use super::{BUFFER_MEMORY, Suite};
use crate::commands::refused;
use crate::error::CliError;
use std::time::{Duration, Instant};
use thalweg_client::{Acks, proto};
use thalweg_core::PartitionId;
use thalweg_core::compression::Compression;

/// Records of 1 KiB that a new replica fetches: 1 GB.
const CATCH_UP_RECORDS: u64 = 1_000_000;
/// How often it is asked whether the new replica is in sync.
const CATCH_UP_POLL: Duration = Duration::from_millis(10);
/// How long a new replica may take.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(600);
/// How long a cluster is left alone before it counts as idle: elections, first fetches and flushes are over.
const SETTLE: Duration = Duration::from_secs(5);

impl Suite<'_> {
    /// Runs all cases with acks=all.
    pub(super) async fn run_replicated(&mut self, limits: &Limits) -> Result<(), CliError> {
        self.produce("warm-up", self.common(1024, true), Acks::All).await?;
        let cached = self.produce("produce 1 KiB, cached", self.common(1024, true), Acks::All).await?;
        self.ratio("MB/s", cached.mb_per_second(), 450.0)?;
        self.at_most("server CPU s/GB", cached.cpu_per_gb().1, 4.0)?;
        let synced = self.produce("produce 1 KiB, fsync", self.common(1024, false), Acks::All).await?;
        self.ratio("cached produce", synced.mb_per_second() / cached.mb_per_second(), 0.6)?;
        let small = self.produce("produce 100 B, cached", self.common(100, true), Acks::All).await?;
        self.ratio("1.2 M records/s", small.records_per_second() / 1.2e6, 1.0)?;

        let percentile = |report: &Report, of: fn(Percentiles) -> f64| report.latency.map_or(0.0, of);
        let single =
            self.latency("1,000/s of 1 KiB, one at a time, cached", 1024, true, Acks::All, 1).await?;
        self.at_most("p50 us", percentile(&single, |l| l.p50), 300.0)?;
        self.at_most("p99 us", percentile(&single, |l| l.p99), 800.0)?;
        let synced =
            self.latency("1,000/s of 1 KiB, one at a time, fsync", 1024, false, Acks::All, 1).await?;
        self.at_most("p99 us", percentile(&synced, |l| l.p99), 2_000.0)?;

        self.catch_up(limits).await?;
        self.idle().await
    }

    /// A topic on one broker gets a second replica, from the leader's page cache, while another topic is written to.
    async fn catch_up(&mut self, limits: &Limits) -> Result<(), CliError> {
        self.prepare().await?;
        let mut common = self.common(1024, true);
        (common.partitions, common.replication_factor) = (1, 1);
        common.configs = vec!["write.caching=true".to_owned()];
        (common.seconds, common.records) = (None, Some(CATCH_UP_RECORDS));
        let moved = BenchTopic::open(&self.client, &common).await?;
        let fill = ProduceBench {
            common,
            acks: Acks::All,
            compression: Compression::None,
            rate: None,
            batch_size: 262_144,
            linger_ms: 5,
            in_flight: 5,
            buffer_memory: BUFFER_MEMORY,
            producers: 1,
        };
        let filled = produce::measure(&self.client, &fill, &moved.name).await?;
        let written = BenchTopic::open(&self.client, &self.common(1024, true)).await?;
        let before = self.background(&written.name).await?;

        let target = self.second_replica(&moved.name).await?;
        let moving = async {
            let begun = Instant::now();
            self.move_to(&moved.name, target).await?;
            Ok::<_, CliError>(begun.elapsed().as_secs_f64())
        };
        let (seconds, during) = tokio::join!(moving, self.background(&written.name));
        let (seconds, during) = (seconds?, during?);
        moved.close().await?;
        written.close().await?;

        let p99 = |report: &Report| report.latency.map_or(0.0, |latency| latency.p99);
        let hurt = p99(&during) / p99(&before).max(1.0);
        let rate = filled.bytes as f64 / 1e6 / seconds;
        let mut report = during;
        report.case = "catch-up";
        report.more = vec![("catch_up_mb_per_second", rate), ("catch_up_seconds", seconds)];
        self.show("a new replica fetches 1 GB while 1,000/s are written", &report)?;
        self.ratio(
            "catch-up to loopback TCP (needs --replication-throttled-rate above it)",
            rate / (limits.loopback_gb * 1e3),
            0.25,
        )?;
        self.at_most("writer's p99 to what it was (with the default throttle)", hurt, 2.0)
    }

    /// A thousand writes a second for the time of a case.
    async fn background(&self, topic: &str) -> Result<Report, CliError> {
        let args = LatencyBench {
            common: self.common(1024, true),
            acks: Acks::All,
            compression: Compression::None,
            rate: None,
            in_flight: 1,
        };
        latency::measure(&self.client, &args, topic).await
    }

    /// The leader of the topic's only partition and one more broker.
    async fn second_replica(&self, topic: &str) -> Result<Vec<i32>, CliError> {
        let metadata = self.client.metadata(topic).await.map_err(|error| refused(error, Some(topic)))?;
        let leader = metadata.partition(PartitionId(0)).map_or(-1, |partition| partition.leader_id.get());
        let cluster = self.client.admin().describe_cluster().await.map_err(|error| refused(error, None))?;
        let other = cluster.brokers.iter().find(|broker| !broker.fenced && broker.id != leader);
        let other = other.ok_or_else(|| CliError::failed("there is no second broker"))?;
        Ok(vec![leader, other.id])
    }

    async fn move_to(&self, topic: &str, replicas: Vec<i32>) -> Result<(), CliError> {
        let admin = self.client.admin();
        let wanted = proto::PartitionReassignment { topic: topic.to_owned(), partition: 0, replicas };
        let refusals = admin.reassign(vec![wanted]).await.map_err(|error| refused(error, Some(topic)))?;
        if let Some((_, why)) = refusals.first() {
            return Err(CliError::failed(format_args!("the new replica is refused: {why}")));
        }
        let begun = Instant::now();
        let topics = [topic.to_owned()];
        while begun.elapsed() < CATCH_UP_LIMIT {
            let moving = admin.list_reassignments(&topics).await;
            if moving.map_err(|error| refused(error, Some(topic)))?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(CATCH_UP_POLL).await;
        }
        Err(CliError::failed("the new replica did not catch up in time"))
    }

    /// What the brokers use when nobody asks them for anything.
    async fn idle(&mut self) -> Result<(), CliError> {
        if self.idle_partitions == 0 {
            return Ok(());
        }
        let mut common = self.common(1024, true);
        common.partitions = self.idle_partitions;
        let begun = Instant::now();
        let topic = BenchTopic::open(&self.client, &common).await?;
        let created = begun.elapsed().as_secs_f64();
        tokio::time::sleep(SETTLE).await;
        let admin = self.client.admin();
        let meter = CpuMeter::start(&admin).await?;
        tokio::time::sleep(Duration::from_secs_f64(self.seconds.max(5.0))).await;
        let usage = meter.stop().await?;
        topic.close().await?;
        let cores = usage.server / usage.seconds;
        let report = Report {
            case: "idle",
            records: 0,
            bytes: 0,
            usage,
            latency: None,
            end_to_end: None,
            more: vec![
                ("partitions", f64::from(self.idle_partitions)),
                ("created_in_seconds", created),
                ("server_resident_mb", usage.server_resident_bytes as f64 / 1e6),
            ],
        };
        self.show("idle cluster", &report)?;
        self.at_most("per cent of a core, all brokers", cores * 100.0, 5.0)
    }
}
