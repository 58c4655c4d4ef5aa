//! The unary Produce: append, wait, answer.

use super::fence::Writer;
use super::{Accepted, Appender, timed_out, weight};
use crate::node::Node;
use crate::refusal;
use crate::trace;
use thalweg_core::{ErrorCode, Offset};
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// Serves one call. `deadline` is when the answer must leave, if the call has one.
pub async fn produce(
    node: &Node,
    request: v1::ProduceRequest,
    writer: Writer,
    deadline: Option<Instant>,
) -> Result<v1::ProduceResponse, ApiError> {
    let Some(_charge) = node.in_flight.try_charge(weight(&request)) else {
        return Err(ApiError::new(
            ErrorCode::Throttled,
            "the broker holds as many bytes of unacknowledged records as it may; retry after a pause",
        ));
    };
    let silent = request.acks == v1::Acks::None as i32;
    let partition = request.partition.unwrap_or(-1);
    let caller = trace::current(node.replicas.tracing());
    let accepted = match Appender::new(writer).append(node, request, caller, node.clock.now()) {
        Ok(accepted) => accepted,
        Err(error) if silent => {
            tracing::debug!(%error, "a produce request without acks was refused");
            return Ok(v1::ProduceResponse { results: vec![unseen(partition)], positions: Vec::new() });
        }
        Err(error) => return Err(error),
    };
    if accepted.is_settled() {
        return accepted.answer(timed_out);
    }
    let until = Instant::now() + accepted.timeout;
    let until = deadline.map_or(until, |deadline| until.min(deadline));
    tokio::select! {
        () = settle(&accepted) => accepted.answer(timed_out),
        () = tokio::time::sleep_until(until) => accepted.answer(timed_out),
        () = node.last_call() => accepted.answer(refusal::shutting_down),
    }
}

/// Waits until nothing is left to wait for.
async fn settle(accepted: &Accepted) {
    while let Some(write) = accepted.waiting().next() {
        let (session, registration) = write.partition.wait_here();
        loop {
            registration.acknowledge();
            if !write.is_waiting(accepted.acks) {
                break;
            }
            session.marked().await;
            session.take_ready(&mut Vec::new());
        }
    }
}

fn unseen(partition: i32) -> v1::ProduceResult {
    v1::ProduceResult {
        partition,
        base_offset: Offset::NONE.get(),
        last_offset: Offset::NONE.get(),
        log_append_time_ms: -1,
        ..Default::default()
    }
}
