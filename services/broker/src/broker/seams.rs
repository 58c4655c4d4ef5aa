//! What a broker has of the world outside of it: the seam where a simulation puts its own.

use crate::config::BrokerConfig;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use thalweg_core::{Clock, Timestamp};
use thalweg_log::CommitMode;
use thalweg_log::storage::{OsStorage, Storage};
use thalweg_runtime::{Dialer, Incoming, SystemClock, bind};

use super::StartError;

/// The outside of one run of a broker. [`Broker::start`](super::Broker::start) fills in the machine's.
pub struct BrokerSeams {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The disks.
    pub storage: Arc<dyn Storage>,
    /// How it reaches controllers and other brokers.
    pub dialer: Dialer,
    /// Where clients come from. [`BrokerConfig::listen`] is not looked at.
    pub public: Port,
    /// Where services come from. [`BrokerConfig::internal_listen`] is not looked at.
    pub internal: Port,
    /// Who syncs the logs. With [`CommitMode::Manual`] the broker runs the committers in a task, so that a simulation decides
    /// when.
    pub commit_mode: CommitMode,
}

/// A place where connections come in.
#[derive(Debug)]
pub struct Port {
    /// The connections.
    pub incoming: Incoming,
    /// Its address, which others are told unless the configuration names another.
    pub address: SocketAddr,
}

impl Port {
    fn listen(address: SocketAddr, nodelay: bool) -> Result<Port, StartError> {
        let listener = bind(address)?;
        let address = listener.local_addr().map_err(StartError::Address)?;
        Ok(Port { incoming: Incoming::from_listener(listener, nodelay), address })
    }
}

impl BrokerSeams {
    /// Real TCP on the configuration's addresses, with threads for the commits. Must be called inside a tokio runtime.
    pub fn new(
        config: &BrokerConfig,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
    ) -> Result<BrokerSeams, StartError> {
        Ok(BrokerSeams {
            clock,
            storage,
            dialer: Dialer::tcp(),
            public: Port::listen(config.listen, config.server.tcp_nodelay)?,
            internal: Port::listen(config.internal_listen, config.server.tcp_nodelay)?,
            commit_mode: CommitMode::Threads,
        })
    }

    /// The machine's clock, disks and network.
    pub fn machine(config: &BrokerConfig) -> Result<BrokerSeams, StartError> {
        BrokerSeams::new(config, Arc::new(WallClock), Arc::new(OsStorage::new()))
    }
}

impl fmt::Debug for BrokerSeams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerSeams")
            .field("public", &self.public)
            .field("internal", &self.internal)
            .field("commit_mode", &self.commit_mode)
            .finish_non_exhaustive()
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now_millis())
    }
}
