//! The service that followers call.

use super::feed::{self, AbortOnDrop, Line, News};
use super::inbound;
use crate::node::Node;
use crate::services::whole_body::{self, Batches, Whole};
use futures_util::future::{Either, Ready, ready};
use futures_util::{Stream, StreamExt};
use http::{Request, Response};
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use thalweg_proto::codec::Codec as ProtoCodec;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::replication_service_server::{ReplicationService, ReplicationServiceServer};
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Status, Streaming};

/// The method that is served here without a copy.
const PATH: &str = "/thalweg.internal.v1.ReplicationService/Replicate";
/// The largest message of a follower, in bytes: it names all of its partitions in one.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

type Messages = Pin<Box<dyn Stream<Item = Result<internal::ReplicateResponse, Status>> + Send>>;
type Generated = ReplicationServiceServer<Leader>;

/// What followers call, as the internal port serves it.
pub fn service(node: &Arc<Node>) -> Replication {
    let leader = Arc::new(Leader(Arc::clone(node)));
    let inner = Generated::from_arc(Arc::clone(&leader)).max_decoding_message_size(MAX_REQUEST_BYTES);
    Replication { inner, leader }
}

/// Serves Replicate itself and leaves everything else to the generated server.
#[derive(Clone)]
pub struct Replication {
    inner: Generated,
    leader: Arc<Leader>,
}

/// The generated service.
pub struct Leader(Arc<Node>);

impl Leader {
    fn serve(
        &self,
        inbound: Streaming<internal::ReplicateRequest>,
    ) -> impl Stream<Item = Result<News, Status>> + Send + use<> {
        let line = Line::new();
        let listening = inbound::listen(Arc::clone(&self.0), Arc::clone(&line), inbound);
        feed::serve(Arc::clone(&self.0), line, AbortOnDrop(tokio::spawn(listening)))
    }
}

#[tonic::async_trait]
impl ReplicationService for Leader {
    type ReplicateStream = Messages;

    async fn replicate(
        &self,
        request: tonic::Request<Streaming<internal::ReplicateRequest>>,
    ) -> Result<tonic::Response<Messages>, Status> {
        let messages = self.serve(request.into_inner()).map(|news| news.map(gathered));
        Ok(tonic::Response::new(Box::pin(messages)))
    }
}

impl fmt::Debug for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replication").finish_non_exhaustive()
    }
}

impl NamedService for Replication {
    const NAME: &'static str = <Generated as NamedService>::NAME;
}

type Answer = Result<Response<Body>, Infallible>;

impl Service<Request<Body>> for Replication {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answer>, <Generated as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != PATH || !whole_body::is_plain(&request) {
            return Either::Right(self.inner.call(request));
        }
        let decoder =
            ProtoCodec::<internal::ReplicateResponse, internal::ReplicateRequest>::default().decoder();
        let inbound = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_REQUEST_BYTES));
        Either::Left(ready(Ok(whole_body::respond(self.leader.serve(inbound)))))
    }
}

/// The message as the generated encoder takes it.
fn gathered(news: News) -> internal::ReplicateResponse {
    let News { mut around, batches } = news;
    if let [partition] = &mut around.partitions[..] {
        partition.record_batches = batches.concat().into();
    }
    around
}

impl Whole for News {
    type Message = internal::ReplicateResponse;
    type Inner = internal::PartitionNews;
    // `partitions`: field 1, length-delimited.
    const TAG_INNER: u8 = (1 << 3) | 2;
    // `record_batches`: field 5, length-delimited.
    const TAG_BATCHES: u8 = (5 << 3) | 2;

    fn take_batches(&mut self) -> Option<(Batches, &internal::PartitionNews)> {
        match &self.around.partitions[..] {
            // The field is left out when there is nothing in it.
            [news] if self.batches.iter().any(|piece| !piece.is_empty()) => {
                Some((Batches::Pieces(std::mem::take(&mut self.batches)), news))
            }
            _ => None,
        }
    }

    fn message(&self) -> &internal::ReplicateResponse {
        &self.around
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use thalweg_proto::v1;

    #[test]
    fn the_wire_is_what_the_generated_encoder_makes() {
        let news = internal::PartitionNews { slot: 7, high_watermark: 1 << 40, ..Default::default() };
        let reason = internal::partition_end::Reason::Error(v1::Error { code: 15, ..Default::default() });
        let end = Some(internal::PartitionEnd { reason: Some(reason) });
        let ended = internal::PartitionNews { end, ..news.clone() };
        let check = |news: &internal::PartitionNews, batches: Vec<Bytes>| {
            let message = || News {
                around: internal::ReplicateResponse { partitions: vec![news.clone()] },
                batches: batches.clone(),
            };
            whole_body::assert_wire(message(), &gathered(message()));
        };
        let piece = |size: usize| Bytes::from(vec![9; size]);
        let large = whole_body::COPY_BELOW;
        for size in [0, 1, 127, 128, large - 1, large, 1 << 20] {
            check(&news, vec![piece(size)]);
            check(&news, vec![piece(61), piece(size)]);
            check(&news, vec![piece(61), piece(size), piece(61), piece(large), piece(1)]);
        }
        check(&news, vec![]);
        check(&ended, vec![]);
        check(&ended, vec![piece(61), piece(large)]);
    }
}
