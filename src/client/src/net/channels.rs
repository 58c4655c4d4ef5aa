//! One connection for each broker and purpose, so that a 1 MiB produce frame never stands before a control call.

use crate::{ClientConfig, ConfigError};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint, Uri};

/// Bytes that a broker may send ahead on one stream.
const STREAM_WINDOW: u32 = 8 << 20;
/// Bytes that a broker may send ahead on one connection.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// The largest HTTP/2 frame that is accepted.
const MAX_FRAME: u32 = 1 << 20;
/// A silent connection is probed after this. With the probe's own time it stays below a broker's session of 9 s: when the cluster
/// has given a black-holed broker's partitions to others, its clients have noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A probe without answer closes the connection after this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// A TCP connection that is not open after this, one repeated SYN included, is given up, however much time the settings give: the
/// leader may be another one by then.
const MAX_DIAL: Duration = Duration::from_secs(3);

/// A byte stream to a broker.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A byte stream to a broker, as a [`Connector`] gives it.
pub struct BoxedIo(Box<dyn Io>);

/// The seam to the network: a simulation supplies its own.
pub trait Connector: Send + Sync + 'static {
    /// Opens a byte stream to `endpoint` (`host:port`).
    fn connect(&self, endpoint: &str) -> Pin<Box<dyn Future<Output = io::Result<BoxedIo>> + Send>>;
}

/// Plain TCP without Nagle's delay.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnector;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Control,
    Produce,
    Fetch,
}

/// The connections of one client. They open when they are first used and open again after a failure.
pub(crate) struct Channels {
    config: ClientConfig,
    connector: Arc<dyn Connector>,
    /// At most three for each broker of the cluster.
    open: Mutex<HashMap<(Purpose, Arc<str>), Channel>>,
}

impl Channels {
    pub(crate) fn new(config: ClientConfig, connector: Arc<dyn Connector>) -> Channels {
        Channels { config, connector, open: Mutex::default() }
    }

    /// The same settings without any connection.
    pub(crate) fn fresh(&self) -> Channels {
        Channels::new(self.config.clone(), Arc::clone(&self.connector))
    }

    /// The connection to `endpoint` for `purpose`.
    pub(crate) fn get(&self, purpose: Purpose, endpoint: &Arc<str>) -> Result<Channel, ConfigError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(&(purpose, Arc::clone(endpoint))) {
            return Ok(channel.clone());
        }
        let channel = self.endpoint(endpoint)?.connect_with_connector_lazy(Bridge {
            connector: Arc::clone(&self.connector),
            endpoint: Arc::clone(endpoint),
            timeout: self.config.connect_timeout.min(MAX_DIAL),
        });
        open.insert((purpose, Arc::clone(endpoint)), channel.clone());
        Ok(channel)
    }

    fn endpoint(&self, endpoint: &str) -> Result<Endpoint, ConfigError> {
        let invalid =
            || ConfigError::new("bootstrap", format!("{endpoint:?} is not an endpoint; write host:port"));
        let uri: Uri = format!("http://{endpoint}").parse().map_err(|_| invalid())?;
        if uri.port().is_none() || uri.host().is_none_or(str::is_empty) || uri.path() != "/" {
            return Err(invalid());
        }
        let agent = self.config.client_id.clone();
        Ok(Endpoint::from(uri)
            .user_agent(agent)
            .map_err(|_| ConfigError::new("client_id", "only visible ASCII characters can be sent"))?
            .connect_timeout(self.config.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }
}

/// tonic asks for a `tower` service.
#[derive(Clone)]
struct Bridge {
    connector: Arc<dyn Connector>,
    endpoint: Arc<str>,
    timeout: Duration,
}

// === impl BoxedIo ===

impl BoxedIo {
    /// Wraps any byte stream.
    pub fn new(io: impl Io) -> BoxedIo {
        BoxedIo(Box::new(io))
    }
}

impl AsyncRead for BoxedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

// === impl TcpConnector ===

impl Connector for TcpConnector {
    fn connect(&self, endpoint: &str) -> Pin<Box<dyn Future<Output = io::Result<BoxedIo>> + Send>> {
        let endpoint = endpoint.to_owned();
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(endpoint).await?;
            stream.set_nodelay(true)?;
            Ok(BoxedIo::new(stream))
        })
    }
}

// === impl Bridge ===

impl tower::Service<Uri> for Bridge {
    type Response = hyper_util::rt::TokioIo<BoxedIo>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Bridge { connector, endpoint, timeout } = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(timeout, connector.connect(&endpoint)).await {
                Ok(io) => io.map(hyper_util::rt::TokioIo::new),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{endpoint} did not answer"))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        let channels = Channels::new(ClientConfig::new(["a:1"]), Arc::new(TcpConnector));
        for good in ["localhost:9292", "10.0.0.1:1", "[::1]:9292", "broker-0.broker:9292"] {
            assert!(channels.endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", ":9292", "a b:1", "host:1/path", "http://host:1"] {
            assert!(channels.endpoint(bad).is_err(), "{bad}");
        }
    }
}
