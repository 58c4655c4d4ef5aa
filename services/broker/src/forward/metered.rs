//! Answers of other brokers, counted while they come in: many large ones at once must not take more memory than is theirs.

use crate::in_flight::{Charge, InFlight};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use thalweg_client::trace::inject;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;

/// A connection whose answers count against a budget until they are decoded.
#[derive(Debug, Clone)]
pub struct Metered {
    channel: Channel,
    budget: Arc<InFlight>,
}

impl Metered {
    /// Counts the answers of `channel` against `budget`.
    pub fn new(channel: Channel, budget: Arc<InFlight>) -> Metered {
        Metered { channel, budget }
    }
}

impl Service<Request<Body>> for Metered {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, tonic::transport::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.channel, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // What this call is part of goes on there.
        inject(request.headers_mut());
        let answer = self.channel.call(request);
        let held = self.budget.charge(0);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Counted { body, held }))) })
    }
}

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
        {
            if !counted.held.budget().has_room() {
                counted.held.budget().refuse();
                let message = "the broker holds as many bytes of answers as it may; retry after a pause";
                return Poll::Ready(Some(Err(ApiError::new(ErrorCode::Throttled, message).to_status())));
            }
            counted.held.grow(data.len());
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
