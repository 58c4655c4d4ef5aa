//! How a cluster stands, as its commands tell it.

use super::{Cluster, PATIENCE, POLL};
use serde_json::Value;
use std::thread;
use std::time::Instant;

/// How a partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    pub partition: i32,
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
}

impl Cluster {
    /// How a topic's partitions stand, as any broker knows it.
    pub fn describe(&self, topic: &str) -> Vec<PartitionState> {
        let output = self.cli(&["topic", "describe", topic, "-o", "json"]).run().ok();
        let described: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |value: &Value| i32::try_from(value.as_i64().unwrap()).unwrap();
        let ids = |value: &Value| value.as_array().unwrap().iter().map(number).collect();
        let partitions = described["partitions"].as_array().unwrap().iter();
        let state = |partition: &Value| PartitionState {
            partition: number(&partition["partition"]),
            leader: number(&partition["leader"]),
            leader_epoch: number(&partition["leader_epoch"]),
            replicas: ids(&partition["replicas"]),
            isr: ids(&partition["isr"]),
        };
        partitions.map(state).collect()
    }

    /// The cluster, as `cluster describe -o json` prints it.
    pub fn describe_cluster(&self) -> Value {
        let output = self.cli(&["cluster", "describe", "-o", "json"]).run();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", output.text(), output.stderr))
    }

    /// Waits until a topic is as wanted.
    #[track_caller]
    pub fn await_topic(
        &self,
        topic: &str,
        what: &str,
        wanted: impl Fn(&[PartitionState]) -> bool,
    ) -> Vec<PartitionState> {
        let begun = Instant::now();
        loop {
            let partitions = self.describe(topic);
            if wanted(&partitions) {
                return partitions;
            }
            assert!(begun.elapsed() < PATIENCE, "{topic} is not {what}: {partitions:#?}");
            thread::sleep(POLL);
        }
    }

    /// Waits until every replica of a topic is in sync.
    #[track_caller]
    pub fn await_in_sync(&self, topic: &str) -> Vec<PartitionState> {
        self.await_topic(topic, "in sync everywhere", |partitions| {
            partitions.iter().all(|one| one.leader >= 0 && one.isr.len() == one.replicas.len())
        })
    }

    /// The controller that leads, once one does.
    #[track_caller]
    pub fn leading_controller(&self) -> u64 {
        let begun = Instant::now();
        loop {
            let leader = self.describe_cluster()["controller_leader_id"].as_u64().unwrap();
            if leader > 0 {
                return leader;
            }
            assert!(begun.elapsed() < PATIENCE, "no controller leads");
            thread::sleep(POLL);
        }
    }
}
