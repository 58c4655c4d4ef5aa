//! A stream of requests, read off its body.
//!
//! The transport's own reader keeps the memory of the largest message until the stream ends, and nothing counts half a
//! message. This one counts what it holds, and gives back its buffer when the peer pauses. A message that came in one
//! piece is not copied.

use super::half_received::HalfReceived;
use crate::in_flight::InFlight;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use http_body::Body as HttpBody;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use thalweg_proto::scan;
use thalweg_runtime::framing::PREFIX_BYTES;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_prost::prost::Message;

/// A message of up to this length, in bytes, gets its memory as soon as it is announced; a longer one as it comes.
const BELIEVED: usize = 2 * 1024 * 1024;

/// The messages of one request.
pub struct Messages<T> {
    // `None` once it has ended, one way or the other.
    body: Option<Body>,
    // What came and was not looked at.
    rest: Bytes,
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    // The length of the message whose prefix is complete.
    length: Option<usize>,
    gathered: BytesMut,
    held: HalfReceived,
    most: usize,
    // Whether a peer that gives up is told from one that has said all.
    tells_cancel: bool,
    message: PhantomData<fn() -> T>,
}

impl<T> Messages<T> {
    /// Reads `body`; what is half received counts against `budget`, and a message has at most `most` bytes.
    pub fn new(body: Body, budget: &Arc<InFlight>, most: usize) -> Messages<T> {
        Messages {
            body: Some(body),
            rest: Bytes::new(),
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            length: None,
            gathered: BytesMut::new(),
            held: HalfReceived::new(budget),
            most,
            tells_cancel: false,
            message: PhantomData,
        }
    }

    /// Ends with an error, not as if all were said, when the peer gives up.
    pub fn telling_cancel(self) -> Messages<T> {
        Messages { tells_cancel: true, ..self }
    }

    /// The next whole message's bytes, if they are here; otherwise all that is here has been taken in.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        let length = match self.length {
            Some(length) => length,
            None => {
                let taken = (PREFIX_BYTES - self.prefix_len).min(self.rest.len());
                self.rest.copy_to_slice(&mut self.prefix[self.prefix_len..self.prefix_len + taken]);
                self.prefix_len += taken;
                if self.prefix_len < PREFIX_BYTES {
                    return Ok(None);
                }
                let [compressed, length @ ..] = self.prefix;
                let length = u32::from_be_bytes(length) as usize;
                if compressed != 0 {
                    return Err(Status::internal("a message is marked as compressed in a call that is not"));
                }
                if length > self.most {
                    let most = self.most;
                    let text = format!("a message of {length} bytes, the limit is {most} bytes");
                    return Err(Status::out_of_range(text));
                }
                *self.length.insert(length)
            }
        };
        let missing = length - self.gathered.len();
        let message = if self.gathered.is_empty() && missing <= self.rest.len() {
            self.rest.split_to(length)
        } else if missing <= self.rest.len() {
            self.gathered.extend_from_slice(&self.rest.split_to(missing));
            self.gathered.split().freeze()
        } else {
            let wanted =
                if length <= BELIEVED { length } else { 2 * (self.gathered.len() + self.rest.len()) };
            let wanted = wanted.clamp(BELIEVED.min(length), length);
            if self.gathered.capacity() < wanted {
                self.gathered.reserve(wanted - self.gathered.len());
            }
            self.gathered.extend_from_slice(&self.rest);
            self.rest = Bytes::new();
            return Ok(None);
        };
        (self.prefix_len, self.length) = (0, None);
        Ok(Some(message))
    }

    fn half_received(&self) -> usize {
        self.prefix_len + self.gathered.len()
    }

    /// Ends the stream, and gives back everything.
    fn end(&mut self) {
        self.body = None;
        (self.rest, self.gathered) = (Bytes::new(), BytesMut::new());
        (self.prefix_len, self.length) = (0, None);
        self.held.clear();
    }

    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(message) = self.cut()? {
                self.held.clear();
                return Poll::Ready(Some(Ok(message)));
            }
            let half = self.half_received();
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            if half > 0 {
                self.held.hold(half)?;
                ready!(self.held.poll_room(context))?;
            }
            let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
                if half > 0 {
                    return self.held.poll_overdue(context).map(|status| Some(Err(status)));
                }
                // The last message's memory is kept for the next one only if that comes at once.
                self.rest = Bytes::new();
                self.gathered = BytesMut::new();
                return Poll::Pending;
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest = data;
                    }
                }
                // The peer has given up: nobody waits for an answer.
                Some(Err(status)) if status.code() == Code::Cancelled && !self.tells_cancel => {
                    return Poll::Ready(None);
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if half > 0 => {
                    let status = Status::internal("the request ended in the middle of a message");
                    return Poll::Ready(Some(Err(status)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<T: Message + Default + 'static> Stream for Messages<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let bytes = ready!(self.poll_bytes(context));
        let message = bytes.map(|bytes| bytes.and_then(decode::<T>));
        if !matches!(message, Some(Ok(_))) {
            self.end();
        }
        Poll::Ready(message)
    }
}

fn decode<T: Message + Default + 'static>(bytes: Bytes) -> Result<T, Status> {
    scan::check::<T>(&bytes).map_err(|error| error.to_status())?;
    T::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt, stream};
    use http_body::Frame;
    use thalweg_core::ErrorCode;
    use thalweg_proto::{ApiError, v1};

    const MOST: usize = 1 << 20;

    /// A body of these pieces, after which nothing comes.
    struct Pieces<S>(S);

    impl<S: Stream<Item = Bytes> + Unpin> HttpBody for Pieces<S> {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_next_unpin(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn messages(
        bytes: &[u8],
        step: usize,
        ends: bool,
        budget: &Arc<InFlight>,
    ) -> Messages<v1::ProduceStreamRequest> {
        let pieces: Vec<_> = bytes.chunks(step).map(Bytes::copy_from_slice).collect();
        let pieces = stream::iter(pieces);
        let body = match ends {
            true => Body::new(Pieces(pieces)),
            false => Body::new(Pieces(pieces.chain(stream::pending()))),
        };
        Messages::new(body, budget, MOST)
    }

    fn request(id: u64, size: usize) -> v1::ProduceStreamRequest {
        let payload = Some(v1::produce_request::Payload::RecordBatch(vec![7; size].into()));
        let produce = Some(v1::ProduceRequest { topic: "t".into(), payload, ..Default::default() });
        v1::ProduceStreamRequest { correlation_id: id, produce, ..Default::default() }
    }

    fn framed(requests: &[v1::ProduceStreamRequest]) -> Vec<u8> {
        let mut out = Vec::new();
        for request in requests {
            let bytes = request.encode_to_vec();
            out.push(0);
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
            out.extend_from_slice(&bytes);
        }
        out
    }

    #[tokio::test]
    async fn messages_come_whole_however_the_body_is_cut() {
        let requests =
            [request(1, 0), request(2, 300), v1::ProduceStreamRequest::default(), request(3, 5000)];
        let bytes = framed(&requests);
        for step in [1, 2, 5, 7, 300, 311, 5000, bytes.len()] {
            let budget = InFlight::new(MOST);
            let read: Vec<_> = messages(&bytes, step, true, &budget).map(Result::unwrap).collect().await;
            assert_eq!(read, requests, "{step}");
            assert_eq!(budget.used(), 0);
        }
    }

    #[tokio::test]
    async fn half_a_message_counts_until_it_is_whole_or_given_up() {
        let bytes = framed(&[request(1, 100_000)]);
        let budget = InFlight::new(MOST);
        let mut half = messages(&bytes[..60_000], 1000, false, &budget);
        assert!(half.next().now_or_never().is_none());
        assert_eq!(budget.used(), 60_000);
        drop(half);
        assert_eq!(budget.used(), 0);

        let mut whole = messages(&bytes, 1000, false, &budget);
        assert!(whole.next().await.unwrap().is_ok());
        assert_eq!(budget.used(), 0);
        assert!(whole.next().now_or_never().is_none(), "a pause is allowed");
        assert_eq!((whole.gathered.capacity(), whole.half_received()), (0, 0), "and costs no memory");
    }

    #[tokio::test]
    async fn who_holds_too_much_is_told_and_holds_nothing_then() {
        let bytes = framed(&[request(1, 100_000)]);
        let budget = InFlight::new(20_000);
        let others = budget.charge(10_000);
        let mut half = messages(&bytes, 60_000, false, &budget);
        let status = half.next().await.unwrap().unwrap_err();
        assert_eq!(ApiError::from_status(&status).unwrap().code, ErrorCode::Throttled);
        assert_eq!((budget.used(), half.gathered.capacity()), (10_000, 0));
        assert!(half.next().await.is_none(), "it has ended");
        // What comes in one piece is never half received.
        let _full = budget.charge(100_000);
        assert!(messages(&bytes, bytes.len(), true, &budget).next().await.unwrap().is_ok());
        drop(others);
    }

    #[tokio::test]
    async fn bad_bodies_are_refused() {
        let bytes = framed(&[request(1, 1000)]);
        let code = |bytes: Vec<u8>| async move {
            let budget = InFlight::new(MOST);
            messages(&bytes, 100, true, &budget).next().await.unwrap().unwrap_err().code()
        };
        assert_eq!(code(bytes[..500].to_vec()).await, Code::Internal);
        assert_eq!(code(bytes[..3].to_vec()).await, Code::Internal);
        assert_eq!(code([&[1], &bytes[1..]].concat()).await, Code::Internal);
        assert_eq!(code(vec![0, 0xff, 0xff, 0xff, 0xff]).await, Code::OutOfRange);
        assert_eq!(code(vec![0, 0, 0, 0, 1, 0xff]).await, Code::Internal);
    }
}
