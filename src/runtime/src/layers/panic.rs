//! A handler that panics answers INTERNAL, and is logged.
//!
//! This covers the call up to its response head, which is where unary handlers run. A panic in a response stream
//! ends that stream alone with a reset: to catch it would cost every message.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::status_response;
use crate::supervisor::panic_message;

/// Puts [`CatchPanic`] around a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatchPanicLayer;

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic { inner }
    }
}

/// Turns panics of the service within into INTERNAL.
#[derive(Clone, Debug)]
pub struct CatchPanic<S> {
    inner: S,
}

// === impl CatchPanic ===

impl<S> Service<Request<Body>> for CatchPanic<S>
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
        let uri = request.uri().clone();
        // The service is used again after a panic. Every call works on its own clone of the handler, and what
        // handlers share they guard against poisoning themselves.
        let started = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        Box::pin(async move {
            let ended = match started {
                Ok(call) => AssertUnwindSafe(call).catch_unwind().await,
                Err(payload) => Err(payload),
            };
            ended.unwrap_or_else(|payload| {
                let message = panic_message(payload.as_ref());
                tracing::error!(method = uri.path(), panic = message, "handler panicked");
                // The message may hold what is none of the client's business; it stays in the log.
                Ok(status_response(Status::internal("the handler failed; the server's log says why")))
            })
        })
    }
}
