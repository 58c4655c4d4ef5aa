//! The bounds of a server.

use std::time::Duration;

/// Bytes a peer may send on one stream before it must wait: 8 MiB, the best of those measured for 1 MiB batches.
pub const DEFAULT_STREAM_WINDOW: u32 = 8 << 20;
/// Bytes a peer may send on one connection before it must wait: 32 MiB.
pub const DEFAULT_CONNECTION_WINDOW: u32 = 32 << 20;
/// Bytes that all peers of a server may send together before they must wait, shared out as windows: 1 GiB.
pub const DEFAULT_RECEIVE_WINDOW_BUDGET: u64 = 1 << 30;
/// The largest HTTP/2 frame taken: 256 KiB. Larger ones let a batch delay a heartbeat.
pub const DEFAULT_MAX_FRAME_SIZE: u32 = 256 << 10;
/// How long a connection may be silent before it is pinged.
pub const DEFAULT_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the answer to a ping may take.
pub const DEFAULT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls open at once on one connection. Clients with more keep them back, or open another connection.
pub const DEFAULT_MAX_CONCURRENT_STREAMS: u32 = 256;
/// Bytes of a call's headers: 16 KiB.
pub const DEFAULT_MAX_HEADER_LIST_SIZE: u32 = 16 << 10;
/// Connections open at once.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10_000;
/// How long calls may go on after their connection has reached its age.
pub const DEFAULT_CONNECTION_AGE_GRACE: Duration = Duration::from_secs(30);
/// The deadline of unary calls that come without one: twice what clients usually wait.
pub const DEFAULT_UNARY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long nothing may come of a request that has begun to come.
pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Streams a peer may open and reset before they are served (rapid reset).
pub const DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS: usize = 20;
/// Streams that may be reset for the peer's protocol errors.
pub const DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;
/// How long a new connection may take to send HTTP/2's preface.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long calls may go on after the shutdown.
pub const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// HTTP/2's largest window (RFC 9113, 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// HTTP/2's smallest and largest frame bounds (RFC 9113, 4.2).
const FRAME_SIZES: std::ops::RangeInclusive<u32> = (1 << 14)..=((1 << 24) - 1);

/// The bounds of one server. `Default` gives the `DEFAULT_*` constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Receive window of a stream, in bytes.
    pub stream_window: u32,
    /// Receive window of a connection, in bytes; more than one stream's, or one slow stream stops all others.
    pub connection_window: u32,
    /// Bytes of the windows of all connections together. The more connections there are, the smaller is the next one's, down
    /// to [`MIN_CONNECTION_WINDOW`](super::MIN_CONNECTION_WINDOW), which each gets in any case.
    pub receive_window_budget: u64,
    /// Largest HTTP/2 frame taken, in bytes; 16 KiB to 16 MiB - 1.
    pub max_frame_size: u32,
    /// Whether small writes go out at once. Default true.
    pub tcp_nodelay: bool,
    /// How long a connection may be silent before it is pinged.
    pub keepalive_interval: Duration,
    /// How long the answer to a ping may take before the connection is closed.
    pub keepalive_timeout: Duration,
    /// Calls open at once on one connection; the client queues the rest.
    pub max_concurrent_streams: u32,
    /// Bytes of a call's headers; calls with more are answered with HTTP 431.
    pub max_header_list_size: u32,
    /// Connections open at once; more wait in the system's backlog.
    pub max_connections: usize,
    /// Handlers running at once for one connection, up to their response head; the rest wait, on their deadline's
    /// time. Default `None`: `max_concurrent_streams` bounds them, and calls that wait for data hold up no others.
    pub concurrency_limit_per_connection: Option<usize>,
    /// Age, give or take a tenth, at which a connection is asked to close, so that clients spread anew over the
    /// servers behind a load balancer. Default `None`.
    pub max_connection_age: Option<Duration>,
    /// How long calls may go on after that.
    pub max_connection_age_grace: Duration,
    /// Deadline of unary calls that come without one; streams have none but their client's. `None` for none.
    pub unary_timeout: Option<Duration>,
    /// How long nothing may come of a request that has begun to come: within a message of a stream, or before the end of a
    /// single one. The call then ends with DEADLINE_EXCEEDED. Between two messages a stream may be silent for ever. `None`
    /// for no bound.
    pub stall_timeout: Option<Duration>,
    /// Streams a peer may open and reset before they are served; past it the connection is closed.
    pub max_pending_accept_reset_streams: usize,
    /// Streams that may be reset for the peer's protocol errors; past it the connection is closed.
    pub max_local_error_reset_streams: usize,
    /// How long a new connection may take to send HTTP/2's preface.
    pub handshake_timeout: Duration,
    /// How long calls may go on after the shutdown, before their connections are cut.
    pub drain_deadline: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            stream_window: DEFAULT_STREAM_WINDOW,
            connection_window: DEFAULT_CONNECTION_WINDOW,
            receive_window_budget: DEFAULT_RECEIVE_WINDOW_BUDGET,
            max_frame_size: DEFAULT_MAX_FRAME_SIZE,
            tcp_nodelay: true,
            keepalive_interval: DEFAULT_KEEPALIVE_INTERVAL,
            keepalive_timeout: DEFAULT_KEEPALIVE_TIMEOUT,
            max_concurrent_streams: DEFAULT_MAX_CONCURRENT_STREAMS,
            max_header_list_size: DEFAULT_MAX_HEADER_LIST_SIZE,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            concurrency_limit_per_connection: None,
            max_connection_age: None,
            max_connection_age_grace: DEFAULT_CONNECTION_AGE_GRACE,
            unary_timeout: Some(DEFAULT_UNARY_TIMEOUT),
            stall_timeout: Some(DEFAULT_STALL_TIMEOUT),
            max_pending_accept_reset_streams: DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS,
            max_local_error_reset_streams: DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            drain_deadline: DEFAULT_DRAIN_DEADLINE,
        }
    }
}

/// A bound that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerConfigError {
    /// One stream could take the whole connection.
    #[error("connection_window ({connection}) must be larger than stream_window ({stream})")]
    Windows {
        /// The stream's.
        stream: u32,
        /// The connection's.
        connection: u32,
    },
    /// HTTP/2 has no such window.
    #[error("{name} must be 1 to {MAX_WINDOW} bytes")]
    WindowRange {
        /// The field.
        name: &'static str,
    },
    /// HTTP/2 has no such frame size.
    #[error("max_frame_size ({0}) must be 16384 to 16777215 bytes")]
    FrameSize(u32),
    /// Nothing could get through.
    #[error("{0} must be more than zero")]
    Zero(&'static str),
}

impl ServerConfig {
    /// Checks that the bounds make sense, each and together.
    pub fn validate(&self) -> Result<(), ServerConfigError> {
        for (name, window) in
            [("stream_window", self.stream_window), ("connection_window", self.connection_window)]
        {
            if window == 0 || window > MAX_WINDOW {
                return Err(ServerConfigError::WindowRange { name });
            }
        }
        if self.connection_window <= self.stream_window {
            return Err(ServerConfigError::Windows {
                stream: self.stream_window,
                connection: self.connection_window,
            });
        }
        if !FRAME_SIZES.contains(&self.max_frame_size) {
            return Err(ServerConfigError::FrameSize(self.max_frame_size));
        }
        let zeroes = [
            ("keepalive_interval", self.keepalive_interval.is_zero()),
            ("keepalive_timeout", self.keepalive_timeout.is_zero()),
            ("max_concurrent_streams", self.max_concurrent_streams == 0),
            ("max_header_list_size", self.max_header_list_size == 0),
            ("max_connections", self.max_connections == 0),
            ("concurrency_limit_per_connection", self.concurrency_limit_per_connection == Some(0)),
            ("max_connection_age", self.max_connection_age.is_some_and(|age| age.is_zero())),
            ("unary_timeout", self.unary_timeout.is_some_and(|timeout| timeout.is_zero())),
            ("stall_timeout", self.stall_timeout.is_some_and(|timeout| timeout.is_zero())),
            ("handshake_timeout", self.handshake_timeout.is_zero()),
        ];
        match zeroes.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(ServerConfigError::Zero(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        let good = ServerConfig::default();
        assert_eq!(good.validate(), Ok(()));
        let wrong = |change: fn(&mut ServerConfig)| {
            let mut config = ServerConfig::default();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert!(matches!(
            wrong(|c| c.connection_window = c.stream_window),
            ServerConfigError::Windows { .. }
        ));
        assert_eq!(
            wrong(|c| c.connection_window = 1 << 31),
            ServerConfigError::WindowRange { name: "connection_window" }
        );
        assert_eq!(wrong(|c| c.max_frame_size = 16_383), ServerConfigError::FrameSize(16_383));
        assert_eq!(wrong(|c| c.max_connections = 0), ServerConfigError::Zero("max_connections"));
        assert_eq!(
            wrong(|c| c.unary_timeout = Some(Duration::ZERO)),
            ServerConfigError::Zero("unary_timeout")
        );
    }
}
