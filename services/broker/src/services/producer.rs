//! `ProducerService`.

use super::{Answers, Door, deadline};
use crate::node::Node;
use crate::produce::fence::Writer;
use crate::{forward, produce, trace};
use futures_util::Stream;
use futures_util::future::Either;
use http::HeaderMap;
use opentelemetry::trace::FutureExt;
use std::sync::Arc;
use thalweg_proto::v1;
use thalweg_proto::v1::producer_service_server::ProducerService;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

pub struct Producer {
    pub node: Arc<Node>,
    pub door: Door,
}

impl Producer {
    /// Serves one ProduceStream, which came with these headers.
    pub fn stream<S>(
        &self,
        inbound: S,
        headers: &HeaderMap,
    ) -> impl Stream<Item = Result<v1::ProduceStreamResponse, Status>> + use<S>
    where
        S: Stream<Item = Result<v1::ProduceStreamRequest, Status>> + Send + Unpin + 'static,
    {
        let node = Arc::clone(&self.node);
        match self.door {
            Door::Public => Either::Left(forward::produce_stream::serve(node, inbound)),
            Door::Internal => Either::Right(produce::stream::serve(node, inbound, Writer::of(headers))),
        }
    }
}

#[tonic::async_trait]
impl ProducerService for Producer {
    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        let deadline = deadline(&request);
        let writer = Writer::of(request.metadata().as_ref());
        let tracing = self.node.replicas.tracing();
        let context = trace::of_call(tracing, request.metadata().as_ref(), request.get_ref());
        let request = request.into_inner();
        let answer = async {
            match self.door {
                Door::Public => forward::produce::produce(&self.node, request, deadline).await,
                Door::Internal => produce::unary::produce(&self.node, request, writer, deadline).await,
            }
        };
        let answer = match context {
            Some(context) => answer.with_context(context).await?,
            None => answer.await?,
        };
        Ok(Response::new(answer))
    }

    type ProduceStreamStream = Answers<v1::ProduceStreamResponse>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let (metadata, _, inbound) = request.into_parts();
        Ok(Response::new(Box::pin(self.stream(inbound, metadata.as_ref()))))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let node = &self.node;
        let within = node.config.intervals.metadata_wait;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let within = deadline(&request).map_or(within, |deadline| within.min(left(deadline)));
        let answer = node
            .producer_ids
            .init(&node.controller, node.config.node_id, within, request.into_inner())
            .await?;
        Ok(Response::new(answer))
    }
}
