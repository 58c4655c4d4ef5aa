//! ProduceStream with [`Messages`] for the transport's reader.

use super::messages::Messages;
use super::own_stream::OwnStream;
use super::producer::Producer;
use crate::in_flight::InFlight;
use http::{HeaderValue, Response};
use std::sync::Arc;
use thalweg_proto::codec::Codec as ProtoCodec;
use thalweg_proto::v1;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody, SingleMessageCompressionOverride};

/// The method that is served here.
pub const PATH: &str = "/thalweg.v1.ProducerService/ProduceStream";

/// Serves ProduceStream. What is half received counts against `budget`.
pub fn own<S>(inner: S, producer: Arc<Producer>, budget: Arc<InFlight>) -> OwnStream<S> {
    OwnStream::new(inner, PATH, move |request| {
        let most = producer.node.config.limits.max_request_bytes;
        let (head, body) = request.into_parts();
        let inbound = Messages::new(body, &budget, most);
        let answers = producer.stream(inbound, &head.headers);
        let encoder = ProtoCodec::<v1::ProduceStreamResponse, v1::ProduceStreamRequest>::default().encoder();
        let compression = SingleMessageCompressionOverride::default();
        let body = EncodeBody::new_server(encoder, answers, None, compression, None);
        let mut response = Response::new(Body::new(body));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        response
    })
}
