//! From a path to its service. A map is all gRPC needs: `/package.Service/Method`, no patterns.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Service, ServiceExt};

type CallFuture = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// A service behind a pointer. Calls go to clones, so one of it serves all connections.
trait SharedService: Send + Sync {
    fn call(&self, request: Request<Body>) -> CallFuture;
}

impl<S> SharedService for S
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn call(&self, request: Request<Body>) -> CallFuture {
        Box::pin(self.clone().oneshot(request))
    }
}

/// The services of a server, by name. Cheap to clone.
#[derive(Clone, Default)]
pub struct Routes {
    services: Arc<HashMap<&'static str, Box<dyn SharedService>>>,
}

/// Collects services.
#[derive(Default)]
pub(super) struct RoutesBuilder {
    services: HashMap<&'static str, Box<dyn SharedService>>,
}

impl RoutesBuilder {
    /// Adds a service under its name, and returns the name if another was there already.
    pub(super) fn add<S>(&mut self, service: S) -> Option<&'static str>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        self.services.insert(S::NAME, Box::new(service)).map(|_| S::NAME)
    }

    pub(super) fn build(self) -> Routes {
        Routes { services: Arc::new(self.services) }
    }
}

impl Routes {
    /// The names of the services, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.services.keys().copied().collect();
        names.sort_unstable();
        names
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Routes").field(&self.names()).finish()
    }
}

// === impl Routes ===

impl Service<Request<Body>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = CallFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> CallFuture {
        // `/package.Service/Method`; the generated service answers for methods it does not have.
        let name = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        match name.and_then(|(name, _)| self.services.get(name)) {
            Some(service) => service.call(request),
            None => {
                let status = Status::unimplemented("this server has no such service");
                Box::pin(std::future::ready(Ok(crate::layers::status_response(status))))
            }
        }
    }
}
