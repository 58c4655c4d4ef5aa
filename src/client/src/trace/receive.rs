//! `poll TOPIC`: records that a reader or a consumer was given; `process TOPIC`: what a program does with one.

use super::{Tracing, context_of, messaging, operation_type, partition_id};
use crate::consumer::ConsumerRecord;
use crate::reader::Chunk;
use opentelemetry::trace::{Link, Span, SpanBuilder, SpanContext, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use std::time::SystemTime;
use thalweg_core::{PartitionId, TopicName};

/// Contexts that one span is linked to, at most.
const MAX_LINKS: usize = 128;

/// A call for records that is under way. Nothing is told of one that is given up, or brings nothing.
#[derive(Debug)]
pub(crate) struct Receiving {
    since: Option<SystemTime>,
}

/// Who receives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receiver<'a> {
    pub(crate) tracing: &'a Tracing,
    pub(crate) client_id: &'a str,
    pub(crate) group: Option<&'a str>,
}

impl Receiving {
    /// The call begins.
    pub(crate) fn begin(tracing: &Tracing) -> Receiving {
        Receiving { since: tracing.is_on().then(SystemTime::now) }
    }

    /// It brought these records of one partition.
    pub(crate) fn records(&self, who: Receiver<'_>, records: &[ConsumerRecord]) {
        let (Some(since), Some(first)) = (self.since, records.first()) else { return };
        let contexts = records.iter().filter_map(ConsumerRecord::trace_context);
        let links = contexts.take(MAX_LINKS).map(Link::with_context).collect();
        tell(who, since, &first.topic, first.partition, Some(records.len()), links);
    }

    /// It brought this chunk, whose headers are looked through: who traces pays for a second look.
    pub(crate) fn chunk(&self, who: Receiver<'_>, chunk: &Chunk) {
        let Some(since) = self.since else { return };
        let mut links = Vec::new();
        let (mut count, mut scratch) = (0, Vec::new());
        // What is damaged is told where the records are read.
        let whole = chunk.for_each_record(&mut scratch, |record| {
            count += 1;
            if links.len() < MAX_LINKS {
                let headers = record.headers.iter().map(|header| (header.key, header.value));
                links.extend(context_of(headers).map(Link::with_context));
            }
        });
        tell(who, since, &chunk.topic.0, chunk.partition, whole.is_ok().then_some(count), links);
    }
}

/// Where neither a record nor the caller belongs to a trace, there is nothing to tell: an empty span for each call would only
/// show that somebody polls.
fn tell(
    who: Receiver<'_>,
    since: SystemTime,
    topic: &TopicName,
    partition: PartitionId,
    count: Option<usize>,
    links: Vec<Link>,
) {
    let current = Context::current();
    if links.is_empty() && !current.span().span_context().is_sampled() {
        return;
    }
    let builder = SpanBuilder::from_name(format!("poll {topic}"))
        .with_kind(SpanKind::Client)
        .with_start_time(since)
        .with_links(links);
    let Some(mut span) = who.tracing.start(builder, &current) else { return };
    span.set_attributes(messaging("poll", topic.as_str()));
    span.set_attribute(operation_type("receive"));
    span.set_attribute(partition_id(partition));
    span.set_attribute(KeyValue::new("messaging.client.id", who.client_id.to_owned()));
    if let Some(count) = count {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new("messaging.batch.message_count", count));
    }
    if let Some(group) = who.group {
        span.set_attribute(KeyValue::new("messaging.consumer.group.name", group.to_owned()));
    }
    span.end();
}

impl ConsumerRecord {
    /// The span that sent this record, by its headers, if it was sampled.
    pub fn trace_context(&self) -> Option<SpanContext> {
        context_of(self.headers.iter().map(|header| (&*header.key, header.value.as_deref())))
    }
}

/// A span `process TOPIC` for one record, as a child of the current one and linked to the one that sent the record; without a
/// tracer, the current context. See [`Consumer::process_span`](crate::Consumer::process_span).
pub(crate) fn process(who: Receiver<'_>, record: &ConsumerRecord) -> Context {
    let current = Context::current();
    let builder = SpanBuilder::from_name(format!("process {}", record.topic))
        .with_kind(SpanKind::Consumer)
        .with_links(record.trace_context().map(Link::with_context).into_iter().collect());
    let Some(mut span) = who.tracing.start(builder, &current) else { return current };
    span.set_attributes(messaging("process", record.topic.as_str()));
    span.set_attribute(operation_type("process"));
    span.set_attribute(partition_id(record.partition));
    span.set_attribute(KeyValue::new("thalweg.offset", record.offset.get()));
    span.set_attribute(KeyValue::new("messaging.client.id", who.client_id.to_owned()));
    if let Some(group) = who.group {
        span.set_attribute(KeyValue::new("messaging.consumer.group.name", group.to_owned()));
    }
    current.with_span(span)
}
