//! `send TOPIC`: one record, from `send` to its acknowledgement.

use super::{TRACEPARENT, TRACESTATE, Tracing, context_of, messaging, operation_type, partition_id, to_wire};
use crate::producer::{DeliveryError, ProducerRecord, RecordMetadata, SendError};
use crate::proto;
use opentelemetry::trace::{Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use std::sync::Arc;
use thalweg_core::Offset;
use thalweg_core::batch::{HEADER_LEN, Header, record_size_bound};
use tokio::sync::OwnedSemaphorePermit;

/// The span of one record. It ends with the record's outcome, or when nobody has it any more.
#[derive(Debug, Clone)]
pub(crate) struct SendSpan {
    span: Context,
    /// As others are told; `None` if they are not: the span is not sampled, or nobody is told anything.
    wire: Option<proto::TraceContext>,
    /// Gives back the right to it with the last copy.
    _open: Option<Arc<OwnedSemaphorePermit>>,
}

/// The context that goes to the broker beside a batch: that of the first record in it that is traced, which has waited longest,
/// so that its trace shows all that the batch went through. The spans of the others are linked to it.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    context: SpanContext,
    wire: proto::TraceContext,
}

impl SendSpan {
    /// Starts a record's span as a child of the current one; `None` if it is not wanted, or too many are open.
    pub(crate) fn begin(tracing: &Tracing, client_id: &str, record: &ProducerRecord<'_>) -> Option<SendSpan> {
        let open = tracing.may_send()?;
        let name = format!("send {}", record.topic);
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Producer);
        let current = Context::current();
        let mut span = tracing.start(builder, &current)?;
        span.set_attributes(messaging("send", record.topic));
        span.set_attribute(operation_type("send"));
        span.set_attribute(KeyValue::new("messaging.client.id", client_id.to_owned()));
        if let Some(value) = record.value {
            let bytes = i64::try_from(value.len()).unwrap_or(i64::MAX);
            span.set_attribute(KeyValue::new("messaging.message.body.size", bytes));
        }
        // What the program wrote there is the record's own context: it was made before it is sent.
        if let Some(own) = context_of(record.headers.iter().map(|header| (header.key, header.value))) {
            span.add_link(own, Vec::new());
        }
        let told = tracing.propagates() && span.span_context().is_sampled();
        let wire = told.then(|| to_wire(span.span_context()));
        Some(SendSpan { span: current.with_span(span), wire, _open: Some(Arc::new(open)) })
    }

    /// The record's headers, with the context behind the program's own. They are left as they are where the program says a
    /// context itself, where others are not told of the span, and where the record would become too large.
    pub(crate) fn headers<'a>(&'a self, record: &ProducerRecord<'a>, max_size: usize) -> Vec<Header<'a>> {
        let own = record.headers.iter().any(|header| header.key == TRACEPARENT.as_bytes());
        let mut headers = record.headers.to_vec();
        let Some(wire) = self.wire.as_ref().filter(|_| !own) else { return headers };
        let header = |name: &'static str, value: &'a str| Header {
            key: name.as_bytes(),
            value: Some(value.as_bytes()),
        };
        headers.push(header(TRACEPARENT, &wire.traceparent));
        if !wire.tracestate.is_empty() {
            headers.push(header(TRACESTATE, &wire.tracestate));
        }
        if HEADER_LEN + record_size_bound(record.key, record.value, &headers) > max_size {
            headers.truncate(record.headers.len());
        }
        headers
    }

    /// What goes to the broker beside the batch, if this record is the one; `None` if it is not told.
    pub(crate) fn carrier(&self) -> Option<Carrier> {
        let wire = self.wire.clone()?;
        Some(Carrier { context: self.span.span().span_context().clone(), wire })
    }

    /// The record went into a batch that carries another one's context.
    pub(crate) fn joins(&self, carrier: &Carrier) {
        self.span.span().add_link(carrier.context.clone(), Vec::new());
    }

    /// The record's outcome is there.
    pub(crate) fn delivered(&self, outcome: &Result<RecordMetadata, DeliveryError>) {
        let span = self.span.span();
        match outcome {
            Ok(metadata) => {
                span.set_attribute(partition_id(metadata.partition));
                if metadata.offset != Offset::NONE {
                    span.set_attribute(KeyValue::new("thalweg.offset", metadata.offset.get()));
                }
            }
            Err(error) => {
                if let Some(code) = error.code() {
                    span.set_attribute(KeyValue::new("error.type", code.as_str()));
                }
                span.set_status(Status::error(error.to_string()));
            }
        }
        span.end();
    }

    /// The record was not taken.
    pub(crate) fn refused(&self, error: &SendError) {
        let span = self.span.span();
        if let Some(code) = error.code() {
            span.set_attribute(KeyValue::new("error.type", code.as_str()));
        }
        span.set_status(Status::error(error.to_string()));
        span.end();
    }
}

impl Carrier {
    /// As the broker is told.
    pub(crate) fn wire(&self) -> &proto::TraceContext {
        &self.wire
    }
}

#[cfg(test)]
impl SendSpan {
    /// The span of this context, which nobody records.
    pub(crate) fn of(context: SpanContext) -> SendSpan {
        SendSpan { wire: Some(to_wire(&context)), span: super::remote(context), _open: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{MAX_OPEN_SENDS, parse};
    use opentelemetry::global::BoxedTracer;
    use opentelemetry::trace::noop::NoopTracer;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn names<'a>(headers: &[Header<'a>]) -> Vec<&'a str> {
        headers.iter().map(|header| std::str::from_utf8(header.key).unwrap()).collect()
    }

    #[test]
    fn a_record_gets_the_context_behind_its_own_headers() {
        let span = SendSpan::of(parse(PARENT, "a=1").unwrap());
        let own = [Header { key: b"mine", value: None }];
        let record = ProducerRecord::new("t").headers(&own);
        let headers = span.headers(&record, 1 << 20);
        assert_eq!(names(&headers), ["mine", TRACEPARENT, TRACESTATE]);
        assert_eq!(headers[1].value, Some(PARENT.as_bytes()));
        let plain = SendSpan::of(parse(PARENT, "").unwrap());
        assert_eq!(names(&plain.headers(&record, 1 << 20)), ["mine", TRACEPARENT]);
    }

    #[test]
    fn what_the_program_says_stays_as_it_is() {
        let span = SendSpan::of(parse(PARENT, "a=1").unwrap());
        let own = [Header { key: TRACEPARENT.as_bytes(), value: Some(b"anything") }];
        let record = ProducerRecord::new("t").headers(&own);
        assert_eq!(span.headers(&record, 1 << 20), own);
        let untold = SendSpan { wire: None, ..span };
        assert!(untold.headers(&ProducerRecord::new("t"), 1 << 20).is_empty());
        assert!(untold.carrier().is_none());
    }

    #[test]
    fn a_record_is_never_too_large_because_it_is_traced() {
        let span = SendSpan::of(parse(PARENT, "a=1").unwrap());
        let value = [0; 900];
        let record = ProducerRecord::new("t").value(&value);
        assert!(span.headers(&record, 1_000).is_empty());
        assert_eq!(span.headers(&record, 2_000).len(), 2);
    }

    #[test]
    fn so_many_spans_are_open_and_no_more() {
        let tracing = Tracing::with(BoxedTracer::new(Box::new(NoopTracer::new())));
        let mut open: Vec<_> = std::iter::from_fn(|| tracing.may_send()).collect();
        assert_eq!(open.len(), MAX_OPEN_SENDS);
        assert!(SendSpan::begin(&tracing, "c", &ProducerRecord::new("t")).is_none());
        open.truncate(1);
        assert!(tracing.may_send().is_some());
    }

    #[test]
    fn no_tracer_no_span() {
        assert!(SendSpan::begin(&Tracing::off(), "c", &ProducerRecord::new("t")).is_none());
    }
}
