//! Traces: what the SDK tells of through the process's OpenTelemetry tracer.
//!
//! ```text
//!   send TOPIC (producer) ──traceparent in the record──────────────► link ── poll TOPIC (client)
//!        │                                                           link ── process TOPIC (consumer)
//!        └─traceparent beside the batch──► append, replicate, commit: the brokers' spans
//! ```
//! A program that has installed a tracer provider (`opentelemetry::global::set_tracer_provider`) before it connects gets these
//! spans, and with a propagator of W3C Trace Context (`set_text_map_propagator`) they are linked; nothing else is to be done.
//! Without a provider nothing is looked at, and no record gets a header.
//!
//! Only what is sampled leaves a trace in a record: its headers are kept for as long as the record is.

mod call;
mod receive;
mod send;
mod wire;

pub(crate) use call::Traced;
pub(crate) use receive::{Receiver, Receiving, process};
pub(crate) use send::{Carrier, SendSpan};
pub use wire::{
    MAX_TRACEPARENT, MAX_TRACESTATE, TRACEPARENT, TRACESTATE, inject, parse, parse_bytes, to_wire,
};
pub(crate) use wire::{current, wire_size};

pub use opentelemetry;

use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The system that all spans name.
pub const SYSTEM: &str = "thalweg";
/// Records of one client whose spans are open at the same time. They wait for their acknowledgements outside of the producer's
/// buffer memory, about 1 KiB each: small records beyond these go out as ever, and leave no trace.
pub const MAX_OPEN_SENDS: usize = 8192;
/// A context that nobody else has; see [`Tracing::of_process`].
const PROBE: (u128, u64) = (1, 1);

/// The process's tracer, if it has one. Cheap to clone and to ask.
#[derive(Clone, Default)]
pub struct Tracing(Option<Arc<Inner>>);

struct Inner {
    tracer: BoxedTracer,
    propagates: bool,
    /// One for each span of a record that may still be begun.
    sends: Arc<Semaphore>,
}

impl Inner {
    fn new(tracer: BoxedTracer, propagates: bool) -> Inner {
        Inner { tracer, propagates, sends: Arc::new(Semaphore::new(MAX_OPEN_SENDS)) }
    }
}

impl Tracing {
    /// Looks for the process's tracer provider, now. One that is installed later is not seen.
    pub fn of_process(library: &'static str) -> Tracing {
        let tracer = global::tracer(library);
        // A no-op tracer hands on the context that it is given. Any other makes nothing where telemetry is suppressed, so that
        // this question is never exported.
        let probe = SpanContext::new(
            TraceId::from_bytes(PROBE.0.to_be_bytes()),
            SpanId::from_bytes(PROBE.1.to_be_bytes()),
            TraceFlags::NOT_SAMPLED,
            true,
            TraceState::default(),
        );
        let context = Context::new().with_remote_span_context(probe.clone()).with_telemetry_suppressed();
        let answer = tracer.start_with_context("probe", &context);
        if *answer.span_context() == probe {
            return Tracing(None);
        }
        Tracing(Some(Arc::new(Inner::new(tracer, propagates()))))
    }

    /// No tracer.
    pub const fn off() -> Tracing {
        Tracing(None)
    }

    /// This tracer, whose contexts are told to others.
    pub fn with(tracer: BoxedTracer) -> Tracing {
        Tracing(Some(Arc::new(Inner::new(tracer, true))))
    }

    /// Whether there is a tracer.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether contexts are told to others, and taken from them: there is a tracer, and the process has a propagator that knows
    /// `traceparent`.
    #[inline]
    pub fn propagates(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.propagates)
    }

    /// The right to keep one more record's span open; `None` where [`MAX_OPEN_SENDS`] are.
    fn may_send(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.as_ref()?.sends).try_acquire_owned().ok()
    }

    /// Starts a span; `None` if there is no tracer, or it does not want this one. Attributes are best set on what comes back: a
    /// span that nobody wants should cost little.
    pub fn start(&self, builder: SpanBuilder, parent: &Context) -> Option<BoxedSpan> {
        let span = self.0.as_ref()?.tracer.build_with_context(builder, parent);
        span.is_recording().then_some(span)
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracing").field(&self.is_on()).finish()
    }
}

/// Whether the process's propagator knows `traceparent`. Without one, programs are not to tell each other anything.
fn propagates() -> bool {
    global::get_text_map_propagator(|known| known.fields().any(|field| field == TRACEPARENT))
}

/// A context whose span lies elsewhere: what it starts becomes that span's child.
pub fn remote(span: SpanContext) -> Context {
    Context::new().with_remote_span_context(span)
}

/// What messaging spans have in common.
pub fn messaging(operation: &'static str, topic: &str) -> [KeyValue; 3] {
    [
        KeyValue::new("messaging.system", SYSTEM),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.destination.name", topic.to_owned()),
    ]
}

/// What kind of operation of a client it is, in the words of the conventions.
fn operation_type(kind: &'static str) -> KeyValue {
    KeyValue::new("messaging.operation.type", kind)
}

/// The attribute that names a partition; by the conventions it is a text.
pub fn partition_id(partition: thalweg_core::PartitionId) -> KeyValue {
    KeyValue::new("messaging.destination.partition.id", partition.get().to_string())
}

/// The span that wrote a record, by its headers (name and value), if it was sampled.
pub fn context_of<'a>(
    headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Option<SpanContext> {
    let (mut parent, mut state) = (None, None);
    for (name, value) in headers {
        if name == TRACEPARENT.as_bytes() {
            parent = parent.or(value);
        } else if name == TRACESTATE.as_bytes() {
            state = state.or(value);
        }
    }
    parse_bytes(parent?, state.unwrap_or_default()).filter(SpanContext::is_sampled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_provider_there_is_no_tracer() {
        // No test of this crate installs one.
        let tracing = Tracing::of_process("test");
        assert!(!tracing.is_on());
        assert!(tracing.start(SpanBuilder::from_name("x"), &Context::new()).is_none());
    }

    #[test]
    fn a_records_context_is_in_its_headers() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let header = |name: &'static str, value: &'static str| (name.as_bytes(), Some(value.as_bytes()));
        let context = context_of([header("a", "b"), header(TRACEPARENT, parent), header(TRACESTATE, "x=y")]);
        let context = context.unwrap();
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.trace_state().header(), "x=y");
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert_eq!(context_of([header(TRACEPARENT, unsampled)]), None);
        assert_eq!(context_of([(TRACEPARENT.as_bytes(), None)]), None);
        assert_eq!(context_of([header(TRACESTATE, "x=y")]), None);
    }
}
