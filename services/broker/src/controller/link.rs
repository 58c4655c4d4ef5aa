//! Calls to the controllers: to the one that answered last, and to the next one when it does not.

use crate::config::{BrokerConfig, BrokerIntervals, ConfigError};
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;
use thalweg_core::metadata::codec::MAX_IMAGE_BYTES;
use thalweg_core::{BrokerEpoch, ErrorCode};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_runtime::Dialer;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// What a message with a whole image has around the image.
const MESSAGE_SLACK: usize = 64 * 1024;

/// The controllers of the cluster.
#[derive(Debug)]
pub struct ControllerLink {
    addresses: Vec<String>,
    channels: Vec<Channel>,
    current: AtomicUsize,
    epoch: AtomicI64,
    intervals: BrokerIntervals,
}

/// Whether a failed call may be made again, although it may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Twice does no harm.
    Safe,
    /// Only if a controller said that it did nothing.
    IfRefused,
}

impl ControllerLink {
    /// Names the controllers. Connects at the first call.
    pub fn new(config: &BrokerConfig, dialer: Dialer) -> Result<ControllerLink, ConfigError> {
        let channels = config.controllers.iter().map(|address| {
            dialer
                .channel(address)
                .map_err(|error| ConfigError { setting: "controllers", problem: error.to_string() })
        });
        Ok(ControllerLink {
            addresses: config.controllers.clone(),
            channels: channels.collect::<Result<_, ConfigError>>()?,
            current: AtomicUsize::new(0),
            epoch: AtomicI64::new(-1),
            intervals: config.intervals,
        })
    }

    /// The epoch of this broker's registration; `None` before it is registered.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        Some(BrokerEpoch(self.epoch.load(Ordering::Acquire))).filter(|epoch| epoch.get() >= 0)
    }

    pub(super) fn set_epoch(&self, epoch: BrokerEpoch) {
        self.epoch.store(epoch.get(), Ordering::Release);
    }

    pub(super) fn intervals(&self) -> &BrokerIntervals {
        &self.intervals
    }

    /// Turns away from a controller that failed. If others did so meanwhile, nothing changes.
    pub(super) fn turn_from(&self, failed: usize) {
        let next = (failed + 1) % self.channels.len();
        let _ = self.current.compare_exchange(failed, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The controller in favour.
    pub(super) fn favourite(&self) -> (usize, &Channel, &str) {
        let at = self.current.load(Ordering::Acquire) % self.channels.len();
        (at, &self.channels[at], &self.addresses[at])
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
    /// Errors: what a controller answered, or `CONTROLLER_NOT_AVAILABLE` when none did.
    pub async fn call<T, F>(
        &self,
        repeat: Repeat,
        within: Duration,
        make: impl Fn(&Channel) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = tokio::time::Instant::now() + within;
        let mut pause = self.intervals.retry_first;
        loop {
            let (at, channel, address) = self.favourite();
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let attempt = left.min(self.intervals.controller_call);
            let outcome = tokio::time::timeout(attempt, make(channel)).await;
            let (error, refused) = match outcome {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => match ApiError::from_status(&status) {
                    Some(error) if error.code != ErrorCode::ControllerNotAvailable => return Err(error),
                    Some(error) => (error, true),
                    None => (unreachable(address, &status.to_string()), false),
                },
                Err(_) => (unreachable(address, "no answer in time"), false),
            };
            self.turn_from(at);
            let again = refused || repeat == Repeat::Safe;
            if !again || tokio::time::Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(controller = address, %error, "controller call failed; trying on");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.intervals.retry_most);
        }
    }
}

/// A request with the header that tells the controller how long its answer is waited for.
pub(super) fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

fn unreachable(address: &str, why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::ControllerNotAvailable,
        format!("the controller at {address} gave no answer: {why}"),
    )
}

/// Whether a status is the other side's word that it is of no use now.
pub(super) fn is_unavailable(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded)
}
