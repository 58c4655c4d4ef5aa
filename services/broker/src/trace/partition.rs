//! The traced batches of one partition that are not committed yet.

use super::waiting::{End, Waiting};
use super::{Tracing, attributes};
use crate::replicas::{Partition, Role};
use opentelemetry::trace::{Span, SpanBuilder, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use thalweg_client::trace::to_wire;
use thalweg_core::{BrokerId, LeaderEpoch, Offset};
use thalweg_log::Appended;
use thalweg_proto::internal::v1 as internal;

/// Traced batches of a partition that may wait for their commit. Beyond, a batch has its append span only.
pub const MAX_WAITING: usize = 64;

/// Of one partition. While none waits, a look costs one load.
#[derive(Debug, Default)]
pub struct Traces {
    tracing: Tracing,
    count: AtomicUsize,
    waiting: Mutex<Vec<Waiting<Context>>>,
}

/// A batch that was appended.
#[derive(Debug)]
pub struct TracedBatch {
    pub(super) leader_epoch: LeaderEpoch,
    waiting: Waiting<Context>,
}

impl TracedBatch {
    /// Its spans, which begin with the append.
    pub(super) fn new(
        tracing: &Tracing,
        append: &Context,
        since: SystemTime,
        partition: &Partition,
        role: &Role,
        appended: &Appended,
    ) -> TracedBatch {
        let at = partition.topic_partition();
        let start = |operation: &'static str, more: Option<KeyValue>| {
            let builder = SpanBuilder::from_name(format!("{operation} {}", at.topic)).with_start_time(since);
            // One that the tracer does not want is an empty context: then nothing comes of it.
            let Some(mut span) = tracing.start(builder, append) else { return Context::new() };
            span.set_attributes(attributes(operation, at, role.leader, role.leader_epoch).chain(more));
            span.set_attribute(KeyValue::new("thalweg.offset", appended.base_offset.get()));
            append.with_span(span)
        };
        let followers = role.isr.iter().filter(|id| **id != role.leader);
        let replicate = |id: &BrokerId| {
            let follower = KeyValue::new("thalweg.follower.id", i64::from(id.get()));
            (*id, start("replicate", Some(follower)))
        };
        let followers = followers.map(replicate).collect();
        let waiting = Waiting::new(appended.last_offset, start("commit", None), followers);
        TracedBatch { leader_epoch: role.leader_epoch, waiting }
    }

    /// The epoch in which it was appended.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }
}

impl Traces {
    /// None yet.
    pub fn new(tracing: Tracing) -> Traces {
        Traces { tracing, ..Traces::default() }
    }

    /// The tracer.
    pub fn tracing(&self) -> &Tracing {
        &self.tracing
    }

    /// Whether any batch waits.
    #[inline]
    pub fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// A batch waits from now on.
    pub fn add(&self, batch: TracedBatch) {
        let mut waiting = self.lock();
        if waiting.len() < MAX_WAITING {
            waiting.push(batch.waiting);
            self.count.store(waiting.len(), Ordering::Relaxed);
        } else {
            drop(waiting);
            end_all([batch.waiting], "too many traced batches wait in this partition");
        }
    }

    /// A follower or the high watermark has come further.
    #[cold]
    pub fn look(&self, high_watermark: Offset, end_of: impl Fn(BrokerId) -> Option<Offset>) {
        let mut waiting = self.lock();
        waiting.retain_mut(|batch| !batch.look(high_watermark, &end_of, over));
        self.count.store(waiting.len(), Ordering::Relaxed);
    }

    /// This broker no longer leads in that epoch: nobody here will see what becomes of the batches.
    pub fn leave(&self) {
        if self.is_any() {
            let all = std::mem::take(&mut *self.lock());
            self.count.store(0, Ordering::Relaxed);
            end_all(
                all,
                "the leader changed before the batch was committed; it may or may not have survived",
            );
        }
    }

    /// What a follower is to be told of the batches that it is sent.
    pub fn carried(&self, follower: BrokerId, sent: Range<Offset>) -> Vec<internal::BatchTrace> {
        if !self.is_any() {
            return Vec::new();
        }
        let waiting = self.lock();
        let sent = waiting.iter().filter(|batch| sent.contains(&batch.last()));
        sent.filter_map(|batch| {
            let span = batch.follower(follower)?.span().span_context().clone();
            let last_offset = batch.last().get();
            span.is_valid().then(|| internal::BatchTrace { last_offset, context: Some(to_wire(&span)) })
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting<Context>>> {
        // The list is whole at every step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn over(span: &Context, end: End) {
    let span = span.span();
    if end == End::LeftBehind {
        span.set_status(Status::error("the batch was committed without this follower"));
    }
    span.end();
}

fn end_all(batches: impl IntoIterator<Item = Waiting<Context>>, why: &'static str) {
    for context in batches.into_iter().flat_map(Waiting::into_spans) {
        let span = context.span();
        span.set_status(Status::error(why));
        span.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_client::trace::{parse, remote};

    /// Spans that nobody records, of a batch that ends there.
    fn batch(last: i64) -> TracedBatch {
        let span = |n: u64| {
            let told = format!("00-0af7651916cd43dd8448eb211c80319c-{n:016x}-01");
            remote(parse(&told, "").unwrap())
        };
        let number = last.unsigned_abs() * 10;
        let followers = vec![(BrokerId(2), span(number + 2)), (BrokerId(3), span(number + 3))];
        let waiting = Waiting::new(Offset(last), span(number + 9), followers);
        TracedBatch { leader_epoch: LeaderEpoch(1), waiting }
    }

    fn carried(traces: &Traces, follower: i32, sent: Range<i64>) -> Vec<(i64, String)> {
        let carried = traces.carried(BrokerId(follower), Offset(sent.start)..Offset(sent.end));
        let told = |trace: internal::BatchTrace| (trace.last_offset, trace.context.unwrap().traceparent);
        carried.into_iter().map(told).collect()
    }

    #[test]
    fn a_follower_is_told_of_the_batches_that_it_is_sent_and_lacks() {
        let traces = Traces::new(Tracing::off());
        assert!(!traces.is_any() && carried(&traces, 2, 0..100).is_empty());
        traces.add(batch(4));
        traces.add(batch(9));
        let told = |n: u64| format!("00-0af7651916cd43dd8448eb211c80319c-{n:016x}-01");
        assert_eq!(carried(&traces, 2, 0..5), [(4, told(42))]);
        assert_eq!(carried(&traces, 3, 0..10), [(4, told(43)), (9, told(93))]);
        assert!(carried(&traces, 3, 5..9).is_empty(), "the batch is not whole");
        assert!(carried(&traces, 4, 0..10).is_empty(), "another follower");
        traces.look(Offset(0), |id| (id == BrokerId(2)).then_some(Offset(5)));
        assert!(carried(&traces, 2, 0..5).is_empty());
        traces.look(Offset(5), |_| None);
        assert_eq!(carried(&traces, 3, 0..10), [(9, told(93))], "the first one is committed");
        traces.leave();
        assert!(!traces.is_any() && carried(&traces, 3, 0..10).is_empty());
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let traces = Traces::new(Tracing::off());
        (0..100).for_each(|last| traces.add(batch(last)));
        assert_eq!(carried(&traces, 2, 0..100).len(), MAX_WAITING);
        traces.look(Offset(100), |_| None);
        assert!(!traces.is_any());
    }
}
