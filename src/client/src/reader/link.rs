//! One fetch stream to one leader. It is polled by the reader itself: no task, no queue between.

use super::ReaderConfig;
use super::assignments::{Key, data_len};
use crate::client::Client;
use crate::error::{ClientError, describe};
use crate::net::Purpose;
use crate::proto::consumer_service_client::ConsumerServiceClient;
use crate::proto::fetch_stream_request::Command;
use crate::proto::{self, FetchStreamRequest, FetchStreamResponse, PartitionData};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use thalweg_core::Offset;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;
use tonic::{Status, Streaming};

/// Commands that wait to be encoded, at most.
const COMMAND_QUEUE: usize = 64;
/// The largest message: one batch always comes whole, whatever its size.
const MAX_DATA_MESSAGE: usize = 256 << 20;
/// Credit is given back in this share of the whole.
const CREDIT_SHARE: u64 = 4;

/// A message, or why the stream is gone.
pub(super) type Event = Result<PartitionData, String>;

/// A fetch stream, from before it is open.
pub(super) struct Link {
    commands: PollSender<FetchStreamRequest>,
    /// Commands that wait for the next poll or for room in the queue. At most a few for each partition.
    outbox: VecDeque<FetchStreamRequest>,
    state: State,
    credit: u64,
    /// Bytes that came and whose credit has not been given back.
    spent: u64,
}

enum State {
    Opening(BoxFuture<'static, Result<Streaming<FetchStreamResponse>, ClientError>>),
    Open(Box<Streaming<FetchStreamResponse>>),
}

impl Link {
    pub(super) fn open(client: &Client, endpoint: &Arc<str>, config: &ReaderConfig) -> Link {
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let channel = client.channels().get(Purpose::Fetch, endpoint);
        let limit = client.config().request_timeout;
        let opening = async move {
            let mut service =
                ConsumerServiceClient::new(channel?).max_decoding_message_size(MAX_DATA_MESSAGE);
            let open = service.fetch_stream(ReceiverStream::new(queue));
            match tokio::time::timeout(limit, open).await {
                Ok(stream) => Ok(stream?.into_inner()),
                Err(_) => Err(Status::deadline_exceeded("the fetch stream did not open").into()),
            }
        };
        let start = proto::FetchStreamStart {
            format: proto::RecordFormat::Batches.into(),
            isolation_level: proto::IsolationLevel::from(config.isolation).into(),
            max_chunk_bytes: Some(config.max_chunk_bytes),
            routing: proto::Routing::LeaderOnly.into(),
        };
        let credit = config.credit_bytes;
        let mut link = Link {
            commands: PollSender::new(commands),
            outbox: VecDeque::new(),
            state: State::Opening(Box::pin(opening)),
            credit,
            spent: 0,
        };
        link.command(Command::Start(start));
        link.command(Command::Credit(proto::FetchStreamCredit { bytes: credit, records: None }));
        link
    }

    /// Whether the broker has opened the stream.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    pub(super) fn assign(&mut self, key: &Key, offset: Offset, tag: u64) {
        let (topic, partition) = (key.0.as_str().to_owned(), key.1.get());
        let partition = proto::FetchStreamPartition { topic, partition, offset: offset.get(), tag };
        self.command(Command::Assign(proto::FetchStreamAssign { partitions: vec![partition] }));
    }

    pub(super) fn unassign(&mut self, key: &Key) {
        let partition =
            proto::UnassignedPartition { topic: key.0.as_str().to_owned(), partition: key.1.get() };
        self.command(Command::Unassign(proto::FetchStreamUnassign { partitions: vec![partition] }));
    }

    fn command(&mut self, command: Command) {
        self.outbox.push_back(FetchStreamRequest { command: Some(command) });
    }

    /// Sends what there is room for.
    fn flush(&mut self, cx: &mut Context<'_>) {
        while !self.outbox.is_empty() {
            match self.commands.poll_reserve(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => {
                    if let Some(command) = self.outbox.pop_front() {
                        // Room was kept for it. A stream that has gone meanwhile tells so by its answers.
                        drop(self.commands.send_item(command));
                    }
                }
                Poll::Ready(Err(_)) => self.outbox.clear(),
            }
        }
    }

    /// The next event. After an error the link is to be dropped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.flush(cx);
        loop {
            match &mut self.state {
                State::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(stream)) => self.state = State::Open(Box::new(stream)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(text(&error))),
                },
                State::Open(stream) => {
                    let message = match Pin::new(&mut **stream).poll_next(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(message) => message,
                    };
                    return Poll::Ready(match message {
                        None => Err("the broker ended the stream".to_owned()),
                        Some(Err(status)) => Err(text(&status.into())),
                        Some(Ok(FetchStreamResponse { data: None })) => continue,
                        Some(Ok(FetchStreamResponse { data: Some(data) })) => {
                            self.give_back(data_len(&data));
                            self.flush(cx);
                            Ok(data)
                        }
                    });
                }
            }
        }
    }

    /// The caller takes the message now: so much more may come.
    fn give_back(&mut self, bytes: u64) {
        self.spent += bytes;
        if self.spent >= (self.credit / CREDIT_SHARE).max(1) {
            let bytes = std::mem::take(&mut self.spent);
            self.command(Command::Credit(proto::FetchStreamCredit { bytes, records: None }));
        }
    }
}

fn text(error: &ClientError) -> String {
    match error {
        ClientError::Transport(status) => describe(status),
        other => other.to_string(),
    }
}
