//! ProduceStream with [`Messages`] for the transport's reader.

use super::messages::Messages;
use super::producer::Producer;
use crate::in_flight::InFlight;
use futures_util::future::{Either, Ready, ready};
use http::{HeaderValue, Request, Response};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use thalweg_proto::codec::Codec as ProtoCodec;
use thalweg_proto::v1;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody, SingleMessageCompressionOverride};
use tonic::codegen::Service;
use tonic::server::NamedService;

/// The method that is served here.
pub const PATH: &str = "/thalweg.v1.ProducerService/ProduceStream";

/// Serves ProduceStream itself and leaves everything else to the generated server.
#[derive(Clone)]
pub struct ProduceBodies<S> {
    inner: S,
    producer: Arc<Producer>,
    budget: Arc<InFlight>,
}

impl<S> ProduceBodies<S> {
    /// What is half received counts against `budget`.
    pub fn new(inner: S, producer: Arc<Producer>, budget: Arc<InFlight>) -> ProduceBodies<S> {
        ProduceBodies { inner, producer, budget }
    }
}

impl<S: NamedService> NamedService for ProduceBodies<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for ProduceBodies<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Future<Output = Answer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Compressed requests are refused by the generated server, as everywhere.
        let plain = request.headers().get("grpc-encoding").is_none_or(|encoding| encoding == "identity");
        if request.uri().path() != PATH || !plain {
            return Either::Right(self.inner.call(request));
        }
        let most = self.producer.node.config.limits.max_request_bytes;
        let (head, body) = request.into_parts();
        let inbound = Messages::new(body, &self.budget, most);
        let answers = self.producer.stream(inbound, &head.headers);
        let encoder = ProtoCodec::<v1::ProduceStreamResponse, v1::ProduceStreamRequest>::default().encoder();
        let compression = SingleMessageCompressionOverride::default();
        let body = EncodeBody::new_server(encoder, answers, None, compression, None);
        let mut response = Response::new(Body::new(body));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        Either::Left(ready(Ok(response)))
    }
}
