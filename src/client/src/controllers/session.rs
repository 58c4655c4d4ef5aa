//! A stream of heartbeats to the leading controller, on a connection of its own.

use super::link::{Controllers, Repeat, timed, unreachable};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{ErrorCode, NodeId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

/// Heartbeats on their way: one is sent after the other was answered, and one more for a wish to stop.
const QUEUE: usize = 4;

/// For the leader to be found, before a single heartbeat is tried.
const FIND_WITHIN: Duration = Duration::from_millis(500);

/// An open stream of heartbeats `Q`, answered by `A`.
#[derive(Debug)]
pub struct Session<Q, A> {
    /// The controller that it leads to.
    pub controller: Arc<str>,
    beats: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

impl<Q, A> Session<Q, A> {
    /// Finds the leader and opens the stream with a first heartbeat; `method` is the call.
    ///
    /// Errors: `CONTROLLER_NOT_AVAILABLE` when no leader is known or reached, and what the controller says.
    pub async fn open<F>(
        controllers: &Controllers,
        first: Q,
        method: impl FnOnce(ControllerServiceClient<Channel>, ReceiverStream<Q>) -> F,
    ) -> Result<Session<Q, A>, ApiError>
    where
        F: Future<Output = Result<Response<Streaming<A>>, Status>>,
    {
        let controller = leader(controllers).await?;
        let channel = controllers.own_channel(&controller)?;
        let (beats, queued) = mpsc::channel(QUEUE);
        // A new channel has room for its first message.
        let _ = beats.try_send(first);
        let opening = method(Controllers::client(&channel), ReceiverStream::new(queued));
        let opened = tokio::time::timeout(controllers.timing().session_answer, opening).await;
        let error = match opened {
            Ok(Ok(answers)) => {
                controllers.addresses().favour(&controller);
                return Ok(Session { controller, beats, answers: answers.into_inner() });
            }
            Ok(Err(status)) => failed(&controller, &status),
            Err(_) => unreachable(&controller, "no answer in time"),
        };
        // Whoever named this leader may have been wrong.
        controllers.addresses().turn_from(&controllers.addresses().favourite());
        Err(error)
    }

    /// Sends a heartbeat. An error of the stream is told by [`next`](Session::next).
    pub fn beat(&self, heartbeat: Q) {
        let _ = self.beats.try_send(heartbeat);
    }

    /// The next answer. Safe to drop and call again. Errors end the stream.
    pub async fn next(&mut self) -> Result<A, ApiError> {
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(unreachable(&self.controller, "it ended the session")),
            Err(status) => Err(failed(&self.controller, &status)),
        }
    }
}

async fn leader(controllers: &Controllers) -> Result<Arc<str>, ApiError> {
    let within = FIND_WITHIN.min(controllers.timing().session_answer);
    controllers
        .call(Repeat::Safe, within, |target| {
            let mut client = Controllers::client(&target.channel);
            let request = timed(internal::DescribeQuorumRequest::default(), within);
            async move {
                let quorum = client.describe_quorum(request).await?.into_inner();
                if quorum.leader_id == 0 {
                    let message = "no controller leads at the moment; retry";
                    return Err(ApiError::new(ErrorCode::ControllerNotAvailable, message).to_status());
                }
                let named = Some(quorum.leader_endpoint).filter(|endpoint| !endpoint.is_empty());
                let known = || controllers.addresses().of(NodeId(quorum.leader_id));
                let named = named.map(Arc::from).or_else(known);
                // It leads itself, or else it is asked and says that it does not.
                Ok(named.filter(|_| quorum.leader_id != quorum.node_id).unwrap_or(target.address))
            }
        })
        .await
}

fn failed(controller: &str, status: &Status) -> ApiError {
    ApiError::from_status(status).unwrap_or_else(|| unreachable(controller, &status.to_string()))
}
