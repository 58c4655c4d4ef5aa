//! `ClusterService`: what the cluster and this broker are made of.

use super::{Answers, deadline};
use crate::describe;
use crate::node::Node;
use crate::refusal;
use crate::stopping::Stopping;
use futures_util::stream;
use std::sync::Arc;
use thalweg_core::MetadataVersion;
use thalweg_proto::v1::cluster_service_server::ClusterService;
use thalweg_proto::{ApiError, v1};
use thalweg_runtime::blocking;
use thalweg_runtime::process::{process_id, process_stats};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

pub struct Cluster(pub Arc<Node>);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn describe_cluster(
        &self,
        request: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        let node = &self.0;
        let within = node.config.intervals.controller_call;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let within = deadline(&request).map_or(within, |deadline| within.min(left(deadline)));
        let mut answer = describe::cluster(&node.metadata.image());
        match node.controller.describe_quorum(within).await {
            Ok(quorum) => {
                answer.controllers = describe::controllers(&node.metadata.image(), &quorum);
                answer.controller_leader_id = quorum.leader_id;
                answer.controller_term = quorum.term;
                let needed = quorum.offsets_topic_replication_factor;
                answer.groups_wait = describe::groups_wait(&node.metadata.image(), needed);
            }
            // Brokers go on without controllers, and so does this answer.
            Err(error) => tracing::warn!(%error, "the controllers could not be asked"),
        }
        Ok(Response::new(answer))
    }

    async fn describe_broker(
        &self,
        _: Request<v1::DescribeBrokerRequest>,
    ) -> Result<Response<v1::DescribeBrokerResponse>, Status> {
        let node = Arc::clone(&self.0);
        // Asks file systems.
        let answer = blocking::run(move || broker(&node))
            .await
            .map_err(|error| refusal::internal("the broker could not be described", error))?;
        Ok(Response::new(answer))
    }

    async fn metadata(
        &self,
        request: Request<v1::MetadataRequest>,
    ) -> Result<Response<v1::MetadataResponse>, Status> {
        Ok(Response::new(describe::metadata(&self.0.metadata.image(), &request.get_ref().topics)?))
    }

    type WatchMetadataStream = Answers<v1::WatchMetadataResponse>;

    async fn watch_metadata(
        &self,
        request: Request<v1::WatchMetadataRequest>,
    ) -> Result<Response<Self::WatchMetadataStream>, Status> {
        let topics = request.into_inner().topics;
        // An illegal request fails at once.
        describe::metadata(&self.0.metadata.image(), &topics)?;
        let watching = Watching {
            // What is told is what this broker serves already.
            versions: self.0.replicas.watch(),
            stopping: self.0.stopping(),
            node: Arc::clone(&self.0),
            topics,
            last: None,
            done: false,
        };
        let stream = stream::unfold(watching, |mut watching| async move {
            let message = watching.next().await?;
            Some((message.map_err(Status::from), watching))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

fn broker(node: &Node) -> v1::DescribeBrokerResponse {
    let stats = process_stats();
    let directories = node.replicas.logs().dir_states().into_iter().map(|dir| v1::LogDirectory {
        path: dir.path.display().to_string(),
        id: dir.id.to_string(),
        partition_count: u32::try_from(dir.logs).unwrap_or(u32::MAX),
        log_bytes: dir.log_bytes,
        available_bytes: dir.available_bytes.unwrap_or(0),
        failure: dir.failed.unwrap_or_default(),
    });
    v1::DescribeBrokerResponse {
        id: node.config.node_id.get(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: u64::try_from(stats.uptime.as_millis()).unwrap_or(u64::MAX),
        cpu_seconds: stats.cpu_seconds,
        resident_bytes: stats.resident_bytes.unwrap_or(0),
        in_flight_bytes: node.in_flight.used() as u64,
        partition_count: u32::try_from(node.replicas.len()).unwrap_or(u32::MAX),
        log_directories: directories.collect(),
        process_id: process_id().to_owned(),
    }
}

struct Watching {
    node: Arc<Node>,
    versions: watch::Receiver<MetadataVersion>,
    topics: Vec<String>,
    last: Option<v1::MetadataResponse>,
    stopping: Stopping,
    done: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<v1::WatchMetadataResponse, ApiError>> {
        if self.done {
            return None;
        }
        loop {
            if self.last.is_some() {
                tokio::select! {
                    changed = self.versions.changed() => changed.ok()?,
                    () = self.stopping.wait() => {
                        self.done = true;
                        return Some(Err(refusal::shutting_down()));
                    }
                }
            }
            let now = match describe::metadata(&self.node.metadata.image(), &self.topics) {
                Ok(now) => now,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            };
            // A change elsewhere in the cluster is none of this caller's business.
            let same = |last: &v1::MetadataResponse| last.brokers == now.brokers && last.topics == now.topics;
            if !self.last.as_ref().is_some_and(same) {
                self.last = Some(now.clone());
                return Some(Ok(v1::WatchMetadataResponse { metadata: Some(now) }));
            }
        }
    }
}
