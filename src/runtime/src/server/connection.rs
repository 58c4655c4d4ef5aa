//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower::limit::ConcurrencyLimitLayer;
use tower::util::option_layer;
use tower::{BoxError, Layer, Service};

use super::preface::read_preface;
use super::windows::{Granted, Windows};
use super::{Routes, ServerConfig, linger};
use crate::Shutdown;
use crate::layers::deadline::DeadlineLayer;
use crate::layers::panic::CatchPanicLayer;
use crate::layers::stall::StallGuard;
use crate::layers::trace::TraceLayer;
use crate::net::Connection;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) config: ServerConfig,
    pub(super) routes: Routes,
    pub(super) trace: TraceLayer,
    pub(super) deadline: DeadlineLayer,
    pub(super) stall: StallGuard,
    pub(super) windows: Arc<Windows>,
    /// Asks connections to end once their calls have.
    pub(super) drain: Shutdown,
    /// Ends connections, whatever their calls do.
    pub(super) cut: Shutdown,
}

/// What may happen to a connection from outside.
enum Event {
    Drain,
    Aged,
    Cut(&'static str),
}

/// Serves `connection` until either end is done with it. `number` tells connections apart.
pub(super) async fn serve(shared: Arc<Shared>, connection: Connection, number: u64) {
    let Connection { io, local, remote } = connection;
    let _open = shared.trace.metrics().connection();
    // Polled only when one of them has woken: a busy connection does not pay for them at each of its own wakes.
    let mut events = FuturesUnordered::<BoxFuture<'_, Event>>::new();
    events.push(Box::pin(async {
        shared.cut.triggered().await;
        Event::Cut("the drain deadline has passed")
    }));

    let preface = tokio::select! {
        read = timeout(shared.config.handshake_timeout, read_preface(io)) => read,
        // A connection that has not begun has nothing to drain.
        () = shared.drain.triggered() => return,
    };
    let io = match preface {
        Ok(Ok(Some(io))) => io,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(?remote, %error, "connection refused"),
        Err(_) => return tracing::debug!(?remote, "connection refused: no HTTP/2 preface in time"),
    };

    events.push(Box::pin(async {
        shared.drain.triggered().await;
        Event::Drain
    }));
    if let Some(age) = shared.config.max_connection_age {
        events.push(Box::pin(async move {
            sleep(spread(age, number)).await;
            Event::Aged
        }));
    }

    let calls = TowerToHyperService::new(ConnectionService {
        inner: call_stack(&shared),
        info: TcpConnectInfo { local_addr: local, remote_addr: remote },
        stall: shared.stall.clone(),
    });
    // Kept until the connection is gone, and what it has buffered with it.
    let windows = shared.windows.grant(&shared.config);
    let builder = http2(&shared.config, &windows);
    let (io, returned) = linger::lend(io);
    let ended = {
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), calls));
        loop {
            let event = tokio::select! {
                biased;
                ended = connection.as_mut() => break ended,
                Some(event) = events.next() => event,
            };
            match event {
                Event::Drain => connection.as_mut().graceful_shutdown(),
                Event::Aged => {
                    connection.as_mut().graceful_shutdown();
                    let grace = shared.config.max_connection_age_grace;
                    events.push(Box::pin(async move {
                        sleep(grace).await;
                        Event::Cut("it is past its age")
                    }));
                }
                Event::Cut(reason) => return tracing::debug!(?remote, reason, "connection cut"),
            }
        }
    };
    match ended {
        // The connection is dropped, so that its IO has come back.
        Ok(()) => {
            if let Ok(io) = returned.await {
                tokio::select! {
                    () = linger::close(io) => {}
                    () = shared.cut.triggered() => {}
                }
            }
        }
        // Peers go away in many ways; none of them is this server's trouble.
        Err(error) => tracing::debug!(?remote, %error, "connection failed"),
    }
}

fn http2(config: &ServerConfig, windows: &Granted) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(config.max_frame_size)
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_header_list_size(config.max_header_list_size)
        .max_pending_accept_reset_streams(config.max_pending_accept_reset_streams)
        .max_local_error_reset_streams(config.max_local_error_reset_streams)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    builder
}

/// The layers around the routes. Built for each connection, since each has its own limit of calls.
fn call_stack(
    shared: &Shared,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let guarded = CatchPanicLayer.layer(shared.routes.clone());
    let limit = shared.config.concurrency_limit_per_connection.map(ConcurrencyLimitLayer::new);
    let limited = option_layer(limit).layer(guarded);
    shared.trace.layer(shared.deadline.layer(limited))
}

/// Up to a tenth more or less than `age`, so that connections opened together do not close together. Taken from
/// the connection's number and not from chance, so that a simulation repeats.
fn spread(age: Duration, number: u64) -> Duration {
    // Fibonacci hashing: neighbours land far apart.
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let permille = 900 + u32::try_from(hash % 201).expect("201 is small");
    age / 1_000 * permille
}

/// Where HTTP's types end: gives each request its connection's addresses and gRPC's body type.
#[derive(Clone)]
struct ConnectionService<S> {
    inner: S,
    info: TcpConnectInfo,
    stall: StallGuard,
}

// === impl ConnectionService ===

impl<S, B> Service<Request<B>> for ConnectionService<S>
where
    S: Service<Request<Body>>,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let (head, body) = request.into_parts();
        let body = Body::new(self.stall.guard(head.uri.path(), body));
        let mut request = Request::from_parts(head, body);
        request.extensions_mut().insert(self.info.clone());
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_spread_around_the_one_given() {
        let age = Duration::from_secs(1_000);
        let ages: Vec<_> = (0..1_000).map(|number| spread(age, number).as_secs()).collect();
        assert!(ages.iter().all(|age| (900..=1_100).contains(age)));
        assert!(ages.iter().any(|age| *age < 950) && ages.iter().any(|age| *age > 1_050));
        assert_eq!(spread(age, 7), spread(age, 7));
    }
}
