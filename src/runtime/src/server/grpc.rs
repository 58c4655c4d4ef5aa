//! A server with its services, health and reflection.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::server::HealthReporter;
use tower::Service;

use super::connection::Shared;
use super::routes::RoutesBuilder;
use super::windows::Windows;
use super::{HealthHandle, Routes, ServerConfig, ServerConfigError, accept};
use crate::Shutdown;
use crate::layers::deadline::DeadlineLayer;
use crate::layers::stall::StallGuard;
use crate::layers::trace::TraceLayer;
use crate::methods::MethodTable;
use crate::metrics::CallMetrics;
use crate::net::Incoming;
use crate::supervisor::{BoxError, TaskOutput};

/// Why a server cannot be put together. A retry gives the same.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A bound makes no sense.
    #[error(transparent)]
    Config(#[from] ServerConfigError),
    /// Two services of one name.
    #[error("the service {0} was added twice")]
    Twice(&'static str),
    /// Bytes that are no descriptor set.
    #[error("the descriptors cannot be read: {0}")]
    Descriptors(#[from] prost::DecodeError),
    /// Descriptors that reflection does not take.
    #[error("reflection cannot use the descriptors: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// How a server ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections whose calls outlived the drain deadline, and that were cut. Their clients see the call fail as
    /// with any lost connection.
    pub cut: usize,
}

/// A drain that had to cut connections has still done its work: it does not fail a supervised task.
impl TaskOutput for Drained {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Puts a [`GrpcServer`] together.
pub struct GrpcServerBuilder {
    name: String,
    config: ServerConfig,
    routes: RoutesBuilder,
    names: Vec<&'static str>,
    twice: Option<&'static str>,
    descriptors: Vec<&'static [u8]>,
}

impl GrpcServerBuilder {
    /// Sets the bounds.
    #[must_use]
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Adds a generated server, and its name to the health service as SERVING.
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        self.names.push(S::NAME);
        self.add(service)
    }

    /// Adds an encoded `FileDescriptorSet`: reflection shows it, and it says which methods are unary, to which alone
    /// the default timeout applies.
    #[must_use]
    pub fn descriptors(mut self, encoded: &'static [u8]) -> Self {
        self.descriptors.push(encoded);
        self
    }

    fn add<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        let twice = self.routes.add(service);
        self.twice = self.twice.or(twice);
        self
    }

    /// Checks the parts and adds health, and reflection (v1 and v1alpha) if there are descriptors.
    pub fn build(mut self) -> Result<GrpcServer, BuildError> {
        self.config.validate()?;
        let reporter = HealthReporter::new();
        let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
        self = self.add(tonic_health::pb::health_server::HealthServer::new(health));

        let mut methods = MethodTable::default();
        methods.add_descriptors(tonic_health::pb::FILE_DESCRIPTOR_SET)?;
        if !self.descriptors.is_empty() {
            for encoded in &self.descriptors {
                methods.add_descriptors(encoded)?;
            }
            let (v1, v1alpha) = (self.reflection().build_v1()?, self.reflection().build_v1alpha()?);
            self = self.add(v1).add(v1alpha);
        }
        if let Some(name) = self.twice {
            return Err(BuildError::Twice(name));
        }
        Ok(GrpcServer {
            name: self.name,
            config: self.config,
            routes: self.routes.build(),
            metrics: CallMetrics::new(&methods),
            methods: Arc::new(methods),
            health: HealthHandle::new(reporter, self.names),
        })
    }

    fn reflection(&self) -> tonic_reflection::server::Builder<'static> {
        let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
        self.descriptors
            .iter()
            .chain([&health])
            .fold(tonic_reflection::server::Builder::configure(), |builder, encoded| {
                builder.register_encoded_file_descriptor_set(encoded)
            })
    }
}

/// A gRPC server ready to serve: services, health, reflection, layers and bounds.
#[derive(Debug)]
pub struct GrpcServer {
    name: String,
    config: ServerConfig,
    routes: Routes,
    methods: Arc<MethodTable>,
    metrics: CallMetrics,
    health: HealthHandle,
}

impl GrpcServer {
    /// A builder with the default bounds. `name` tells the server apart in logs.
    pub fn builder(name: impl Into<String>) -> GrpcServerBuilder {
        GrpcServerBuilder {
            name: name.into(),
            config: ServerConfig::default(),
            routes: RoutesBuilder::default(),
            names: Vec::new(),
            twice: None,
            descriptors: Vec::new(),
        }
    }

    /// Changes what the health service answers, while serving too.
    pub fn health(&self) -> HealthHandle {
        self.health.clone()
    }

    /// The counts of calls, filled while serving.
    pub fn metrics(&self) -> CallMetrics {
        self.metrics.clone()
    }

    /// The bounds.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// The services.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Serves a TCP listener; see [`serve`](Self::serve).
    pub async fn serve_listener(self, listener: TcpListener, shutdown: Shutdown) -> Drained {
        let nodelay = self.config.tcp_nodelay;
        self.serve(Incoming::from_listener(listener, nodelay), shutdown).await
    }

    /// Serves connections until `shutdown`, then drains: accepts no more, reports NOT_SERVING, sends GOAWAY, and lets
    /// the calls under way end until the drain deadline. Streaming handlers must watch the shutdown themselves and
    /// end. Connections still open at the deadline are cut, and the result says how many.
    pub async fn serve(self, incoming: Incoming, shutdown: Shutdown) -> Drained {
        let shared = Arc::new(Shared {
            trace: TraceLayer::new(self.metrics),
            stall: StallGuard::new(self.config.stall_timeout, Arc::clone(&self.methods)),
            deadline: DeadlineLayer::new(self.config.unary_timeout, self.methods),
            windows: Windows::new(self.config.receive_window_budget),
            config: self.config,
            routes: self.routes,
            drain: Shutdown::new(),
            cut: Shutdown::new(),
        });
        let connections = TaskTracker::new();
        tracing::info!(server = self.name, services = ?shared.routes.names(), "serving");
        // Dropped without an end, this future must not leave connections behind.
        let cut_on_drop = CutOnDrop(shared.cut.clone());
        accept::accept(incoming, &shared, &connections, &shutdown).await;
        tracing::info!(server = self.name, connections = connections.len(), "draining");
        self.health.end().await;
        let cut = accept::drain(&shared, &connections).await;
        drop(cut_on_drop);
        if cut > 0 {
            tracing::warn!(server = self.name, connections = cut, "cut connections at the drain deadline");
        } else {
            tracing::info!(server = self.name, "drained");
        }
        Drained { cut }
    }
}

struct CutOnDrop(Shutdown);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.trigger();
    }
}
