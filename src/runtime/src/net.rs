//! The seam between servers and the network: a stream of accepted connections, real or simulated.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::config::HostPort;

/// Connections the system holds ready before they are accepted. Filled by a storm of reconnects; past it clients
/// see timeouts instead of a short wait.
pub const LISTEN_BACKLOG: i32 = 1_024;

/// A two-way byte stream that can be handed between threads.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any connection's bytes.
pub type BoxedIo = Box<dyn Io>;

/// One accepted connection.
pub struct Connection {
    /// Its bytes.
    pub io: BoxedIo,
    /// This end's address, if it has one.
    pub local: Option<SocketAddr>,
    /// The other end's address, if it has one; handlers see it as the request's remote address.
    pub remote: Option<SocketAddr>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// The connections a server accepts. An error is one failed accept, not the end; `None` means that no more come.
pub struct Incoming {
    connections: BoxStream<'static, io::Result<Connection>>,
}

impl Incoming {
    /// The connections of a TCP listener. `nodelay` sends small writes at once (Nagle's algorithm off).
    pub fn from_listener(listener: TcpListener, nodelay: bool) -> Self {
        Self::from_stream(stream::unfold(listener, move |listener| async move {
            let accepted = accept(&listener, nodelay).await;
            Some((accepted, listener))
        }))
    }

    /// Connections from anywhere, with their addresses.
    pub fn from_stream(connections: impl Stream<Item = io::Result<Connection>> + Send + 'static) -> Self {
        Self { connections: connections.boxed() }
    }

    /// Connections from anywhere, without addresses.
    pub fn from_io<T: Io + 'static>(ios: impl Stream<Item = io::Result<T>> + Send + 'static) -> Self {
        Self::from_stream(
            ios.map(|io| io.map(|io| Connection { io: Box::new(io), local: None, remote: None })),
        )
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

async fn accept(listener: &TcpListener, nodelay: bool) -> io::Result<Connection> {
    let (socket, remote) = listener.accept().await?;
    socket.set_nodelay(nodelay)?;
    let local = socket.local_addr().ok();
    Ok(Connection { io: Box::new(socket), local, remote: Some(remote) })
}

/// Why an address cannot be listened on. A retry helps only once what the message names is mended.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error(
        "{address} is already in use: stop the process that listens there (`ss -ltnp` shows it) or choose another port"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system does not let this user have it.
    #[error(
        "not allowed to listen on {address}: choose a port of 1024 or more, or give the process the right to it"
    )]
    Denied {
        /// The address.
        address: SocketAddr,
    },
    /// This machine has no such address.
    #[error(
        "{address} is not an address of this machine: listen on one that is, or on 0.0.0.0 or [::] for all"
    )]
    NotLocal {
        /// The address.
        address: SocketAddr,
    },
    /// The name leads to no address.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: HostPort,
        /// What the resolver said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on `address` with SO_REUSEADDR (a restart need not wait for old connections to time out) and a backlog
/// of [`LISTEN_BACKLOG`]. Port 0 takes a free one. Must be called inside a tokio runtime.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        io::ErrorKind::PermissionDenied => BindError::Denied { address },
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal { address },
        _ => BindError::Io { address, source },
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Like [`bind`], on the first address that `host` resolves to and that can be listened on.
pub async fn bind_host(host: &HostPort) -> Result<TcpListener, BindError> {
    let unresolved = |source| BindError::Resolve { host: host.clone(), source };
    let addresses = tokio::net::lookup_host((host.host.as_str(), host.port)).await.map_err(unresolved)?;
    let mut last = unresolved(io::Error::from(io::ErrorKind::NotFound));
    for address in addresses {
        match bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_address_says_what_to_do() {
        let first = bind_host(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }));
        assert!(error.to_string().contains("another port"), "{error}");
        drop(first);
        bind(address).unwrap();
    }

    #[tokio::test]
    async fn a_foreign_address_is_refused() {
        // TEST-NET-1: never an address of any machine.
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
    }

    #[tokio::test]
    async fn accepted_connections_carry_their_addresses() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::from_listener(listener, true);
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let accepted = incoming.next().await.unwrap().unwrap();
        assert_eq!(accepted.local, Some(address));
        assert_eq!(accepted.remote, Some(client.local_addr().unwrap()));
    }
}
