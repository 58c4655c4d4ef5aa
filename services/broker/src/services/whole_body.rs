//! Answers of a stream without a copy: batches that were read from the log, or are still in memory, go to HTTP/2 as the same
//! bytes.
//!
//! The generated server encodes each message into one buffer, which copies the batches once more. Here the few fields around
//! them are encoded by themselves:
//!
//! ```text
//!   | gRPC prefix | Response { Inner { offsets .. | batches: <len> |   one small frame
//!   | the batches, as they were read                               |   the next frames, one for each large piece
//! ```
//! On the wire it is what the generated server would have sent; any client reads it.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_prost::prost::Message;
use tonic_prost::prost::encoding::{encode_varint, encoded_len_varint};

/// Batches from this size on are not copied, in bytes. Below it a copy is cheaper than a frame of its own.
pub const COPY_BELOW: usize = 16 * 1024;
/// Small messages are gathered up to this size, in bytes: a frame.
const GATHER: usize = 64 * 1024;
/// The prefix of a gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A response whose only field is one inner message, which may hold batches in its last field.
pub trait Whole {
    /// The response as the wire knows it.
    type Message: Message;
    /// The inner message.
    type Inner: Message;
    /// The tag byte of the inner message's field: field number and wire type.
    const TAG_INNER: u8;
    /// The tag byte of the batches in the inner message. A field of a higher number would go before them,
    /// which every decoder takes.
    const TAG_BATCHES: u8;

    /// Takes the batches out, and gives what is around them; `None` if there are none, and nothing was taken.
    fn take_batches(&mut self) -> Option<(Batches, &Self::Inner)>;

    /// The response, where there are no batches.
    fn message(&self) -> &Self::Message;
}

/// Batches of a message, one behind the other.
#[derive(Debug)]
pub enum Batches {
    /// In one piece.
    One(Bytes),
    /// Cut anywhere.
    Pieces(Vec<Bytes>),
}

impl Batches {
    fn bytes(&self) -> usize {
        match self {
            Batches::One(batches) => batches.len(),
            Batches::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }
}

/// What belongs behind an encoded message.
#[derive(Debug, Default)]
pub struct Behind {
    next: Option<Bytes>,
    others: std::vec::IntoIter<Bytes>,
}

impl Behind {
    fn of(batches: Batches) -> Behind {
        match batches {
            Batches::One(next) => Behind { next: Some(next), others: Vec::new().into_iter() },
            Batches::Pieces(pieces) => {
                let mut others = pieces.into_iter();
                Behind { next: others.next(), others }
            }
        }
    }

    /// Moves small pieces to what is gathered, up to a frame of them or the next large piece.
    fn gather(&mut self, gathered: &mut BytesMut) {
        while let Some(piece) = self.next.take_if(|piece| piece.len() < COPY_BELOW && gathered.len() < GATHER)
        {
            gathered.put_slice(&piece);
            self.next = self.others.next();
        }
    }

    fn is_empty(&self) -> bool {
        self.next.is_none()
    }

    fn pop(&mut self) -> Option<Bytes> {
        let piece = self.next.take()?;
        self.next = self.others.next();
        Some(piece)
    }
}

/// Whether a call comes as this module's answers go: not compressed.
pub fn is_plain(request: &Request<Body>) -> bool {
    request.headers().get("grpc-encoding").is_none_or(|encoding| encoding == "identity")
}

/// The answer to a call: a stream of messages.
pub fn respond<M, W>(messages: M) -> Response<Body>
where
    M: Stream<Item = Result<W, Status>> + Send + 'static,
    W: Whole + 'static,
{
    let body = WholeBody {
        messages: Box::pin(messages),
        gathered: BytesMut::new(),
        behind: Behind::default(),
        end: None,
    };
    let mut response = Response::new(Body::new(body));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

struct WholeBody<M> {
    messages: Pin<Box<M>>,
    // Encoded and not yet sent.
    gathered: BytesMut,
    // Goes behind what is gathered.
    behind: Behind,
    // The trailers, once there are no more messages; taken when they were sent.
    end: Option<Option<HeaderMap>>,
}

impl<M, W> HttpBody for WholeBody<M>
where
    M: Stream<Item = Result<W, Status>>,
    W: Whole,
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
            body.behind.gather(&mut body.gathered);
            if body.gathered.len() >= GATHER || (!body.behind.is_empty() && !body.gathered.is_empty()) {
                return frame(body.gathered.split().freeze());
            }
            if let Some(piece) = body.behind.pop() {
                return frame(piece);
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
                Some(Ok(message)) => body.behind = encode(message, &mut body.gathered),
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
pub fn encode<W: Whole>(mut message: W, out: &mut BytesMut) -> Behind {
    let Some((batches, around)) = message.take_batches() else {
        let message = message.message();
        let length = message.encoded_len();
        out.reserve(PREFIX + length);
        prefix(length, out);
        // The buffer has room for it, and grows if not: this cannot fail.
        message.encode(out).expect("a BytesMut takes what it is given");
        return Behind::default();
    };
    let size = batches.bytes();
    let inner = around.encoded_len() + 1 + encoded_len_varint(size as u64) + size;
    let length = 1 + encoded_len_varint(inner as u64) + inner;
    let copied = size < COPY_BELOW;
    out.reserve(PREFIX + length - if copied { 0 } else { size });
    prefix(length, out);
    out.put_u8(W::TAG_INNER);
    encode_varint(inner as u64, out);
    around.encode(out).expect("a BytesMut takes what it is given");
    out.put_u8(W::TAG_BATCHES);
    encode_varint(size as u64, out);
    Behind::of(batches)
}

fn prefix(length: usize, out: &mut BytesMut) {
    out.put_u8(0);
    // A chunk is bounded far below 4 GiB.
    out.put_u32(u32::try_from(length).expect("a message is shorter than 4 GiB"));
}

/// Checks that a message is encoded as the generated server does.
#[cfg(test)]
pub fn assert_same_wire<W: Whole + Message + Clone>(message: &W) {
    assert_wire(message.clone(), message);
}

/// Checks that a message is encoded as the generated server encodes `expected`.
#[cfg(test)]
pub fn assert_wire<W: Whole>(message: W, expected: &impl Message) {
    let mut bytes = BytesMut::new();
    let mut behind = encode(message, &mut bytes);
    while let Some(piece) = behind.pop() {
        bytes.extend_from_slice(&piece);
    }
    let expected = expected.encode_to_vec();
    assert_eq!(bytes[0], 0);
    assert_eq!(bytes[1..5], u32::try_from(expected.len()).unwrap().to_be_bytes());
    assert_eq!(bytes[5..], expected);
}
