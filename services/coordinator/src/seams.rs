//! What a coordinator has of the world outside of it: the seam where a simulation puts its own.

use crate::config::CoordinatorConfig;
use crate::error::StartError;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use thalweg_core::{Clock, Timestamp};
use thalweg_runtime::{Dialer, Incoming, SystemClock, bind};

/// The outside of one run of a coordinator. [`Coordinator::start`](crate::Coordinator::start) fills in the machine's.
pub struct CoordinatorSeams {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// How it reaches controllers and brokers.
    pub dialer: Dialer,
    /// Where brokers come from. [`CoordinatorConfig::listen`] is not looked at.
    pub incoming: Incoming,
    /// Where those arrive, which brokers are told unless the configuration names another address.
    pub address: SocketAddr,
}

impl CoordinatorSeams {
    /// The machine's clock and network, listening where the configuration says. Must be called inside a tokio runtime.
    pub fn machine(config: &CoordinatorConfig) -> Result<CoordinatorSeams, StartError> {
        let listener = bind(config.listen)?;
        let address = listener.local_addr().map_err(StartError::Address)?;
        Ok(CoordinatorSeams {
            clock: Arc::new(WallClock),
            dialer: Dialer::tcp(),
            incoming: Incoming::from_listener(listener, config.server.tcp_nodelay),
            address,
        })
    }
}

impl fmt::Debug for CoordinatorSeams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoordinatorSeams").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now_millis())
    }
}
