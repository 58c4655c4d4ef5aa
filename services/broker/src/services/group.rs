//! `GroupService`.

use super::{Answers, deadline};
use crate::group::{Caller, list, member, poll, reset, subscribe};
use crate::node::Node;
use futures_util::Stream;
use std::sync::Arc;
use thalweg_proto::v1;
use thalweg_proto::v1::group_service_server::GroupService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Response, Status, Streaming};

pub struct Group(pub Arc<Node>);

impl Group {
    /// Serves one Subscribe of a client at `host`.
    pub fn stream<S>(
        &self,
        host: Arc<str>,
        inbound: S,
    ) -> impl Stream<Item = Result<v1::SubscribeResponse, Status>> + use<S>
    where
        S: Stream<Item = Result<v1::SubscribeRequest, Status>> + Send + Unpin + 'static,
    {
        subscribe::serve(Arc::clone(&self.0), host, inbound)
    }
}

/// Where a client connects from, for people; empty if that is not known.
pub fn host(extensions: &http::Extensions) -> Arc<str> {
    let address = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    address.map(|address| address.ip().to_string()).unwrap_or_default().into()
}

fn caller<T>(request: &Request<T>) -> Caller {
    let host = request.remote_addr().map(|address| address.ip().to_string()).unwrap_or_default();
    Caller { host: host.into(), deadline: deadline(request) }
}

#[tonic::async_trait]
impl GroupService for Group {
    type SubscribeStream = Answers<v1::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let host = caller(&request).host;
        Ok(Response::new(Box::pin(self.stream(host, request.into_inner()))))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(poll::join(&self.0, &caller, request.into_inner()).await?))
    }

    async fn poll(&self, request: Request<v1::PollRequest>) -> Result<Response<v1::PollResponse>, Status> {
        let caller = caller(&request);
        let (answer, charge) = poll::poll(&self.0, &caller, request.into_inner()).await?;
        let mut response = Response::new(answer);
        // Whoever sends the body keeps it.
        response.extensions_mut().insert(Arc::new(charge));
        Ok(response)
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(member::heartbeat(&self.0, &caller, request.into_inner()).await?))
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(member::leave(&self.0, &caller, request.into_inner()).await?))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(member::commit(&self.0, &caller, request.into_inner()).await?))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(member::fetch_offsets(&self.0, &caller, request.into_inner()).await?))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(list::list(&self.0, &caller, request.into_inner()).await?))
    }

    async fn describe_groups(
        &self,
        request: Request<v1::DescribeGroupsRequest>,
    ) -> Result<Response<v1::DescribeGroupsResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(list::describe(&self.0, &caller, request.into_inner()).await?))
    }

    async fn delete_groups(
        &self,
        request: Request<v1::DeleteGroupsRequest>,
    ) -> Result<Response<v1::DeleteGroupsResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(list::delete(&self.0, &caller, request.into_inner()).await?))
    }

    async fn delete_offsets(
        &self,
        request: Request<v1::DeleteOffsetsRequest>,
    ) -> Result<Response<v1::DeleteOffsetsResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(list::delete_offsets(&self.0, &caller, request.into_inner()).await?))
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        let caller = caller(&request);
        Ok(Response::new(reset::reset(&self.0, &caller, request.into_inner()).await?))
    }
}
