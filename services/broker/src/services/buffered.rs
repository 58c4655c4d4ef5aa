//! Bounds what all half-received requests hold together. A unary request is gathered whole before its handler sees it, so many
//! callers that each send almost all of a large one, and then nothing, would hold as many times the largest request.
//!
//! Streams of requests are counted where they are read, in [`Messages`](super::messages::Messages).

use super::half_received::HalfReceived;
use crate::in_flight::InFlight;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use thalweg_runtime::framing::Framing;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// Wraps a generated server.
#[derive(Debug, Clone)]
pub struct Buffered<S> {
    inner: S,
    budget: Arc<InFlight>,
}

impl<S> Buffered<S> {
    /// What is half received counts against `budget`.
    pub fn new(inner: S, budget: Arc<InFlight>) -> Buffered<S> {
        Buffered { inner, budget }
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
        let held = HalfReceived::new(&self.budget);
        self.inner.call(request.map(|body| Body::new(Counted { body, framing: Framing::new(), held })))
    }
}

/// A request's body; what came of it counts until it is dropped, which is when the request is decoded.
struct Counted {
    body: Body,
    framing: Framing,
    held: HalfReceived,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let counted = self.get_mut();
        // What is whole goes on at once.
        if counted.framing.half_received() > 0 {
            ready!(counted.held.poll_room(context))?;
        }
        let Poll::Ready(frame) = Pin::new(&mut counted.body).poll_frame(context) else {
            if counted.held.bytes() == 0 {
                return Poll::Pending;
            }
            return counted.held.poll_overdue(context).map(|status| Some(Err(status)));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            counted.framing.advance(data);
            counted.held.hold(counted.held.bytes() + data.len())?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::poll_fn;
    use thalweg_core::ErrorCode;
    use thalweg_proto::ApiError;

    const LIMIT: usize = 100_000;

    /// A body with the first `sent` bytes of a message of `length`.
    fn counted(budget: &Arc<InFlight>, length: usize, sent: usize) -> Counted {
        let mut data = vec![0];
        data.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        data.resize(5 + sent, b'x');
        let body = Body::new(Once(Some(data.into())));
        Counted { body, framing: Framing::new(), held: HalfReceived::new(budget) }
    }

    // One frame with all of the data.
    struct Once(Option<Bytes>);

    impl HttpBody for Once {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
        }
    }

    fn next(body: &mut Counted) -> Option<Option<Result<Frame<Bytes>, Status>>> {
        poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).now_or_never()
    }

    #[tokio::test]
    async fn half_received_requests_count_until_they_are_dropped() {
        let budget = InFlight::new(LIMIT);
        let (mut first, mut second) =
            (counted(&budget, 2 * LIMIT, LIMIT + 1000), counted(&budget, 2 * LIMIT, LIMIT));
        assert!(next(&mut first).unwrap().unwrap().is_ok());
        assert!(next(&mut first).is_none(), "there is no room for more of it");
        let refused = next(&mut second).unwrap().unwrap().err().unwrap();
        assert_eq!(ApiError::from_status(&refused).unwrap().code, ErrorCode::Throttled);
        let mut whole = counted(&budget, 1000, 1000);
        assert!(next(&mut whole).unwrap().unwrap().is_ok());
        assert!(next(&mut whole).unwrap().is_none(), "small requests are served all the same");
        drop((first, whole));
        assert_eq!(budget.used(), 0);
        let mut third = counted(&budget, LIMIT, LIMIT);
        assert!(next(&mut third).unwrap().unwrap().is_ok());
        assert!(next(&mut third).unwrap().is_none());
        assert_eq!(budget.used(), LIMIT + 5);
    }
}
