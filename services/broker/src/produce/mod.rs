//! Produce: what the unary call and the stream share. Nothing here waits; the callers do.

pub mod append;
pub mod fence;
pub mod records;
pub mod request;
pub mod stream;
pub mod unary;

use crate::metadata::topic_settings;
use crate::node::Node;
use crate::replicas::Partition;
use crate::trace::AppendSpan;
use append::{Incoming, Progress, Write, append_batch};
use fence::Writer;
use opentelemetry::trace::SpanContext;
use rand::Rng;
use records::{Encoded, Target};
use request::{Acks, Terms};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{ErrorCode, Offset, PartitionId, Timestamp};
use thalweg_proto::{ApiError, v1};

/// A request that was appended, at least in part.
#[derive(Debug)]
pub struct Accepted {
    /// What must hold before the answer.
    pub acks: Acks,
    /// How long that is waited for.
    pub timeout: Duration,
    parts: Vec<Part>,
    // For plain records: part and offset within it.
    places: Vec<(u32, i32)>,
}

#[derive(Debug)]
enum Part {
    Written(Write),
    Refused { partition: PartitionId, error: ApiError },
}

/// Appends requests, and remembers where the last one went, so that a stream to one partition looks it up once.
#[derive(Debug)]
pub struct Appender {
    writer: Writer,
    last: Option<(String, i32, Arc<Partition>)>,
    // Of the request that is being appended.
    caller: Option<SpanContext>,
}

impl Appender {
    /// An appender for that writer's requests, which remembers nothing.
    pub fn new(writer: Writer) -> Appender {
        Appender { writer, last: None, caller: None }
    }

    /// Checks and appends a request. A request for one partition fails as a whole; one that spans several reports each.
    /// `caller` is the span that it belongs to, if it is traced.
    pub fn append(
        &mut self,
        node: &Node,
        request: v1::ProduceRequest,
        caller: Option<SpanContext>,
        now: Timestamp,
    ) -> Result<Accepted, ApiError> {
        self.caller = caller;
        let terms = Terms::of(&request)?;
        self.writer.check(node, &request.topic, request.partition)?;
        match request.payload {
            Some(v1::produce_request::Payload::RecordBatch(bytes)) => {
                let Some(partition) = request.partition else {
                    return Err(ApiError::invalid("partition", "an encoded batch needs its partition named"));
                };
                let partition = self.partition(node, &request.topic, partition)?;
                let write = self.write(node, &partition, bytes, &terms, now, "record_batch")?;
                Ok(terms.accepted(vec![Part::Written(write)], Vec::new()))
            }
            Some(v1::produce_request::Payload::Records(set)) => {
                records::check(&set.records)?;
                self.records(node, &request.topic, request.partition, &set.records, &terms, now)
            }
            None => Err(ApiError::invalid("payload", "send records or record_batch")),
        }
    }

    fn records(
        &mut self,
        node: &Node,
        topic: &str,
        partition: Option<i32>,
        records: &[v1::Record],
        terms: &Terms,
        now: Timestamp,
    ) -> Result<Accepted, ApiError> {
        let target = match partition {
            Some(partition) => Target::Partition(PartitionId(partition)),
            None => target(node, topic)?,
        };
        // Any partition tells the topic's codec; one that is not led here will refuse further down.
        let codec = match target {
            Target::Partition(PartitionId(partition)) => {
                self.partition(node, topic, partition)?.role().settings.compression
            }
            Target::ByKey { .. } => {
                topic_settings(&node.metadata, topic).and_then(|settings| settings.compression)
            }
        };
        let Encoded { groups, places } = records::encode(records, target, terms, codec, now);
        let alone = groups.len() == 1;
        let mut parts = Vec::with_capacity(groups.len());
        for group in groups {
            let written = self
                .partition(node, topic, group.partition.get())
                .and_then(|partition| self.write(node, &partition, group.batch, terms, now, "records"));
            match written {
                Ok(write) => parts.push(Part::Written(write)),
                Err(error) if alone => return Err(error),
                Err(error) => parts.push(Part::Refused { partition: group.partition, error }),
            }
        }
        Ok(terms.accepted(parts, places))
    }

    fn write(
        &self,
        node: &Node,
        partition: &Arc<Partition>,
        bytes: bytes::Bytes,
        terms: &Terms,
        now: Timestamp,
        field: &str,
    ) -> Result<Write, ApiError> {
        let Some(role) = partition.leading() else {
            // It moved since it was looked up: say where to.
            let tp = partition.topic_partition();
            return Err(node.not_led_here(tp.topic.as_str(), tp.partition.get()));
        };
        let max_inflated_bytes = node.config.limits.max_inflated_bytes;
        let tracing = partition.traces().tracing();
        let caller = self.caller.as_ref();
        let span = caller.and_then(|caller| AppendSpan::begin(tracing, caller, partition, &role));
        let span = span.as_ref();
        let incoming = Incoming { bytes, field, acks: terms.acks, max_inflated_bytes, span };
        append_batch(partition, &role, incoming, now).map_err(|error| {
            if let Some(span) = span {
                span.refused(&error);
            }
            match error.code {
                // The role went while the batch was checked. Nothing was appended, and only an error that says where to go tells
                // that: without, it reads as of a write whose leader changed before the acks.
                ErrorCode::NotLeader | ErrorCode::FencedLeaderEpoch => {
                    let tp = partition.topic_partition();
                    node.not_led_here(tp.topic.as_str(), tp.partition.get())
                }
                _ => error,
            }
        })
    }

    fn partition(&mut self, node: &Node, topic: &str, partition: i32) -> Result<Arc<Partition>, ApiError> {
        if let Some((name, index, known)) = &self.last
            && *index == partition
            && name == topic
            && known.leading().is_some()
        {
            return Ok(Arc::clone(known));
        }
        let found = node.led_here(topic, partition)?;
        match &mut self.last {
            // Keeps the allocation of the name.
            Some((name, index, known)) if name == topic => {
                *index = partition;
                *known = Arc::clone(&found);
            }
            last => *last = Some((topic.to_owned(), partition, Arc::clone(&found))),
        }
        Ok(found)
    }
}

fn target(node: &Node, topic: &str) -> Result<Target, ApiError> {
    let count = node.metadata.partition_count(topic).ok_or_else(|| node.not_led_here(topic, 0))?;
    Ok(Target::ByKey { count, keyless: PartitionId(rand::rng().random_range(0..count) as i32) })
}

/// Bytes of keys, values and headers, or of the batch.
fn payload_bytes(request: &v1::ProduceRequest) -> usize {
    match &request.payload {
        Some(v1::produce_request::Payload::RecordBatch(bytes)) => bytes.len(),
        Some(v1::produce_request::Payload::Records(set)) => set
            .records
            .iter()
            .map(|record| {
                let headers = record.headers.iter();
                record.key.as_ref().map_or(0, bytes::Bytes::len)
                    + record.value.as_ref().map_or(0, bytes::Bytes::len)
                    + headers
                        .map(|h| h.key.len() + h.value.as_ref().map_or(0, bytes::Bytes::len))
                        .sum::<usize>()
            })
            .sum(),
        None => 0,
    }
}

/// What a request weighs against the bounds: its payload, or what its plain records take when decoded if that
/// is more. The latter covers their places too, which stay until the answer.
pub fn weight(request: &v1::ProduceRequest) -> usize {
    let decoded = match &request.payload {
        Some(v1::produce_request::Payload::Records(set)) => {
            set.records.len() * std::mem::size_of::<v1::Record>()
        }
        _ => 0,
    };
    payload_bytes(request).max(decoded)
}

/// The acks did not come in time.
pub fn timed_out() -> ApiError {
    ApiError::new(
        ErrorCode::RequestTimedOut,
        "the acks did not come in time; the write may or may not survive (retry, with an idempotent producer to be safe)",
    )
}

impl Terms {
    fn accepted(&self, parts: Vec<Part>, places: Vec<(u32, i32)>) -> Accepted {
        Accepted { acks: self.acks, timeout: self.timeout, parts, places }
    }
}

// === impl Accepted ===

impl Accepted {
    /// The writes whose acks are still waited for.
    pub fn waiting(&self) -> impl Iterator<Item = &Write> {
        self.parts.iter().filter_map(|part| match part {
            Part::Written(write) if write.is_waiting(self.acks) => Some(write),
            _ => None,
        })
    }

    /// Whether nothing is left to wait for.
    pub fn is_settled(&self) -> bool {
        self.waiting().next().is_none()
    }

    /// The answer as it stands; `unsettled` is told for writes whose acks did not come. A request for one partition fails as
    /// a whole.
    pub fn answer(self, unsettled: impl Fn() -> ApiError) -> Result<v1::ProduceResponse, ApiError> {
        let alone = self.parts.len() == 1;
        let mut results = Vec::with_capacity(self.parts.len());
        let mut bases = Vec::with_capacity(if self.places.is_empty() { 0 } else { self.parts.len() });
        for part in &self.parts {
            let (partition, outcome) = match part {
                Part::Refused { partition, error } => (*partition, Err(error.clone())),
                Part::Written(write) => {
                    let outcome = match write.progress(self.acks) {
                        Progress::Done => Ok(write),
                        Progress::Waiting => Err(unsettled()),
                        Progress::Failed(error) => Err(error),
                    };
                    (write.partition.topic_partition().partition, outcome)
                }
            };
            match outcome {
                Ok(write) => {
                    results.push(write.result(self.acks));
                    bases.push((partition, Some(write.base_offset)));
                }
                Err(error) if alone => return Err(error),
                Err(error) => {
                    results.push(v1::ProduceResult {
                        partition: partition.get(),
                        base_offset: Offset::NONE.get(),
                        last_offset: Offset::NONE.get(),
                        log_append_time_ms: -1,
                        error: Some(error.to_proto()),
                        ..Default::default()
                    });
                    bases.push((partition, None));
                }
            }
        }
        let positions = match self.acks {
            Acks::None => Vec::new(),
            _ => self
                .places
                .iter()
                .map(|(part, delta)| {
                    let (partition, base) = bases[*part as usize];
                    let offset = base.map_or(Offset::NONE, |base| base.advance(i64::from(*delta)));
                    v1::RecordPosition { partition: partition.get(), offset: offset.get() }
                })
                .collect(),
        };
        Ok(v1::ProduceResponse { results, positions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_weighs_what_it_takes() {
        let records = |record: v1::Record, count| {
            let records = v1::RecordSet { records: vec![record; count] };
            let payload = Some(v1::produce_request::Payload::Records(records));
            weight(&v1::ProduceRequest { payload, ..Default::default() })
        };
        assert!(records(v1::Record::default(), 1000) >= 1000 * std::mem::size_of::<(u32, i32)>());
        let large = v1::Record { value: Some(vec![0; 10_000].into()), ..Default::default() };
        assert_eq!(records(large, 3), 30_000);
        let payload = Some(v1::produce_request::Payload::RecordBatch(vec![0; 100].into()));
        assert_eq!(weight(&v1::ProduceRequest { payload, ..Default::default() }), 100);
    }
}
