//! Plain records of one request, each to its partition, and their answers put together again.

use crate::node::Node;
use rand::Rng;
use std::collections::HashMap;
use thalweg_core::partitioner::partition_for_key;
use thalweg_core::{Offset, PartitionId};
use thalweg_proto::{ApiError, v1};

/// A request, split by partition.
#[derive(Debug)]
pub struct Parts {
    /// One for each partition.
    pub requests: Vec<v1::ProduceRequest>,
    /// For each record: its part, and its place within the part.
    pub places: Vec<(u32, u32)>,
}

/// Splits a request for plain records without a partition. Records without key go to one partition, chosen here.
///
/// Errors: `UNKNOWN_TOPIC`.
pub fn split(node: &Node, request: v1::ProduceRequest) -> Result<Parts, ApiError> {
    let count =
        node.metadata.partition_count(&request.topic).ok_or_else(|| node.not_led_here(&request.topic, 0))?;
    let keyless = PartitionId(rand::rng().random_range(0..count) as i32);
    Ok(split_by(request, |record| match &record.key {
        Some(key) => partition_for_key(key, count),
        None => keyless,
    }))
}

fn split_by(mut request: v1::ProduceRequest, choose: impl Fn(&v1::Record) -> PartitionId) -> Parts {
    let records = match request.payload.take() {
        Some(v1::produce_request::Payload::Records(set)) => set.records,
        _ => Vec::new(),
    };
    let mut parts: Vec<(PartitionId, Vec<v1::Record>)> = Vec::new();
    let mut by_partition: HashMap<PartitionId, usize> = HashMap::new();
    let mut places = Vec::with_capacity(records.len());
    for record in records {
        let partition = choose(&record);
        let at = *by_partition.entry(partition).or_insert_with(|| {
            parts.push((partition, Vec::new()));
            parts.len() - 1
        });
        // A request has at most 100,000 records.
        places.push((at as u32, parts[at].1.len() as u32));
        parts[at].1.push(record);
    }
    let part = |(partition, records): (PartitionId, _)| v1::ProduceRequest {
        partition: Some(partition.get()),
        payload: Some(v1::produce_request::Payload::Records(v1::RecordSet { records })),
        ..request.clone()
    };
    Parts { requests: parts.into_iter().map(part).collect(), places }
}

/// Puts the parts' answers together. A request that went to one partition fails as a whole.
pub fn merge(
    mut answers: Vec<(i32, Result<v1::ProduceResponse, ApiError>)>,
    places: &[(u32, u32)],
) -> Result<v1::ProduceResponse, ApiError> {
    if answers.len() == 1
        && let Some((_, answer)) = answers.pop()
    {
        return answer;
    }
    // With acks=none nobody is told positions.
    let told = answers.iter().any(|(_, answer)| answer.as_ref().is_ok_and(|a| !a.positions.is_empty()));
    let mut results = Vec::with_capacity(answers.len());
    let mut positions = Vec::with_capacity(answers.len());
    for (partition, answer) in answers {
        match answer {
            Ok(answer) => {
                results.extend(answer.results);
                positions.push((partition, answer.positions));
            }
            Err(error) => {
                results.push(v1::ProduceResult {
                    partition,
                    base_offset: Offset::NONE.get(),
                    last_offset: Offset::NONE.get(),
                    log_append_time_ms: -1,
                    error: Some(error.to_proto()),
                    ..Default::default()
                });
                positions.push((partition, Vec::new()));
            }
        }
    }
    let position = |(part, at): &(u32, u32)| {
        let (partition, positions) = &positions[*part as usize];
        let nowhere = v1::RecordPosition { partition: *partition, offset: Offset::NONE.get() };
        positions.get(*at as usize).copied().unwrap_or(nowhere)
    };
    let positions = if told { places.iter().map(position).collect() } else { Vec::new() };
    Ok(v1::ProduceResponse { results, positions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::ErrorCode;

    fn request(keys: &[u8]) -> v1::ProduceRequest {
        let record = |key: &u8| v1::Record { key: Some(vec![*key].into()), ..Default::default() };
        let records = v1::RecordSet { records: keys.iter().map(record).collect() };
        let payload = Some(v1::produce_request::Payload::Records(records));
        v1::ProduceRequest { topic: "t".into(), payload, timeout_ms: 7, ..Default::default() }
    }

    fn parts(keys: &[u8]) -> Parts {
        split_by(request(keys), |record| PartitionId(i32::from(record.key.as_ref().unwrap()[0])))
    }

    fn answer(partition: i32, base: i64, count: i64) -> Result<v1::ProduceResponse, ApiError> {
        let results = vec![v1::ProduceResult { partition, base_offset: base, ..Default::default() }];
        let positions = (base..base + count).map(|offset| v1::RecordPosition { partition, offset }).collect();
        Ok(v1::ProduceResponse { results, positions })
    }

    #[test]
    fn records_keep_their_order_within_a_partition_and_their_place_in_the_answer() {
        let parts = parts(&[5, 3, 5, 5, 3]);
        let sent: Vec<_> = parts.requests.iter().map(|part| (part.partition, part.timeout_ms)).collect();
        assert_eq!(sent, [(Some(5), 7), (Some(3), 7)]);
        let merged = merge(vec![(5, answer(5, 100, 3)), (3, answer(3, 0, 2))], &parts.places).unwrap();
        let positions: Vec<_> = merged.positions.iter().map(|p| (p.partition, p.offset)).collect();
        assert_eq!(positions, [(5, 100), (3, 0), (5, 101), (5, 102), (3, 1)]);
    }

    #[test]
    fn one_part_that_failed_does_not_hide_the_others() {
        let parts = parts(&[5, 3]);
        let refused = || Err(ApiError::new(ErrorCode::StorageError, "full"));
        let merged = merge(vec![(5, refused()), (3, answer(3, 8, 1))], &parts.places).unwrap();
        assert!(merged.results[0].error.is_some() && merged.results[1].error.is_none());
        assert_eq!((merged.positions[0].offset, merged.positions[1].offset), (-1, 8));
        assert!(merge(vec![(5, refused())], &[(0, 0)]).is_err(), "alone, it is the call that fails");
    }
}
