//! The streams to all coordinators: one each, opened when it is needed, and again with growing pauses after it broke.

use super::exchange::{Asked, End, Exchange, Failure, Outcome, QUEUE, Target};
use crate::in_flight::{Charge, InFlight};
use crate::node::Node;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use thalweg_core::{CoordinatorId, ErrorCode, PartitionId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::group_call::Call;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tonic_prost::prost::Message;

/// Calls under way at once, held heartbeats apart; further ones wait.
const MAX_CALLS: usize = 8 * 1024;
/// Heartbeats that are held at once: members of this broker's clients.
const MAX_HELD: usize = 64 * 1024;
/// Bytes of calls that are under way; beyond it they are refused.
const MAX_CALL_BYTES: usize = 64 << 20;
/// Bytes of held heartbeats that are kept so that they can be made again; one beyond it is made once.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// The first pause before a lane that brought nothing is opened again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The lanes of one broker.
#[derive(Debug)]
pub struct Lanes {
    lanes: Mutex<HashMap<CoordinatorId, Slot>>,
    calls: Semaphore,
    // Their own, so that members who wait do not keep out those who commit.
    held: Semaphore,
    in_flight: Arc<InFlight>,
    kept: Arc<InFlight>,
}

#[derive(Debug)]
struct Slot {
    lane: Lane,
    target: Target,
    failures: u32,
}

/// The callers' ends of one lane.
#[derive(Debug, Clone)]
struct Lane {
    queue: mpsc::Sender<Asked>,
    // One for each call at most, so that it is bounded as they are.
    cancels: mpsc::UnboundedSender<u64>,
    next_id: Arc<AtomicU64>,
    ended: Arc<OnceLock<End>>,
}

/// One attempt at a call.
#[derive(Debug)]
pub struct Attempt {
    /// The group's shard, if it is about one group.
    pub shard: Option<PartitionId>,
    /// Where the client is.
    pub client_host: Arc<str>,
    /// When an answer is no longer of use.
    pub until: Instant,
    /// What is asked.
    pub call: Call,
}

impl Lanes {
    /// Knows nobody yet.
    pub fn new() -> Lanes {
        Lanes {
            lanes: Mutex::default(),
            calls: Semaphore::new(MAX_CALLS),
            held: Semaphore::new(MAX_HELD),
            in_flight: InFlight::new(MAX_CALL_BYTES),
            kept: InFlight::new(MAX_KEPT_BYTES),
        }
    }

    /// Room to keep a call for another try; its own, so that those who wait leave those who do not their room.
    pub fn keep(&self, call: &Call) -> Option<Charge> {
        self.kept.try_charge(size(call))
    }

    /// Asks that coordinator, once. Safe to drop: the coordinator hears of it.
    pub async fn ask(&self, node: &Node, id: CoordinatorId, attempt: Attempt) -> Outcome {
        let Attempt { shard, client_host, until, call } = attempt;
        // A process that stood still finds calls that nobody waits for any more; what they ask may be wrong by now.
        if until <= Instant::now() {
            return Err(Failure::NotSent(unreached(id, "the call came to its turn too late")));
        }
        let is_held = matches!(&call, Call::Heartbeat(beat) if beat.max_wait_ms() > 0);
        let bound = if is_held { &self.held } else { &self.calls };
        let Ok(Ok(_permit)) = tokio::time::timeout_at(until, bound.acquire()).await else {
            return Err(Failure::NotSent(too_much()));
        };
        let Some(charge) = self.in_flight.try_charge(size(&call)) else {
            return Err(Failure::NotSent(too_much()));
        };
        let lane = self.lane(node, id).map_err(Failure::NotSent)?;
        let (answer, answered) = oneshot::channel();
        let number = lane.next_id.fetch_add(1, Ordering::Relaxed);
        let asked = Asked { id: number, shard, client_host, until, call, answer, charge };
        match tokio::time::timeout_at(until, lane.queue.send(asked)).await {
            Ok(Ok(())) => {}
            // It ended just now.
            Ok(Err(_)) => return Err(Failure::NotSent(unreached(id, "its stream has ended"))),
            Err(_) => return Err(Failure::NotSent(too_much())),
        }
        let mut cancel = CancelOnDrop { cancels: &lane.cancels, number, is_armed: true };
        match tokio::time::timeout_at(until, answered).await {
            Ok(outcome) => {
                cancel.is_armed = false;
                outcome.unwrap_or_else(|_| Err(Failure::Lost(unreached(id, "its stream has ended"))))
            }
            Err(_) => Err(Failure::Lost(unreached(id, "it gave no answer in time"))),
        }
    }

    fn lane(&self, node: &Node, id: CoordinatorId) -> Result<Lane, ApiError> {
        let image = node.metadata.image();
        let registered = image.coordinator(id).filter(|known| !known.fenced);
        let registered = registered.ok_or_else(|| unreached(id, "the cluster holds it for gone"))?;
        let target = Target { id, epoch: registered.epoch, endpoint: registered.endpoint.to_string() };
        // A map of handles is whole at every step.
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = 0;
        if let Some(slot) = lanes.get(&id).filter(|slot| slot.target == target) {
            match slot.lane.ended.get() {
                None => return Ok(slot.lane.clone()),
                Some(end) if end.was_of_use => {}
                Some(end) => {
                    let factor = 1u32.checked_shl(slot.failures).unwrap_or(u32::MAX);
                    let pause = FIRST_PAUSE.checked_mul(factor).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
                    if Instant::now() < end.at + pause {
                        return Err(unreached(id, "it was tried a moment ago"));
                    }
                    failures = slot.failures.saturating_add(1);
                }
            }
        }
        let channel = node.dialer.channel(&target.endpoint);
        let channel = channel.map_err(|error| unreached(id, &error.to_string()))?;
        let (queue, queued) = mpsc::channel(QUEUE);
        let (cancels, cancelled) = mpsc::unbounded_channel();
        let ended = Arc::new(OnceLock::new());
        let lane = Lane { queue, cancels, next_id: Arc::new(AtomicU64::new(1)), ended: Arc::clone(&ended) };
        let (metadata, shutdown) = (Arc::clone(&node.metadata), node.shutdown.clone());
        let exchange = Exchange::new(target.clone(), metadata, queued, cancelled, ended, shutdown);
        tokio::spawn(exchange.run(channel));
        // Whoever left the cluster is forgotten with the next that comes.
        lanes.retain(|id, _| image.coordinator(*id).is_some());
        lanes.insert(id, Slot { lane: lane.clone(), target, failures });
        Ok(lane)
    }
}

/// Gives up a call whose caller is gone, so that a held heartbeat does not stay.
struct CancelOnDrop<'a> {
    cancels: &'a mpsc::UnboundedSender<u64>,
    number: u64,
    is_armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            let _ = self.cancels.send(self.number);
        }
    }
}

fn size(call: &Call) -> usize {
    match call {
        Call::Heartbeat(call) => call.encoded_len(),
        Call::CommitOffsets(call) => call.encoded_len(),
        Call::FetchOffsets(call) => call.encoded_len(),
        Call::ListGroups(call) => call.encoded_len(),
        Call::DescribeGroup(call) => call.encoded_len(),
        Call::DeleteGroup(call) => call.encoded_len(),
        Call::DeleteOffsets(call) => call.encoded_len(),
        Call::Cancel(call) => call.encoded_len(),
    }
}

fn too_much() -> ApiError {
    let message = "the broker has as many calls to coordinators under way as it may; retry after a pause";
    ApiError::new(ErrorCode::Throttled, message)
}

fn unreached(id: CoordinatorId, why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::CoordinatorNotAvailable,
        format!("coordinator {id} cannot be reached: {why}; retry"),
    )
}
