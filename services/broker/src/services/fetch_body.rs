//! FetchStream's answers [without a copy](super::whole_body), and the charge that a unary answer keeps until it is sent.

use super::consumer::Consumer;
use super::messages::Messages;
use super::whole_body::{self, Whole};
use crate::in_flight::{Charge, InFlight};
use bytes::Bytes;
use futures_util::future::{Either, FutureExt, Map, Ready, ready};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use thalweg_proto::v1;
use thalweg_proto::v1::partition_data::Data;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// The method that is served here.
pub const PATH: &str = "/thalweg.v1.ConsumerService/FetchStream";

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
        if request.uri().path() != PATH || !whole_body::is_plain(&request) {
            return Either::Right(self.inner.call(request).map(charged as fn(Answer) -> Answer));
        }
        let inbound = Messages::new(request.into_body(), &self.budget, self.most);
        let messages = self.consumer.stream(inbound);
        Either::Left(ready(Ok(whole_body::respond(messages))))
    }
}

/// Keeps the charge of an answer until its body is gone.
pub fn charged(answer: Answer) -> Answer {
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

impl Whole for v1::FetchStreamResponse {
    type Inner = v1::PartitionData;
    // `data`: field 1, length-delimited.
    const TAG_INNER: u8 = (1 << 3) | 2;
    // `record_batches`: field 10, length-delimited.
    const TAG_BATCHES: u8 = (10 << 3) | 2;

    fn take_batches(&mut self) -> Option<(Bytes, &v1::PartitionData)> {
        let around = self.data.as_mut()?;
        match around.data.take() {
            Some(Data::RecordBatches(batches)) => Some((batches, around)),
            other => {
                around.data = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::whole_body::{COPY_BELOW, assert_same_wire};

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
            assert_same_wire(&message);
        }
    }
}
