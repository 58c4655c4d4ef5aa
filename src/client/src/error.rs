//! What a call to a cluster fails with.

use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{ErrorCode, Retriable};
use thalweg_proto::ApiError;
use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A broker refused the request.
    #[error("{0}")]
    Refused(Box<ApiError>),
    /// No broker answered.
    #[error("no broker answered within {after:?}; tried {tried}; the last error: {last}")]
    Unreachable {
        /// The endpoints that were tried.
        tried: String,
        /// How long it was tried.
        after: Duration,
        /// The last failure.
        last: String,
    },
    /// A broker failed in a way that is not Thalweg's own: a proxy, a version without the call.
    #[error("the call failed: {0}")]
    Transport(Arc<Status>),
    /// The call's time ran out while brokers answered that it may succeed later.
    #[error("not done within {after:?}; the last answer: {last}")]
    TimedOut {
        /// How long it was tried.
        after: Duration,
        /// The last answer.
        last: Box<ApiError>,
    },
    /// A setting contradicts another or makes no sense.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The broker's answer breaks the protocol.
    #[error("the broker's answer makes no sense: {0}")]
    Protocol(&'static str),
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct ConfigError {
    /// The setting at fault.
    pub setting: &'static str,
    /// What is wrong and what to change.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, reason: impl Into<String>) -> ConfigError {
        ConfigError { setting, reason: reason.into() }
    }
}

impl ClientError {
    /// The broker's code, if a broker refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused(error) | ClientError::TimedOut { last: error, .. } => Some(error.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later.
    pub fn retriable(&self) -> bool {
        match self {
            ClientError::Refused(error) => error.retriable() != Retriable::No,
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => true,
            ClientError::Transport(status) => transient(status),
            ClientError::Config(_) | ClientError::Protocol(_) => false,
        }
    }

    /// Reads a call's status.
    pub(crate) fn from_status(status: Status) -> ClientError {
        match ApiError::from_status(&status) {
            Some(error) => ClientError::Refused(Box::new(error)),
            None => ClientError::Transport(Arc::new(status)),
        }
    }
}

impl From<ApiError> for ClientError {
    fn from(error: ApiError) -> ClientError {
        ClientError::Refused(Box::new(error))
    }
}

/// Whether a status that is not ours tells of a broken connection or a broker that is gone, rather than of the request.
pub(crate) fn transient(status: &Status) -> bool {
    // A connection that breaks under a call shows as Unknown, Internal or Cancelled, depending on where it was.
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
    )
}

/// A status as one line with its causes, for a message.
pub(crate) fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}
