//! FetchStream: one state machine that the response stream polls. It reads while there are credits and data, and sleeps until
//! a mark, a command or the shutdown otherwise.

use super::certain::certain;
use super::fetch::MAX_PARTITIONS;
use super::reader::{Reader, Turn};
use super::{Amount, Format, Terms, bound_of, check_routing};
use crate::node::Node;
use crate::refusal;
use crate::stopping::Stopping;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use std::collections::VecDeque;
use std::sync::Arc;
use thalweg_core::Offset;
use thalweg_proto::{ApiError, v1};
use tonic::Status;

/// Bytes of one message when the client does not say.
const DEFAULT_CHUNK_BYTES: usize = 1024 * 1024;

/// Serves one stream.
pub fn serve<S>(node: Arc<Node>, inbound: S) -> impl Stream<Item = Result<v1::FetchStreamResponse, Status>>
where
    S: Stream<Item = Result<v1::FetchStreamRequest, Status>> + Send + Unpin,
{
    stream::unfold(FetchStream::new(node, inbound), |mut stream| async move {
        let message = stream.next().await?;
        Some((message.map(|data| v1::FetchStreamResponse { data: Some(data) }), stream))
    })
}

struct FetchStream<S> {
    node: Arc<Node>,
    inbound: S,
    stage: Stage,
    credit: Credit,
    refused: VecDeque<v1::PartitionData>,
    // Refusals that are made certain first. The other partitions do not wait for it.
    doubtful: FuturesUnordered<BoxFuture<'static, v1::PartitionData>>,
    stopping: Stopping,
}

enum Stage {
    /// `start` was not said yet.
    New,
    Open {
        // Boxed: the stages differ much in size, and the stream is moved at each step.
        reader: Box<Reader>,
        chunk_bytes: usize,
    },
    Done,
}

/// What may still be sent; the last message may overdraw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Credit {
    bytes: i64,
    records: Option<i64>,
}

impl Credit {
    fn is_left(self) -> bool {
        self.bytes > 0 && self.records.is_none_or(|records| records > 0)
    }

    fn add(&mut self, more: v1::FetchStreamCredit) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add(signed(more.bytes));
        self.records = more.records.map(|records| self.records.unwrap_or(0).saturating_add(signed(records)));
    }

    fn spend(&mut self, bytes: usize, records: impl FnOnce() -> u64) {
        self.bytes = self.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        if let Some(left) = &mut self.records {
            *left = left.saturating_sub(i64::try_from(records()).unwrap_or(i64::MAX));
        }
    }
}

impl<S> FetchStream<S>
where
    S: Stream<Item = Result<v1::FetchStreamRequest, Status>> + Send + Unpin,
{
    fn new(node: Arc<Node>, inbound: S) -> Self {
        let stopping = node.stopping();
        FetchStream {
            node,
            inbound,
            stage: Stage::New,
            credit: Credit::default(),
            refused: VecDeque::new(),
            doubtful: FuturesUnordered::new(),
            stopping,
        }
    }

    async fn next(&mut self) -> Option<Result<v1::PartitionData, Status>> {
        loop {
            if matches!(self.stage, Stage::Done) {
                return None;
            }
            // Asked each time: a reader with a long way to go may never come to wait.
            if self.stopping.has_come() {
                self.stage = Stage::Done;
                return Some(Err(refusal::shutting_down().to_status()));
            }
            if let Some(refused) = self.refused.pop_front() {
                return Some(Ok(refused));
            }
            // Asked each time as well: another partition may have data without end, and there may be no room for commands.
            if let Some(Some(refused)) = self.doubtful.next().now_or_never() {
                return Some(Ok(refused));
            }
            // Commands first: a seek must not wait behind data that it makes worthless.
            if self.doubtful.len() < MAX_PARTITIONS
                && let Some(message) = self.inbound.next().now_or_never()
            {
                if let Err(status) = self.command(message) {
                    return Some(Err(status));
                }
                continue;
            }
            if let Some(data) = self.read() {
                return Some(Ok(data));
            }
            if let Err(status) = self.sleep().await {
                return Some(Err(status));
            }
        }
    }

    fn read(&mut self) -> Option<v1::PartitionData> {
        let Stage::Open { reader, chunk_bytes } = &mut self.stage else { return None };
        if !self.credit.is_left() {
            return None;
        }
        let amount = Amount {
            max_bytes: *chunk_bytes,
            whole_first: true,
            max_records: self.credit.records.map_or(u64::MAX, |records| records.unsigned_abs()),
            until: None,
        };
        loop {
            let Turn { topic, index, tag, outcome, doubt } = reader.next_turn(&self.node, amount)?;
            match (outcome, doubt) {
                (Ok(chunk), _) => {
                    self.credit.spend(chunk.bytes, || chunk.records());
                    return Some(chunk.into_proto(&topic, index, tag));
                }
                (Err(error), None) => return Some(refused(topic, index, tag, &error)),
                (Err(error), Some((partition, epoch))) => {
                    let node = Arc::clone(&self.node);
                    self.doubtful.push(Box::pin(async move {
                        let error = certain(&node, &partition, epoch, error).await;
                        refused(topic, index, tag, &error)
                    }));
                }
            }
        }
    }

    async fn sleep(&mut self) -> Result<(), Status> {
        let credit = self.credit.is_left();
        let reader = match &self.stage {
            Stage::Open { reader, .. } if credit => Some(reader),
            _ => None,
        };
        let marked = async {
            match reader {
                Some(reader) => reader.marked().await,
                None => std::future::pending().await,
            }
        };
        // As many as there are partitions, and no more by asking for the same ones again and again.
        let has_room = self.doubtful.len() < MAX_PARTITIONS;
        let message = tokio::select! {
            biased;
            // First, so that neither a client that sends on and on nor new data keeps it from its turn.
            () = self.stopping.wait() => {
                self.stage = Stage::Done;
                return Err(refusal::shutting_down().to_status());
            }
            message = self.inbound.next(), if has_room => message,
            Some(refused) = self.doubtful.next() => {
                self.refused.push_back(refused);
                return Ok(());
            }
            () = marked => return Ok(()),
        };
        self.command(message)
    }

    /// Does what the client says; an error ends the stream.
    fn command(&mut self, message: Option<Result<v1::FetchStreamRequest, Status>>) -> Result<(), Status> {
        use v1::fetch_stream_request::Command;
        let done = match message {
            None => {
                self.stage = Stage::Done;
                return Ok(());
            }
            Some(Err(status)) => Err(status),
            Some(Ok(request)) => match (request.command, &mut self.stage) {
                (Some(Command::Start(start)), Stage::New) => self.start(start).map_err(Status::from),
                (Some(Command::Start(_)), _) => {
                    Err(ApiError::invalid("start", "start is the first message, once").to_status())
                }
                (_, Stage::New) => {
                    Err(ApiError::invalid("start", "the first message must be start").to_status())
                }
                (Some(Command::Assign(assign)), _) => self.assign(assign).map_err(Status::from),
                (Some(Command::Unassign(unassign)), Stage::Open { reader, .. }) => {
                    for partition in unassign.partitions {
                        reader.unassign(&partition.topic, partition.partition);
                    }
                    Ok(())
                }
                (Some(Command::Credit(more)), _) => {
                    self.credit.add(more);
                    Ok(())
                }
                (None, _) => {
                    Err(ApiError::invalid("command", "say start, assign, unassign or credit").to_status())
                }
                (_, Stage::Done) => Ok(()),
            },
        };
        if done.is_err() {
            self.stage = Stage::Done;
        }
        done
    }

    fn start(&mut self, start: v1::FetchStreamStart) -> Result<(), ApiError> {
        let limits = &self.node.config.limits;
        let chunk_bytes = start.max_chunk_bytes.map_or(DEFAULT_CHUNK_BYTES, |bytes| bytes as usize);
        if chunk_bytes == 0 || chunk_bytes > limits.max_chunk_bytes {
            return Err(ApiError::invalid(
                "start.max_chunk_bytes",
                format!("1 to {} bytes", limits.max_chunk_bytes),
            ));
        }
        check_routing(start.routing)?;
        let terms = Terms {
            format: Format::of(start.format)?,
            bound: bound_of(start.isolation_level)?,
            max_inflated_bytes: limits.max_inflated_bytes,
        };
        self.stage = Stage::Open { reader: Box::new(Reader::new(terms)), chunk_bytes };
        Ok(())
    }

    fn assign(&mut self, assign: v1::FetchStreamAssign) -> Result<(), ApiError> {
        let Stage::Open { reader, .. } = &mut self.stage else { return Ok(()) };
        if assign.partitions.len() > MAX_PARTITIONS {
            return Err(ApiError::invalid(
                "assign.partitions",
                format!("at most {MAX_PARTITIONS} partitions on one stream"),
            ));
        }
        for wanted in assign.partitions {
            if reader.len() >= MAX_PARTITIONS && !reader.has(&wanted.topic, wanted.partition) {
                return Err(ApiError::invalid(
                    "assign.partitions",
                    format!("at most {MAX_PARTITIONS} partitions on one stream"),
                ));
            }
            let found = if wanted.offset < 0 {
                Err(ApiError::invalid(
                    "offset",
                    "an offset is not negative; ListOffsets finds first and last",
                ))
            } else {
                self.node.led_here(&wanted.topic, wanted.partition)
            };
            match found {
                Ok(partition) => reader.assign(&partition, wanted.tag, Offset(wanted.offset), None),
                Err(error) => {
                    reader.unassign(&wanted.topic, wanted.partition);
                    self.refused.push_back(refused(wanted.topic, wanted.partition, wanted.tag, &error));
                }
            }
        }
        Ok(())
    }
}

fn refused(topic: String, partition: i32, tag: u64, error: &ApiError) -> v1::PartitionData {
    v1::PartitionData {
        topic,
        partition,
        next_offset: Offset::NONE.get(),
        high_watermark: Offset::NONE.get(),
        last_stable_offset: Offset::NONE.get(),
        log_start_offset: Offset::NONE.get(),
        tag,
        error: Some(error.to_proto()),
        data: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_spent_and_the_last_message_may_overdraw() {
        let mut credit = Credit::default();
        assert!(!credit.is_left());
        credit.add(v1::FetchStreamCredit { bytes: 10, records: Some(1) });
        assert!(credit.is_left());
        credit.spend(4, || 1);
        assert!(!credit.is_left(), "no records left");
        credit.add(v1::FetchStreamCredit { bytes: 0, records: Some(5) });
        credit.spend(100, || 1);
        assert_eq!(credit, Credit { bytes: -94, records: Some(4) });
        credit.add(v1::FetchStreamCredit { bytes: 94, records: None });
        assert!(!credit.is_left(), "the overdraft is paid first");
        credit.add(v1::FetchStreamCredit { bytes: u64::MAX, records: None });
        assert_eq!(credit, Credit { bytes: i64::MAX, records: None });
    }
}
