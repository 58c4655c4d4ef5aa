//! The operations port: `/metrics` for Prometheus, gRPC health for probes, and the log's filter. For people and probes inside the
//! cluster; it knows no callers and must not be reachable from outside.

use super::registry::Registry;
use super::text;
use crate::net::Connection;
use crate::telemetry::LogHandle;
use crate::{Incoming, Shutdown};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::body::Body;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::{ServiceExt, service_fn};

/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 64;
/// A connection lives no longer. Probes and scrapes come again by themselves.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
/// The headers of a request must come within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest log filter, in bytes.
const MAX_FILTER_BYTES: usize = 4096;
/// The pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Why the port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// It cannot be listened on.
    #[error(transparent)]
    Bind(#[from] crate::net::BindError),
}

/// The name under which the process is said to live: serving from the opening of the port to the end of the process, whatever it
/// waits for. For liveness probes.
pub const LIVE: &str = "thalweg.live";

/// An open port. What it says of the process's health is set through it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OpsPort {
    address: SocketAddr,
    health: HealthReporter,
}

struct Ops {
    registry: Registry,
    log: LogHandle,
    health: HealthServer<HealthService>,
}

impl OpsPort {
    /// Listens on `address`, and serves until the shutdown. Health is NOT_SERVING until [`set_ready`](OpsPort::set_ready).
    pub fn open(
        address: SocketAddr,
        registry: Registry,
        log: LogHandle,
        shutdown: Shutdown,
    ) -> Result<OpsPort, OpsError> {
        let listener = crate::bind(address)?;
        let address = listener.local_addr().unwrap_or(address);
        let health = HealthReporter::new();
        let service = HealthServer::new(HealthService::from_health_reporter(health.clone()));
        let ops = Arc::new(Ops { registry, log, health: service });
        let reporter = health.clone();
        tokio::spawn(async move {
            reporter.set_service_status("", ServingStatus::NotServing).await;
            reporter.set_service_status(LIVE, ServingStatus::Serving).await;
            serve(ops, Incoming::from_listener(listener, true), shutdown).await;
        });
        tracing::info!(%address, "metrics and health");
        Ok(OpsPort { address, health })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says whether the process serves: for readiness probes, under the name `""` and under each of `names`.
    pub async fn set_ready(&self, ready: bool, names: &[&str]) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in std::iter::once(&"").chain(names) {
            self.health.set_service_status(*name, status).await;
        }
    }
}

async fn serve(ops: Arc<Ops>, mut incoming: Incoming, shutdown: Shutdown) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            () = shutdown.triggered() => return,
        };
        match accepted {
            None => return,
            Some(Ok(connection)) => {
                let (ops, shutdown) = (Arc::clone(&ops), shutdown.clone());
                tokio::spawn(async move {
                    let ended = timeout(MAX_CONNECTION_AGE, connection_of(ops, connection));
                    tokio::select! {
                        _ = ended => {}
                        () = shutdown.triggered() => {}
                    }
                    drop(permit);
                });
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection to the operations port was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection_of(ops: Arc<Ops>, connection: Connection) {
    let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
        let ops = Arc::clone(&ops);
        async move { Ok::<_, Infallible>(ops.answer(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let served = builder.serve_connection(TokioIo::new(connection.io), TowerToHyperService::new(answer));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the operations port broke");
    }
}

impl Ops {
    async fn answer(&self, request: Request<hyper::body::Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if path.starts_with("/grpc.health.v1.Health/") {
            let answered = self.health.clone().oneshot(request.map(Body::new)).await;
            return answered.unwrap_or_else(|never| match never {});
        }
        match (request.method(), path) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                plain(StatusCode::OK, text::CONTENT_TYPE, text::render(&self.registry.gather()))
            }
            (&Method::GET, "/log-filter") => said(StatusCode::OK, self.log.filter()),
            (&Method::PUT, "/log-filter") => self.set_filter(request.into_body()).await,
            _ => said(
                StatusCode::NOT_FOUND,
                "here are /metrics, /log-filter and grpc.health.v1.Health".to_owned(),
            ),
        }
    }

    async fn set_filter(&self, body: hyper::body::Incoming) -> Response<Body> {
        let body =
            Limited::new(body, MAX_FILTER_BYTES).collect().await.map(http_body_util::Collected::to_bytes);
        let filter = body.ok().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let Some(filter) = filter else {
            let message = format!("a log filter is text of at most {MAX_FILTER_BYTES} bytes");
            return said(StatusCode::BAD_REQUEST, message);
        };
        match self.log.set_filter(filter.trim()) {
            Ok(()) => said(StatusCode::OK, self.log.filter()),
            Err(error) => said(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

fn said(code: StatusCode, text: String) -> Response<Body> {
    plain(code, "text/plain; charset=utf-8", text + "\n")
}

fn plain(code: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {});
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
