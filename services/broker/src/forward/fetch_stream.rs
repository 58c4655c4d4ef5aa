//! FetchStream for clients that know one broker only.

use super::relay::Relay;
use crate::node::Node;
use crate::read::fetch::MAX_PARTITIONS;
use crate::read::{Format, bound_of, fetch_stream};
use crate::refusal;
use crate::stopping::Stopping;
use futures_util::future::Either;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use thalweg_proto::v1::fetch_stream_request::Command;
use thalweg_proto::{ApiError, v1};
use tonic::Status;

/// How soon it is looked whether a broker has taken the commands that it was sent, while no more of them fit.
const RECHECK: Duration = Duration::from_millis(5);

/// Serves one stream. What a leader alone is to serve, or nobody, is left to this broker's own.
pub fn serve<S>(
    node: Arc<Node>,
    mut inbound: S,
) -> impl Stream<Item = Result<v1::FetchStreamResponse, Status>>
where
    S: Stream<Item = Result<v1::FetchStreamRequest, Status>> + Send + Unpin,
{
    let opening = async move {
        let mut stopping = node.stopping();
        let first = tokio::select! {
            biased;
            () = stopping.wait() => None,
            first = inbound.next() => first,
        };
        match &first {
            Some(Ok(v1::FetchStreamRequest { command: Some(Command::Start(start)) }))
                if is_relayed(&node, start) =>
            {
                let relayed = Relayed { relay: Relay::new(node, *start), inbound, stopping, done: false };
                Either::Right(stream::unfold(relayed, |mut relayed| async move {
                    let message = relayed.next().await?;
                    Some((message.map(|data| v1::FetchStreamResponse { data: Some(data) }), relayed))
                }))
            }
            _ => Either::Left(fetch_stream::serve(node, stream::iter(first).chain(inbound))),
        }
    };
    opening.flatten_stream()
}

/// What is wrong with the start is told by this broker's own stream.
fn is_relayed(node: &Node, start: &v1::FetchStreamStart) -> bool {
    let any = v1::Routing::try_from(start.routing).is_ok_and(|routing| routing != v1::Routing::LeaderOnly);
    let chunk = start.max_chunk_bytes.map_or(1, |bytes| bytes as usize);
    any && (1..=node.config.limits.max_chunk_bytes).contains(&chunk)
        && Format::of(start.format).is_ok()
        && bound_of(start.isolation_level).is_ok()
}

struct Relayed<S> {
    relay: Relay,
    inbound: S,
    stopping: Stopping,
    done: bool,
}

impl<S> Relayed<S>
where
    S: Stream<Item = Result<v1::FetchStreamRequest, Status>> + Send + Unpin,
{
    async fn next(&mut self) -> Option<Result<v1::PartitionData, Status>> {
        while !self.done {
            let room = self.relay.has_room();
            let message = tokio::select! {
                biased;
                () = self.stopping.wait() => {
                    self.done = true;
                    return Some(Err(refusal::shutting_down().to_status()));
                }
                // Commands first: a seek must not wait behind data that it makes worthless.
                message = self.inbound.next(), if room => message,
                data = self.relay.next() => return Some(Ok(data)),
                // Room comes by itself; this only looks again.
                () = tokio::time::sleep(RECHECK), if !room => continue,
            };
            match self.command(message) {
                Ok(()) => {}
                Err(status) => {
                    self.done = true;
                    return Some(Err(status));
                }
            }
        }
        None
    }

    fn command(&mut self, message: Option<Result<v1::FetchStreamRequest, Status>>) -> Result<(), Status> {
        let Some(message) = message else {
            self.done = true;
            return Ok(());
        };
        match message?.command {
            Some(Command::Start(_)) => Err(wrong("start", "start is the first message, once")),
            Some(Command::Assign(assign)) => self.assign(assign).map_err(Status::from),
            Some(Command::Unassign(unassign)) => {
                let partitions = unassign.partitions.into_iter();
                self.relay.unassign(partitions.map(|partition| (partition.topic, partition.partition)));
                Ok(())
            }
            Some(Command::Credit(more)) => {
                self.relay.allow(more);
                Ok(())
            }
            None => Err(wrong("command", "say start, assign, unassign or credit")),
        }
    }

    fn assign(&mut self, assign: v1::FetchStreamAssign) -> Result<(), ApiError> {
        let new = assign.partitions.iter().filter(|p| !self.relay.has(&p.topic, p.partition)).count();
        if assign.partitions.len() > MAX_PARTITIONS || self.relay.len() + new > MAX_PARTITIONS {
            return Err(ApiError::invalid(
                "assign.partitions",
                format!("at most {MAX_PARTITIONS} partitions on one stream"),
            ));
        }
        self.relay.assign(assign.partitions);
        Ok(())
    }
}

fn wrong(field: &str, message: &str) -> Status {
    ApiError::invalid(field, message).to_status()
}
