//! Any controller takes any call: what only the leader may decide goes on to it.

use crate::config::PROPOSE_TIMEOUT;
use crate::peers::Peers;
use crate::quorum::{Quorum, no_leader};
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::metadata::Endpoint;
use thalweg_core::{ErrorCode, NodeId};
use thalweg_proto::ApiError;
use thalweg_raft::{RaftStatus, Role};
use thalweg_runtime::{Dialer, RequestDeadline};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Response, Status};

/// Marks a call that was forwarded, with the cluster of the controller that did so. It is not forwarded again, so that two
/// controllers that each take the other for the leader do not pass it to and fro; and it is not served by a controller of another
/// cluster that has taken over the leader's address.
const FORWARDED: &str = "thalweg-forwarded";
/// How long a controller that is taken for the leader may take to find that it is.
const ELECTED: Duration = Duration::from_millis(500);
/// The largest answer that is passed on.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Where a call goes.
pub enum Route<T> {
    /// This controller leads.
    Here(Request<T>),
    /// This one does; the request is ready to be sent there.
    There(NodeId, Channel, Request<T>),
}

/// Finds the leader for calls that need it.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    quorum: Quorum,
    peers: Arc<Peers>,
    dialer: Dialer,
    leader: Mutex<Option<(NodeId, Endpoint, Channel)>>,
    /// Connections that failed in a row; they walk through the leader's addresses.
    failures: AtomicUsize,
}

impl Router {
    /// Routes by what `quorum` says.
    pub fn new(quorum: Quorum, peers: Arc<Peers>, dialer: Dialer) -> Router {
        let shared =
            Shared { quorum, peers, dialer, leader: Mutex::default(), failures: AtomicUsize::default() };
        Router { shared: Arc::new(shared) }
    }

    /// Decides where the call goes.
    ///
    /// Errors: `CONTROLLER_NOT_AVAILABLE` while no leader is known, or to a call that was forwarded here by mistake.
    pub async fn route<T>(&self, request: Request<T>) -> Result<Route<T>, ApiError> {
        let ours = self.shared.quorum.published().image().cluster_id().map(ToString::to_string);
        let theirs = request.metadata().get(FORWARDED).map(|cluster| cluster.to_str().unwrap_or_default());
        if let (Some(theirs), Some(ours)) = (theirs.filter(|cluster| !cluster.is_empty()), &ours)
            && theirs != ours
        {
            let message =
                format!("this controller is of cluster {ours}, not {theirs}; it leads nobody there");
            return Err(ApiError::new(ErrorCode::ControllerNotAvailable, message));
        }
        let mut status = self.shared.quorum.status();
        let leads = |status: &RaftStatus| status.role == Role::Leader;
        if leads(&status.borrow()) {
            return Ok(Route::Here(request));
        }
        if request.metadata().contains_key(FORWARDED) {
            // Others hear of a new leader's first message a moment before it says so itself.
            let elected = tokio::time::timeout(ELECTED, status.wait_for(leads)).await;
            return if matches!(elected, Ok(Ok(_))) { Ok(Route::Here(request)) } else { Err(no_leader()) };
        }
        let leader = status.borrow().leader;
        let leader = leader.filter(|leader| *leader != self.shared.peers.node_id()).ok_or_else(no_leader)?;
        let channel = self.channel(leader)?;
        let timeout = request
            .extensions()
            .get::<RequestDeadline>()
            .map_or(PROPOSE_TIMEOUT, |deadline| deadline.remaining());
        let mut forwarded = Request::new(request.into_inner());
        // A cluster's id is visible ASCII, so it is a legal value.
        let cluster = MetadataValue::try_from(ours.unwrap_or_default());
        forwarded.metadata_mut().insert(FORWARDED, cluster.unwrap_or(MetadataValue::from_static("")));
        forwarded.set_timeout(timeout);
        Ok(Route::There(leader, channel, forwarded))
    }

    /// Lets a call that was forwarded here be forwarded once more: this controller led when it came.
    pub fn allow_again<T>(request: &mut Request<T>) {
        request.metadata_mut().remove(FORWARDED);
    }

    /// Waits for the leader's answer, for as long as it is the leader. Where it said nothing, this controller says why.
    ///
    /// `CONTROLLER_NOT_AVAILABLE` is the word that nothing happened: callers repeat then what must not be done twice. It is
    /// said only of a call that was never sent.
    pub async fn answer<T>(
        &self,
        leader: NodeId,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        let mut status = self.shared.quorum.status();
        let answer = tokio::select! {
            answer = call => answer,
            // A machine that stands still answers nothing, and its connection ends long after the election.
            _ = status.wait_for(|status| status.leader != Some(leader)) => {
                Err(Status::unavailable("it leads no more"))
            }
        };
        let shared = &self.shared;
        match answer {
            Ok(response) => {
                shared.failures.store(0, Ordering::Relaxed);
                Ok(Response::new(response.into_inner()))
            }
            Err(status) => {
                let failed = Failed::from(&status);
                if failed == Failed::ByItsWord {
                    shared.failures.store(0, Ordering::Relaxed);
                } else if failed != Failed::Late {
                    shared.failures.fetch_add(1, Ordering::Relaxed);
                    *shared.leader.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Err(failed.error(&status).to_status())
            }
        }
    }

    /// The connection to the leader, kept for as long as it is the leader.
    fn channel(&self, leader: NodeId) -> Result<Channel, ApiError> {
        let shared = &self.shared;
        let candidates = shared.peers.candidates(leader);
        let at = shared.failures.load(Ordering::Relaxed).checked_rem(candidates.len());
        let endpoint = at.and_then(|at| candidates.into_iter().nth(at)).ok_or_else(|| {
            let message = format!("the address of controller {leader}, which leads, is not known; try again");
            ApiError::new(ErrorCode::ControllerNotAvailable, message)
        })?;
        let mut kept = shared.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, address, channel)) = &*kept
            && *id == leader
            && *address == endpoint
        {
            return Ok(channel.clone());
        }
        let channel = shared.dialer.channel(&endpoint.to_string()).map_err(|error| {
            ApiError::new(ErrorCode::ControllerNotAvailable, format!("controller {leader}: {error}"))
        })?;
        *kept = Some((leader, endpoint, channel.clone()));
        Ok(channel)
    }
}

/// How a call to the leader failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// It said why.
    ByItsWord,
    /// It never saw the call.
    NotSent,
    /// It did not answer in time.
    Late,
    /// It may have seen the call, and no answer will come: the connection broke, or it leads no more.
    Broken,
}

impl From<&Status> for Failed {
    fn from(status: &Status) -> Failed {
        let code = status.code();
        if ApiError::from_status(status).is_some() {
            Failed::ByItsWord
        } else if was_not_sent(status) || code == Code::Unimplemented {
            Failed::NotSent
        } else if matches!(code, Code::DeadlineExceeded | Code::Cancelled) {
            Failed::Late
        } else {
            Failed::Broken
        }
    }
}

impl Failed {
    fn error(self, status: &Status) -> ApiError {
        let message = status.message();
        match (ApiError::from_status(status), self) {
            (Some(error), _) => error,
            (None, Failed::NotSent) => ApiError::new(
                ErrorCode::ControllerNotAvailable,
                format!("the leading controller cannot be reached ({message}); try again"),
            ),
            (None, Failed::Late) => ApiError::new(
                ErrorCode::RequestTimedOut,
                "the leading controller did not answer in time; the change may still happen: look before you retry",
            ),
            (None, Failed::ByItsWord | Failed::Broken) => ApiError::new(
                ErrorCode::RequestTimedOut,
                format!(
                    "the leading controller gave no answer ({message}); the change may still happen: look before you retry"
                ),
            ),
        }
    }
}

/// Whether a call failed because there was no connection: then the other side never saw it.
fn was_not_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Serves a call here with `$here(request)` if this controller leads, else passes it on by the client's method.
macro_rules! routed {
    ($router:expr, $request:expr, $client:ident :: $method:ident, $here:expr) => {
        match $router.route($request).await? {
            $crate::router::Route::Here(request) => match $here(request.into_inner()).await {
                Ok(response) => Ok(tonic::Response::new(response)),
                Err(error) => Err(tonic::Status::from(error)),
            },
            $crate::router::Route::There(leader, channel, request) => {
                let mut client = $client::new(channel)
                    .max_decoding_message_size($crate::router::MAX_ANSWER_BYTES)
                    .max_encoding_message_size($crate::router::MAX_ANSWER_BYTES);
                $router.answer(leader, client.$method(request)).await
            }
        }
    };
}
pub(crate) use routed;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a caller is told of this.
    fn told(status: &Status) -> ErrorCode {
        Failed::from(status).error(status).code
    }

    #[test]
    fn only_what_certainly_did_not_happen_is_said_to_be_refused() {
        let unsent = ConnectError(Box::new(std::io::Error::other("connection refused")));
        let mut unsent = Status::from_error(Box::new(unsent));
        assert_eq!(told(&unsent), ErrorCode::ControllerNotAvailable);
        unsent = no_leader().to_status();
        assert_eq!(told(&unsent), ErrorCode::ControllerNotAvailable, "its own word");
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        for status in [
            Status::from_error(Box::new(broken)),
            Status::unavailable("it leads no more"),
            Status::unknown("h2 protocol error"),
            Status::deadline_exceeded("too late"),
            Status::cancelled("stopped"),
        ] {
            assert_eq!(told(&status), ErrorCode::RequestTimedOut, "{status}");
        }
        let refused = ApiError::new(ErrorCode::TopicAlreadyExists, "there").to_status();
        assert_eq!(told(&refused), ErrorCode::TopicAlreadyExists);
    }
}
