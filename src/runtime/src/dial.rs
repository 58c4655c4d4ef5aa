//! How services connect to one another: one place for keepalive, timeouts and windows, and the seam where a simulation
//! puts its own network.

use crate::net::{BoxedIo, Io};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;

/// Silence after which a connection is probed.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the answer to a probe may take, before the connection counts as dead.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection may take to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that the other side may send ahead on one stream.
const STREAM_WINDOW: u32 = 8 << 20;
/// Bytes that the other side may send ahead on one connection.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// The largest HTTP/2 frame that is accepted.
const MAX_FRAME: u32 = 1 << 20;

type Connecting = Pin<Box<dyn Future<Output = io::Result<BoxedIo>> + Send>>;
type Connect = dyn Fn(String) -> Connecting + Send + Sync;

/// Opens connections to other services.
#[derive(Clone)]
pub struct Dialer {
    connect: Arc<Connect>,
}

/// A text is no `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address; write host:port")]
pub struct DialError(String);

impl Dialer {
    /// Real TCP, without Nagle's delay.
    pub fn tcp() -> Dialer {
        Dialer::from_fn(|address| async move {
            let socket = tokio::net::TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Ok(socket)
        })
    }

    /// Connections from anywhere: `connect` is given `host:port`.
    pub fn from_fn<F, T>(connect: impl Fn(String) -> F + Send + Sync + 'static) -> Dialer
    where
        F: Future<Output = io::Result<T>> + Send + 'static,
        T: Io + 'static,
    {
        let connect = move |address: String| -> Connecting {
            let connecting = connect(address);
            Box::pin(async move { Ok(Box::new(connecting.await?) as BoxedIo) })
        };
        Dialer { connect: Arc::new(connect) }
    }

    /// A connection to `address` (`host:port`) that opens when it is first used, and again after a failure. One channel is one
    /// HTTP/2 connection: give what must never wait behind bulk a channel of its own.
    pub fn channel(&self, address: &str) -> Result<Channel, DialError> {
        let wrong = || DialError(address.to_owned());
        let uri: Uri = format!("http://{address}").parse().map_err(|_| wrong())?;
        if uri.port().is_none() || uri.host().is_none_or(str::is_empty) || uri.path() != "/" {
            return Err(wrong());
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_with_connector_lazy(Bridge { dialer: self.clone(), address: address.into() }))
    }
}

impl Default for Dialer {
    fn default() -> Dialer {
        Dialer::tcp()
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

/// tonic asks for a `tower` service. The address is kept as it was given, because a URI would lose its exact text.
#[derive(Clone)]
struct Bridge {
    dialer: Dialer,
    address: Arc<str>,
}

impl Service<Uri> for Bridge {
    type Response = hyper_util::rt::TokioIo<BoxedIo>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = (self.dialer.connect)(self.address.to_string());
        let address = Arc::clone(&self.address);
        Box::pin(async move {
            // tonic's own timeout covers its TCP connector only.
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(io) => io.map(hyper_util::rt::TokioIo::new),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} did not answer"))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_host_and_port() {
        for good in ["localhost:9292", "10.0.0.1:1", "[::1]:9292", "controller-0.controller:9292"] {
            assert!(Dialer::tcp().channel(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", ":9292", "a b:1", "host:1/path", "http://host:1"] {
            assert!(Dialer::tcp().channel(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_simulated_network_is_asked_for_the_address_as_given() {
        let (asked, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let dialer = Dialer::from_fn(move |address| {
            asked.send(address).unwrap();
            async { Err::<tokio::net::TcpStream, _>(io::ErrorKind::ConnectionRefused.into()) }
        });
        let mut channel = dialer.channel("broker-1:9").unwrap();
        let request = http::Request::get("http://broker-1:9/").body(tonic::body::Body::empty()).unwrap();
        let ready = std::future::poll_fn(|cx| channel.poll_ready(cx)).await;
        let _refused = match ready {
            Ok(()) => channel.call(request).await.is_err(),
            Err(_) => true,
        };
        assert_eq!(heard.recv().await.unwrap(), "broker-1:9");
    }
}
