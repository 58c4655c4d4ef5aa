//! Gives a unary request that is longer than allowed the error that the API promises, where the transport refuses it before a
//! handler sees it.

use futures_util::future::{FutureExt, Map};
use http::{Request, Response};
use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status};

/// Wraps a generated server.
#[derive(Debug, Clone)]
pub struct TooLarge<S> {
    inner: S,
    most: usize,
}

impl<S> TooLarge<S> {
    /// `most` is the limit that the server was given, in bytes.
    pub fn new(inner: S, most: usize) -> TooLarge<S> {
        TooLarge { inner, most }
    }
}

impl<S: NamedService> NamedService for TooLarge<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;
type Rename = Box<dyn FnOnce(Answer) -> Answer + Send>;

impl<S> Service<Request<Body>> for TooLarge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Future<Output = Answer> + Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Map<S::Future, Rename>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let most = self.most;
        self.inner
            .call(request)
            .map(Box::new(move |answer: Answer| answer.map(|answer| rename(answer, most))))
    }
}

fn rename(answer: Response<Body>, most: usize) -> Response<Body> {
    // A refusal before the handler is a head with a status and nothing else; ours always has details.
    let refused = answer.headers().get("grpc-status").is_some_and(|status| {
        status.as_bytes() == (Code::OutOfRange as i32).to_string().as_bytes()
            && !answer.headers().contains_key("grpc-status-details-bin")
    });
    if refused { too_large(most).into_http() } else { answer }
}

/// The status for a message of more than `most` bytes.
pub fn too_large(most: usize) -> Status {
    ApiError::new(
        ErrorCode::MessageTooLarge,
        format!("a request has at most {most} bytes; send less at once"),
    )
    .to_status()
}
