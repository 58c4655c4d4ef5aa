//! Tail: a topic's plain records from a point on. HTTP/2 flow control is the only credit.

use super::certain::certain;
use super::reader::{Reader, Turn};
use super::{Amount, Format, SETTLE_PATIENCE, Terms, bound_of, settled};
use crate::node::{Node, unknown_topic};
use crate::refusal;
use crate::replicas::Partition;
use crate::stopping::Stopping;
use futures_util::{Stream, stream};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use thalweg_core::{Offset, Timestamp};
use thalweg_log::ReadBound;
use thalweg_proto::{ApiError, v1};
use thalweg_runtime::blocking;
use tokio::time::Instant;
use tonic::Status;

/// Partitions in one request.
const MAX_PARTITIONS: usize = 10_000;
/// Bytes of one message: small, because plain clients have small limits.
const CHUNK_BYTES: usize = 256 * 1024;

/// Opens the stream. Errors as in Fetch; they end the call.
pub async fn tail(
    node: Arc<Node>,
    request: v1::TailRequest,
) -> Result<impl Stream<Item = Result<v1::TailResponse, Status>> + use<>, ApiError> {
    let bound = bound_of(request.isolation_level)?;
    let start = Start::of(&request)?;
    let partitions = partitions(&node, &request)?;
    if request.until_end || !matches!(start, Start::Earliest | Start::Offset(_)) {
        let until = Instant::now() + SETTLE_PATIENCE;
        for partition in &partitions {
            settled(partition, until).await?;
        }
    }
    // A start at an offset needs no file.
    if let Start::Offset(_) = start {
        for partition in &partitions {
            let Some(epoch) = partition.leading().map(|role| role.leader_epoch) else { continue };
            if let Err(error) = start.offset(partition, bound) {
                return Err(certain(&node, partition, epoch, error).await);
            }
        }
    }
    // Lookups by time read files.
    let starts = blocking::run(move || {
        partitions
            .into_iter()
            .map(|partition| start.offset(&partition, bound).map(|offset| (partition, offset)))
            .collect::<Result<Vec<_>, ApiError>>()
    })
    .await
    .map_err(|error| refusal::internal("the start could not be looked up", error))??;

    let max_inflated_bytes = node.config.limits.max_inflated_bytes;
    let mut reader = Reader::new(Terms { format: Format::Records, bound, max_inflated_bytes });
    let mut ends = HashMap::new();
    for (partition, offset) in starts {
        let end = readable_end(&partition, bound);
        if request.until_end {
            if offset >= end {
                continue;
            }
            ends.insert(partition.topic_partition().partition.get(), end);
        }
        reader.assign(&partition, 0, offset, request.until_end.then_some(end));
    }
    let state = Tail {
        stopping: node.stopping(),
        node,
        reader,
        ends: request.until_end.then_some(ends),
        left: if request.max_records == 0 { u64::MAX } else { request.max_records },
        done: false,
    };
    Ok(stream::unfold(state, |mut tail| async move {
        let message = tail.next().await?;
        Some((message.map_err(Status::from), tail))
    }))
}

#[derive(Debug, Clone, Copy)]
enum Start {
    Latest,
    Earliest,
    Offset(Offset),
    Timestamp(Timestamp),
}

impl Start {
    fn of(request: &v1::TailRequest) -> Result<Start, ApiError> {
        match v1::TailStart::try_from(request.start) {
            Ok(v1::TailStart::Unspecified | v1::TailStart::Latest) => Ok(Start::Latest),
            Ok(v1::TailStart::Earliest) => Ok(Start::Earliest),
            Ok(v1::TailStart::Offset) if request.offset < 0 => Err(ApiError::invalid(
                "offset",
                "an offset is not negative; start at earliest or latest instead",
            )),
            Ok(v1::TailStart::Offset) => Ok(Start::Offset(Offset(request.offset))),
            Ok(v1::TailStart::Timestamp) => Ok(Start::Timestamp(Timestamp(request.timestamp_ms))),
            Err(_) => Err(ApiError::invalid("start", format!("{} is no start", request.start))),
        }
    }

    fn offset(self, partition: &Partition, bound: ReadBound) -> Result<Offset, ApiError> {
        let log = partition.log();
        let end = readable_end(partition, bound);
        match self {
            Start::Latest => Ok(end),
            Start::Earliest => Ok(log.log_start_offset()),
            // Behind the high watermark is what a reader waits for; a leader that was just elected may have less of it than told.
            Start::Offset(offset)
                if offset < log.log_start_offset()
                    || (offset > end && !(partition.is_settling() && offset <= log.log_end_offset())) =>
            {
                Err(refusal::out_of_range(offset, log.log_start_offset(), end))
            }
            Start::Offset(offset) => Ok(offset),
            Start::Timestamp(at) => {
                let found = log.offset_for_timestamp(at).map_err(|error| refusal::read(&error, end))?;
                Ok(found.map_or(end, |(offset, _)| offset.min(end)))
            }
        }
    }
}

fn readable_end(partition: &Partition, bound: ReadBound) -> Offset {
    match bound {
        ReadBound::LastStable => partition.log().last_stable_offset(),
        _ => partition.log().high_watermark(),
    }
}

fn partitions(node: &Node, request: &v1::TailRequest) -> Result<Vec<Arc<Partition>>, ApiError> {
    if request.topic.is_empty() {
        return Err(ApiError::invalid("topic", "name the topic to read"));
    }
    if request.partitions.len() > MAX_PARTITIONS {
        return Err(ApiError::invalid("partitions", format!("name at most {MAX_PARTITIONS} partitions")));
    }
    let count = node.metadata.partition_count(&request.topic).ok_or_else(|| unknown_topic(&request.topic))?;
    // Each once, in order.
    let mut wanted: BTreeSet<i32> = request.partitions.iter().copied().collect();
    if wanted.is_empty() {
        wanted.extend((0..count).map(|index| index as i32));
    }
    wanted.into_iter().map(|partition| node.led_here(&request.topic, partition)).collect()
}

struct Tail {
    node: Arc<Node>,
    reader: Reader,
    /// With `until_end`: where each partition ends that is still read.
    ends: Option<HashMap<i32, Offset>>,
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
            // Asked each time: a reader with a long way to go may never come to wait.
            if self.stopping.has_come() {
                self.done = true;
                return Some(Err(refusal::shutting_down()));
            }
            let amount =
                Amount { max_bytes: CHUNK_BYTES, whole_first: true, max_records: self.left, until: None };
            match self.reader.next_turn(&self.node, amount) {
                Some(mut turn) => {
                    if let (Some((partition, epoch)), Err(error)) = (turn.doubt.take(), &turn.outcome) {
                        turn.outcome = Err(certain(&self.node, &partition, epoch, error.clone()).await);
                    }
                    return Some(self.answer(turn));
                }
                None => {
                    tokio::select! {
                        () = self.reader.marked() => {}
                        () = self.stopping.wait() => {
                            self.done = true;
                            return Some(Err(refusal::shutting_down()));
                        }
                    }
                }
            }
        }
    }

    fn answer(&mut self, turn: Turn) -> Result<v1::TailResponse, ApiError> {
        let Turn { topic, index, outcome, .. } = turn;
        let chunk = outcome.inspect_err(|_| self.done = true)?;
        if let Some(ends) = &mut self.ends
            && ends.get(&index).is_some_and(|end| chunk.next_offset >= *end)
        {
            ends.remove(&index);
            self.reader.unassign(&topic, index);
        }
        let records = match chunk.data {
            v1::partition_data::Data::Records(set) => set.records,
            v1::partition_data::Data::RecordBatches(_) => Vec::new(),
        };
        self.left = self.left.saturating_sub(records.len() as u64);
        Ok(v1::TailResponse { partition: index, records, high_watermark: chunk.high_watermark.get() })
    }
}
