//! `append TOPIC`: a traced batch on its way into the leader's log.

use super::partition::TracedBatch;
use super::{Tracing, attributes};
use crate::replicas::{Partition, Role};
use opentelemetry::trace::{SpanBuilder, SpanContext, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use std::time::SystemTime;
use thalweg_client::trace::remote;
use thalweg_log::Appended;
use thalweg_proto::ApiError;

/// The span of one append. It ends when the batch is in the log, or was refused.
#[derive(Debug)]
pub struct AppendSpan {
    tracing: Tracing,
    context: Context,
    since: SystemTime,
}

impl AppendSpan {
    /// A batch of that span begins to be checked; `None` if the tracer does not want it.
    pub fn begin(
        tracing: &Tracing,
        caller: &SpanContext,
        partition: &Partition,
        role: &Role,
    ) -> Option<AppendSpan> {
        let at = partition.topic_partition();
        let since = SystemTime::now();
        let builder = SpanBuilder::from_name(format!("append {}", at.topic)).with_start_time(since);
        let caller = remote(caller.clone());
        let span = tracing.start(builder, &caller)?;
        let context = caller.with_span(span);
        // The leader is this broker: otherwise nothing is appended.
        context.span().set_attributes(attributes("append", at, role.leader, role.leader_epoch));
        Some(AppendSpan { tracing: tracing.clone(), context, since })
    }

    /// It is in the log, and nobody was told yet. From here on its way to the followers and to the high watermark is told.
    pub fn appended(&self, partition: &Partition, role: &Role, appended: &Appended) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("thalweg.offset", appended.base_offset.get()));
        let records = appended.last_offset.get() - appended.base_offset.get() + 1;
        span.set_attribute(KeyValue::new("messaging.batch.message_count", records));
        if appended.duplicate {
            span.set_attribute(KeyValue::new("thalweg.duplicate", true));
        }
        span.end();
        if !appended.duplicate {
            let batch = TracedBatch::new(&self.tracing, &self.context, self.since, partition, role, appended);
            partition.traced(batch);
        }
    }

    /// It was refused.
    pub fn refused(&self, error: &ApiError) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("error.type", error.code.as_str()));
        span.set_status(Status::error(error.message.clone()));
        span.end();
    }
}
