//! `ConsumerService`.

use super::{Answers, Door, deadline};
use crate::node::Node;
use crate::{forward, read};
use futures_util::Stream;
use futures_util::future::Either;
use std::sync::Arc;
use thalweg_proto::v1;
use thalweg_proto::v1::consumer_service_server::ConsumerService;
use tonic::{Request, Response, Status, Streaming};

pub struct Consumer {
    pub node: Arc<Node>,
    pub door: Door,
}

impl Consumer {
    /// Serves one FetchStream.
    pub fn stream<S>(
        &self,
        inbound: S,
    ) -> impl Stream<Item = Result<v1::FetchStreamResponse, Status>> + use<S>
    where
        S: Stream<Item = Result<v1::FetchStreamRequest, Status>> + Send + Unpin + 'static,
    {
        let node = Arc::clone(&self.node);
        match self.door {
            Door::Public => Either::Left(forward::fetch_stream::serve(node, inbound)),
            Door::Internal => Either::Right(read::fetch_stream::serve(node, inbound)),
        }
    }
}

#[tonic::async_trait]
impl ConsumerService for Consumer {
    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let (answer, charge) = match self.door {
            Door::Public => forward::fetch::fetch(&self.node, request, deadline).await?,
            Door::Internal => read::fetch::fetch(&self.node, request, deadline).await?,
        };
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
        Ok(Response::new(Box::pin(self.stream(request.into_inner()))))
    }

    type TailStream = Answers<v1::TailResponse>;

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let deadline = deadline(&request);
        let (node, request) = (Arc::clone(&self.node), request.into_inner());
        Ok(Response::new(match self.door {
            Door::Public => Box::pin(forward::tail::tail(node, request, deadline).await?),
            Door::Internal => Box::pin(read::tail::tail(node, request).await?),
        }))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let until = self.node.until(deadline(&request));
        let (node, request) = (Arc::clone(&self.node), request.into_inner());
        let answer = match self.door {
            Door::Public => forward::scatter::list_offsets(node, request, until).await?,
            Door::Internal => read::list_offsets::list_offsets(node, request).await?,
        };
        Ok(Response::new(answer))
    }
}
