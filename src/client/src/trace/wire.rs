//! W3C Trace Context as text: in records' headers, in gRPC metadata, beside batches.

use crate::proto;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tonic::codegen::http::{HeaderMap, HeaderValue};

/// The name of the header that says which span it was.
pub const TRACEPARENT: &str = "traceparent";
/// The name of the header with what tracing systems add.
pub const TRACESTATE: &str = "tracestate";
/// Bytes of a `traceparent` that are looked at: later versions may be longer than the first, which has 55.
pub const MAX_TRACEPARENT: usize = 128;
/// Bytes of a `tracestate` that are looked at, and sent: what every party must pass on.
pub const MAX_TRACESTATE: usize = 512;

/// A `traceparent` of version 00.
const LENGTH: usize = 55;

/// Reads a context as it came from outside; `None` if it is malformed or too long. A `tracestate` that cannot be read counts as
/// none.
pub fn parse(traceparent: &str, tracestate: &str) -> Option<SpanContext> {
    let text = traceparent.as_bytes();
    if !(LENGTH..=MAX_TRACEPARENT).contains(&text.len()) {
        return None;
    }
    let separated = [2, 35, 52].iter().all(|at| text[*at] == b'-');
    let version = hex(&text[..2])?;
    // A later version may add fields behind these.
    let ends = match version {
        0 => text.len() == LENGTH,
        0xff => false,
        _ => text.len() == LENGTH || text[LENGTH] == b'-',
    };
    if !separated || !ends {
        return None;
    }
    let trace = TraceId::from_bytes(hex(&text[3..35])?.to_be_bytes());
    let span = u64::try_from(hex(&text[36..52])?).ok()?;
    let flags = u8::try_from(hex(&text[53..55])?).ok()?;
    let state = if tracestate.len() <= MAX_TRACESTATE { tracestate.parse().ok() } else { None };
    let state: TraceState = state.unwrap_or_default();
    let flags = TraceFlags::new(flags);
    let context = SpanContext::new(trace, SpanId::from_bytes(span.to_be_bytes()), flags, true, state);
    context.is_valid().then_some(context)
}

/// The same for bytes.
pub fn parse_bytes(traceparent: &[u8], tracestate: &[u8]) -> Option<SpanContext> {
    if traceparent.len() > MAX_TRACEPARENT {
        return None;
    }
    let state = if tracestate.len() <= MAX_TRACESTATE { tracestate } else { &[] };
    parse(std::str::from_utf8(traceparent).ok()?, std::str::from_utf8(state).unwrap_or_default())
}

/// Lower-case digits only, as the standard wants it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Writes a context; a `tracestate` that others need not pass on, because it is too long, is left out.
pub fn to_wire(context: &SpanContext) -> proto::TraceContext {
    let (trace, span) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
    let tracestate = context.trace_state().header();
    proto::TraceContext {
        traceparent: format!(
            "00-{:032x}-{:016x}-{:02x}",
            u128::from_be_bytes(trace),
            u64::from_be_bytes(span),
            context.trace_flags().to_u8()
        ),
        tracestate: if tracestate.len() <= MAX_TRACESTATE { tracestate } else { String::new() },
    }
}

/// The current context, as a broker is told; `None` unless it is sampled.
pub(crate) fn current() -> Option<proto::TraceContext> {
    Context::map_current(|context| {
        let span = context.span();
        span.span_context().is_sampled().then(|| to_wire(span.span_context()))
    })
}

/// Bytes that a context takes in a request, at most.
pub(crate) fn wire_size(context: &proto::TraceContext) -> usize {
    /// Three tags and three lengths, each of at most two bytes.
    const AROUND: usize = 3 + 3 * 2;
    AROUND + context.traceparent.len() + context.tracestate.len()
}

/// Puts the current context, if there is one, into a call's metadata. What stands there stays.
pub fn inject(headers: &mut HeaderMap) {
    let context = Context::map_current(|context| {
        context.has_active_span().then(|| context.span().span_context().clone())
    });
    let Some(context) = context.filter(SpanContext::is_valid) else { return };
    if headers.contains_key(TRACEPARENT) || !super::propagates() {
        return;
    }
    let proto::TraceContext { traceparent, tracestate } = to_wire(&context);
    if let Ok(traceparent) = HeaderValue::try_from(traceparent) {
        headers.insert(TRACEPARENT, traceparent);
    }
    if !tracestate.is_empty()
        && let Ok(tracestate) = HeaderValue::try_from(tracestate)
    {
        headers.insert(TRACESTATE, tracestate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::propagation::text_map_propagator::FieldIter;
    use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
    use proptest::prelude::*;

    /// A propagator that knows some fields.
    #[derive(Debug)]
    struct Known(Vec<String>);

    impl TextMapPropagator for Known {
        fn inject_context(&self, _: &Context, _: &mut dyn Injector) {}
        fn extract_with_context(&self, context: &Context, _: &dyn Extractor) -> Context {
            context.clone()
        }
        fn fields(&self) -> FieldIter<'_> {
            FieldIter::new(&self.0)
        }
    }

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_written_is_read() {
        let context = parse(GOOD, "a=1,b@c=2").unwrap();
        assert!(context.is_sampled() && context.is_remote());
        let wire = to_wire(&context);
        assert_eq!((wire.traceparent.as_str(), wire.tracestate.as_str()), (GOOD, "a=1,b@c=2"));
        assert_eq!(parse_bytes(GOOD.as_bytes(), b""), parse(GOOD, ""));
    }

    #[test]
    fn what_the_standard_forbids_is_none() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0g-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
        ] {
            assert_eq!(parse(bad, ""), None, "{bad}");
        }
        let later = format!("01{}-more", &GOOD[2..]);
        assert!(parse(&later, "").is_some(), "a later version may say more");
        assert_eq!(parse(&format!("{later}{}", "x".repeat(MAX_TRACEPARENT)), ""), None);
        assert_eq!(parse_bytes(&[0xff; LENGTH], b""), None);
    }

    #[test]
    fn a_state_that_cannot_be_read_is_none() {
        for bad in ["a", "A=1", &format!("a={}", "x".repeat(MAX_TRACESTATE))] {
            assert_eq!(parse(GOOD, bad).unwrap().trace_state().header(), "", "{bad}");
        }
        assert_eq!(parse_bytes(GOOD.as_bytes(), &[0xff]).unwrap().trace_state().header(), "");
    }

    #[test]
    fn a_call_says_the_current_context_and_nothing_without() {
        let mut headers = HeaderMap::new();
        inject(&mut headers);
        assert!(headers.is_empty());
        let _current = super::super::remote(parse(GOOD, "a=1").unwrap()).attach();
        inject(&mut headers);
        assert!(headers.is_empty(), "without a propagator nobody is told");
        // The only test that sets the process's propagator.
        opentelemetry::global::set_text_map_propagator(Known(vec![TRACEPARENT.to_owned()]));
        inject(&mut headers);
        assert_eq!(headers[TRACEPARENT], GOOD);
        assert_eq!(headers[TRACESTATE], "a=1");
        let mut own = HeaderMap::new();
        own.insert(TRACEPARENT, HeaderValue::from_static("mine"));
        inject(&mut own);
        assert_eq!(own[TRACEPARENT], "mine");
        assert_eq!(own.len(), 1);
    }

    proptest! {
        #[test]
        fn any_context_survives(trace in 1..u128::MAX, span in 1..u64::MAX, flags: u8) {
            let context = SpanContext::new(
                TraceId::from_bytes(trace.to_be_bytes()),
                SpanId::from_bytes(span.to_be_bytes()),
                TraceFlags::new(flags),
                true,
                TraceState::default(),
            );
            let wire = to_wire(&context);
            prop_assert_eq!(wire.traceparent.len(), LENGTH);
            prop_assert_eq!(parse(&wire.traceparent, &wire.tracestate), Some(context));
        }

        #[test]
        fn any_bytes_are_taken(parent in prop::collection::vec(any::<u8>(), 0..200), state in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse_bytes(&parent, &state);
        }
    }
}
