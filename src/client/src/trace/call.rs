//! Unary calls say in their metadata which span they were made in.

use super::inject;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;

/// A connection whose calls carry the current context, if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Traced(pub(crate) Channel);

impl Service<Request<Body>> for Traced {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        inject(request.headers_mut());
        Service::<Request<Body>>::call(&mut self.0, request)
    }
}
