//! Which span a write belongs to.

use super::Tracing;
use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use thalweg_client::trace::{TRACEPARENT, TRACESTATE, context_of, parse, parse_bytes, remote};
use thalweg_proto::v1::{self, produce_request::Payload};

/// Headers of a record that are looked at for its context.
const MAX_LOOKED_AT: usize = 32;

/// The context to serve a unary Produce in, if it is not the one that is current. A caller without an SDK of ours may say the
/// span in its call's metadata, or only in its records' headers: then the first record's counts, and the call's own span is
/// linked to it.
pub fn of_call(tracing: &Tracing, headers: &HeaderMap, request: &v1::ProduceRequest) -> Option<Context> {
    if !tracing.propagates() {
        return None;
    }
    match headers.get(TRACEPARENT) {
        // The server's own layer has read it.
        Some(_) if Context::map_current(Context::has_active_span) => None,
        Some(parent) => {
            let state = headers.get(TRACESTATE).map(http::HeaderValue::as_bytes);
            parse_bytes(parent.as_bytes(), state.unwrap_or_default()).map(remote)
        }
        None => {
            let context = of_first_record(request)?;
            Context::map_current(|current| current.span().add_link(context.clone(), Vec::new()));
            Some(remote(context))
        }
    }
}

/// The span of a request on a stream, if it is to be traced.
pub fn of_stream(tracing: &Tracing, request: &v1::ProduceStreamRequest) -> Option<SpanContext> {
    if !tracing.propagates() {
        return None;
    }
    match &request.trace_context {
        Some(told) => parse(&told.traceparent, &told.tracestate).filter(SpanContext::is_sampled),
        None => of_first_record(request.produce.as_ref()?),
    }
}

/// The span in which this call is served, if it is to be traced.
pub fn current(tracing: &Tracing) -> Option<SpanContext> {
    if !tracing.is_on() {
        return None;
    }
    Context::map_current(|context| {
        let span = context.span();
        span.span_context().is_sampled().then(|| span.span_context().clone())
    })
}

/// Plain records only: they are decoded anyway. Of an encoded batch nothing is known.
fn of_first_record(request: &v1::ProduceRequest) -> Option<SpanContext> {
    let Some(Payload::Records(set)) = &request.payload else { return None };
    let headers = set.records.first()?.headers.iter().take(MAX_LOOKED_AT);
    context_of(headers.map(|header| (header.key.as_bytes(), header.value.as_deref())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::global::BoxedTracer;
    use opentelemetry::trace::noop::NoopTracer;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const OTHER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn on() -> Tracing {
        Tracing::with(BoxedTracer::new(Box::new(NoopTracer::new())))
    }

    fn records(parent: Option<&'static str>) -> v1::ProduceRequest {
        let header = |value: &'static str| v1::Header {
            key: TRACEPARENT.to_owned(),
            value: Some(value.as_bytes().into()),
        };
        let headers = parent.map(header).into_iter().collect();
        let records = vec![v1::Record { headers, ..Default::default() }, v1::Record::default()];
        let payload = Some(Payload::Records(v1::RecordSet { records }));
        v1::ProduceRequest { payload, ..Default::default() }
    }

    fn trace_of(context: &Context) -> String {
        context.span().span_context().trace_id().to_string()
    }

    #[test]
    fn a_call_says_it_in_its_metadata_or_else_in_its_first_record() {
        let mut headers = HeaderMap::new();
        assert!(of_call(&on(), &headers, &records(None)).is_none());
        let found = of_call(&on(), &headers, &records(Some(OTHER))).unwrap();
        assert_eq!(trace_of(&found), "4bf92f3577b34da6a3ce929d0e0e4736");
        headers.insert(TRACEPARENT, PARENT.parse().unwrap());
        let found = of_call(&on(), &headers, &records(Some(OTHER))).unwrap();
        assert_eq!(trace_of(&found), "0af7651916cd43dd8448eb211c80319c");
        // Malformed, it is none; a record's is not taken for it.
        headers.insert(TRACEPARENT, "00-xyz".parse().unwrap());
        assert!(of_call(&on(), &headers, &records(Some(OTHER))).is_none());
        assert!(of_call(&Tracing::off(), &headers, &records(Some(OTHER))).is_none());
    }

    #[test]
    fn what_the_server_has_read_is_left_to_it() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, PARENT.parse().unwrap());
        let _served = remote(parse(OTHER, "").unwrap()).attach();
        assert!(of_call(&on(), &headers, &records(None)).is_none());
        assert_eq!(current(&on()), parse(OTHER, ""));
        assert_eq!(current(&Tracing::off()), None);
    }

    #[test]
    fn a_request_on_a_stream_says_it_itself() {
        let told = |parent: &str| v1::ProduceStreamRequest {
            trace_context: Some(v1::TraceContext { traceparent: parent.to_owned(), ..Default::default() }),
            produce: Some(records(Some(OTHER))),
            ..Default::default()
        };
        assert_eq!(of_stream(&on(), &told(PARENT)), parse(PARENT, ""));
        assert_eq!(of_stream(&Tracing::off(), &told(PARENT)), None);
        for bad in ["", "nonsense", &"0".repeat(10_000), &format!("{}00", &PARENT[..53])] {
            assert_eq!(of_stream(&on(), &told(bad)), None, "{bad}");
        }
        let plain = v1::ProduceStreamRequest { trace_context: None, ..told("") };
        assert_eq!(of_stream(&on(), &plain), parse(OTHER, ""));
    }
}
