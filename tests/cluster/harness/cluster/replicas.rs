//! Whether the replicas of a partition are the same, byte for byte.

use super::{Cluster, PartitionState};
use crate::harness::cli::Cli;
use crate::harness::logs::segments;
use crate::harness::steady::{Acknowledged, Sent, reading};
use serde_json::Value;
use thalweg_core::batch::BatchIter;

impl Cluster {
    /// Checks that a topic holds every line that was acknowledged, where it was promised to be, and none twice. Then stops these
    /// brokers, which must have all of its replicas, and compares what they have.
    #[track_caller]
    pub fn check_stored(&mut self, topic: &str, sent: &Sent, brokers: &[i32]) {
        let described = self.await_in_sync(topic);
        let args = ["consume", topic, "--from-beginning", "--timeout-ms", "3000", "-o", "json"];
        let stored = reading(&self.cli(&args).run().ok().stdout);
        let mut acknowledged = Acknowledged::default();
        acknowledged.add(sent);
        acknowledged.check(&stored);
        sent.check(&stored, false);
        for broker in brokers {
            self.broker(*broker).stop();
        }
        self.check_replicas(topic, &described, |partition| {
            stored.get(&partition).map_or(0, |values| i64::try_from(values.len()).unwrap())
        });
    }

    /// Checks that the replicas of each partition of a topic are byte for byte the same below the lowest of their ends, that this
    /// is at least `committed` of that partition, and that `log dump` finds no fault. All brokers must have stopped.
    #[track_caller]
    pub fn check_replicas(&self, topic: &str, partitions: &[PartitionState], committed: impl Fn(i32) -> i64) {
        for partition in partitions {
            let logs: Vec<(i32, Vec<u8>)> = partition
                .replicas
                .iter()
                .map(|broker| {
                    (
                        *broker,
                        self.log_below(*broker, topic, partition.partition, committed(partition.partition)),
                    )
                })
                .collect();
            let (first, others) = logs.split_first().expect("a partition has replicas");
            for other in others {
                assert!(
                    first.1 == other.1,
                    "{topic}-{}: brokers {} and {} differ below offset {}: {} and {} bytes, the first difference at byte {:?}",
                    partition.partition,
                    first.0,
                    other.0,
                    committed(partition.partition),
                    first.1.len(),
                    other.1.len(),
                    first.1.iter().zip(&other.1).position(|(a, b)| a != b)
                );
            }
            let dumps: Vec<String> = partition
                .replicas
                .iter()
                .map(|broker| {
                    self.dump_below(*broker, topic, partition.partition, committed(partition.partition))
                })
                .collect();
            assert!(
                dumps.windows(2).all(|pair| pair[0] == pair[1]),
                "{topic}-{}: log dump differs",
                partition.partition
            );
        }
    }

    /// The batches of one replica that begin below an offset, as they are on disk.
    fn log_below(&self, broker: i32, topic: &str, partition: i32, end: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = None;
        for segment in segments(&self.broker_dir(broker), topic, partition) {
            let segment = std::fs::read(segment).unwrap();
            for batch in BatchIter::new(&segment) {
                let batch =
                    batch.unwrap_or_else(|error| panic!("broker {broker}, {topic}-{partition}: {error}"));
                let base = batch.header.base_offset.get();
                assert!(
                    next.is_none_or(|next| next == base),
                    "broker {broker}, {topic}-{partition}: a gap before {base}"
                );
                next = Some(base + i64::from(batch.header.record_count));
                if base < end {
                    bytes.extend_from_slice(batch.bytes);
                }
            }
        }
        let next = next.unwrap_or(0);
        assert!(next >= end, "broker {broker}, {topic}-{partition}: ends at {next}, but {end} was committed");
        bytes
    }

    /// What `log dump` prints of one replica's records below an offset; it must find no fault.
    fn dump_below(&self, broker: i32, topic: &str, partition: i32, end: i64) -> String {
        let mut dumped = String::new();
        for segment in segments(&self.broker_dir(broker), topic, partition) {
            Cli::new(&["log", "dump", "--verify"]).args([&segment]).run().ok();
            let output = Cli::new(&["log", "dump", "--records", "-o", "json"]).args([&segment]).run().ok();
            for line in output.text().lines() {
                let mut line: Value = serde_json::from_str(line).unwrap();
                let Some(offset) = line["offset"].as_i64() else { continue };
                if offset < end {
                    // Where segments begin is each replica's own affair.
                    line.as_object_mut().unwrap().remove("position");
                    dumped.push_str(&line.to_string());
                    dumped.push('\n');
                }
            }
        }
        dumped
    }
}
