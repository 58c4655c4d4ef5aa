//! One shard's task: from the lease to its end.

use super::early::Early;
use super::load::load;
use super::renew::renew;
use super::waiting::Waiting;
use super::write::{Encoded, Times, WriteError, Writer};
use super::{Call, Message};
use crate::node::Node;
use crate::shard::{CallId, ClusterTopics, Output, Shard, ShardCall, WriteId, record_bytes};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::{GroupRecord, lease_marker};
use thalweg_core::metadata::ShardLease;
use thalweg_core::metadata::command::Refusal;
use thalweg_core::planted::{Bug, planted};
use thalweg_core::{ErrorCode, TopicPartition};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_runtime::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Messages that one turn of the loop takes.
const TURN: usize = 256;
/// A tick that comes later than this says that the whole process stood still: members were not heard, which is not their fault.
const LATE: Duration = Duration::from_millis(500);
/// A batch's bound where the topic's is not known.
const DEFAULT_BATCH_BYTES: usize = 1 << 20;

/// A lease, and what comes with it.
#[derive(Debug)]
pub struct Lease {
    /// The partition.
    pub at: TopicPartition,
    /// The lease.
    pub lease: ShardLease,
    /// What the shard is asked.
    pub inbox: mpsc::UnboundedReceiver<Message>,
    /// Triggered when the lease is over.
    pub over: Shutdown,
}

/// Loads a shard and serves it until its lease is over.
pub async fn serve(node: Arc<Node>, lease: Lease) {
    let Lease { at, lease, inbox, over } = lease;
    let intervals = &node.config.intervals;
    let times = Times {
        acks: intervals.write_acks,
        open: intervals.leader_call,
        retry_first: intervals.retry_first,
        retry_most: intervals.retry_most,
    };
    let writer = Writer::new(Arc::clone(&node.leaders), at.clone(), lease, times);
    let topics = node.topics.subscribe();
    let (waiting, born) = (Waiting::default(), Instant::now());
    let mut task = Task { node, at, lease, inbox, over, writer, topics, waiting, born };
    let ended = match task.take_over().await {
        Ok((shard, early)) => task.run(shard, early).await,
        Err(ended) => ended,
    };
    task.end(ended).await;
}

/// Why a shard is served no longer.
enum Ended {
    /// The lease is over.
    Over(Box<Option<Serving>>),
    /// The writer cannot go on.
    Write(WriteError),
}

struct Task {
    node: Arc<Node>,
    at: TopicPartition,
    lease: ShardLease,
    inbox: mpsc::UnboundedReceiver<Message>,
    over: Shutdown,
    writer: Writer,
    topics: watch::Receiver<Arc<ClusterTopics>>,
    waiting: Waiting,
    born: Instant,
}

/// A shard that is loaded.
struct Serving {
    shard: Shard,
    out: Output,
    // Records that wait for room at the writer.
    unwritten: Vec<(WriteId, Vec<GroupRecord>)>,
    // Bytes of those, and of the answers that wait with them.
    backlog: usize,
    // When something was handed to the writer.
    wrote: Instant,
    // Nothing was written for long.
    marker_due: bool,
    under_way: VecDeque<Submission>,
    // Answers that wait for nothing more.
    ready: Vec<Told>,
    // Answers that are good only if the shard was still this process's when they were made. The next write that becomes durable
    // shows it: the log would have refused it otherwise.
    unproven: Vec<Told>,
}

/// What follows when a submission is durable.
struct Submission {
    upto: Option<WriteId>,
    // The answers that were unproven when it was submitted.
    proves: Vec<Told>,
}

/// A call and its answer.
type Told = (CallId, Result<Reply, Refusal>);

impl Task {
    /// Writes the marker and loads the shard. Calls that come meanwhile wait.
    async fn take_over(&mut self) -> Result<(Shard, Early), Ended> {
        let mut early = Early::new(self.node.config.limits.early_bytes);
        let marker = self.marker();
        self.writer.submit(&[marker], self.batch_bytes(), self.node.clock.now());
        let marker = loop {
            tokio::select! {
                biased;
                () = self.over.triggered() => return Err(Ended::Over(Box::new(None))),
                written = self.writer.next() => match written {
                    Ok(offset) => break offset,
                    Err(error) => return Err(Ended::Write(error)),
                },
                Some(message) = self.inbox.recv() => early.take(message, &mut self.waiting),
                () = sleep_until(self.waiting.next_deadline()) => early.expire(Instant::now(), &mut self.waiting),
                Ok(()) = self.topics.changed() => self.writer.metadata_changed(),
            }
        };
        tracing::debug!(shard = %self.at, epoch = %self.lease.epoch, %marker, "the shard's log is this coordinator's");
        let node = Arc::clone(&self.node);
        let at = self.at.clone();
        let loaded = async {
            // The semaphore is never closed.
            let _turn = node.loads.acquire().await;
            load(&node, &at, marker).await
        };
        tokio::pin!(loaded);
        loop {
            tokio::select! {
                biased;
                () = self.over.triggered() => return Err(Ended::Over(Box::new(None))),
                shard = &mut loaded => return Ok((shard, early)),
                Some(message) = self.inbox.recv() => early.take(message, &mut self.waiting),
                () = sleep_until(self.waiting.next_deadline()) => early.expire(Instant::now(), &mut self.waiting),
            }
        }
    }

    async fn run(&mut self, shard: Shard, early: Early) -> Ended {
        let mut serving = Serving {
            shard,
            out: Output::default(),
            unwritten: Vec::new(),
            backlog: 0,
            // The marker, just now.
            wrote: Instant::now(),
            marker_due: false,
            under_way: VecDeque::new(),
            ready: Vec::new(),
            unproven: Vec::new(),
        };
        serving.shard.start(self.node.now());
        self.node.shards.set_served(self.at.partition, self.lease.epoch);
        let mut topics = Arc::clone(&self.topics.borrow_and_update());
        serving.shard.topics_changed(&*topics, self.node.now(), &mut serving.out);
        for (id, call) in early.into_calls() {
            self.handle(&mut serving, id, call, &topics);
        }
        let mut messages = Vec::with_capacity(TURN);
        loop {
            self.pass_on(&mut serving);
            let wake = serving.shard.next_wake().map(|at| self.node.started + at);
            let marker_at = serving.wrote + self.node.config.intervals.marker;
            let Serving { shard, out, .. } = &mut serving;
            tokio::select! {
                biased;
                () = self.over.triggered() => return Ended::Over(Box::new(Some(serving))),
                written = self.writer.next() => match written {
                    Ok(_) => serving.durable(&self.node),
                    Err(error) => return Ended::Write(error),
                },
                Ok(()) = self.topics.changed() => {
                    topics = Arc::clone(&self.topics.borrow_and_update());
                    self.writer.metadata_changed();
                    shard.topics_changed(&*topics, self.node.now(), out);
                }
                () = sleep_until(wake) => {
                    let late = wake.map_or(Duration::ZERO, |wake| wake.elapsed());
                    if late > LATE {
                        tracing::warn!(shard = %self.at, ?late, "the coordinator stood still; members get that time back");
                        // And what is on its way still has to come in.
                        shard.postpone(late + LATE);
                        // What came meanwhile was in time.
                        while messages.len() < TURN && let Ok(message) = self.inbox.try_recv() {
                            messages.push(message);
                        }
                        self.take_in(&mut serving, &mut messages, &topics);
                    }
                    let Serving { shard, out, .. } = &mut serving;
                    shard.tick(&*topics, self.node.now(), out);
                }
                () = tokio::time::sleep_until(marker_at) => {
                    serving.wrote = Instant::now();
                    serving.marker_due = true;
                }
                () = sleep_until(self.waiting.next_deadline()) => {
                    let message = "the answer was not durable in time; what was asked may happen yet";
                    self.waiting.expire(Instant::now(), &ApiError::new(ErrorCode::RequestTimedOut, message));
                }
                // Last: calls that come without a pause must not keep the others from their turn.
                count = self.inbox.recv_many(&mut messages, TURN) => {
                    if count == 0 {
                        // Only this task's lease holds the other end: it is over.
                        return Ended::Over(Box::new(Some(serving)));
                    }
                    self.take_in(&mut serving, &mut messages, &topics);
                }
            }
        }
    }

    fn take_in(&mut self, serving: &mut Serving, messages: &mut Vec<Message>, topics: &ClusterTopics) {
        for message in messages.drain(..) {
            match message {
                Message::Calls(calls) => {
                    for Call { id, what, answer, until } in calls {
                        self.waiting.add(id, answer, until);
                        self.handle(serving, id, what, topics);
                    }
                }
                Message::Cancel(ids) => {
                    for id in ids {
                        self.handle(serving, id, ShardCall::Cancel, topics);
                    }
                }
            }
        }
    }

    fn handle(&mut self, serving: &mut Serving, id: CallId, call: ShardCall, topics: &ClusterTopics) {
        if serving.backlog > self.node.config.limits.backlog_bytes && call.needs_write() {
            if let Some(answer) = self.waiting.take(id) {
                let message = "the log of groups takes no writes at the moment; retry";
                answer.give(Err(ApiError::new(ErrorCode::CoordinatorNotAvailable, message)));
            }
            return;
        }
        let is_heartbeat = matches!(call, ShardCall::Heartbeat { .. });
        serving.shard.handle(id, call, topics, self.node.now(), &mut serving.out);
        if !self.writer.has_room() {
            serving.set_aside();
        }
        if is_heartbeat {
            self.waiting.shrink(id);
        }
    }

    /// Hands records to the writer, and answers to their callers.
    fn pass_on(&mut self, serving: &mut Serving) {
        self.node.tally.count(std::mem::take(&mut serving.out.counts));
        let doubtful = self.node.membership.may_be_fenced(self.node.config.intervals.session);
        for (id, reply) in std::mem::take(&mut serving.out.replies) {
            if doubtful || needs_proof(&reply) {
                serving.prove(id, reply);
            } else {
                serving.ready.push((id, reply));
            }
        }
        serving.set_aside();
        let Serving { shard, unwritten, under_way, ready, unproven, .. } = serving;
        let wanted = !unwritten.is_empty() || !unproven.is_empty() || serving.marker_due;
        if wanted && self.writer.has_room() {
            (serving.backlog, serving.wrote, serving.marker_due) = (0, Instant::now(), false);
            let upto = unwritten.last().map(|(id, _)| *id);
            let records = unwritten.drain(..).flat_map(|(_, records)| records);
            let mut records: Vec<Encoded> = records.map(|record| record.encode()).collect();
            if records.is_empty() {
                records.push(self.marker());
            }
            if let Some(upto) = upto.filter(|_| planted(Bug::CommitBeforeDurable)) {
                let mut early = Output::default();
                shard.durable(upto, self.node.now(), &mut early);
                ready.append(&mut early.replies);
            }
            under_way.push_back(Submission { upto, proves: std::mem::take(unproven) });
            self.writer.submit(&records, self.batch_bytes(), self.node.clock.now());
        }
        self.answer(ready);
    }

    fn answer(&mut self, replies: &mut Vec<Told>) {
        for (id, reply) in replies.drain(..) {
            if let Err(refusal) = &reply {
                self.node.tally.refused(refusal.code);
            }
            // One whose time was over was refused.
            if let Some(answer) = self.waiting.take(id) {
                answer.give(reply.map_err(|refusal| refused(&refusal)));
            }
        }
    }

    fn marker(&self) -> Encoded {
        let (key, value) = lease_marker(self.lease.epoch, self.node.config.node_id);
        (key, Some(value))
    }

    fn batch_bytes(&self) -> usize {
        let image = self.node.metadata.image();
        image
            .topic(self.at.topic.as_str())
            .map_or(DEFAULT_BATCH_BYTES, |topic| topic.config.max_message_bytes)
    }

    async fn end(mut self, ended: Ended) {
        self.node.shards.close(self.at.partition, self.lease.epoch);
        let mut lost = false;
        match ended {
            Ended::Over(serving) => {
                tracing::debug!(shard = %self.at, epoch = %self.lease.epoch, "the shard's lease is over");
                if let Some(serving) = *serving {
                    let within = self.node.config.intervals.hand_over;
                    let _ = tokio::time::timeout(within, self.finish(serving)).await;
                }
            }
            Ended::Write(WriteError::Fenced(error)) => {
                tracing::info!(shard = %self.at, epoch = %self.lease.epoch, %error, "another has the shard");
            }
            Ended::Write(WriteError::Lost(error)) => {
                tracing::error!(
                    shard = %self.at, epoch = %self.lease.epoch, %error,
                    "a write was refused; the shard is loaded again, under a new lease"
                );
                lost = true;
            }
        }
        let moved = not_here(&self.node, &self.at);
        self.waiting.refuse(&moved);
        self.inbox.close();
        while let Ok(message) = self.inbox.try_recv() {
            if let Message::Calls(calls) = message {
                calls.into_iter().for_each(|call| call.answer.give(Err(moved.clone())));
            }
        }
        if lost {
            renew(&self.node, &self.at, &self.lease, &self.over, self.born).await;
        }
    }

    /// Waits for the writes under way, and answers those whose records are durable. The next owner finds them in the log.
    async fn finish(&mut self, mut serving: Serving) {
        while !self.writer.is_idle() && self.writer.next().await.is_ok() {
            serving.durable(&self.node);
            self.answer(&mut serving.ready);
        }
    }
}

impl Serving {
    /// The oldest submission is durable.
    fn durable(&mut self, node: &Node) {
        let Some(Submission { upto, proves }) = self.under_way.pop_front() else { return };
        self.ready.extend(proves);
        let Some(upto) = upto else { return };
        let mut out = Output::default();
        self.shard.durable(upto, node.now(), &mut out);
        self.out.writes.append(&mut out.writes);
        // What waited for this very write stands; what was asked after it was sent is not shown by it.
        for (id, reply) in out.replies {
            if needs_proof(&reply) { self.prove(id, reply) } else { self.ready.push((id, reply)) }
        }
    }

    /// Counts what is to be written.
    fn set_aside(&mut self) {
        let records = self.out.writes.iter().flat_map(|(_, records)| records);
        self.backlog += records.map(record_bytes).sum::<usize>();
        self.unwritten.append(&mut self.out.writes);
    }

    /// The answer leaves with the next write that becomes durable.
    fn prove(&mut self, id: CallId, reply: Result<Reply, Refusal>) {
        self.backlog += std::mem::size_of::<Told>() + reply.as_ref().map_or(0, Reply::encoded_len);
        self.unproven.push((id, reply));
    }
}

/// Whether an answer would be wrong, and not only old, if another had the shard by now: whoever begins to read at an offset that
/// another has moved on from reads twice, and sees it go back. Whether this process still has the shard is for the log to say,
/// not for the metadata, which may be late.
fn needs_proof(reply: &Result<Reply, Refusal>) -> bool {
    matches!(reply, Ok(Reply::FetchOffsets(_)))
}

fn refused(refusal: &Refusal) -> ApiError {
    let error = ApiError::new(refusal.code, refusal.message.clone());
    match &refusal.field {
        Some(field) => error.with_field(field.clone()),
        None => error,
    }
}

/// What callers of a shard are told that is not served here.
pub fn not_here(node: &Node, at: &TopicPartition) -> ApiError {
    let image = node.metadata.image();
    let owner = image.lease(at).and_then(|lease| lease.coordinator).filter(|id| *id != node.config.node_id);
    let message = match owner.and_then(|id| image.coordinator(id)) {
        Some(owner) => format!("coordinator {} serves {at}, at {}", owner.id, owner.endpoint),
        None => format!("coordinator {} does not serve {at}", node.config.node_id),
    };
    ApiError::new(ErrorCode::NotCoordinator, message)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
