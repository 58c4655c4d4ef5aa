//! Shares out what peers may send before it is read.
//!
//! HTTP/2 lets a peer send a window's bytes that no handler has asked for yet, and the transport keeps them. Each connection
//! alone may have a large window; all of them together may not. So a connection is granted a share of what is left: the
//! first ones get all that they want, and the more there are, the less the next one gets, down to a window with which it
//! still works well nearby.

use std::sync::{Arc, Mutex, PoisonError};

use super::ServerConfig;

/// A connection gets at most one part in so many of what is left.
const PARTS: u64 = 32;
/// The smallest window of a connection, in bytes: 128 KiB.
pub const MIN_CONNECTION_WINDOW: u32 = 128 << 10;
/// The smallest window of a stream, in bytes: HTTP/2's own initial one.
const MIN_STREAM_WINDOW: u32 = (1 << 16) - 1;

/// The windows of all connections of a server.
#[derive(Debug)]
pub(super) struct Windows {
    left: Mutex<u64>,
}

/// The windows of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) connection: u32,
    pub(super) stream: u32,
    taken: u64,
    from: Arc<Windows>,
}

impl Windows {
    pub(super) fn new(budget: u64) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(budget) })
    }

    /// The windows for one more connection.
    pub(super) fn grant(self: &Arc<Self>, config: &ServerConfig) -> Granted {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (least, most) = (MIN_CONNECTION_WINDOW.min(config.connection_window), config.connection_window);
        let share = u32::try_from(*left / PARTS).unwrap_or(u32::MAX);
        let connection = share.clamp(least, most);
        // The floor is granted even when nothing is left.
        let taken = u64::from(connection).min(*left);
        *left -= taken;
        // The same part of the connection's as configured, so that one slow stream leaves room for the others.
        let part = u64::from(config.stream_window) * u64::from(connection) / u64::from(most);
        let part = u32::try_from(part).expect("it is at most the connection's window");
        let stream = part.max(MIN_STREAM_WINDOW.min(config.stream_window));
        Granted { connection, stream, taken, from: Arc::clone(self) }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        *self.from.left.lock().unwrap_or_else(PoisonError::into_inner) += self.taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_all_windows_is_bounded_and_everyone_gets_one() {
        let config = ServerConfig::default();
        let budget = config.receive_window_budget;
        let windows = Windows::new(budget);
        let first = windows.grant(&config);
        assert_eq!((first.connection, first.stream), (config.connection_window, config.stream_window));
        let granted: Vec<_> = (0..1_000).map(|_| windows.grant(&config)).collect();
        let sum: u64 = granted.iter().map(|granted| u64::from(granted.connection)).sum();
        assert!(sum <= budget + 1_000 * u64::from(MIN_CONNECTION_WINDOW), "{sum}");
        for granted in &granted {
            assert!(granted.connection >= MIN_CONNECTION_WINDOW);
            assert!(granted.stream < granted.connection && granted.stream >= MIN_STREAM_WINDOW);
        }
        drop((first, granted));
        assert_eq!(*windows.left.lock().unwrap(), budget);
    }

    #[test]
    fn small_windows_stay_as_they_are_configured() {
        let config = ServerConfig { connection_window: 70_000, stream_window: 1_000, ..Default::default() };
        let granted = Windows::new(0).grant(&config);
        assert_eq!((granted.connection, granted.stream), (70_000, 1_000));
    }
}
