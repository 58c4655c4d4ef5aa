//! Connections to brokers and the calls on them.

mod backoff;
mod call;
mod channels;

pub(crate) use backoff::Backoff;
pub use channels::{BoxedIo, Connector, Io, TcpConnector};
pub(crate) use channels::{Channels, Purpose};
