//! Uploads that stop half-way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http_body::{Body as HttpBody, Frame};
use thalweg_runtime::ServerConfig;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codec::{Codec, Streaming};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceExt};

use crate::echo::{PATIENCE, Server, TALK, UNARY, unary};

const TIMEOUT: Duration = Duration::from_millis(150);
/// Many times what would end a stalled upload.
const LONG_SILENCE: Duration = Duration::from_millis(600);

/// A body of whatever is sent, until the sender is dropped.
struct Sent(mpsc::Receiver<Bytes>);

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = Status;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A call whose bytes are sent by hand.
struct Call {
    pieces: mpsc::Sender<Bytes>,
    answers: Streaming<String>,
}

async fn call(channel: &Channel, path: &str, first: &[u8]) -> Call {
    let (pieces, inbound) = mpsc::channel(1);
    pieces.send(Bytes::copy_from_slice(first)).await.unwrap();
    let mut request = http::Request::post(path).body(Body::new(Sent(inbound))).unwrap();
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let uri = format!("http://test{path}").parse().unwrap();
    *request.uri_mut() = uri;
    let mut channel = channel.clone();
    let sent = channel.ready().await.unwrap().call(request);
    let response = tokio::time::timeout(PATIENCE, sent).await.expect("the call is answered").unwrap();
    // A refusal before the first answer stands in the head.
    let status = Status::from_header_map(response.headers());
    let code = response.status();
    let decoder = ProstCodec::<String, String>::default().decoder();
    let answers = match status {
        Some(status) => {
            let mut trailers = http::HeaderMap::new();
            status.add_header(&mut trailers).unwrap();
            Streaming::new_response(decoder, Body::new(Trailers(Some(trailers))), code, None, None)
        }
        None => Streaming::new_response(decoder, response.into_body(), code, None, None),
    };
    Call { pieces, answers }
}

struct Trailers(Option<http::HeaderMap>);

impl HttpBody for Trailers {
    type Data = Bytes;
    type Error = Status;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Call {
    async fn next(&mut self) -> Option<Result<String, Status>> {
        tokio::time::timeout(PATIENCE, self.answers.next()).await.expect("an answer in time")
    }
}

/// The message of a text, as it is on the wire.
fn message(text: &str) -> Vec<u8> {
    let field = [&[1 << 3 | 2, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0, 0, 0, 0, u8::try_from(field.len()).unwrap()], field.as_slice()].concat()
}

#[tokio::test]
async fn a_request_that_stops_half_way_is_ended() {
    let server = Server::start(ServerConfig { stall_timeout: Some(TIMEOUT), ..ServerConfig::default() });
    let channel = server.connect().await;
    let whole = message("hello");
    // Within a single request, before the end of one, and within a stream's second message.
    let stopped = [
        (UNARY, whole[..7].to_vec()),
        (UNARY, whole.clone()),
        (TALK, whole[..3].to_vec()),
        (TALK, [&whole[..], &whole[..9]].concat()),
    ];
    for (path, bytes) in stopped {
        let mut call = call(&channel, path, &bytes).await;
        let mut last = call.next().await.expect("an end");
        if last.is_ok() {
            last = call.next().await.expect("an end");
        }
        assert_eq!(last.unwrap_err().code(), Code::DeadlineExceeded, "{path} {bytes:?}");
    }
    server.wait_live(0).await;
    unary(&channel, UNARY, None).await.unwrap();
}

#[tokio::test]
async fn a_stream_may_be_silent_between_its_messages() {
    let server = Server::start(ServerConfig { stall_timeout: Some(TIMEOUT), ..ServerConfig::default() });
    let mut call = call(&server.connect().await, TALK, &message("one")).await;
    assert_eq!(call.next().await.unwrap().unwrap(), "one");
    tokio::time::sleep(LONG_SILENCE).await;
    assert!(call.answers.next().now_or_never().is_none());
    for piece in message("two").chunks(4) {
        call.pieces.send(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(call.next().await.unwrap().unwrap(), "two");
}
