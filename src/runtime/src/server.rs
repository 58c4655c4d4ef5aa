//! The gRPC server of every service: accept, serve, drain.
//!
//! The accept loop is written here over hyper, and not taken from tonic's transport, for four things that one cannot
//! do: end the connections that outlive the drain, bound the connections, give up on those that never speak HTTP/2,
//! and leave timeouts to the [deadline layer](crate::layers::deadline).

mod accept;
mod config;
mod connection;
mod grpc;
mod health;
mod linger;
mod preface;
mod routes;
mod windows;

pub use config::{
    DEFAULT_CONNECTION_AGE_GRACE, DEFAULT_CONNECTION_WINDOW, DEFAULT_DRAIN_DEADLINE,
    DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_KEEPALIVE_INTERVAL, DEFAULT_KEEPALIVE_TIMEOUT,
    DEFAULT_MAX_CONCURRENT_STREAMS, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_FRAME_SIZE,
    DEFAULT_MAX_HEADER_LIST_SIZE, DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS,
    DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS, DEFAULT_RECEIVE_WINDOW_BUDGET, DEFAULT_STALL_TIMEOUT,
    DEFAULT_STREAM_WINDOW, DEFAULT_UNARY_TIMEOUT, ServerConfig, ServerConfigError,
};
pub use grpc::{BuildError, Drained, GrpcServer, GrpcServerBuilder};
pub use health::HealthHandle;
pub use routes::Routes;
pub use windows::MIN_CONNECTION_WINDOW;
