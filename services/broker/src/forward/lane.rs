//! One broker's part of a relayed FetchStream: that broker's own stream, in this process or on its internal port.

use crate::node::Node;
use crate::read;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use thalweg_core::BrokerId;
use thalweg_proto::v1::consumer_service_client::ConsumerServiceClient;
use thalweg_proto::v1::fetch_stream_request::Command;
use thalweg_proto::{ApiError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Commands that may be on their way to a broker.
const QUEUE: usize = 64;
/// Room that must be left for the relay's own commands before it takes more from its client.
pub const RESERVED: usize = 16;

/// What a lane brings: its number, and a message or its end.
pub type Event = (u64, Result<v1::PartitionData, Option<Status>>);

/// The sending half of one broker's stream.
#[derive(Debug)]
pub struct Lane {
    /// Tells this lane's events from those of an earlier one to the same broker.
    pub number: u64,
    /// Whether it may send one message.
    pub is_granted: bool,
    /// What its credit lacks for the next message.
    pub debt: usize,
    /// What is left of its credit for records; `None` for any number.
    pub records: Option<i64>,
    /// Whether a command was lost: then the stream no longer does what was asked for.
    pub is_broken: bool,
    commands: mpsc::Sender<v1::FetchStreamRequest>,
}

impl Lane {
    /// Opens a stream to the broker `to`, which may be this one. The answers are polled by whoever has the second half.
    pub fn open(
        node: &Arc<Node>,
        to: BrokerId,
        number: u64,
        start: &v1::FetchStreamStart,
    ) -> Result<(Lane, BoxStream<'static, Event>), ApiError> {
        let (commands, queued) = mpsc::channel(QUEUE);
        let requests = ReceiverStream::new(queued);
        let answers = if to == node.config.node_id {
            read::fetch_stream::serve(Arc::clone(node), requests.map(Ok)).boxed()
        } else {
            let channel = node.peers.stream(node, to)?;
            // A chunk is as large as it was asked for, and a batch may be larger.
            let most = node.config.limits.max_inflated_bytes + node.config.limits.max_chunk_bytes;
            let mut client = ConsumerServiceClient::new(channel).max_decoding_message_size(most);
            let opening = async move { client.fetch_stream(requests).await.map(tonic::Response::into_inner) };
            opening.into_stream().try_flatten().boxed()
        };
        let messages = answers.filter_map(|answer| async move {
            match answer {
                Ok(message) => message.data.map(Ok),
                Err(status) => Some(Err(Some(status))),
            }
        });
        // The first error is the last event.
        let events = messages.chain(stream::once(async { Err(None) })).map(move |event| (number, event));
        let mut lane = Lane { number, is_granted: false, debt: 1, records: None, is_broken: false, commands };
        lane.send(Command::Start(v1::FetchStreamStart { routing: v1::Routing::LeaderOnly as i32, ..*start }));
        Ok((lane, events.boxed()))
    }

    /// Sends a command. One that does not fit, because the broker takes none, breaks the lane.
    pub fn send(&mut self, command: Command) {
        let request = v1::FetchStreamRequest { command: Some(command) };
        self.is_broken |= self.commands.try_send(request).is_err();
    }

    /// Whether a client's command still fits.
    pub fn has_room(&self) -> bool {
        self.is_broken || self.commands.capacity() > RESERVED
    }

    /// Lets it send one more message. `records` is what the client still takes; `None` for any number.
    pub fn grant(&mut self, records: Option<i64>) {
        if self.is_granted {
            return;
        }
        let before = self.records.unwrap_or(0);
        let more = records.map(|left| left.saturating_sub(before).max(0));
        self.records = more.map(|more| before + more);
        let records = more.map(i64::unsigned_abs);
        self.send(Command::Credit(v1::FetchStreamCredit { bytes: self.debt as u64, records }));
        self.is_granted = true;
        self.debt = 0;
    }

    /// Counts a message that it sent.
    pub fn spent(&mut self, bytes: usize, records: u64) {
        self.is_granted = false;
        self.debt = bytes.max(1);
        if let Some(left) = &mut self.records {
            *left = left.saturating_sub(i64::try_from(records).unwrap_or(i64::MAX));
        }
    }
}
