//! One method of a service, served here instead of by the generated server: streams whose messages are not to be copied or whose
//! half-received requests are counted. And the charge that a unary answer keeps until it is sent.

use super::whole_body;
use crate::in_flight::Charge;
use bytes::Bytes;
use futures_util::future::{Either, FutureExt, Map, Ready, ready};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// How the method is served.
type Serve = Arc<dyn Fn(Request<Body>) -> Response<Body> + Send + Sync>;

/// Serves one method itself and leaves everything else to the generated server.
#[derive(Clone)]
pub struct OwnStream<S> {
    inner: S,
    path: &'static str,
    serve: Serve,
}

impl<S> OwnStream<S> {
    /// Calls of `path` go to `serve`, all others to `inner`.
    pub fn new(
        inner: S,
        path: &'static str,
        serve: impl Fn(Request<Body>) -> Response<Body> + Send + Sync + 'static,
    ) -> OwnStream<S> {
        OwnStream { inner, path, serve: Arc::new(serve) }
    }
}

impl<S: NamedService> NamedService for OwnStream<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for OwnStream<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Future<Output = Answer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, Map<S::Future, fn(Answer) -> Answer>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Compressed requests are refused by the generated server, as everywhere.
        if request.uri().path() != self.path || !whole_body::is_plain(&request) {
            return Either::Right(self.inner.call(request).map(charged as fn(Answer) -> Answer));
        }
        Either::Left(ready(Ok((self.serve)(request))))
    }
}

/// Keeps the charge of an answer until its body is gone.
fn charged(answer: Answer) -> Answer {
    answer.map(|mut answer| match answer.extensions_mut().remove::<Arc<Charge>>() {
        Some(charge) => answer.map(|body| Body::new(ChargedBody { body, _charge: charge })),
        None => answer,
    })
}

struct ChargedBody {
    body: Body,
    _charge: Arc<Charge>,
}

impl HttpBody for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
