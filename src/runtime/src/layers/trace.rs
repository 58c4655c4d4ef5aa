//! Counts calls by method and code, and tells of each at debug level.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::methods::MethodKind;
use crate::metrics::{CallMetrics, MethodStats};

/// Puts [`Trace`] around a service.
#[derive(Clone, Debug)]
pub struct TraceLayer {
    metrics: CallMetrics,
}

impl TraceLayer {
    /// Counts into `metrics`.
    pub fn new(metrics: CallMetrics) -> Self {
        Self { metrics }
    }

    pub(crate) fn metrics(&self) -> &CallMetrics {
        &self.metrics
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, metrics: self.metrics.clone() }
    }
}

/// Counts the calls of the service within.
///
/// A unary call counts when its trailers are written, with its code and duration. A stream counts when it is let in
/// or refused; its messages and its end are not watched, since that would cost every message.
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    metrics: CallMetrics,
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let stats = self.metrics.of(request.uri().path());
        let kind = stats.kind;
        let mut call = Call { stats, uri: request.uri().clone(), started: Instant::now(), counted: false };
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            let code = code_in(response.headers());
            Ok(match (kind, code) {
                (MethodKind::Unary, None) => response.map(|body| Body::new(TracedBody { inner: body, call })),
                (MethodKind::Unary, Some(code)) => {
                    call.ended(code);
                    response
                }
                (MethodKind::Streaming, code) => {
                    call.begun(code);
                    response
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
}

// === impl Call ===

impl Call {
    fn ended(&mut self, code: Code) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        let duration = self.started.elapsed();
        self.stats.ended(code, duration);
        tracing::debug!(method = self.uri.path(), ?code, ?duration, "call ended");
    }

    fn begun(&mut self, refusal: Option<Code>) {
        self.counted = true;
        let duration = self.started.elapsed();
        match refusal {
            Some(code) => {
                self.stats.refused(code);
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

/// The body of a unary response: reads the code from the trailers that pass.
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
        cx: &mut Context<'_>,
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
