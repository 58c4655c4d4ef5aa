//! After healing, the replicas of a partition are the same bytes below the high watermark.

use super::broker::BrokerNode;
use crate::board::partitions;
use crate::checker::{Anomaly, Kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_core::{Offset, PartitionId, TopicName, TopicPartition};
use thalweg_log::{Log, ReadBound};

/// Bytes that are compared at once.
const CHUNK: usize = 1 << 20;

/// Compares every replica with that of the first broker that has one.
pub fn differences(brokers: &BTreeMap<String, BrokerNode>) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for (partition, topic, index) in partitions() {
        let topic = TopicName::new(topic).expect("our topics have good names");
        let place = TopicPartition { topic, partition: PartitionId(index) };
        let mut first: Option<(&str, Vec<u8>)> = None;
        for (name, broker) in brokers {
            let Some(log) = broker.running().and_then(|running| running.replicas.logs().get(&place)) else {
                continue;
            };
            let detail = match (content(&log), &first) {
                (Err(error), _) => format!("{name} cannot read its own: {error}"),
                (Ok(bytes), None) => {
                    first = Some((name, bytes));
                    continue;
                }
                (Ok(bytes), Some((other, expected))) => {
                    // One may know of a higher watermark than the other; both must agree on what both call committed.
                    let common = bytes.len().min(expected.len());
                    match (0..common).find(|at| bytes[*at] != expected[*at]) {
                        Some(at) => format!("{other} and {name} differ at byte {at} of {common}"),
                        None => continue,
                    }
                }
            };
            found.push(Anomaly { kind: Kind::ReplicasDiffer, partition, detail });
        }
    }
    found
}

/// All batches below the high watermark, as they are stored.
fn content(log: &Arc<Log>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut next = log.log_start_offset();
    while next < log.high_watermark() {
        let read =
            log.read(next, CHUNK, ReadBound::HighWatermark, true).map_err(|error| error.to_string())?;
        if read.data.is_empty() || read.next_offset <= next {
            return Err(format!("nothing at {next} below {}", log.high_watermark()));
        }
        bytes.extend_from_slice(&read.data);
        next = read.next_offset;
    }
    debug_assert!(next >= Offset(0));
    Ok(bytes)
}
