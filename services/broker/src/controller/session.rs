//! A stream of heartbeats to the leading controller, on a connection of its own.

use super::link::{ControllerLink, Repeat, timed, unreachable};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{ErrorCode, NodeId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Heartbeats on their way: one is sent after the other was answered, and one more for a wish to stop.
const QUEUE: usize = 4;

/// For the leader to be found, before a single heartbeat is tried.
const FIND_WITHIN: Duration = Duration::from_millis(500);

/// An open stream.
#[derive(Debug)]
pub struct Session {
    /// The controller that it leads to.
    pub controller: Arc<str>,
    beats: mpsc::Sender<internal::BrokerSessionRequest>,
    answers: Streaming<internal::BrokerSessionResponse>,
}

impl Session {
    /// Finds the leader and opens the stream with a first heartbeat.
    ///
    /// Errors: `CONTROLLER_NOT_AVAILABLE` when no leader is known or reached, and what the controller says.
    pub async fn open(
        link: &ControllerLink,
        first: internal::BrokerHeartbeatRequest,
    ) -> Result<Session, ApiError> {
        let controller = leader(link).await?;
        let channel = link.own_channel(&controller)?;
        let (beats, queued) = mpsc::channel(QUEUE);
        // A new channel has room for its first message.
        let _ = beats.try_send(internal::BrokerSessionRequest { heartbeat: Some(first) });
        let mut client = ControllerLink::controller(&channel);
        let opening = client.broker_session(ReceiverStream::new(queued));
        let opened = tokio::time::timeout(link.intervals().heartbeat_answer, opening).await;
        let error = match opened {
            Ok(Ok(answers)) => {
                link.addresses().favour(&controller);
                return Ok(Session { controller, beats, answers: answers.into_inner() });
            }
            Ok(Err(status)) => failed(&controller, &status),
            Err(_) => unreachable(&controller, "no answer in time"),
        };
        // Whoever named this leader may have been wrong.
        link.addresses().turn_from(&link.addresses().favourite());
        Err(error)
    }

    /// Sends a heartbeat. An error of the stream is told by [`next`](Session::next).
    pub fn beat(&self, heartbeat: internal::BrokerHeartbeatRequest) {
        let _ = self.beats.try_send(internal::BrokerSessionRequest { heartbeat: Some(heartbeat) });
    }

    /// The next answer. Safe to drop and call again. Errors end the stream.
    pub async fn next(&mut self) -> Result<internal::BrokerHeartbeatResponse, ApiError> {
        loop {
            match self.answers.message().await {
                Ok(Some(answer)) => {
                    if let Some(heartbeat) = answer.heartbeat {
                        return Ok(heartbeat);
                    }
                }
                Ok(None) => return Err(unreachable(&self.controller, "it ended the session")),
                Err(status) => return Err(failed(&self.controller, &status)),
            }
        }
    }
}

async fn leader(link: &ControllerLink) -> Result<Arc<str>, ApiError> {
    let within = FIND_WITHIN.min(link.intervals().heartbeat_answer);
    link.call(Repeat::Safe, within, |target| {
        let mut client = ControllerLink::controller(&target.channel);
        let request = timed(internal::DescribeQuorumRequest {}, within);
        async move {
            let quorum = client.describe_quorum(request).await?.into_inner();
            if quorum.leader_id == 0 {
                let message = "no controller leads at the moment; retry";
                return Err(ApiError::new(ErrorCode::ControllerNotAvailable, message).to_status());
            }
            let named = Some(quorum.leader_endpoint).filter(|endpoint| !endpoint.is_empty());
            let named = named.map(Arc::from).or_else(|| link.addresses().of(NodeId(quorum.leader_id)));
            // It leads itself, or else it is asked and says that it does not.
            Ok(named.filter(|_| quorum.leader_id != quorum.node_id).unwrap_or(target.address))
        }
    })
    .await
}

fn failed(controller: &str, status: &Status) -> ApiError {
    ApiError::from_status(status).unwrap_or_else(|| unreachable(controller, &status.to_string()))
}
