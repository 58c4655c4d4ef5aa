//! `ProducerService`.

use super::{Answers, deadline};
use crate::node::Node;
use crate::produce;
use std::sync::Arc;
use thalweg_proto::v1;
use thalweg_proto::v1::producer_service_server::ProducerService;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

pub struct Producer(pub Arc<Node>);

#[tonic::async_trait]
impl ProducerService for Producer {
    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        let deadline = deadline(&request);
        Ok(Response::new(produce::unary::produce(&self.0, request.into_inner(), deadline).await?))
    }

    type ProduceStreamStream = Answers<v1::ProduceStreamResponse>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let stream = produce::stream::serve(Arc::clone(&self.0), request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let node = &self.0;
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
