//! The gRPC handlers. They translate: take a message, call, give the answer or its status.

mod admin;
mod buffered;
mod cluster;
mod consumer;
mod fetch_body;
mod group;
mod group_body;
mod half_received;
mod messages;
mod own_stream;
mod produce_body;
mod producer;
mod too_large;
pub mod whole_body;

use crate::in_flight::InFlight;
use crate::node::Node;
use crate::replication::leader;
use buffered::Buffered;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use thalweg_proto::v1::{
    admin_service_server::AdminServiceServer, cluster_service_server::ClusterServiceServer,
    consumer_service_server::ConsumerServiceServer, group_service_server::GroupServiceServer,
    producer_service_server::ProducerServiceServer,
};
use thalweg_runtime::server::{BuildError, GrpcServerBuilder};
use thalweg_runtime::{GrpcServer, RequestDeadline};
use tokio::time::Instant;
use tonic::{Request, Status};
use too_large::TooLarge;

/// Where a call came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// From a client: it goes on to the leaders where the client lets it.
    Public,
    /// From another broker: it is served here or refused, so that no call travels in circles.
    Internal,
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// The public port's services, with health and reflection.
pub fn public(node: &Arc<Node>) -> Result<GrpcServer, BuildError> {
    let most = node.config.limits.max_request_bytes;
    let budget = Arc::clone(&node.half_received);
    let builder = GrpcServer::builder("broker")
        .config(node.config.server.clone())
        .descriptors(thalweg_proto::FILE_DESCRIPTOR_SET);
    let group = Arc::new(group::Group(Arc::clone(node)));
    let groups = GroupServiceServer::from_arc(Arc::clone(&group)).max_decoding_message_size(most);
    records(builder, node, Door::Public, &budget)
        .service(TooLarge::new(
            group_body::own(Buffered::new(groups, Arc::clone(&budget)), group, Arc::clone(&budget), most),
            most,
        ))
        .service(TooLarge::new(
            Buffered::new(
                ClusterServiceServer::new(cluster::Cluster(Arc::clone(node))).max_decoding_message_size(most),
                budget,
            ),
            most,
        ))
        .build()
}

/// The internal port's services, with health: replication, and what other brokers forward.
pub fn internal(node: &Arc<Node>) -> Result<GrpcServer, BuildError> {
    let budget = Arc::clone(&node.half_forwarded);
    let builder = GrpcServer::builder("broker-internal")
        .config(node.config.server.clone())
        .descriptors(thalweg_proto::FILE_DESCRIPTOR_SET)
        .service(leader::service(node));
    records(builder, node, Door::Internal, &budget).build()
}

/// What both ports serve: writing, reading and deleting records.
fn records(
    builder: GrpcServerBuilder,
    node: &Arc<Node>,
    door: Door,
    budget: &Arc<InFlight>,
) -> GrpcServerBuilder {
    let most = node.config.limits.max_request_bytes;
    let producer = Arc::new(producer::Producer { node: Arc::clone(node), door });
    let consumer = Arc::new(consumer::Consumer { node: Arc::clone(node), door });
    let admin = admin::Admin { node: Arc::clone(node), door };
    let producers = ProducerServiceServer::from_arc(Arc::clone(&producer)).max_decoding_message_size(most);
    let consumers = ConsumerServiceServer::from_arc(Arc::clone(&consumer)).max_decoding_message_size(most);
    let admins = AdminServiceServer::new(admin).max_decoding_message_size(most);
    builder
        .service(TooLarge::new(
            produce_body::own(Buffered::new(producers, Arc::clone(budget)), producer, Arc::clone(budget)),
            most,
        ))
        .service(TooLarge::new(
            fetch_body::own(Buffered::new(consumers, Arc::clone(budget)), consumer, Arc::clone(budget), most),
            most,
        ))
        .service(TooLarge::new(Buffered::new(admins, Arc::clone(budget)), most))
}

/// How long before the caller's deadline an answer leaves, so that it arrives.
const DEADLINE_MARGIN: Duration = Duration::from_millis(20);

/// When the answer must leave, if the call has a deadline.
fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let deadline = request.extensions().get::<RequestDeadline>()?.0;
    Some(deadline.checked_sub(DEADLINE_MARGIN).unwrap_or(deadline))
}
