//! The unary Fetch: one read, or a long poll until there is enough.

use super::certain::certain_by;
use super::{Amount, Chunk, Format, Terms, bound_of, check_routing, decode, read};
use crate::in_flight::Charge;
use crate::node::Node;
use crate::replicas::{Partition, Registration, Session};
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset};
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// Partitions in one request.
pub const MAX_PARTITIONS: usize = 10_000;
/// How long is waited when the request does not say, in milliseconds.
pub const DEFAULT_MAX_WAIT_MS: u32 = 500;
/// The longest wait a request may ask for, in milliseconds.
pub const MAX_WAIT_MS: u32 = 300_000;

/// Serves one call. `deadline` is when the answer must leave, if the call has one. The charge is to be kept as long as the
/// answer is. When all answers together hold what they may, there is less data in this one, or it is refused with `THROTTLED`.
pub async fn fetch(
    node: &Node,
    request: v1::FetchRequest,
    deadline: Option<Instant>,
) -> Result<(v1::FetchResponse, Charge), ApiError> {
    let plan = Plan::of(node, &request)?;
    let alone = request.partitions.len() == 1;
    let mut poll = LongPoll::new(plan, request.partitions.len(), node.answers.charge(0));
    for wanted in request.partitions {
        match find(node, &wanted) {
            Ok(partition) => poll.add(wanted, partition),
            Err(error) if alone => return Err(error),
            Err(error) => poll.refused.push(refused(wanted.topic, wanted.partition, &error)),
        }
    }
    poll.read_all(node);
    if !poll.is_enough() && !plan.max_wait.is_zero() {
        let until = Instant::now() + plan.max_wait;
        let until = deadline.map_or(until, |deadline| until.min(deadline));
        poll.wait(node, until).await;
    }
    poll.make_certain(node, deadline).await;
    poll.answer(alone)
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    terms: Terms,
    min_bytes: usize,
    max_bytes: usize,
    partition_bytes: usize,
    max_wait: Duration,
}

impl Plan {
    fn of(node: &Node, request: &v1::FetchRequest) -> Result<Plan, ApiError> {
        let limits = &node.config.limits;
        if request.partitions.is_empty() || request.partitions.len() > MAX_PARTITIONS {
            return Err(ApiError::invalid("partitions", format!("name 1 to {MAX_PARTITIONS} partitions")));
        }
        let bytes = |field, value: Option<u32>, default: usize| match value.map(|value| value as usize) {
            Some(value) if value > limits.max_fetch_bytes => {
                Err(ApiError::invalid(field, format!("at most {} bytes", limits.max_fetch_bytes)))
            }
            value => Ok(value.unwrap_or(default)),
        };
        let max_wait_ms = request.max_wait_ms.unwrap_or(DEFAULT_MAX_WAIT_MS);
        if max_wait_ms > MAX_WAIT_MS {
            return Err(ApiError::invalid("max_wait_ms", format!("at most {MAX_WAIT_MS} ms may be waited")));
        }
        check_routing(request.routing)?;
        Ok(Plan {
            terms: Terms {
                format: Format::of(request.format)?,
                bound: bound_of(request.isolation_level)?,
                max_inflated_bytes: limits.max_inflated_bytes,
            },
            min_bytes: bytes("min_bytes", request.min_bytes, 1)?,
            max_bytes: bytes("max_bytes", request.max_bytes, limits.max_fetch_bytes)?,
            partition_bytes: limits.partition_fetch_bytes,
            max_wait: Duration::from_millis(max_wait_ms.into()),
        })
    }
}

fn find(node: &Node, wanted: &v1::FetchPartition) -> Result<Arc<Partition>, ApiError> {
    if wanted.offset < 0 {
        return Err(ApiError::invalid(
            "offset",
            "an offset is not negative; ListOffsets finds first and last",
        ));
    }
    let partition = node.led_here(&wanted.topic, wanted.partition)?;
    node.check_epoch(wanted.current_leader_epoch, partition.role().leader_epoch)?;
    Ok(partition)
}

fn refused(topic: String, partition: i32, error: &ApiError) -> v1::PartitionData {
    v1::PartitionData {
        topic,
        partition,
        next_offset: Offset::NONE.get(),
        high_watermark: Offset::NONE.get(),
        last_stable_offset: Offset::NONE.get(),
        log_start_offset: Offset::NONE.get(),
        error: Some(error.to_proto()),
        ..Default::default()
    }
}

/// What was found so far.
struct LongPoll {
    plan: Plan,
    entries: Vec<Entry>,
    refused: Vec<v1::PartitionData>,
    bytes: usize,
    held: Charge,
    // The budget of all answers was used up before there was enough.
    cut_short: bool,
}

struct Entry {
    wanted: v1::FetchPartition,
    partition: Arc<Partition>,
    max_bytes: usize,
    // Batches as stored, in pieces, because more may come while the call waits.
    pieces: Vec<Bytes>,
    bytes: usize,
    next: Offset,
    last: Option<Chunk>,
    error: Option<ApiError>,
    // The epoch in which the partition was led here when a read of it was refused.
    refused_in: Option<LeaderEpoch>,
}

impl LongPoll {
    fn new(plan: Plan, partitions: usize, held: Charge) -> LongPoll {
        let entries = Vec::with_capacity(partitions);
        LongPoll { plan, entries, refused: Vec::new(), bytes: 0, held, cut_short: false }
    }

    fn add(&mut self, wanted: v1::FetchPartition, partition: Arc<Partition>) {
        let max_bytes = wanted.max_bytes.map_or(self.plan.partition_bytes, |bytes| bytes as usize);
        self.entries.push(Entry {
            next: Offset(wanted.offset),
            wanted,
            partition,
            max_bytes,
            pieces: Vec::new(),
            bytes: 0,
            last: None,
            error: None,
            refused_in: None,
        });
    }

    fn is_enough(&self) -> bool {
        self.cut_short
            || self.bytes >= self.plan.min_bytes
            || self.bytes >= self.plan.max_bytes
            || !self.refused.is_empty()
            || self.entries.iter().any(|entry| entry.error.is_some())
            || self.entries.iter().all(|entry| entry.bytes >= entry.max_bytes)
    }

    fn read_all(&mut self, node: &Node) {
        for at in 0..self.entries.len() {
            if self.bytes >= self.plan.max_bytes && self.bytes > 0 {
                break;
            }
            self.read_one(node, at);
        }
    }

    fn read_one(&mut self, node: &Node, at: usize) {
        // Batches are gathered as stored, whatever the format, so that bytes count the same; they are decoded at the end.
        let terms = Terms { format: Format::Batches, ..self.plan.terms };
        let entry = &mut self.entries[at];
        loop {
            let left = entry.max_bytes.saturating_sub(entry.bytes);
            let left = left.min(self.plan.max_bytes.saturating_sub(self.bytes));
            let first = self.bytes == 0;
            if left == 0 && !first {
                return;
            }
            let leading = entry.partition.leading().map(|role| role.leader_epoch);
            if leading.is_none() {
                entry.error = Some(node.not_led_here(&entry.wanted.topic, entry.wanted.partition));
                return;
            }
            if !node.answers.has_room() {
                self.cut_short = true;
                return;
            }
            let amount = Amount { max_bytes: left, whole_first: first, max_records: u64::MAX, until: None };
            match read(&entry.partition, entry.next, &terms, amount, &mut Vec::new()) {
                Ok(None) => return,
                Ok(Some(mut chunk)) => {
                    entry.next = chunk.next_offset;
                    entry.bytes += chunk.bytes;
                    self.bytes += chunk.bytes;
                    self.held.grow(chunk.bytes);
                    if let v1::partition_data::Data::RecordBatches(piece) = &mut chunk.data {
                        entry.pieces.push(std::mem::take(piece));
                    }
                    let more = chunk.next_offset < chunk.readable_end;
                    entry.last = Some(chunk);
                    // A read stops at a segment's end; go on behind it.
                    if !more {
                        return;
                    }
                }
                Err(error) => {
                    // What was read before still counts; the caller meets the error when it reads on.
                    if entry.pieces.is_empty() {
                        (entry.error, entry.refused_in) = (Some(error), leading);
                    }
                    return;
                }
            }
        }
    }

    /// Nobody is told of an offset beyond the end by a broker that may not lead any more.
    async fn make_certain(&mut self, node: &Node, deadline: Option<Instant>) {
        // All at once: they share one question.
        let mut doubtful = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            if let (Some(error), Some(epoch)) = (&entry.error, entry.refused_in) {
                let certain = certain_by(node, &entry.partition, epoch, error.clone(), deadline);
                doubtful.push(async move { (at, certain.await) });
            }
        }
        for (at, error) in join_all(doubtful).await {
            self.entries[at].error = Some(error);
        }
    }

    /// Waits for marks, and reads only what was marked.
    async fn wait(&mut self, node: &Node, until: Instant) {
        let session = Session::new();
        let registrations: Vec<Registration> = (0u32..)
            .zip(&self.entries)
            .map(|(at, entry)| entry.partition.register(session.slot(at)))
            .collect();
        // What came between the first read and the registration marked nobody.
        self.read_all(node);
        let sleep = tokio::time::sleep_until(until);
        let stopping = node.shutdown.triggered();
        tokio::pin!(sleep, stopping);
        let mut marked = Vec::new();
        while !self.is_enough() {
            tokio::select! {
                () = session.marked() => {}
                () = &mut sleep => return,
                () = &mut stopping => return,
            }
            session.take_ready(&mut marked);
            for at in marked.drain(..) {
                registrations[at as usize].acknowledge();
                self.read_one(node, at as usize);
            }
        }
    }

    fn answer(self, alone: bool) -> Result<(v1::FetchResponse, Charge), ApiError> {
        if self.cut_short && self.bytes == 0 {
            self.held.budget().refuse();
            return Err(ApiError::new(
                ErrorCode::Throttled,
                "the broker holds as many bytes of answers as it may; retry after a pause",
            ));
        }
        let mut partitions = self.refused;
        // Plain records are larger than their batches when those are compressed: the bound holds for what is sent.
        let mut left = self.plan.max_bytes;
        for entry in self.entries {
            if let Some(error) = &entry.error {
                if alone {
                    return Err(error.clone());
                }
                partitions.push(refused(entry.wanted.topic, entry.wanted.partition, error));
            } else if let Some((last, data)) = entry.last.map(|last| (last, joined(entry.pieces))) {
                let from = Offset(entry.wanted.offset);
                let limit = entry.max_bytes.min(left);
                if limit == 0 && !partitions.is_empty() {
                    continue;
                }
                let chunk = match self.plan.terms.format {
                    Format::Batches => Chunk { data: v1::partition_data::Data::RecordBatches(data), ..last },
                    Format::Records => match decoded(&data, from, limit, &self.plan.terms, last) {
                        Ok(chunk) => chunk,
                        Err(error) if alone => return Err(error),
                        Err(error) => {
                            partitions.push(refused(entry.wanted.topic, entry.wanted.partition, &error));
                            continue;
                        }
                    },
                };
                left = left.saturating_sub(chunk.bytes);
                partitions.push(chunk.into_proto(&entry.wanted.topic, entry.wanted.partition, 0));
            }
        }
        Ok((v1::FetchResponse { partitions }, self.held))
    }
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1
        && let Some(only) = pieces.pop()
    {
        return only;
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}

fn decoded(
    data: &Bytes,
    from: Offset,
    max_bytes: usize,
    terms: &Terms,
    last: Chunk,
) -> Result<Chunk, ApiError> {
    let wanted = decode::Wanted {
        from,
        until: None,
        max_bytes: max_bytes.max(1),
        max_records: u64::MAX,
        max_inflated_bytes: terms.max_inflated_bytes,
    };
    let decoded = decode::decode(data, wanted, &mut Vec::new()).map_err(|error| {
        ApiError::new(ErrorCode::StorageError, format!("a stored batch cannot be read: {error}"))
    })?;
    Ok(Chunk {
        data: v1::partition_data::Data::Records(v1::RecordSet { records: decoded.records }),
        bytes: decoded.bytes,
        next_offset: decoded.next_offset,
        ..last
    })
}
