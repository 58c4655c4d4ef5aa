//! One direction of one class of messages to one peer.

use super::{CHUNK_BYTES, FIRST_PAUSE, LONGEST_PAUSE, Links};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use thalweg_core::metadata::FeatureLevels;
use thalweg_core::{ErrorCode, NodeId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::deliver_request::Kind;
use thalweg_proto::internal::v1::raft_service_client::RaftServiceClient;
use thalweg_proto::internal::v1::{DeliverRequest, FoundingVoter, MessageChunk, RaftHello};
use thalweg_raft::MessageClass;
use tokio::sync::mpsc;
use tonic::Status;

/// Messages that may wait for one lane; more are dropped, as a network would.
const QUEUE: usize = 1024;
/// Bytes that may wait for one lane; one message is always let in.
const QUEUE_BYTES: usize = 32 << 20;
/// Requests that are handed to the connection ahead of what it takes.
const AHEAD: usize = 4;
/// A stream without messages for so long is closed; the next message opens another.
const IDLE: Duration = Duration::from_secs(30);
/// How often a broken connection is opened again without anything to send. More than once: a dying process may still take a
/// connection.
const PROBES: u32 = 4;
/// How long a closed stream may take to be acknowledged.
const CLOSE: Duration = Duration::from_secs(1);

/// The near end: a bounded queue.
pub struct Lane {
    queue: mpsc::Sender<Bytes>,
    bytes: Arc<AtomicUsize>,
}

impl Lane {
    /// Starts a lane's task. It ends when the lane is dropped.
    pub fn start(links: &Arc<Links>, to: NodeId, class: MessageClass) -> Lane {
        let (sender, queue) = mpsc::channel(QUEUE);
        let bytes = Arc::new(AtomicUsize::new(0));
        let task =
            Task { links: Arc::clone(links), to, class, queue, bytes: Arc::clone(&bytes), attempts: 0 };
        links.runtime.spawn(task.run());
        Lane { queue: sender, bytes }
    }

    /// Puts a message into the queue; `false` if it is full.
    pub fn push(&self, message: Bytes) -> bool {
        let length = message.len();
        let waiting = self.bytes.fetch_add(length, Ordering::Relaxed);
        let fits = waiting == 0 || waiting + length <= QUEUE_BYTES;
        if fits && self.queue.try_send(message).is_ok() {
            return true;
        }
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        false
    }
}

struct Task {
    links: Arc<Links>,
    to: NodeId,
    class: MessageClass,
    queue: mpsc::Receiver<Bytes>,
    bytes: Arc<AtomicUsize>,
    /// Failed attempts since the last success; they walk through the peer's addresses.
    attempts: usize,
}

/// How one stream ended.
enum End {
    /// Nothing was to be sent any more.
    Idle,
    /// The node is gone.
    Stopped,
    /// The connection failed or the peer ended the stream.
    Broken {
        /// Whether there was a connection.
        opened: bool,
        /// Why.
        status: Status,
    },
}

impl Task {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        // A connection that broke is opened again at once: if nobody listens there any more, the peer's process is gone.
        let mut probes = 0;
        loop {
            let probing = probes > 0;
            let first = if probing {
                None
            } else {
                match self.next().await {
                    Some(message) => Some(message),
                    None => return,
                }
            };
            match self.stream(first).await {
                End::Stopped => return,
                End::Idle => {
                    (self.attempts, pause, probes) = (0, FIRST_PAUSE, 0);
                    continue;
                }
                End::Broken { opened, status } => {
                    tracing::debug!(peer = %self.to, class = ?self.class, opened, %status, "raft stream broke");
                    self.tell(&status, opened, probing);
                    probes = match (opened, self.class) {
                        (true, MessageClass::Control) if probing => probes - 1,
                        (true, MessageClass::Control) => PROBES,
                        _ => 0,
                    };
                    if opened {
                        (self.attempts, pause) = (0, FIRST_PAUSE);
                    } else {
                        self.attempts += 1;
                    }
                    if let Some(refusal) = ApiError::from_status(&status) {
                        self.refused(&refusal);
                        (probes, pause) = (0, LONGEST_PAUSE);
                    }
                }
            }
            // What waits was meant for the moment at which it was sent.
            self.drain();
            if probes < PROBES {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
                self.drain();
            }
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        let message = self.queue.recv().await?;
        self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
        Some(message)
    }

    fn drain(&mut self) {
        while let Ok(message) = self.queue.try_recv() {
            self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
        }
    }

    /// Tells the node what the failure means for it.
    fn tell(&self, status: &Status, opened: bool, was_probe: bool) {
        let Some(raft) = self.links.raft.get() else { return };
        raft.report_unreachable(self.to);
        if self.class == MessageClass::Snapshot {
            raft.report_snapshot_failed(self.to);
        }
        if was_probe && !opened && nobody_listens(status) {
            raft.report_gone(self.to);
        }
    }

    fn refused(&self, refusal: &ApiError) {
        let serious = matches!(
            refusal.code,
            ErrorCode::InconsistentClusterId | ErrorCode::InvalidVoters | ErrorCode::IncompatibleFeatureLevel
        );
        if serious && self.links.note_refusal(self.to, Some(refusal.message.clone())) {
            tracing::error!(
                peer = %self.to, code = %refusal.code, reason = %refusal.message,
                "another controller refuses this one"
            );
        }
    }

    fn hello(&self) -> RaftHello {
        let links = &self.links;
        let voter = |id: NodeId| FoundingVoter {
            node_id: id.get(),
            endpoint: links.peers.endpoint(id).map(|endpoint| endpoint.to_string()).unwrap_or_default(),
        };
        RaftHello {
            cluster_id: links.published.cluster_id().map(ToString::to_string).unwrap_or_default(),
            from: links.peers.node_id().get(),
            to: self.to.get(),
            founding_voters: links.founding.ids().map(voter).collect(),
            endpoint: links.peers.own().to_string(),
            min_feature_level: FeatureLevels::OURS.min.into(),
            max_feature_level: FeatureLevels::OURS.max.into(),
        }
    }

    /// Opens a stream and sends what comes until it ends.
    async fn stream(&mut self, first: Option<Bytes>) -> End {
        let broken = |message: String| End::Broken { opened: false, status: Status::unknown(message) };
        let candidates = self.links.peers.candidates(self.to);
        let Some(at) = self.attempts.checked_rem(candidates.len()) else {
            return broken(format!("the address of controller {} is not known", self.to));
        };
        let channel = match self.links.dialer.channel(&candidates[at].to_string()) {
            Ok(channel) => channel,
            Err(error) => return broken(error.to_string()),
        };
        let (requests, receiver) = mpsc::channel(AHEAD);
        let opened = Arc::new(AtomicBool::new(false));
        let hello = self.hello();
        let knows_cluster = !hello.cluster_id.is_empty();
        let hello = DeliverRequest { kind: Some(Kind::Hello(hello)) };
        let outbound = outbound(hello, receiver, Arc::clone(&opened));
        let mut client = RaftServiceClient::new(channel);
        let call = client.deliver(outbound);
        tokio::pin!(call);
        let ended = |outcome: Result<_, Status>| End::Broken {
            opened: opened.load(Ordering::Relaxed),
            status: outcome.err().unwrap_or_else(|| Status::unavailable("the peer ended the stream")),
        };
        let mut next = first;
        loop {
            if let Some(message) = next.take() {
                for piece in pieces(message) {
                    tokio::select! {
                        biased;
                        outcome = &mut call => return ended(outcome),
                        // Its receiver lives as long as the call.
                        _ = requests.send(piece) => {}
                    }
                }
            }
            tokio::select! {
                biased;
                outcome = &mut call => return ended(outcome),
                message = self.queue.recv() => match message {
                    Some(message) => {
                        self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
                        if !knows_cluster && self.links.published.cluster_id().is_some() {
                            // Now that it knows its cluster it introduces itself anew; the message is sent again if it mattered.
                            return End::Idle;
                        }
                        next = Some(message);
                    }
                    None => return End::Stopped,
                },
                () = tokio::time::sleep(IDLE) => {
                    drop(requests);
                    return match tokio::time::timeout(CLOSE, &mut call).await {
                        Ok(Err(status)) => ended(Err(status)),
                        Ok(Ok(_)) | Err(_) => End::Idle,
                    };
                }
            }
        }
    }
}

/// The introduction and what follows. It is taken from only once there is a connection.
fn outbound(
    hello: DeliverRequest,
    receiver: mpsc::Receiver<DeliverRequest>,
    opened: Arc<AtomicBool>,
) -> impl Stream<Item = DeliverRequest> + Send + 'static {
    let first = stream::once(async move {
        opened.store(true, Ordering::Relaxed);
        hello
    });
    let rest = stream::unfold(receiver, |mut receiver| async move {
        let request = receiver.recv().await?;
        Some((request, receiver))
    });
    first.chain(rest)
}

/// A message as requests: whole, or in pieces if it is long.
fn pieces(mut message: Bytes) -> impl Iterator<Item = DeliverRequest> {
    let total = message.len();
    let whole = total <= CHUNK_BYTES;
    let mut left = total.div_ceil(CHUNK_BYTES).max(1);
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let data = message.split_to(message.len().min(CHUNK_BYTES));
        let kind =
            if whole { Kind::Message(data) } else { Kind::Chunk(MessageChunk { data, total: total as u64 }) };
        Some(DeliverRequest { kind: Some(kind) })
    })
}

/// Whether the peer's machine answered that nobody listens at the address.
fn nobody_listens(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_travel_in_pieces() {
        for (length, expected) in [
            (0, 1),
            (1, 1),
            (CHUNK_BYTES, 1),
            (CHUNK_BYTES + 1, 2),
            (3 * CHUNK_BYTES, 3),
            (3 * CHUNK_BYTES + 7, 4),
        ] {
            let message: Bytes = (0..length).map(|at| at as u8).collect();
            let mut joined = Vec::new();
            let mut count = 0;
            for piece in pieces(message.clone()) {
                count += 1;
                match piece.kind.unwrap() {
                    Kind::Message(data) => {
                        assert!(length <= CHUNK_BYTES);
                        joined.extend_from_slice(&data);
                    }
                    Kind::Chunk(chunk) => {
                        assert!(chunk.data.len() <= CHUNK_BYTES && chunk.total == length as u64);
                        joined.extend_from_slice(&chunk.data);
                    }
                    Kind::Hello(_) => panic!("no introduction here"),
                }
            }
            assert_eq!((count, joined == message), (expected, true), "{length}");
        }
    }
}
