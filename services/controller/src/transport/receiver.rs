//! The far end of a lane: checks who speaks, puts pieces together, and gives messages to the node.

use super::{CHUNK_BYTES, Links, hello};
use crate::peers::PeerStream;
use crate::quorum::refused;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thalweg_core::{ErrorCode, NodeId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::deliver_request::Kind;
use thalweg_proto::internal::v1::raft_service_server::RaftService;
use thalweg_proto::internal::v1::{DeliverRequest, DeliverResponse, MessageChunk, RaftHello};
use thalweg_raft::MAX_MESSAGE_BYTES;
use thalweg_runtime::Shutdown;
use tonic::{Request, Response, Status, Streaming};

/// The service.
pub struct Receiver {
    links: Arc<Links>,
    shutdown: Shutdown,
    /// Bytes of messages that are being put together, over all streams.
    unfinished: Arc<AtomicUsize>,
}

impl Receiver {
    /// Gives what arrives to the node attached to `links`, until the shutdown.
    pub fn new(links: Arc<Links>, shutdown: Shutdown) -> Receiver {
        Receiver { links, shutdown, unfinished: Arc::default() }
    }

    /// Gives what is to be held as long as the stream is open.
    fn admit(&self, hello: &RaftHello) -> Result<Option<PeerStream>, ApiError> {
        let links = &self.links;
        let from = NodeId(hello.from);
        let cluster_id = links.published.cluster_id();
        let votes = links.raft.get().is_some_and(|raft| raft.status().borrow().voters.contains(&from));
        let noted_voter = votes && links.peers.has_been_noted(from);
        let node_id = links.peers.node_id();
        let levels = hello::levels(hello)?;
        let level = links.published.image().feature_level();
        let checked = hello::check(node_id, cluster_id, &links.founding, hello, noted_voter);
        let who = format!("controller {from}");
        let checked = checked.and_then(|()| {
            // Noted of one that is refused for its level, too: nothing that it cannot read is sent to it.
            let hear = |endpoint| links.peers.hear(from, endpoint, !hello.cluster_id.is_empty(), levels);
            let stream = hello.endpoint.parse().ok().map(hear);
            levels.admit(&who, level).map_err(refused)?;
            Ok(stream)
        });
        let stream = match checked {
            Ok(stream) => stream,
            Err(refusal) => {
                if links.note_refusal(from, Some(refusal.message.clone())) {
                    tracing::error!(peer = %from, code = %refusal.code, reason = %refusal.message, "controller refused");
                }
                return Err(refusal);
            }
        };
        if links.note_refusal(from, None) {
            tracing::info!(peer = %from, "controller accepted");
        }
        Ok(stream)
    }
}

#[tonic::async_trait]
impl RaftService for Receiver {
    async fn deliver(
        &self,
        request: Request<Streaming<DeliverRequest>>,
    ) -> Result<Response<DeliverResponse>, Status> {
        let mut inbound = request.into_inner();
        let mut introduced = None;
        let mut assembly = Assembly::new(Arc::clone(&self.unfinished));
        loop {
            let next = tokio::select! {
                () = self.shutdown.triggered() => {
                    let message = "this controller is stopping";
                    return Err(ApiError::new(ErrorCode::ShuttingDown, message).to_status());
                }
                next = inbound.message() => next?,
            };
            let Some(request) = next else { return Ok(Response::new(DeliverResponse {})) };
            let message = match (request.kind, introduced.is_some()) {
                (Some(Kind::Hello(hello)), false) => {
                    introduced = Some(self.admit(&hello)?);
                    continue;
                }
                (Some(Kind::Message(message)), true) if assembly.is_empty() => message,
                (Some(Kind::Chunk(chunk)), true) => match assembly.add(chunk)? {
                    Some(message) => message,
                    None => continue,
                },
                _ => {
                    return Err(
                        ApiError::invalid("kind", "an introduction comes first, and once").to_status()
                    );
                }
            };
            if let Some(raft) = self.links.raft.get() {
                // A full queue drops it, as a network would.
                raft.step(message);
            }
        }
    }
}

/// A message of which some pieces have come.
struct Assembly {
    data: BytesMut,
    total: usize,
    unfinished: Arc<AtomicUsize>,
}

impl Assembly {
    fn new(unfinished: Arc<AtomicUsize>) -> Assembly {
        Assembly { data: BytesMut::new(), total: 0, unfinished }
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Adds a piece; gives the message when it is whole.
    fn add(&mut self, chunk: MessageChunk) -> Result<Option<Bytes>, ApiError> {
        if self.is_empty() {
            self.total = usize::try_from(chunk.total).unwrap_or(usize::MAX);
            if self.total == 0 || self.total > MAX_MESSAGE_BYTES {
                let message = format!("a message has 1 to {MAX_MESSAGE_BYTES} bytes, not {}", chunk.total);
                return Err(ApiError::invalid("total", message));
            }
        }
        let length = chunk.data.len();
        if length == 0 || length > CHUNK_BYTES || self.data.len() + length > self.total {
            return Err(ApiError::invalid("data", "a piece has 1 byte to 1 MiB and ends with its message"));
        }
        // Memory is taken as the bytes come, never because of a promise.
        if self.unfinished.fetch_add(length, Ordering::Relaxed) + length > MAX_MESSAGE_BYTES {
            self.unfinished.fetch_sub(length, Ordering::Relaxed);
            let message = "too many long messages are on their way to this controller";
            return Err(ApiError::new(ErrorCode::Throttled, message));
        }
        self.data.extend_from_slice(&chunk.data);
        if self.data.len() < self.total {
            return Ok(None);
        }
        let message = self.data.split().freeze();
        self.unfinished.fetch_sub(message.len(), Ordering::Relaxed);
        Ok(Some(message))
    }
}

impl Drop for Assembly {
    fn drop(&mut self) {
        self.unfinished.fetch_sub(self.data.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(length: usize, total: u64) -> MessageChunk {
        MessageChunk { data: vec![7; length].into(), total }
    }

    #[test]
    fn pieces_become_a_message_within_bounds() {
        let unfinished = Arc::new(AtomicUsize::new(0));
        let mut assembly = Assembly::new(Arc::clone(&unfinished));
        assert_eq!(assembly.add(chunk(10, 25)).unwrap(), None);
        assert_eq!(assembly.add(chunk(10, 0)).unwrap(), None);
        assert_eq!(unfinished.load(Ordering::Relaxed), 20);
        assert_eq!(assembly.add(chunk(5, 0)).unwrap().map(|message| message.len()), Some(25));
        assert_eq!(unfinished.load(Ordering::Relaxed), 0);
        assert_eq!(assembly.add(chunk(10, 25)).unwrap(), None);
        drop(assembly);
        assert_eq!(unfinished.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let fresh = || Assembly::new(Arc::default());
        for bad in
            [chunk(10, 9), chunk(0, 9), chunk(10, 0), chunk(10, u64::MAX), chunk(CHUNK_BYTES + 1, 4 << 20)]
        {
            assert!(fresh().add(bad).is_err());
        }
        let mut full = Assembly::new(Arc::new(AtomicUsize::new(MAX_MESSAGE_BYTES)));
        assert_eq!(full.add(chunk(10, 25)).unwrap_err().code, ErrorCode::Throttled);
        assert!(full.is_empty());
    }
}
