//! This broker's own ProduceStream, as the forwarding one uses it.

use crate::node::Node;
use crate::produce::fence::Writer;
use crate::produce::stream as own;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use thalweg_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Requests that are handed to this broker's own stream before it takes them.
const HANDED_OVER: usize = 1;

/// What a client sends.
pub type Inbound = Result<v1::ProduceStreamRequest, Status>;
/// What it is told.
pub type Outbound = Result<v1::ProduceStreamResponse, Status>;

/// This broker's own stream, fed one request after the other.
pub struct Local {
    /// `None` once no more is handed over.
    pub requests: Option<mpsc::Sender<Inbound>>,
    /// What it answers, in order.
    pub answers: BoxStream<'static, Outbound>,
}

impl Local {
    /// Opens it.
    pub fn open(node: &Arc<Node>) -> Local {
        let (requests, queued) = mpsc::channel(HANDED_OVER);
        // Its own first message was said already.
        let answers =
            own::serve(Arc::clone(node), ReceiverStream::new(queued), Writer::Client).skip(1).boxed();
        Local { requests: Some(requests), answers }
    }

    /// Gives it a request. There must be room.
    pub fn hand_over(&self, request: v1::ProduceStreamRequest) {
        if let Some(requests) = &self.requests {
            let _ = requests.try_send(Ok(request));
        }
    }
}

/// Waits until the local stream takes another request.
pub async fn room(requests: Option<mpsc::Sender<Inbound>>) {
    if let Some(requests) = requests {
        let _ = requests.reserve().await;
    }
}

/// Its next answer, if it is open; else waits for ever.
pub async fn next_of(answers: Option<&mut BoxStream<'static, Outbound>>) -> Option<Outbound> {
    match answers {
        Some(answers) => answers.next().await,
        None => std::future::pending().await,
    }
}
