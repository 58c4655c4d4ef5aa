//! `ConsumerService`.

use super::{Answers, deadline};
use crate::node::Node;
use crate::read;
use std::sync::Arc;
use thalweg_proto::v1;
use thalweg_proto::v1::consumer_service_server::ConsumerService;
use tonic::{Request, Response, Status, Streaming};

pub struct Consumer(pub Arc<Node>);

#[tonic::async_trait]
impl ConsumerService for Consumer {
    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let deadline = deadline(&request);
        let (answer, charge) = read::fetch::fetch(&self.0, request.into_inner(), deadline).await?;
        let mut response = Response::new(answer);
        // Whoever sends the body keeps it.
        response.extensions_mut().insert(Arc::new(charge));
        Ok(response)
    }

    type FetchStreamStream = Answers<v1::FetchStreamResponse>;

    async fn fetch_stream(
        &self,
        request: Request<Streaming<v1::FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let stream = read::fetch_stream::serve(Arc::clone(&self.0), request.into_inner());
        Ok(Response::new(Box::pin(stream)))
    }

    type TailStream = Answers<v1::TailResponse>;

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let stream = read::tail::tail(Arc::clone(&self.0), request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let answer = read::list_offsets::list_offsets(Arc::clone(&self.0), request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}
