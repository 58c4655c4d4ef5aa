//! `CoordinatorService`: the calls of brokers, many on one stream, each to the shard of its group.

mod lane;
mod route;
mod stream;

pub use lane::Answer;

use crate::node::Node;
use futures_util::Stream;
use std::pin::Pin;
use std::sync::Arc;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::coordinator_service_server::{CoordinatorService, CoordinatorServiceServer};
use thalweg_runtime::GrpcServer;
use thalweg_runtime::server::BuildError;
use tonic::{Request, Response, Status, Streaming};

/// Bytes of one unit of the budget of calls.
pub const BUDGET_UNIT: usize = 256;

/// A number of bytes in units of the budget, rounded up.
pub fn units(bytes: usize) -> usize {
    bytes.div_ceil(BUDGET_UNIT).min(tokio::sync::Semaphore::MAX_PERMITS)
}

/// The port's services, with health and reflection.
pub fn server(node: &Arc<Node>) -> Result<GrpcServer, BuildError> {
    let service = CoordinatorServiceServer::new(Exchange { node: Arc::clone(node) })
        .max_decoding_message_size(node.config.limits.max_request_bytes);
    GrpcServer::builder("coordinator")
        .config(node.config.server.clone())
        .descriptors(thalweg_proto::FILE_DESCRIPTOR_SET)
        .service(service)
        .build()
}

struct Exchange {
    node: Arc<Node>,
}

#[tonic::async_trait]
impl CoordinatorService for Exchange {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<internal::ExchangeResponse, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<internal::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        Ok(Response::new(Box::pin(stream::serve(Arc::clone(&self.node), request.into_inner()))))
    }
}
