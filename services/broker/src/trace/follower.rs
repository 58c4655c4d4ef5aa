//! `append TOPIC` on a follower: the part of a batch's way that its leader cannot see.

use super::partition::MAX_WAITING;
use super::{Traces, attributes};
use opentelemetry::KeyValue;
use opentelemetry::global::BoxedSpan;
use opentelemetry::trace::{Span, SpanBuilder, Status};
use thalweg_client::trace::{parse, remote};
use thalweg_core::{BrokerId, LeaderEpoch, TopicPartition};
use thalweg_proto::internal::v1::BatchTrace;

impl Traces {
    /// Traced batches of this leader epoch are about to be appended here. Nearly always none, which costs nothing.
    pub fn following(
        &self,
        at: &TopicPartition,
        me: BrokerId,
        epoch: LeaderEpoch,
        traces: &[BatchTrace],
    ) -> Following {
        if traces.is_empty() || !self.tracing().is_on() {
            return Following(Vec::new());
        }
        // No more than a leader remembers.
        let spans = traces.iter().take(MAX_WAITING).filter_map(|trace| {
            let told = trace.context.as_ref()?;
            let leader = parse(&told.traceparent, &told.tracestate)?;
            let builder = SpanBuilder::from_name(format!("append {}", at.topic));
            let mut span = self.tracing().start(builder, &remote(leader))?;
            span.set_attributes(attributes("append", at, me, epoch));
            span.set_attribute(KeyValue::new("thalweg.last_offset", trace.last_offset));
            Some(span)
        });
        Following(spans.collect())
    }
}

/// The spans of an append on a follower.
#[derive(Debug)]
pub struct Following(Vec<BoxedSpan>);

impl Following {
    /// The append is done.
    pub fn end<T, E: std::fmt::Display>(self, outcome: &Result<T, E>) {
        for mut span in self.0 {
            if let Err(error) = outcome {
                span.set_status(Status::error(error.to_string()));
            }
            span.end();
        }
    }
}
