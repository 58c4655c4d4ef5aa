//! What a leader sends, in the pieces in which it came.
//!
//! The generated client gathers each message in one buffer before it decodes it, which copies every batch once. Here the few
//! fields around the batches are decoded, and the batches stay as they came from HTTP/2: they are written to the log like that.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body::Body as HttpBody;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use thalweg_core::metadata::limits::MAX_PARTITIONS;
use thalweg_proto::codec::Codec as ProtoCodec;
use thalweg_proto::internal::v1::{PartitionNews, ReplicateRequest, ReplicateResponse};
use thalweg_runtime::framing::PREFIX_BYTES;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody};
use tonic::codegen::Service;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::prost::Message;
use tonic_prost::prost::encoding::{WireType, encode_varint};

/// The method.
const PATH: &str = "/thalweg.internal.v1.ReplicationService/Replicate";
/// The largest message that is taken, in bytes: the window, and one batch of the largest size that a topic may allow.
const MAX_MESSAGE_BYTES: usize = 128 << 20;
/// What may stand around one partition's batches, in bytes.
const MAX_AROUND_BYTES: usize = 1 << 20;
/// `ReplicateResponse.partitions`: field 1, length-delimited.
const KEY_PARTITIONS: u64 = (1 << 3) | 2;
/// `PartitionNews.record_batches`: field 5, length-delimited.
const KEY_BATCHES: u64 = (5 << 3) | 2;

/// News of one partition.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Received {
    /// All but the batches.
    pub news: PartitionNews,
    /// The batches, cut anywhere.
    pub batches: Vec<Bytes>,
}

impl Received {
    /// Bytes of batches.
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// The messages of one stream.
pub(super) struct Inbound {
    // `None` once it has ended.
    body: Option<Body>,
    rest: Rope,
    // The length of the message whose prefix was read.
    length: Option<usize>,
    trailers: Option<HeaderMap>,
}

/// Opens a stream and says `requests` on it.
pub(super) async fn open<S>(mut channel: Channel, requests: S) -> Result<Inbound, Box<Status>>
where
    S: Stream<Item = Result<ReplicateRequest, Status>> + Send + 'static,
{
    let encoder = ProtoCodec::<ReplicateRequest, ReplicateResponse>::default().encoder();
    let body = Body::new(EncodeBody::new_client(encoder, requests, None, None));
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static(PATH);
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let failed = |error: tonic::transport::Error| Box::new(Status::from_error(error.into()));
    std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(failed)?;
    let response = channel.call(request).await.map_err(failed)?;
    if let Some(status) =
        Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)
    {
        return Err(Box::new(status));
    }
    if response.status() != StatusCode::OK {
        return Err(Box::new(Status::unknown(format!("the answer has HTTP status {}", response.status()))));
    }
    Ok(Inbound::new(response.into_body()))
}

impl Inbound {
    fn new(body: Body) -> Inbound {
        Inbound { body: Some(body), rest: Rope::default(), length: None, trailers: None }
    }

    /// The next whole message, if it is here.
    fn cut(&mut self) -> Result<Option<Rope>, Status> {
        let length = match self.length {
            Some(length) => length,
            None if self.rest.len < PREFIX_BYTES => return Ok(None),
            None => {
                let mut prefix = [0; PREFIX_BYTES];
                self.rest.copy_to(&mut prefix)?;
                let [compressed, length @ ..] = prefix;
                if compressed != 0 {
                    return Err(Status::internal("a message is compressed in a call that is not"));
                }
                let length = u32::from_be_bytes(length) as usize;
                if length > MAX_MESSAGE_BYTES {
                    let text = format!("a message of {length} bytes, the limit is {MAX_MESSAGE_BYTES} bytes");
                    return Err(Status::out_of_range(text));
                }
                *self.length.insert(length)
            }
        };
        if self.rest.len < length {
            return Ok(None);
        }
        self.length = None;
        Ok(Some(self.rest.split_to(length)?))
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Vec<Received>, Status>>> {
        loop {
            if let Some(message) = self.cut()? {
                return Poll::Ready(Some(decode(message)));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(context)).transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.rest.push(data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                None => {
                    self.body = None;
                    if self.length.is_some() || self.rest.len > 0 {
                        return Poll::Ready(Some(Err(Status::internal(
                            "it ended in the middle of a message",
                        ))));
                    }
                    let status = self.trailers.take().and_then(|trailers| Status::from_header_map(&trailers));
                    return Poll::Ready(status.filter(|status| status.code() != Code::Ok).map(Err));
                }
            }
        }
    }
}

impl Stream for Inbound {
    type Item = Result<Vec<Received>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = ready!(self.poll_message(context));
        if matches!(message, Some(Err(_))) {
            self.body = None;
            self.rest = Rope::default();
            self.length = None;
        }
        Poll::Ready(message)
    }
}

/// A message's partitions.
fn decode(mut message: Rope) -> Result<Vec<Received>, Status> {
    let mut all = Vec::new();
    while message.len > 0 {
        match message.varint()? {
            KEY_PARTITIONS => {
                if all.len() >= MAX_PARTITIONS {
                    return Err(malformed("it names more partitions than a cluster has"));
                }
                let length = message.length()?;
                all.push(partition(message.split_to(length)?)?);
            }
            // No number, or this field's with another type.
            key if key >> 3 <= 1 || key > u64::from(u32::MAX) => return Err(malformed("a key is wrong")),
            // A field that is not known yet.
            key => message.copy_value(key, &mut BytesMut::new())?,
        }
    }
    Ok(all)
}

fn partition(mut bytes: Rope) -> Result<Received, Status> {
    let (mut around, mut batches) = (BytesMut::new(), Vec::new());
    while bytes.len > 0 {
        match bytes.varint()? {
            KEY_BATCHES => {
                let length = bytes.length()?;
                // The last one counts, as everywhere.
                batches = bytes.split_to(length)?.pieces.into();
            }
            key => {
                encode_varint(key, &mut around);
                bytes.copy_value(key, &mut around)?;
                if around.len() > MAX_AROUND_BYTES {
                    return Err(malformed("there is too much around a partition's batches"));
                }
            }
        }
    }
    let news = PartitionNews::decode(around.freeze()).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Received { news, batches })
}

fn malformed(why: &str) -> Status {
    Status::internal(format!("a message of the leader is malformed: {why}"))
}

fn short() -> Status {
    malformed("it ends inside of a field")
}

/// Bytes in pieces.
#[derive(Debug, Default)]
struct Rope {
    // None of them empty.
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Rope {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    fn split_to(&mut self, length: usize) -> Result<Rope, Status> {
        if length > self.len {
            return Err(short());
        }
        let mut front = Rope::default();
        while front.len < length
            && let Some(mut piece) = self.pieces.pop_front()
        {
            let missing = length - front.len;
            if piece.len() > missing {
                let rest = piece.split_off(missing);
                self.pieces.push_front(rest);
            }
            front.push(piece);
        }
        self.len -= length;
        Ok(front)
    }

    fn byte(&mut self) -> Result<u8, Status> {
        let first = self.pieces.front_mut().ok_or_else(short)?;
        let byte = first.get_u8();
        if first.is_empty() {
            self.pieces.pop_front();
        }
        self.len -= 1;
        Ok(byte)
    }

    fn copy_to(&mut self, out: &mut [u8]) -> Result<(), Status> {
        for byte in out {
            *byte = self.byte()?;
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Status> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a varint is too long"))
    }

    fn length(&mut self) -> Result<usize, Status> {
        usize::try_from(self.varint()?).map_err(|_| short())
    }

    /// Copies the value of a field with this key.
    fn copy_value(&mut self, key: u64, out: &mut BytesMut) -> Result<(), Status> {
        let wire_type = WireType::try_from(key & 7).map_err(|error| malformed(&error.to_string()))?;
        let length = match wire_type {
            WireType::Varint => {
                encode_varint(self.varint()?, out);
                return Ok(());
            }
            WireType::LengthDelimited => {
                let length = self.length()?;
                encode_varint(length as u64, out);
                length
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => return Err(malformed("it has a group")),
        };
        for piece in self.split_to(length)?.pieces {
            out.extend_from_slice(&piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt, stream};
    use http_body::Frame;
    use thalweg_proto::internal::v1::{PartitionEnd, partition_end::Reason};
    use thalweg_proto::v1;

    /// A body of these frames.
    struct Frames<S>(S);

    impl<S: Stream<Item = Frame<Bytes>> + Unpin> HttpBody for Frames<S> {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_next_unpin(context).map(|frame| frame.map(Ok))
        }
    }

    fn inbound(bytes: &[u8], step: usize, status: Option<Code>) -> Inbound {
        let data: Vec<_> =
            bytes.chunks(step).map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect();
        let trailers = status.map(|code| {
            let mut map = HeaderMap::new();
            map.insert("grpc-status", HeaderValue::from(code as i32));
            Frame::trailers(map)
        });
        Inbound::new(Body::new(Frames(stream::iter(data.into_iter().chain(trailers)))))
    }

    fn messages() -> Vec<ReplicateResponse> {
        let news = |slot: u32, size: usize| PartitionNews {
            slot,
            high_watermark: 1 << 40,
            log_start_offset: i64::from(slot),
            record_batches: (0..size).map(|i| i as u8).collect::<Vec<_>>().into(),
            ..Default::default()
        };
        let error = v1::Error { code: 15, message: "gone".repeat(30), ..Default::default() };
        let end = Some(PartitionEnd { reason: Some(Reason::Error(error)) });
        vec![
            ReplicateResponse::default(),
            ReplicateResponse { partitions: vec![news(1, 0)] },
            ReplicateResponse {
                partitions: vec![news(2, 300), PartitionNews { end, ..news(3, 9) }, news(4, 1000)],
            },
            ReplicateResponse { partitions: vec![PartitionNews::default()] },
        ]
    }

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for bytes in messages {
            out.push(0);
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
            out.extend_from_slice(bytes);
        }
        out
    }

    fn whole(received: Vec<Received>) -> ReplicateResponse {
        let gather = |Received { news, batches }| {
            assert!(news.record_batches.is_empty());
            PartitionNews { record_batches: batches.concat().into(), ..news }
        };
        ReplicateResponse { partitions: received.into_iter().map(gather).collect() }
    }

    fn read(mut inbound: Inbound) -> Result<Vec<ReplicateResponse>, Status> {
        let mut all = Vec::new();
        while let Some(message) = inbound.next().now_or_never().unwrap() {
            all.push(whole(message?));
        }
        assert!(inbound.next().now_or_never().unwrap().is_none(), "it has ended");
        Ok(all)
    }

    #[test]
    fn messages_come_whole_however_the_body_is_cut() {
        let expected = messages();
        let bytes = framed(&expected.iter().map(Message::encode_to_vec).collect::<Vec<_>>());
        for step in (1..=40).chain([61, 300, 1024, bytes.len()]) {
            assert_eq!(read(inbound(&bytes, step, Some(Code::Ok))).unwrap(), expected, "{step}");
        }
    }

    #[test]
    fn batches_are_not_copied() {
        let message = ReplicateResponse {
            partitions: vec![PartitionNews { record_batches: vec![7; 100].into(), ..Default::default() }],
        };
        let body = Bytes::from(framed(&[message.encode_to_vec()]));
        let addresses = body.as_ptr_range();
        let frames = stream::iter([Frame::data(body.slice(..50)), Frame::data(body.slice(50..))]);
        let mut inbound = Inbound::new(Body::new(Frames(frames)));
        let received = inbound.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(received[0].batches.len(), 2);
        assert!(received[0].batches.iter().all(|piece| addresses.contains(&piece.as_ptr())));
    }

    #[test]
    fn how_it_ended_is_told() {
        assert!(read(inbound(&[], 1, None)).unwrap().is_empty());
        let status = read(inbound(&[], 1, Some(Code::Unavailable))).unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        let bytes = framed(&[messages()[2].encode_to_vec()]);
        for cut in 1..bytes.len() {
            assert_eq!(read(inbound(&bytes[..cut], 7, Some(Code::Ok))).unwrap_err().code(), Code::Internal);
        }
    }

    #[test]
    fn what_is_malformed_is_refused_as_by_the_generated_decoder() {
        let good = messages()[2].encode_to_vec();
        for at in 0..good.len() {
            for flip in [0x80, 0x07, 0x01] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                let expected = ReplicateResponse::decode(&bytes[..]).ok();
                let actual = read(inbound(&framed(&[bytes]), 11, Some(Code::Ok))).ok();
                let actual = actual.map(|mut all| all.remove(0));
                // A group that is not known is skipped by the one and refused by the other; nobody sends any.
                if actual.is_some() || expected.is_none() {
                    assert_eq!(actual, expected, "byte {at} by {flip}");
                }
            }
        }
        let too_long = [0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(read(inbound(&too_long, 5, None)).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(read(inbound(&[1, 0, 0, 0, 0], 5, None)).unwrap_err().code(), Code::Internal);
    }
}
