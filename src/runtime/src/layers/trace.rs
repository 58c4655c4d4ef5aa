//! Counts calls by method and code, tells of each at debug level, and gives it a span if spans are exported.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use opentelemetry::Context;
use opentelemetry::context::FutureExt;
use opentelemetry_sdk::trace::SdkTracer;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::span::ServerSpan;
use crate::methods::MethodKind;
use crate::metrics::{CallMetrics, MethodStats};

/// Puts [`Trace`] around a service.
#[derive(Clone, Debug)]
pub struct TraceLayer {
    metrics: CallMetrics,
    tracer: Option<SdkTracer>,
}

impl TraceLayer {
    /// Counts into `metrics`. Calls have spans if the process exported any when this was made.
    pub fn new(metrics: CallMetrics) -> Self {
        Self { metrics, tracer: crate::telemetry::server_tracer() }
    }

    #[cfg(test)]
    pub(crate) fn with_tracer(metrics: CallMetrics, tracer: SdkTracer) -> Self {
        Self { metrics, tracer: Some(tracer) }
    }

    pub(crate) fn metrics(&self) -> &CallMetrics {
        &self.metrics
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, metrics: self.metrics.clone(), tracer: self.tracer.clone() }
    }
}

/// Counts the calls of the service within.
///
/// A unary call counts when its trailers are written, with its code and duration. A stream counts when it is let in
/// or refused; its messages and its end are not watched, since that would cost every message. Only a span that is recorded
/// watches for a stream's end. The handler runs in the context of the span, up to the head of its response; so what a stream's
/// messages bring about belongs to the traces that they name, and not to the stream's.
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    metrics: CallMetrics,
    tracer: Option<SdkTracer>,
}

// === impl Trace ===

impl<S> Service<Request<Body>> for Trace<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let stats = self.metrics.of(request.uri().path());
        let kind = stats.kind;
        let tracer = self.tracer.as_ref();
        let span = tracer.and_then(|tracer| ServerSpan::begin(tracer, stats.traced, &request));
        let context = span.as_ref().map(ServerSpan::context);
        let mut call =
            Call { stats, uri: request.uri().clone(), started: Instant::now(), counted: false, span };
        // Handlers may begin before they are polled.
        let attached = context.clone().map(Context::attach);
        let response = self.inner.call(request);
        drop(attached);
        Box::pin(async move {
            let response = match context {
                Some(context) => response.with_context(context).await?,
                None => response.await?,
            };
            let code = code_in(response.headers());
            Ok(match (kind, code) {
                (MethodKind::Unary, None) => response.map(|body| Body::new(TracedBody { inner: body, call })),
                (MethodKind::Unary, Some(code)) => {
                    call.ended(code);
                    response
                }
                (MethodKind::Streaming, code) => {
                    call.begun(code);
                    if code.is_none() && call.span.as_ref().is_some_and(ServerSpan::is_recording) {
                        response.map(|body| Body::new(TracedBody { inner: body, call }))
                    } else {
                        response
                    }
                }
            })
        })
    }
}

/// One call under way. Dropped uncounted, the client has gone: that counts as CANCELLED.
struct Call {
    stats: Arc<MethodStats>,
    uri: Uri,
    started: Instant,
    counted: bool,
    span: Option<ServerSpan>,
}

// === impl Call ===

impl Call {
    fn ended(&mut self, code: Code) {
        let span = self.span.take();
        if !std::mem::replace(&mut self.counted, true) {
            let duration = self.started.elapsed();
            self.stats.ended(code, duration);
            // The line belongs to the call's trace.
            let attached = span.as_ref().map(|span| span.context().attach());
            tracing::debug!(method = self.uri.path(), ?code, ?duration, "call ended");
            drop(attached);
        }
        if let Some(span) = span {
            span.end(code);
        }
    }

    fn begun(&mut self, refusal: Option<Code>) {
        self.counted = true;
        let duration = self.started.elapsed();
        match refusal {
            Some(code) => {
                self.stats.refused(code);
                if let Some(span) = self.span.take() {
                    span.end(code);
                }
                tracing::debug!(method = self.uri.path(), ?code, ?duration, "stream refused");
            }
            None => {
                self.stats.opened();
                tracing::debug!(method = self.uri.path(), ?duration, "stream opened");
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

/// The body of a unary response, or of a stream with a span: reads the code from the trailers that pass.
struct TracedBody {
    inner: Body,
    call: Call,
}

// === impl TracedBody ===

impl HttpBody for TracedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.ended(code_in(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.ended(status.code()),
            Poll::Ready(None) => self.call.ended(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}
