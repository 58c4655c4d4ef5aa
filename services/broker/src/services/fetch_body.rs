//! FetchStream's answers without a copy: what was read from the log goes to HTTP/2 as the same bytes.
//!
//! The generated server encodes each message into one buffer, which copies the batches once more. Here the few fields around
//! them are encoded by themselves:
//!
//! ```text
//!   | gRPC prefix | FetchStreamResponse { PartitionData { topic, offsets .. | record_batches: <len> |   one small frame
//!   | the batches, as they were read                                                               |   the next frame
//! ```
//! On the wire it is what the generated server would have sent; any client reads it.

use super::consumer::Consumer;
use super::messages::Messages;
use crate::in_flight::{Charge, InFlight};
use crate::read;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{Either, FutureExt, Map, Ready, ready};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use thalweg_proto::v1;
use thalweg_proto::v1::partition_data::Data;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_prost::prost::Message;
use tonic_prost::prost::encoding::{encode_varint, encoded_len_varint};

/// The method that is served here.
pub const PATH: &str = "/thalweg.v1.ConsumerService/FetchStream";
/// Batches from this size on are not copied, in bytes. Below it a copy is cheaper than a frame of its own.
const COPY_BELOW: usize = 16 * 1024;
/// Small messages are gathered up to this size, in bytes: a frame.
const GATHER: usize = 64 * 1024;
/// The prefix of a gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// `FetchStreamResponse.data`: field 1, length-delimited.
const TAG_DATA: u8 = (1 << 3) | 2;
/// `PartitionData.record_batches`: field 10, length-delimited.
const TAG_RECORD_BATCHES: u8 = (10 << 3) | 2;

/// Serves FetchStream itself and leaves everything else to the generated server.
#[derive(Clone)]
pub struct FetchBodies<S> {
    inner: S,
    consumer: Arc<Consumer>,
    budget: Arc<InFlight>,
    most: usize,
}

impl<S> FetchBodies<S> {
    /// `most` is the longest request that is read, in bytes; what is half received counts against `budget`.
    pub fn new(inner: S, consumer: Arc<Consumer>, budget: Arc<InFlight>, most: usize) -> FetchBodies<S> {
        FetchBodies { inner, consumer, budget, most }
    }
}

impl<S: NamedService> NamedService for FetchBodies<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for FetchBodies<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Future<Output = Answer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, Map<S::Future, fn(Answer) -> Answer>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Compressed requests are refused by the generated server, as everywhere.
        let plain = request.headers().get("grpc-encoding").is_none_or(|encoding| encoding == "identity");
        if request.uri().path() != PATH || !plain {
            return Either::Right(self.inner.call(request).map(charged as fn(Answer) -> Answer));
        }
        let inbound = Messages::new(request.into_body(), &self.budget, self.most);
        let messages = read::fetch_stream::serve(Arc::clone(&self.consumer.0), inbound);
        let body =
            FetchBody { messages: Box::pin(messages), gathered: BytesMut::new(), whole: None, end: None };
        let mut response = Response::new(Body::new(body));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        Either::Left(ready(Ok(response)))
    }
}

/// Keeps the charge of an answer until its body is gone.
fn charged(answer: Answer) -> Answer {
    answer.map(|mut answer| match answer.extensions_mut().remove::<Arc<Charge>>() {
        Some(charge) => answer.map(|body| Body::new(ChargedBody { body, _charge: charge })),
        None => answer,
    })
}

struct ChargedBody {
    body: Body,
    _charge: Arc<Charge>,
}

impl HttpBody for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

struct FetchBody<M> {
    messages: Pin<Box<M>>,
    // Encoded and not yet sent.
    gathered: BytesMut,
    // Goes behind what is gathered.
    whole: Option<Bytes>,
    // The trailers, once there are no more messages; taken when they were sent.
    end: Option<Option<HeaderMap>>,
}

impl<M> HttpBody for FetchBody<M>
where
    M: futures_util::Stream<Item = Result<v1::FetchStreamResponse, Status>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let body = self.get_mut();
        let frame = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        loop {
            if body.gathered.len() >= GATHER || (body.whole.is_some() && !body.gathered.is_empty()) {
                return frame(body.gathered.split().freeze());
            }
            if let Some(whole) = body.whole.take() {
                return frame(whole);
            }
            if let Some(end) = &mut body.end {
                if !body.gathered.is_empty() {
                    return frame(body.gathered.split().freeze());
                }
                return Poll::Ready(end.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let message = match body.messages.as_mut().poll_next(context) {
                Poll::Pending if !body.gathered.is_empty() => return frame(body.gathered.split().freeze()),
                polled => ready!(polled),
            };
            match message {
                Some(Ok(message)) => body.whole = encode(message, &mut body.gathered),
                Some(Err(status)) => body.end = Some(Some(trailers(&status))),
                None => body.end = Some(Some(trailers(&Status::new(Code::Ok, "")))),
            }
        }
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert("grpc-status", HeaderValue::from(Code::Internal as i32));
    }
    trailers
}

/// Encodes a message with its prefix. What is returned belongs behind it, byte for byte.
fn encode(mut message: v1::FetchStreamResponse, out: &mut BytesMut) -> Option<Bytes> {
    let batches = match &mut message.data {
        Some(v1::PartitionData { data: data @ Some(Data::RecordBatches(_)), .. }) => data.take(),
        _ => None,
    };
    let (Some(Data::RecordBatches(batches)), Some(around)) = (batches, &message.data) else {
        let length = message.encoded_len();
        out.reserve(PREFIX + length);
        prefix(length, out);
        // The buffer has room for it, and grows if not: this cannot fail.
        message.encode(out).expect("a BytesMut takes what it is given");
        return None;
    };
    let inner = around.encoded_len() + 1 + encoded_len_varint(batches.len() as u64) + batches.len();
    let length = 1 + encoded_len_varint(inner as u64) + inner;
    let copied = batches.len() < COPY_BELOW;
    out.reserve(PREFIX + length - if copied { 0 } else { batches.len() });
    prefix(length, out);
    out.put_u8(TAG_DATA);
    encode_varint(inner as u64, out);
    around.encode(out).expect("a BytesMut takes what it is given");
    out.put_u8(TAG_RECORD_BATCHES);
    encode_varint(batches.len() as u64, out);
    if copied {
        out.put_slice(&batches);
        return None;
    }
    Some(batches)
}

fn prefix(length: usize, out: &mut BytesMut) {
    out.put_u8(0);
    // A chunk is bounded far below 4 GiB.
    out.put_u32(u32::try_from(length).expect("a message is shorter than 4 GiB"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: Option<Data>, error: Option<v1::Error>) -> v1::FetchStreamResponse {
        let data = v1::PartitionData {
            topic: "t".into(),
            partition: 3,
            next_offset: 300,
            high_watermark: 1 << 40,
            last_stable_offset: 7,
            log_start_offset: 0,
            tag: 9,
            error,
            data,
        };
        v1::FetchStreamResponse { data: Some(data) }
    }

    #[test]
    fn the_wire_is_what_the_generated_encoder_makes() {
        let sizes = [0, 1, 127, 128, COPY_BELOW - 1, COPY_BELOW, 1 << 20];
        let batches = sizes.map(|size| message(Some(Data::RecordBatches(vec![7; size].into())), None));
        let record = v1::Record { value: Some("v".into()), ..Default::default() };
        let others = [
            message(None, Some(v1::Error { code: 4, ..Default::default() })),
            message(Some(Data::Records(v1::RecordSet { records: vec![record] })), None),
            v1::FetchStreamResponse { data: None },
        ];
        for message in batches.into_iter().chain(others) {
            let mut bytes = BytesMut::new();
            let whole = encode(message.clone(), &mut bytes);
            bytes.extend_from_slice(&whole.unwrap_or_default());
            let expected = message.encode_to_vec();
            assert_eq!(bytes[0], 0);
            assert_eq!(bytes[1..5], u32::try_from(expected.len()).unwrap().to_be_bytes());
            assert_eq!(bytes[5..], expected);
        }
    }
}
