//! This broker's link to the controllers: the calls, and the epoch under which they know it.

use crate::config::{BrokerConfig, BrokerIntervals, ConfigError};
use std::sync::Arc;
use thalweg_client::controllers::{Controllers, Timing};
use thalweg_core::BrokerEpoch;
use thalweg_runtime::Dialer;
use tokio::sync::watch;

/// The controllers of the cluster, for one broker.
#[derive(Debug)]
pub struct ControllerLink {
    controllers: Arc<Controllers>,
    epoch: watch::Sender<Option<BrokerEpoch>>,
    intervals: BrokerIntervals,
}

impl ControllerLink {
    /// Names the controllers. Connects at the first call.
    pub fn new(config: &BrokerConfig, dialer: Dialer) -> Result<ControllerLink, ConfigError> {
        let wrong = |problem| ConfigError { setting: "controllers", problem };
        let dial = move |address: &str| dialer.channel(address).map_err(|error| error.to_string());
        let intervals = config.intervals;
        let timing = Timing {
            call: intervals.controller_call,
            session_answer: intervals.heartbeat_answer,
            retry_first: intervals.retry_first,
            retry_most: intervals.retry_most,
        };
        let controllers = Controllers::new(&config.controllers, Arc::new(dial), timing).map_err(wrong)?;
        Ok(ControllerLink { controllers: Arc::new(controllers), epoch: watch::Sender::new(None), intervals })
    }

    /// The controllers themselves.
    pub fn controllers(&self) -> &Arc<Controllers> {
        &self.controllers
    }

    /// The epoch of this broker's registration; `None` before it is registered.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        *self.epoch.borrow()
    }

    /// The same, as it changes: it does when the cluster forgot this broker and took it in again.
    pub fn watch_epoch(&self) -> watch::Receiver<Option<BrokerEpoch>> {
        self.epoch.subscribe()
    }

    pub(super) fn set_epoch(&self, epoch: BrokerEpoch) {
        self.epoch.send_replace(Some(epoch));
    }

    pub(super) fn intervals(&self) -> &BrokerIntervals {
        &self.intervals
    }
}
