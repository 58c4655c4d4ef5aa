//! Subscribe: a member's whole life on one stream.
//!
//! ```text
//!   client ── commands ──► ┌──────────────┐ ── heartbeats, commits ──► the coordinator
//!                          │ one task     │
//!   client ◄── two ahead ──└──────────────┘ ◄── records, by credit ─── the leaders (relay)
//! ```
//! The task lives by itself, so that a client that does not read still has its heartbeats. It takes data from the relay only when
//! the client's side has room, and reads the client on only when what it said before is on its way; so what it holds is bounded,
//! whatever either end does.

mod commits;
mod member;
mod parts;
mod progress;
mod streams;

pub use streams::Streams;

use super::call::Caller;
use super::options::Options;
use crate::node::Node;
use crate::refusal;
use futures_util::{Stream, StreamExt};
use member::Subscription;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::v1::subscribe_request::Command;
use thalweg_proto::{ApiError, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Messages that were made and are not taken by the transport.
const AHEAD: usize = 2;
/// How soon it is looked whether a leader has taken the commands that it was sent, while no more of them fit.
const RECHECK: Duration = Duration::from_millis(5);
/// For the last messages to be taken by a client that has said goodbye.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Bytes of one message when the client does not say.
const DEFAULT_CHUNK_BYTES: u32 = 1024 * 1024;

type Out = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// Serves one stream.
pub fn serve<S>(
    node: Arc<Node>,
    host: Arc<str>,
    inbound: S,
) -> impl Stream<Item = Result<v1::SubscribeResponse, Status>> + use<S>
where
    S: Stream<Item = Result<v1::SubscribeRequest, Status>> + Send + Unpin + 'static,
{
    let (out, answers) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        // Who is gone is not said goodbye to: the member stays until its session ends, and may come back.
        let ended = tokio::select! {
            biased;
            ended = run(node, host, inbound, &out) => ended,
            () = out.closed() => return,
        };
        if let Err(status) = ended {
            let _ = tokio::time::timeout(LAST_WORDS, out.send(Err(status))).await;
        }
    });
    ReceiverStream::new(answers)
}

async fn run<S>(node: Arc<Node>, host: Arc<str>, mut inbound: S, out: &Out) -> Result<(), Status>
where
    S: Stream<Item = Result<v1::SubscribeRequest, Status>> + Send + Unpin,
{
    let mut stopping = node.stopping();
    let first = tokio::select! {
        biased;
        () = stopping.wait() => return Err(refusal::shutting_down().to_status()),
        first = inbound.next() => first,
    };
    let Some(first) = first.transpose()? else { return Ok(()) };
    let Some(Command::Start(start)) = first.command else {
        return Err(ApiError::invalid("start", "the first message must be start").to_status());
    };
    let caller = Caller { host, deadline: None };
    let (options, fetch) = check(&node, start)?;
    let mut place = node.groups.streams.begin(options.options.group.clone(), options.options.member.clone());
    let mut subscription = Subscription::new(Arc::clone(&node), caller, options, fetch);
    let mut inbound = Some(inbound);
    let mut room = None;
    loop {
        subscription.advance();
        if let Some(ended) = subscription.take_end() {
            drop(room);
            last_words(out, &mut subscription).await;
            return ended.map_err(Status::from);
        }
        if room.is_some()
            && let Some(event) = subscription.next_event()
            && let Some(permit) = room.take()
        {
            let permit: mpsc::Permit<'_, _> = permit;
            permit.send(Ok(v1::SubscribeResponse { event: Some(event) }));
            continue;
        }
        let is_read = subscription.has_room();
        let wake = subscription.next_wake();
        let wake = if is_read { wake } else { wake.min(Instant::now() + RECHECK) };
        let (has_room, wants_room) = (room.is_some(), subscription.has_something_to_send());
        tokio::select! {
            biased;
            () = stopping.wait() => return Err(refusal::shutting_down().to_status()),
            () = place.replaced() => return Err(taken_over().to_status()),
            // Commands before data: a seek must not wait behind data that it makes worthless.
            said = said(&mut inbound), if is_read => match said {
                Some(Ok(message)) => subscription.said(message).map_err(Status::from)?,
                Some(Err(status)) => return Err(status),
                None => subscription.goodbye(),
            },
            permit = out.reserve(), if !has_room && wants_room => match permit {
                Ok(permit) => room = Some(permit),
                Err(_) => return Ok(()),
            },
            data = subscription.turn(has_room) => if let Some(data) = data {
                subscription.read(data);
            },
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// What the relay is to be told.
struct Checked {
    options: Options,
    revoke: Duration,
}

fn check(node: &Node, start: v1::SubscribeStart) -> Result<(Checked, v1::FetchStreamStart), ApiError> {
    let most = node.config.limits.max_chunk_bytes;
    let chunk =
        start.max_chunk_bytes.unwrap_or(DEFAULT_CHUNK_BYTES.min(u32::try_from(most).unwrap_or(u32::MAX)));
    if chunk == 0 || chunk as usize > most {
        return Err(ApiError::invalid("start.max_chunk_bytes", format!("1 to {most} bytes")));
    }
    let options = Options::of(start.options, "start.options")?;
    let revoke = start.revoke_timeout_ms.map(|ms| Duration::from_millis(ms.into()));
    let revoke = revoke.unwrap_or(options.rebalance);
    if revoke.is_zero() || revoke > options.rebalance {
        let message = "a member has 1 ms to max_poll_interval_ms to give back what was revoked";
        return Err(ApiError::invalid("start.revoke_timeout_ms", message));
    }
    let fetch = v1::FetchStreamStart {
        format: options.format,
        isolation_level: options.isolation,
        max_chunk_bytes: Some(chunk),
        routing: v1::Routing::AnyBroker as i32,
    };
    Ok((Checked { options, revoke }, fetch))
}

async fn said<S>(inbound: &mut Option<S>) -> Option<Result<v1::SubscribeRequest, Status>>
where
    S: Stream<Item = Result<v1::SubscribeRequest, Status>> + Send + Unpin,
{
    let Some(stream) = inbound else { return std::future::pending().await };
    let said = stream.next().await;
    if said.is_none() {
        *inbound = None;
    }
    said
}

async fn last_words(out: &Out, subscription: &mut Subscription) {
    let until = Instant::now() + LAST_WORDS;
    while let Some(event) = subscription.next_event() {
        let message = Ok(v1::SubscribeResponse { event: Some(event) });
        if !matches!(tokio::time::timeout_at(until, out.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn taken_over() -> ApiError {
    let message = "another stream speaks for this member now; give each process a member id of its own";
    ApiError::new(ErrorCode::FencedMemberEpoch, message)
}
