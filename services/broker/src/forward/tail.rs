//! Tail: a topic's plain records from a point on, wherever its partitions are led. HTTP/2 flow control is the only credit.

use super::relay::Relay;
use super::scatter;
use crate::node::{Node, unknown_topic};
use crate::read::fetch::MAX_PARTITIONS;
use crate::refusal;
use crate::stopping::Stopping;
use futures_util::{Stream, stream};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::Offset;
use thalweg_proto::v1::partition_data::Data;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;
use tonic::Status;

/// Bytes of one message: small, because plain clients have small limits.
const CHUNK_BYTES: u32 = 256 * 1024;
/// How long leaders are looked for at the start.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Opens the stream. Errors as in Fetch; they end the call.
pub async fn tail(
    node: Arc<Node>,
    request: v1::TailRequest,
    deadline: Option<Instant>,
) -> Result<impl Stream<Item = Result<v1::TailResponse, Status>> + use<>, ApiError> {
    crate::read::bound_of(request.isolation_level)?;
    let partitions = partitions(&node, &request)?;
    let until = Instant::now() + LEADER_PATIENCE;
    let until = deadline.map_or(until, |deadline| until.min(deadline));
    let look = Look { node: &node, request: &request, partitions: &partitions, until };
    let (starts, ends) = look.bounds().await?;

    let mut open = HashMap::new();
    let mut assigned = Vec::with_capacity(partitions.len());
    for ((partition, start), end) in partitions.iter().zip(starts).zip(ends) {
        if request.until_end {
            if start >= end {
                continue;
            }
            open.insert(*partition, end);
        }
        let topic = request.topic.clone();
        assigned.push(v1::FetchStreamPartition { topic, partition: *partition, offset: start, tag: 0 });
    }
    let start = v1::FetchStreamStart {
        format: v1::RecordFormat::Records as i32,
        isolation_level: request.isolation_level,
        max_chunk_bytes: Some(CHUNK_BYTES),
        routing: v1::Routing::AnyBroker as i32,
    };
    let stopping = node.stopping();
    let mut relay = Relay::new(node, start);
    relay.allow(v1::FetchStreamCredit { bytes: u64::MAX, records: None });
    relay.assign(assigned);
    let tail = Tail {
        relay,
        ends: request.until_end.then_some(open),
        left: if request.max_records == 0 { u64::MAX } else { request.max_records },
        done: false,
        stopping,
    };
    Ok(stream::unfold(tail, |mut tail| async move {
        let message = tail.next().await?;
        Some((message.map_err(Status::from), tail))
    }))
}

fn partitions(node: &Node, request: &v1::TailRequest) -> Result<Vec<i32>, ApiError> {
    if request.topic.is_empty() {
        return Err(ApiError::invalid("topic", "name the topic to read"));
    }
    if request.partitions.len() > MAX_PARTITIONS {
        return Err(ApiError::invalid("partitions", format!("name at most {MAX_PARTITIONS} partitions")));
    }
    let count = node.metadata.partition_count(&request.topic).ok_or_else(|| unknown_topic(&request.topic))?;
    // Each once, in order.
    let wanted: BTreeSet<i32> = request.partitions.iter().copied().collect();
    if wanted.is_empty() {
        return Ok((0..count).map(|index| index as i32).collect());
    }
    Ok(wanted.into_iter().collect())
}

/// Where the partitions begin and end for this request.
struct Look<'a> {
    node: &'a Arc<Node>,
    request: &'a v1::TailRequest,
    partitions: &'a [i32],
    until: Instant,
}

impl Look<'_> {
    /// Where to begin, and the end as it is now, for each partition. The end is only looked up where it is needed.
    async fn bounds(&self) -> Result<(Vec<i64>, Vec<i64>), ApiError> {
        let start = v1::TailStart::try_from(self.request.start)
            .map_err(|_| ApiError::invalid("start", format!("{} is no start", self.request.start)))?;
        if start == v1::TailStart::Offset && self.request.offset < 0 {
            return Err(ApiError::invalid(
                "offset",
                "an offset is not negative; start at earliest or latest instead",
            ));
        }
        let ends = match start {
            v1::TailStart::Earliest if !self.request.until_end => vec![i64::MAX; self.partitions.len()],
            _ => self.offsets(v1::OffsetSpec::Latest).await?,
        };
        let starts = match start {
            v1::TailStart::Unspecified | v1::TailStart::Latest => ends.clone(),
            v1::TailStart::Earliest => self.offsets(v1::OffsetSpec::Earliest).await?,
            v1::TailStart::Offset => {
                let offset = self.request.offset;
                let first = self.offsets(v1::OffsetSpec::Earliest).await?;
                for (first, end) in first.into_iter().zip(&ends) {
                    if offset < first || offset > *end {
                        return Err(refusal::out_of_range(Offset(offset), Offset(first), Offset(*end)));
                    }
                }
                vec![offset; self.partitions.len()]
            }
            v1::TailStart::Timestamp => {
                let found = self.offsets(v1::OffsetSpec::Timestamp).await?;
                found.into_iter().zip(&ends).map(|(at, end)| if at < 0 { *end } else { at }).collect()
            }
        };
        Ok((starts, ends))
    }

    async fn offsets(&self, spec: v1::OffsetSpec) -> Result<Vec<i64>, ApiError> {
        let wanted = |partition: &i32| v1::ListOffsetsPartition {
            topic: self.request.topic.clone(),
            partition: *partition,
            spec: spec as i32,
            timestamp_ms: self.request.timestamp_ms,
            min_leader_epoch: None,
        };
        let request = v1::ListOffsetsRequest {
            partitions: self.partitions.iter().map(wanted).collect(),
            isolation_level: self.request.isolation_level,
            routing: v1::Routing::AnyBroker as i32,
        };
        let answer = scatter::list_offsets(Arc::clone(self.node), request, self.until).await?;
        let offset = |result: v1::ListOffsetsResult| match &result.error {
            Some(error) => Err(ApiError::from_proto(error)),
            None => Ok(result.offset),
        };
        answer.results.into_iter().map(offset).collect()
    }
}

struct Tail {
    relay: Relay,
    // With `until_end`: where each partition ends that is still read.
    ends: Option<HashMap<i32, i64>>,
    left: u64,
    done: bool,
    stopping: Stopping,
}

impl Tail {
    async fn next(&mut self) -> Option<Result<v1::TailResponse, ApiError>> {
        loop {
            let finished = self.ends.as_ref().is_some_and(HashMap::is_empty);
            if self.done || finished || self.left == 0 {
                return None;
            }
            let data = tokio::select! {
                biased;
                () = self.stopping.wait() => {
                    self.done = true;
                    return Some(Err(refusal::shutting_down()));
                }
                data = self.relay.next() => data,
            };
            if let Some(error) = &data.error {
                self.done = true;
                return Some(Err(ApiError::from_proto(error)));
            }
            if let Some(answer) = self.answer(data) {
                return Some(Ok(answer));
            }
        }
    }

    fn answer(&mut self, data: v1::PartitionData) -> Option<v1::TailResponse> {
        let mut records = match data.data {
            Some(Data::Records(set)) => set.records,
            _ => Vec::new(),
        };
        if let Some(ends) = &mut self.ends {
            let end = ends.get(&data.partition).copied().unwrap_or(0);
            records.retain(|record| record.offset < end);
            if data.next_offset >= end {
                ends.remove(&data.partition);
                self.relay.unassign([(data.topic, data.partition)]);
            }
        }
        records.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= records.len() as u64;
        let (partition, high_watermark) = (data.partition, data.high_watermark);
        (!records.is_empty()).then_some(v1::TailResponse { partition, records, high_watermark })
    }
}
