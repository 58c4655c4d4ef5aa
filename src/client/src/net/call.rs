//! One unary call to any broker, again at another until its time is up.

use super::{Backoff, Purpose};
use crate::client::Client;
use crate::error::{ClientError, describe, transient};
use crate::trace::Traced;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::Retriable;
use thalweg_proto::ApiError;
use tokio::time::Instant;
use tonic::{Response, Status};

/// The shortest time that a broker has to answer, unless the whole call has less.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);
/// The longest time that a broker has to tell what it knows already. A producer whose leader died waits for this, and the broker
/// that is asked first may have died with it.
const QUICK_ATTEMPT: Duration = Duration::from_secs(2);

impl Client {
    /// Calls brokers, one after the other, until one answers, refuses for good, or `request_timeout` has passed. One
    /// that takes the call and never answers has its share of the time only: the others get theirs.
    pub(crate) async fn call<T, F, Fut>(&self, call: F) -> Result<T, ClientError>
    where
        F: Fn(Traced) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_within(self.config().request_timeout, call).await
    }

    /// The same with another limit of time.
    pub(crate) async fn call_within<T, F, Fut>(&self, limit: Duration, call: F) -> Result<T, ClientError>
    where
        F: Fn(Traced) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_each(limit, Duration::MAX, call).await
    }

    /// The same for what any broker answers out of its memory: one that does not within 2 s is passed over.
    pub(crate) async fn call_quick<T, F, Fut>(&self, call: F) -> Result<T, ClientError>
    where
        F: Fn(Traced) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_each(self.config().request_timeout, QUICK_ATTEMPT, call).await
    }

    async fn call_each<T, F, Fut>(&self, limit: Duration, most: Duration, call: F) -> Result<T, ClientError>
    where
        F: Fn(Traced) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let config = self.config();
        let begun = Instant::now();
        let deadline = begun + limit;
        let mut backoff = Backoff::new(config.retry_backoff, config.retry_backoff_max);
        let mut tried: Vec<Arc<str>> = Vec::new();
        let mut answered: Option<ApiError> = None;
        loop {
            let mut last = None;
            let endpoints = self.endpoints();
            if endpoints.is_empty() {
                return Err(crate::ConfigError::new(
                    "bootstrap",
                    "no broker is named; give at least one host:port",
                )
                .into());
            }
            for (endpoint, left) in endpoints.iter().zip((1..=endpoints.len()).rev()) {
                let channel = Traced(self.channels().get(Purpose::Control, endpoint)?);
                if !tried.contains(endpoint) {
                    tried.push(Arc::clone(endpoint));
                }
                let attempt = share(deadline.saturating_duration_since(Instant::now()), left).min(most);
                let outcome = match tokio::time::timeout(attempt, call(channel)).await {
                    Ok(outcome) => outcome,
                    Err(_) => {
                        Err(Status::deadline_exceeded(format!("{endpoint} did not answer in {attempt:?}")))
                    }
                };
                let status = match outcome {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) => status,
                };
                match ApiError::from_status(&status) {
                    Some(error) if worth_a_retry(&error) => {
                        answered = Some(error.clone());
                        last = Some(Failure::Answer(error));
                    }
                    Some(error) => return Err(error.into()),
                    None if transient(&status) => {
                        self.next_turn();
                        last = Some(Failure::Transport(describe(&status)));
                    }
                    None => return Err(ClientError::Transport(Arc::new(status))),
                }
                if Instant::now() >= deadline {
                    break;
                }
            }
            let pause = backoff.next_pause();
            if Instant::now() + pause >= deadline {
                let after = begun.elapsed();
                // An attempt that had no time left tells less than the answers before it.
                let last = match answered {
                    Some(answer) if Instant::now() >= deadline => Some(Failure::Answer(answer)),
                    _ => last,
                };
                return Err(match last {
                    Some(Failure::Answer(last)) => ClientError::TimedOut { after, last: Box::new(last) },
                    Some(Failure::Transport(last)) => {
                        ClientError::Unreachable { tried: tried.join(", "), after, last }
                    }
                    None => ClientError::Protocol("no broker was tried"),
                });
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// The part of the remaining time that the next of so many endpoints gets.
fn share(remaining: Duration, endpoints: usize) -> Duration {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
    (remaining / endpoints).max(MIN_ATTEMPT).min(remaining)
}

enum Failure {
    Answer(ApiError),
    Transport(String),
}

/// A topic that is not there is told at once: who asks for it by name has most likely mistyped it.
fn worth_a_retry(error: &ApiError) -> bool {
    use thalweg_core::ErrorCode as E;
    error.retriable() != Retriable::No && !matches!(error.code, E::UnknownTopic | E::UnknownPartition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_has_its_share_but_not_less_than_a_second_of_what_is_there() {
        let seconds = Duration::from_secs;
        assert_eq!(share(seconds(30), 3), seconds(10));
        assert_eq!(share(seconds(20), 2), seconds(10));
        assert_eq!(share(seconds(10), 1), seconds(10));
        assert_eq!(share(seconds(5), 100), MIN_ATTEMPT);
        assert_eq!(share(Duration::from_millis(300), 2), Duration::from_millis(300));
    }
}
