//! Many streams that each hold almost all of a large message cost bounded memory, end, and keep nobody else out.

use super::canary::Canary;
use crate::harness::{Api, Dev, batch, within};
use bytes::Bytes;
use http_body::Frame;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::codec::Codec as ProtoCodec;
use thalweg_proto::{ApiError, v1};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codec::{Codec, Streaming};
use tonic::codegen::{Service, http};
use tonic::{Code, Status};

/// Hostile connections, and streams on each.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 60;
/// What each stream announces; all but one byte of it is sent, as far as the server takes it.
const MESSAGE: usize = 8 << 20;
const PIECE: usize = 256 << 10;
/// What the server may grow by. Half-received messages: 64 MiB, and at most twice that, in buffers that grow by doubling.
/// Unread: a window of 32 MiB for each connection. The rest for the streams themselves and for what the allocator has not
/// given back. The messages would be 1,920 MiB.
const MAX_GROWTH: u64 = (2 * 2 * 64 + CONNECTIONS as u64 * 32 + 64) << 20;
/// A batch that comes in several frames, and so is half received for a while.
const LARGE: usize = 900_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_messages_cost_bounded_memory_and_keep_nobody_out() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    api.create_topic("t", 1, &[]).await;
    let idle = Upload::start(&api, &[]);
    let before = dev.resident_bytes();

    let mut ends = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let hostile = Api::connect(&dev).await;
        for _ in 0..STREAMS {
            let upload = Upload::start(&hostile, &half_message());
            ends.spawn(upload.end());
        }
    }
    let mut how: HashMap<Code, usize> = HashMap::new();
    let (mut peak, mut large, mut refused) = (0, 0, 0);
    let honest = Api::connect(&dev).await;
    while !ends.is_empty() {
        peak = peak.max(dev.resident_bytes());
        // Small ones are never refused; large ones may be, and are told to come again.
        honest.produce_values("t", 0, &["small"]).await.expect("small requests are served");
        match honest.produce_batch("t", 0, batch(&[&[b'x'; LARGE]])).await {
            Ok(_) => large += 1,
            Err(status) => {
                let error = ApiError::from_status(&status).unwrap_or_else(|| panic!("{status:?}"));
                assert_eq!(error.code, ErrorCode::Throttled, "{error}");
                refused += 1;
            }
        }
        while let Ok(Some(end)) = tokio::time::timeout(Duration::from_millis(20), ends.join_next()).await {
            let status = end.unwrap();
            *how.entry(status.code()).or_default() += 1;
        }
    }
    println!("resident: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
    println!("the streams ended with {how:?}; {large} large requests served, {refused} refused meanwhile");
    assert!(peak < before + MAX_GROWTH, "{before} bytes before, {peak} at most");
    assert!(large > 0, "large requests are served in between");
    // Those who kept others waiting are throttled; whoever is left stalls.
    assert_eq!(how.values().sum::<usize>(), CONNECTIONS * STREAMS);
    assert!(how.contains_key(&Code::ResourceExhausted), "{how:?}");
    assert!(
        how.keys().all(|code| [Code::ResourceExhausted, Code::DeadlineExceeded].contains(code)),
        "{how:?}"
    );

    // A stream that has begun no message may be silent for as long, and then go on.
    idle.pieces
        .send(message(&v1::ProduceStreamRequest { correlation_id: 7, produce: None, ..Default::default() }))
        .unwrap();
    let mut answers = within("an answer", idle.answers).await.unwrap();
    for _ in 0..2 {
        within("a message", answers.message()).await.unwrap().expect("it goes on");
    }
    canary.sings(&api).await;
}

/// A message that lacks its last byte.
fn half_message() -> Vec<Bytes> {
    let mut prefix = vec![0];
    prefix.extend_from_slice(&u32::try_from(MESSAGE).unwrap().to_be_bytes());
    // All streams share the memory on this side.
    let piece = Bytes::from_static(&[0; PIECE]);
    let mut pieces = vec![prefix.into()];
    pieces.extend(std::iter::repeat_n(piece.clone(), MESSAGE / PIECE - 1));
    pieces.push(piece.slice(1..));
    pieces
}

fn message(request: &v1::ProduceStreamRequest) -> Bytes {
    assert!(request.produce.is_none() && request.correlation_id < 128);
    let field = [1 << 3, request.correlation_id as u8];
    [&[0, 0, 0, 0, 2][..], &field].concat().into()
}

/// A ProduceStream whose bytes are made by hand.
struct Upload {
    pieces: mpsc::UnboundedSender<Bytes>,
    answers: Pin<Box<dyn Future<Output = Result<Streaming<v1::ProduceStreamResponse>, Status>> + Send>>,
}

impl Upload {
    fn start(api: &Api, first: &[Bytes]) -> Upload {
        let (pieces, inbound) = mpsc::unbounded_channel();
        first.iter().for_each(|piece| pieces.send(piece.clone()).unwrap());
        let request = http::Request::post("http://test/thalweg.v1.ProducerService/ProduceStream")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Pieces(inbound)))
            .unwrap();
        let mut channel = api.channel.clone();
        let answers = tokio::spawn(async move {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
            let response = channel.call(request).await.map_err(|error| Status::from_error(error.into()))?;
            if let Some(status) = Status::from_header_map(response.headers()) {
                return Err(status);
            }
            let decoder =
                ProtoCodec::<v1::ProduceStreamRequest, v1::ProduceStreamResponse>::default().decoder();
            let code = response.status();
            Ok(Streaming::new_response(decoder, response.into_body(), code, None, None))
        });
        Upload { pieces, answers: Box::pin(async move { answers.await.unwrap() }) }
    }

    /// How the server ends it.
    async fn end(self) -> Status {
        // Lives as long as the call: the request has no end of its own.
        let _pieces = self.pieces;
        let mut answers = match within("an answer", self.answers).await {
            Ok(answers) => answers,
            Err(status) => return status,
        };
        loop {
            match within("the end", answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("half a message is no clean end"),
                Err(status) => return status,
            }
        }
    }
}

/// A body of what is sent, until the sender is gone.
struct Pieces(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
