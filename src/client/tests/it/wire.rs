//! Networks that fail: one that a test can cut, and brokers that never answer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use thalweg_client::{BoxedIo, Connector};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// TCP until it is cut. Clones share the cut.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<Connections>>);

#[derive(Default)]
struct Connections {
    cut: bool,
    open: Vec<AbortHandle>,
}

impl Wire {
    /// Ends every connection and lets none open.
    pub fn cut(&self) {
        let mut connections = self.0.lock().unwrap();
        connections.cut = true;
        connections.open.drain(..).for_each(|connection| connection.abort());
    }

    /// Lets connections open again.
    pub fn mend(&self) {
        self.0.lock().unwrap().cut = false;
    }
}

impl Connector for Wire {
    fn connect(&self, endpoint: &str) -> Pin<Box<dyn Future<Output = io::Result<BoxedIo>> + Send>> {
        let (wire, endpoint) = (self.clone(), endpoint.to_owned());
        Box::pin(async move {
            let mut stream = TcpStream::connect(endpoint).await?;
            let (near, mut far) = tokio::io::duplex(1 << 16);
            let mut connections = wire.0.lock().unwrap();
            if connections.cut {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the wire is cut"));
            }
            let copy = async move { tokio::io::copy_bidirectional(&mut stream, &mut far).await };
            connections.open.push(tokio::spawn(copy).abort_handle());
            Ok(BoxedIo::new(near))
        })
    }
}

/// A port that takes connections and never answers, while it is kept.
pub async fn silent() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap().to_string(), listener)
}
