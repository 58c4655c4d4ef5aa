//! The simulated network, in the shapes in which the product takes its network.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::time::Duration;
use thalweg_client::{BoxedIo, Connector};
use thalweg_runtime::dial::Dialer;
use thalweg_runtime::{Connection, Incoming};
use tokio::time::{Instant, sleep};
use turmoil::net::{TcpListener, TcpStream};

/// What a simulated machine calls itself.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// How long a system tries to open a connection to where nobody answers.
const SILENCE: Duration = Duration::from_secs(60);

/// Listens on a port of the host on which it is called.
pub async fn listen(port: u16) -> io::Result<Incoming> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let connections = futures_util::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, remote)| Connection {
            local: stream.local_addr().ok(),
            io: Box::new(stream) as _,
            remote: Some(remote),
        });
        Some((accepted, listener))
    });
    Ok(Incoming::from_stream(connections))
}

/// How services reach one another.
pub fn dialer() -> Dialer {
    Dialer::from_fn(connect)
}

/// Opens a connection. The network refuses at once what it will not deliver; on a real one nobody would answer, and the caller's
/// patience decides.
async fn connect(endpoint: String) -> io::Result<TcpStream> {
    let begun = Instant::now();
    let opened = TcpStream::connect(endpoint).await;
    if opened.is_err() && begun.elapsed() < Duration::from_millis(1) {
        sleep(SILENCE).await;
        return Err(io::ErrorKind::TimedOut.into());
    }
    opened
}

/// How clients reach brokers.
pub struct SimConnector;

impl Connector for SimConnector {
    fn connect(&self, endpoint: &str) -> Pin<Box<dyn Future<Output = io::Result<BoxedIo>> + Send>> {
        let endpoint = endpoint.to_owned();
        Box::pin(async move { Ok(BoxedIo::new(connect(endpoint).await?)) })
    }
}
