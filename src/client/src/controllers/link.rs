//! Calls to the controllers: to the one that answered last, and to the next one when it does not.

use super::addresses::Addresses;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::metadata::codec::MAX_IMAGE_BYTES;
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Status};

/// What a message with a whole image has around the image.
const MESSAGE_SLACK: usize = 64 * 1024;

/// Opens a connection to `host:port` that nobody else uses; an error says why the text is no address.
pub type Dial = Arc<dyn Fn(&str) -> Result<Channel, String> + Send + Sync>;

/// The controllers of the cluster: those of the configuration, and those that the metadata names.
pub struct Controllers {
    dial: Dial,
    addresses: Addresses,
    // One connection to each for calls; the session and the watch have their own.
    channels: Mutex<HashMap<Arc<str>, Channel>>,
    timing: Timing,
}

/// How long controllers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// One call to one controller.
    pub call: Duration,
    /// The answer that opens a session.
    pub session_answer: Duration,
    /// First pause after a controller could not be reached; it doubles.
    pub retry_first: Duration,
    /// Longest such pause.
    pub retry_most: Duration,
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

impl Controllers {
    /// Names the controllers, `host:port` each. Connects at the first call. Errors: the first text that is no address.
    pub fn new(configured: &[String], dial: Dial, timing: Timing) -> Result<Controllers, String> {
        for address in configured {
            dial(address)?;
        }
        Ok(Controllers { dial, addresses: Addresses::new(configured), channels: Mutex::default(), timing })
    }

    /// Where they are.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How long they are waited for.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Takes over what the metadata says of the controllers.
    pub fn learn(&self, image: &MetadataImage) {
        if self.addresses.learn(image) {
            let known = self.addresses.all();
            self.lock_channels().retain(|address, _| known.contains(address));
        }
    }

    /// A connection that nobody else uses.
    pub fn own_channel(&self, address: &str) -> Result<Channel, ApiError> {
        (self.dial)(address).map_err(|error| unreachable(address, &error))
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
    pub fn client(channel: &Channel) -> ControllerServiceClient<Channel> {
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
        let mut pause = self.timing.retry_first;
        let mut tried = 0;
        loop {
            let target = self.target()?;
            let address = Arc::clone(&target.address);
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = left.min(self.timing.call);
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
            let rest = if tried % self.addresses.count() == 0 { pause } else { Duration::ZERO };
            if !again || Instant::now() + rest >= deadline {
                return Err(error);
            }
            tracing::debug!(controller = %address, %error, "controller call failed; trying on");
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
                pause = (pause * 2).min(self.timing.retry_most);
            }
        }
    }
}

impl fmt::Debug for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controllers").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// A request with the header that tells the controller how long its answer is waited for.
pub fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

/// A controller that gave no answer.
pub fn unreachable(address: &str, why: &str) -> ApiError {
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
