//! Connections to the internal ports of other brokers, and the bound on calls that are forwarded at once.

use super::metered::Metered;
use super::outcome::{Failure, unreached};
use crate::in_flight::InFlight;
use crate::node::Node;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_core::{BrokerId, ErrorCode};
use thalweg_proto::ApiError;
use thalweg_runtime::Dialer;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Unary calls that are forwarded at once, long polls apart; further ones wait.
const MAX_CALLS: usize = 1024;
/// Long polls that are forwarded at once.
const MAX_POLLS: usize = 1024;
/// How much later than the leader's answer this broker gives up, so that the leader's own word for it arrives.
const ANSWER_MARGIN: Duration = Duration::from_millis(20);

/// The other brokers.
#[derive(Debug)]
pub struct Peers {
    dialer: Dialer,
    peers: Mutex<HashMap<BrokerId, Peer>>,
    calls: Semaphore,
    // Their own, so that readers who wait do not keep out writers.
    polls: Semaphore,
    /// Bytes of answers that are half received.
    answers: Arc<InFlight>,
}

#[derive(Debug)]
struct Peer {
    endpoint: String,
    // Bulk on the one must not hold up the other.
    calls: Channel,
    streams: Channel,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Calls,
    Streams,
}

impl Peers {
    /// Knows nobody yet. `answers` bounds what comes back and is not complete.
    pub fn new(dialer: Dialer, answers: Arc<InFlight>) -> Peers {
        Peers {
            dialer,
            peers: Mutex::default(),
            calls: Semaphore::new(MAX_CALLS),
            polls: Semaphore::new(MAX_POLLS),
            answers,
        }
    }

    fn channel(&self, node: &Node, id: BrokerId, kind: Kind) -> Result<Channel, ApiError> {
        let image = node.metadata.image();
        let Some(broker) = image.broker(id) else {
            return Err(unreached(id, "it is not registered"));
        };
        let endpoint = broker.internal_endpoint.to_string();
        // A map of handles is whole at every step.
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&id)
            && peer.endpoint == endpoint
        {
            return Ok(peer.channel(kind));
        }
        let open = || self.dialer.channel(&endpoint).map_err(|error| unreached(id, &error.to_string()));
        let peer = Peer { calls: open()?, streams: open()?, endpoint };
        let channel = peer.channel(kind);
        // Whoever left the cluster is forgotten with the next that joins it.
        peers.retain(|id, _| image.broker(*id).is_some());
        peers.insert(id, peer);
        Ok(channel)
    }

    /// A connection for long-lived streams to that broker.
    pub fn stream(&self, node: &Node, id: BrokerId) -> Result<Channel, ApiError> {
        self.channel(node, id, Kind::Streams)
    }

    /// Makes a unary call at that broker's internal port, which must answer until `until`.
    pub async fn call<Q, A, F>(
        &self,
        node: &Node,
        id: BrokerId,
        until: Instant,
        request: Q,
        make: impl FnOnce(Metered, Request<Q>) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_within(&self.calls, node, id, until, request, make).await
    }

    /// Like [`call`](Peers::call), where the other side may take its time.
    pub async fn poll<Q, A, F>(
        &self,
        node: &Node,
        id: BrokerId,
        until: Instant,
        request: Q,
        make: impl FnOnce(Metered, Request<Q>) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_within(&self.polls, node, id, until, request, make).await
    }

    async fn call_within<Q, A, F>(
        &self,
        bound: &Semaphore,
        node: &Node,
        id: BrokerId,
        until: Instant,
        request: Q,
        make: impl FnOnce(Metered, Request<Q>) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let Ok(Ok(_permit)) = tokio::time::timeout_at(until, bound.acquire()).await else {
            let message = "the broker forwards as many calls as it may; retry after a pause";
            return Err(Failure::Told(ApiError::new(ErrorCode::Throttled, message)));
        };
        let channel = self.channel(node, id, Kind::Calls).map_err(Failure::Refused)?;
        let mut request = Request::new(request);
        request.set_timeout(until.saturating_duration_since(Instant::now()));
        let calling = make(Metered::new(channel, Arc::clone(&self.answers)), request);
        match tokio::time::timeout_at(until + ANSWER_MARGIN, calling).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Failure::of(id, &status)),
            Err(_) => Err(Failure::Lost(ApiError::new(
                ErrorCode::RequestTimedOut,
                format!("broker {id}, the leader, gave no answer in time"),
            ))),
        }
    }
}

impl Peer {
    fn channel(&self, kind: Kind) -> Channel {
        match kind {
            Kind::Calls => self.calls.clone(),
            Kind::Streams => self.streams.clone(),
        }
    }
}
