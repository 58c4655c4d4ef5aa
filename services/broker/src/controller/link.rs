//! Calls to the controllers: to the one that answered last, and to the next one when it does not.

use super::addresses::Addresses;
use crate::config::{BrokerConfig, BrokerIntervals, ConfigError};
use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::metadata::codec::MAX_IMAGE_BYTES;
use thalweg_core::{BrokerEpoch, ErrorCode};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_runtime::Dialer;
use thalweg_runtime::dial::DialError;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Status};

/// What a message with a whole image has around the image.
const MESSAGE_SLACK: usize = 64 * 1024;

/// The controllers of the cluster: those of the configuration, and those that the metadata names.
#[derive(Debug)]
pub struct ControllerLink {
    dialer: Dialer,
    addresses: Addresses,
    // One connection to each for calls; the session and the watch have their own.
    channels: Mutex<HashMap<Arc<str>, Channel>>,
    epoch: watch::Sender<Option<BrokerEpoch>>,
    intervals: BrokerIntervals,
}

/// Whether a failed call may be made again, although it may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Twice does no harm.
    Safe,
    /// Only if a controller said that it did nothing, or was never reached.
    IfRefused,
    /// Never: whoever calls must know what came of each attempt.
    Not,
}

/// A controller to call.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it is.
    pub address: Arc<str>,
    /// The connection for calls.
    pub channel: Channel,
}

impl ControllerLink {
    /// Names the controllers. Connects at the first call.
    pub fn new(config: &BrokerConfig, dialer: Dialer) -> Result<ControllerLink, ConfigError> {
        let wrong = |error: DialError| ConfigError { setting: "controllers", problem: error.to_string() };
        for address in &config.controllers {
            dialer.channel(address).map_err(wrong)?;
        }
        Ok(ControllerLink {
            dialer,
            addresses: Addresses::new(&config.controllers),
            channels: Mutex::default(),
            epoch: watch::Sender::new(None),
            intervals: config.intervals,
        })
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

    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Takes over what the metadata says of the controllers.
    pub(super) fn learn(&self, image: &MetadataImage) {
        if self.addresses.learn(image) {
            let known = self.addresses.all();
            self.lock_channels().retain(|address, _| known.contains(address));
        }
    }

    /// A connection that nobody else uses.
    pub(super) fn own_channel(&self, address: &str) -> Result<Channel, ApiError> {
        self.dialer.channel(address).map_err(|error| unreachable(address, &error.to_string()))
    }

    fn target(&self) -> Result<Target, ApiError> {
        let address = self.addresses.favourite();
        let mut channels = self.lock_channels();
        let channel = match channels.get(&address) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.own_channel(&address)?;
                channels.insert(Arc::clone(&address), channel.clone());
                channel
            }
        };
        Ok(Target { address, channel })
    }

    fn lock_channels(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Channel>> {
        // A map of handles is whole at every step.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of a controller's own service.
    pub fn controller(channel: &Channel) -> ControllerServiceClient<Channel> {
        ControllerServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_IMAGE_BYTES + MESSAGE_SLACK)
    }

    /// A client of a controller's topic service.
    pub fn admin(channel: &Channel) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(channel.clone()).max_decoding_message_size(MAX_IMAGE_BYTES + MESSAGE_SLACK)
    }

    /// Makes a call, for `within` at most, at the favourite controller and then at the others.
    ///
    /// Errors: what a controller answered; `CONTROLLER_NOT_AVAILABLE` when none was reached, `REQUEST_TIMED_OUT` when the one
    /// that was called did not answer, so that the change may still happen.
    pub async fn call<T, F>(
        &self,
        repeat: Repeat,
        within: Duration,
        make: impl Fn(Target) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + within;
        let mut pause = self.intervals.retry_first;
        let mut tried = 0;
        loop {
            let target = self.target()?;
            let address = Arc::clone(&target.address);
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = left.min(self.intervals.controller_call);
            let outcome = tokio::time::timeout(attempt, make(target)).await;
            let (error, refused) = match outcome {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => match ApiError::from_status(&status) {
                    Some(error) if error.code == ErrorCode::ControllerNotAvailable => (error, true),
                    // Its leader was lost in mid-call, or its group did not agree in time.
                    Some(error) if error.code == ErrorCode::RequestTimedOut => (error, false),
                    Some(error) => return Err(error),
                    None if was_not_sent(&status) => (unreachable(&address, &status.to_string()), true),
                    None => (unanswered(&address, &status.to_string()), false),
                },
                Err(_) => (unanswered(&address, "no answer in time"), false),
            };
            self.addresses.turn_from(&address);
            tried += 1;
            let again = match repeat {
                Repeat::Safe => true,
                Repeat::IfRefused => refused,
                Repeat::Not => false,
            };
            // The next one at once, and a pause when all of them were asked.
            let rest = if tried % self.addresses.len() == 0 { pause } else { Duration::ZERO };
            if !again || Instant::now() + rest >= deadline {
                return Err(error);
            }
            tracing::debug!(controller = %address, %error, "controller call failed; trying on");
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
                pause = (pause * 2).min(self.intervals.retry_most);
            }
        }
    }
}

/// A request with the header that tells the controller how long its answer is waited for.
pub(super) fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

/// A controller that gave no answer.
pub(super) fn unreachable(address: &str, why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::ControllerNotAvailable,
        format!("the controller at {address} gave no answer: {why}"),
    )
}

/// A controller that may have got the call, and gave no answer.
fn unanswered(address: &str, why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::RequestTimedOut,
        format!(
            "the controller at {address} gave no answer: {why}; the change may still happen: look before you retry"
        ),
    )
}

/// Whether a status is the other side's word that it is of no use now.
pub(super) fn is_unavailable(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded)
}

/// Whether a call failed because there was no connection: then the other side never saw it.
pub fn was_not_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
