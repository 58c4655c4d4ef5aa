//! The calls of groups, at one broker after another.

use crate::board::number;
use crate::checker::Partition;
use crate::net;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;
use thalweg_client::proto;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use thalweg_proto::v1::group_service_client::GroupServiceClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// How long an answer is waited for, on top of what the call itself may be held.
const PATIENCE: Duration = Duration::from_secs(7);

/// The way of one client to the group service. After a failure the next broker is asked.
pub struct Api {
    services: Vec<GroupServiceClient<Channel>>,
    at: Cell<usize>,
}

impl Api {
    /// Begins with the broker at that place.
    pub fn new(bootstrap: &[String], at: usize) -> Api {
        let dialer = net::dialer();
        let channel = |endpoint: &String| dialer.channel(endpoint).expect("our names are good");
        let services = bootstrap.iter().map(|endpoint| GroupServiceClient::new(channel(endpoint)));
        Api { services: services.collect(), at: Cell::new(at % bootstrap.len()) }
    }

    /// The next broker's turn.
    pub fn turn(&self) {
        self.at.set((self.at.get() + 1) % self.services.len());
    }

    /// The broker whose turn it is.
    pub fn service(&self) -> GroupServiceClient<Channel> {
        self.services[self.at.get()].clone()
    }

    /// The committed offsets of a group; as a member, or from outside.
    pub async fn offsets(
        &self,
        group: &str,
        member: Option<(&str, i32)>,
    ) -> Result<BTreeMap<Partition, i64>, ApiError> {
        let request = proto::FetchOffsetsRequest {
            group_id: group.to_owned(),
            member_id: member.map(|(id, _)| id.to_owned()).unwrap_or_default(),
            member_epoch: member.map(|(_, epoch)| epoch).unwrap_or_default(),
            topics: Vec::new(),
        };
        let mut service = self.service();
        let answer = self
            .within(Duration::ZERO, async move { service.fetch_offsets(deadline(request)).await })
            .await?;
        let known =
            |offset: &proto::CommittedOffset| Some((number(&offset.topic, offset.partition)?, offset.offset));
        Ok(answer.offsets.iter().filter_map(known).collect())
    }

    /// Waits for an answer, and goes on to the next broker when there is none.
    pub async fn within<T>(
        &self,
        held: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, ApiError> {
        let outcome = match timeout(PATIENCE + held, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(error_of(&status)),
            Err(_) => Err(ApiError::new(ErrorCode::RequestTimedOut, "no answer in time")),
        };
        if outcome.as_ref().is_err_and(|error| error.code.retriable() != thalweg_core::Retriable::No) {
            self.turn();
        }
        outcome
    }
}

/// A request that tells the broker how long its answer is of use.
pub fn deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// What a status says; that of a broken connection is worth a retry.
pub fn error_of(status: &Status) -> ApiError {
    ApiError::from_status(status)
        .unwrap_or_else(|| ApiError::new(ErrorCode::CoordinatorNotAvailable, status.to_string()))
}
