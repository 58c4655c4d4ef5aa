//! This broker's link to the controllers: the calls, and the epoch under which they know it.

use super::certainty::Questions;
use crate::config::{BrokerConfig, BrokerIntervals, ConfigError};
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_client::controllers::{Controllers, Timing};
use thalweg_core::BrokerEpoch;
use thalweg_runtime::Dialer;
use tokio::sync::watch;
use tokio::time::Instant;

/// The controllers of the cluster, for one broker.
#[derive(Debug)]
pub struct ControllerLink {
    controllers: Arc<Controllers>,
    epoch: watch::Sender<Option<BrokerEpoch>>,
    intervals: BrokerIntervals,
    questions: Questions,
    confirmed: Mutex<Option<Instant>>,
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
        let controllers = Arc::new(controllers);
        let (epoch, questions) = (watch::Sender::new(None), Questions::default());
        Ok(ControllerLink { controllers, epoch, intervals, questions, confirmed: Mutex::default() })
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

    /// Whether the controllers hold this broker for alive, as far as it can tell: the last heartbeat that was due was answered so.
    /// It says less than [`current_version`](Self::current_version): another may lead what this broker led since.
    pub fn is_confirmed(&self) -> bool {
        let due = self.intervals.heartbeat + self.intervals.heartbeat / 2;
        self.lock_confirmed().is_some_and(|at| at.elapsed() < due)
    }

    /// The controllers answered a heartbeat.
    pub(super) fn answered(&self, fenced: bool) {
        *self.lock_confirmed() = (!fenced).then(Instant::now);
    }

    fn lock_confirmed(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // One value, whole at every step.
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn questions(&self) -> &Questions {
        &self.questions
    }

    pub(super) fn intervals(&self) -> &BrokerIntervals {
        &self.intervals
    }
}
