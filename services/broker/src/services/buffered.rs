//! Bounds what all half-received requests hold together. A unary request is gathered whole before its handler sees it, so many
//! callers that each send almost all of a large one, and then nothing, would hold as many times the largest request.
//!
//! Streams are left alone: they are read one message at a time, and not at all while the broker has its fill.

use crate::in_flight::{Charge, InFlight};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// Bytes of one service's half-received unary requests, over all connections.
pub const MAX_BUFFERED_BYTES: usize = 64 * 1024 * 1024;

/// Wraps a generated server.
#[derive(Debug, Clone)]
pub struct Buffered<S> {
    inner: S,
    budget: Arc<InFlight>,
    streams: &'static [&'static str],
}

impl<S> Buffered<S> {
    /// `streams` are the paths of the methods whose requests are streams.
    pub fn new(inner: S, streams: &'static [&'static str]) -> Buffered<S> {
        Buffered { inner, budget: InFlight::new(MAX_BUFFERED_BYTES), streams }
    }
}

impl<S: NamedService> NamedService for Buffered<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Buffered<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.streams.contains(&request.uri().path()) {
            return self.inner.call(request);
        }
        let held = self.budget.charge(0);
        self.inner.call(request.map(|body| Body::new(Counted { body, held })))
    }
}

/// A request's body; what came of it counts until it is dropped, which is when the request is decoded.
struct Counted {
    body: Body,
    held: Charge,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let counted = self.get_mut();
        let frame = ready!(Pin::new(&mut counted.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !counted.held.try_grow(data.len())
        {
            return Poll::Ready(Some(Err(throttled())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn throttled() -> Status {
    ApiError::new(
        ErrorCode::Throttled,
        "the broker is receiving as many bytes of requests as it may hold; retry after a pause",
    )
    .to_status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::poll_fn;

    fn counted(budget: &Arc<InFlight>, data: &'static [u8]) -> Counted {
        let body = Body::new(Full(Some(Bytes::from_static(data))));
        Counted { body, held: budget.charge(0) }
    }

    // One frame with all of the data.
    struct Full(Option<Bytes>);

    impl HttpBody for Full {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
        }
    }

    fn next(body: &mut Counted) -> Option<Result<Frame<Bytes>, Status>> {
        poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).now_or_never().unwrap()
    }

    #[test]
    fn half_received_requests_count_until_they_are_dropped() {
        let budget = InFlight::new(8);
        let (mut first, mut second) = (counted(&budget, b"12345678"), counted(&budget, b"x"));
        assert!(next(&mut first).unwrap().is_ok());
        let refused = next(&mut second).unwrap().err().unwrap();
        assert_eq!(ApiError::from_status(&refused).unwrap().code, ErrorCode::Throttled);
        drop(first);
        assert_eq!(budget.used(), 0);
        let mut third = counted(&budget, b"x");
        assert!(next(&mut third).unwrap().is_ok());
        assert!(next(&mut third).is_none());
        assert_eq!(budget.used(), 1);
    }
}
