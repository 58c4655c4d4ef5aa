//! The spans of calls: one SERVER span for each, which the handler's own spans and log lines belong to.

use http::{HeaderMap, Request};
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{SpanBuilder, SpanKind, Status as SpanStatus, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::SdkTracer;
use tonic::Code;
use tonic::transport::server::TcpConnectInfo;

use crate::metrics::code_name;

/// Which calls of a method have a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traced {
    /// All; a call that is not part of a trace begins one.
    Always,
    /// Those that are part of a trace: what servers tell each other all the time begins none.
    WithinTrace,
    /// None. Callers make up the names of unknown methods.
    Never,
}

impl Traced {
    /// What holds for a known method. Health and reflection are asked by machines, internal services by servers.
    pub(crate) fn of(path: &str) -> Traced {
        if path.starts_with("/grpc.") || path.contains(".internal.") {
            Traced::WithinTrace
        } else {
            Traced::Always
        }
    }
}

/// The span of a call under way. Whoever has it ends it.
#[derive(Debug)]
pub(super) struct ServerSpan {
    context: Context,
}

impl ServerSpan {
    /// Begins the span of `request`, if it has one.
    pub(super) fn begin<B>(tracer: &SdkTracer, traced: Traced, request: &Request<B>) -> Option<ServerSpan> {
        if traced == Traced::Never {
            return None;
        }
        let headers = Headers(request.headers());
        let parent =
            global::get_text_map_propagator(|known| known.extract_with_context(&Context::new(), &headers));
        if traced == Traced::WithinTrace && !parent.span().span_context().is_sampled() {
            return None;
        }
        let method = request.uri().path().trim_start_matches('/');
        let span = SpanBuilder::from_name(method.to_owned()).with_kind(SpanKind::Server);
        let span = tracer.build_with_context(span, &parent);
        let context = parent.with_span(span);
        let span = context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new("rpc.system.name", "grpc"));
            span.set_attribute(KeyValue::new("rpc.method", method.to_owned()));
            let info = request.extensions().get::<TcpConnectInfo>();
            if let Some(remote) = info.and_then(|info| info.remote_addr) {
                span.set_attribute(KeyValue::new("client.address", remote.ip().to_string()));
                span.set_attribute(KeyValue::new("client.port", i64::from(remote.port())));
            }
        }
        Some(ServerSpan { context })
    }

    /// The context in which the handler runs.
    pub(super) fn context(&self) -> Context {
        self.context.clone()
    }

    /// Whether it goes anywhere.
    pub(super) fn is_recording(&self) -> bool {
        self.context.span().is_recording()
    }

    /// Ends it.
    pub(super) fn end(self, code: Code) {
        let span = self.context.span();
        if span.is_recording() {
            let name = code_name(code);
            span.set_attribute(KeyValue::new("rpc.response.status_code", name));
            if is_servers_fault(code) {
                span.set_attribute(KeyValue::new("error.type", name));
                span.set_status(SpanStatus::error(""));
            }
        }
        span.end();
    }
}

/// What the conventions count as an error of a server; the others are the caller's.
fn is_servers_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_machines_ask_begins_no_trace() {
        assert_eq!(Traced::of("/thalweg.v1.ProducerService/Produce"), Traced::Always);
        assert_eq!(Traced::of("/thalweg.internal.v1.RaftService/Append"), Traced::WithinTrace);
        assert_eq!(Traced::of("/grpc.health.v1.Health/Check"), Traced::WithinTrace);
    }
}
