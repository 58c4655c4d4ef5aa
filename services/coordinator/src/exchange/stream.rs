//! One broker's stream: a state machine that the response polls, so that a broker that does not read is not read either.

use super::lane::Lane;
use super::route::dispatch;
use super::units;
use crate::node::Node;
use crate::serving::Message;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic_prost::prost::Message as _;

/// Calls in one message at most.
const MAX_CALLS: usize = 10_000;
/// What a call takes beside its bytes.
const CALL_BYTES: usize = 768;

/// Serves one stream.
pub fn serve<S>(
    node: Arc<Node>,
    inbound: S,
) -> impl Stream<Item = Result<internal::ExchangeResponse, Status>> + Send
where
    S: Stream<Item = Result<internal::ExchangeRequest, Status>> + Send + Unpin + 'static,
{
    let state = Exchange { node, inbound, lane: Arc::default(), held: None, end: None, is_broken: false };
    stream::unfold(state, |mut state| async move {
        let message = state.next().await?;
        Some((message, state))
    })
}

/// A message that waits for its part of the budget.
struct Held {
    calls: Vec<internal::GroupCall>,
    charge: BoxFuture<'static, Option<OwnedSemaphorePermit>>,
}

struct Exchange<S> {
    node: Arc<Node>,
    inbound: S,
    lane: Arc<Lane>,
    held: Option<Held>,
    // No more calls are taken; once all are answered the stream ends so. `Some(None)`: it has ended.
    end: Option<Option<Result<(), Status>>>,
    // Nobody reads the answers to what is open.
    is_broken: bool,
}

impl<S> Exchange<S>
where
    S: Stream<Item = Result<internal::ExchangeRequest, Status>> + Send + Unpin,
{
    async fn next(&mut self) -> Option<Result<internal::ExchangeResponse, Status>> {
        loop {
            let replies = self.lane.take();
            if !replies.is_empty() {
                return Some(Ok(internal::ExchangeResponse { replies }));
            }
            if let Some(end) = &mut self.end
                && self.held.is_none()
                && (self.lane.is_idle() || self.is_broken)
            {
                return end.take().and_then(Result::err).map(Err);
            }
            tokio::select! {
                biased;
                () = self.lane.rung() => {}
                () = self.node.shutdown.triggered(), if self.end.is_none() => {
                    let message = "the coordinator is stopping; its shards go to others";
                    let error = ApiError::new(thalweg_core::ErrorCode::ShuttingDown, message);
                    self.end = Some(Some(Err(error.to_status())));
                }
                charge = charged(&mut self.held) => self.go_on(charge),
                message = self.inbound.next(), if self.held.is_none() && self.end.is_none() => self.take_in(message),
            }
        }
    }

    fn take_in(&mut self, message: Option<Result<internal::ExchangeRequest, Status>>) {
        let calls = match message {
            Some(Ok(request)) => request.calls,
            Some(Err(status)) => {
                self.break_off(status);
                return;
            }
            None => {
                self.end = Some(Some(Ok(())));
                return;
            }
        };
        if calls.len() > MAX_CALLS {
            let error = ApiError::invalid("calls", format!("a message has at most {MAX_CALLS} calls"));
            self.break_off(error.to_status());
            return;
        }
        let budget = Arc::clone(&self.node.budget);
        // Never more than there is: a large message alone goes through.
        let most = units(self.node.config.limits.in_flight_bytes) / 2;
        let wanted = calls.iter().map(weight).sum::<usize>().min(most);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let charge = Box::pin(async move { budget.acquire_many_owned(wanted).await.ok() });
        self.held = Some(Held { calls, charge });
    }

    fn break_off(&mut self, status: Status) {
        self.end = Some(Some(Err(status)));
        self.is_broken = true;
    }

    fn go_on(&mut self, charge: Option<OwnedSemaphorePermit>) {
        // The semaphore is never closed.
        let (Some(held), Some(mut charge)) = (self.held.take(), charge) else { return };
        let calls = held.calls.into_iter().filter_map(|call| {
            let own = weight(&call).min(charge.num_permits());
            Some((call, charge.split(own)?))
        });
        dispatch(&self.node, &self.lane, calls);
    }
}

fn weight(call: &internal::GroupCall) -> usize {
    units(call.encoded_len() + CALL_BYTES)
}

async fn charged(held: &mut Option<Held>) -> Option<OwnedSemaphorePermit> {
    match held {
        Some(held) => (&mut held.charge).await,
        None => std::future::pending().await,
    }
}

impl<S> Drop for Exchange<S> {
    fn drop(&mut self) {
        // Nobody waits for these any more.
        let mut gone: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (shard, call) in self.lane.close() {
            gone.entry(shard).or_default().push(call);
        }
        for (shard, calls) in gone {
            let _ = self.node.shards.send(shard, Message::Cancel(calls));
        }
    }
}
