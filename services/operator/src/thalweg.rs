//! The seam to Thalweg's own clusters: what the operator asks of one, and the SDK that asks it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use thalweg_client::{Admin, Client, ClientConfig, ClientError, NewTopic, proto};
use thalweg_core::ErrorCode;

/// Clusters that connections are kept to. One more takes the place of another.
const MAX_LINKS: usize = 64;
/// How long a cluster has to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call may take, retries included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a cluster did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The cluster's own word for it, if it answered.
    pub code: Option<ErrorCode>,
    /// Whether the same may succeed later.
    pub retriable: bool,
    /// What is told to people.
    pub message: String,
}

impl From<ClientError> for CallError {
    fn from(error: ClientError) -> CallError {
        CallError { code: error.code(), retriable: error.retriable(), message: error.to_string() }
    }
}

/// A broker, as its cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerView {
    /// Its id.
    pub id: i32,
    /// Whether the cluster holds it for gone.
    pub fenced: bool,
    /// Whether everything is being moved off it.
    pub draining: bool,
    /// Replicas that it holds.
    pub replicas: u32,
    /// Of those, what cannot leave it: because every other broker has the partition already, or because it has no leader.
    pub stuck: u32,
}

/// A cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Its id.
    pub id: String,
    /// Its brokers, by id.
    pub brokers: Vec<BrokerView>,
    /// The controller that leads; 0 when none does.
    pub controller_leader: u64,
    /// Partitions with fewer replicas in sync than they have.
    pub under_replicated: u32,
    /// Partitions without leader.
    pub offline: u32,
}

impl ClusterView {
    /// The broker of this id.
    pub fn broker(&self, id: i32) -> Option<&BrokerView> {
        self.brokers.iter().find(|broker| broker.id == id)
    }
}

/// A topic at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicView {
    /// Its id.
    pub id: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas its first partition has, apart from those that a reassignment adds.
    pub replication_factor: i32,
    /// Keys that were set.
    pub configs: BTreeMap<String, String>,
}

/// One cluster. Cheap to clone.
pub trait Thalweg: Clone + Send + Sync + 'static {
    /// The cluster, its brokers, its counts.
    fn cluster(&self) -> impl Future<Output = Result<ClusterView, CallError>> + Send;
    /// How many partitions move.
    fn moving(&self) -> impl Future<Output = Result<usize, CallError>> + Send;
    /// The largest replication factor of any topic, the system's own included; 0 without topics.
    fn largest_factor(&self) -> impl Future<Output = Result<i32, CallError>> + Send;
    /// Moves everything off a broker, or with `cancel` lets it have replicas again. Gives the replicas left, as of the change.
    fn drain(&self, broker: i32, cancel: bool) -> impl Future<Output = Result<u32, CallError>> + Send;
    /// Forgets a broker that holds nothing and is gone. One that is forgotten already is no failure.
    fn unregister(&self, broker: i32) -> impl Future<Output = Result<(), CallError>> + Send;
    /// A topic, if there is one of this name.
    fn topic(&self, name: &str) -> impl Future<Output = Result<Option<TopicView>, CallError>> + Send;
    /// Creates a topic.
    fn create_topic(&self, topic: NewTopic) -> impl Future<Output = Result<(), CallError>> + Send;
    /// Grows a topic to so many partitions in all.
    fn grow_topic(&self, name: &str, total: i32) -> impl Future<Output = Result<(), CallError>> + Send;
    /// Sets keys of a topic and returns others to their default.
    fn configure_topic(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> impl Future<Output = Result<(), CallError>> + Send;
    /// Deletes a topic. One that is gone already is no failure.
    fn delete_topic(&self, name: &str) -> impl Future<Output = Result<(), CallError>> + Send;
}

/// Finds clusters.
pub trait Connect: Send + Sync + 'static {
    /// A cluster that was found.
    type Link: Thalweg;
    /// A cluster by its brokers, each `host:port`.
    fn connect(&self, bootstrap: &[String]) -> impl Future<Output = Result<Self::Link, CallError>> + Send;
    /// Forgets what is kept of a cluster that did not answer, so that it is looked for anew.
    fn forget(&self, bootstrap: &[String]);
}

/// Finds clusters with the SDK, and keeps the connections to them.
#[derive(Default)]
pub struct SdkConnect {
    links: Mutex<BTreeMap<Vec<String>, SdkLink>>,
}

impl SdkConnect {
    fn links(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<String>, SdkLink>> {
        // A map of handles is whole at every step.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connect for SdkConnect {
    type Link = SdkLink;

    async fn connect(&self, bootstrap: &[String]) -> Result<SdkLink, CallError> {
        if let Some(link) = self.links().get(bootstrap) {
            return Ok(link.clone());
        }
        let mut config = ClientConfig::new(bootstrap.iter().cloned());
        config.client_id = "thalweg-operator".to_owned();
        config.connect_timeout = CONNECT_TIMEOUT;
        config.request_timeout = REQUEST_TIMEOUT;
        let link = SdkLink { admin: Client::connect(config).await?.admin() };
        let mut links = self.links();
        if links.len() >= MAX_LINKS {
            links.pop_first();
        }
        links.insert(bootstrap.to_vec(), link.clone());
        Ok(link)
    }

    fn forget(&self, bootstrap: &[String]) {
        self.links().remove(bootstrap);
    }
}

/// A cluster through the SDK.
#[derive(Clone)]
pub struct SdkLink {
    admin: Admin,
}

impl Thalweg for SdkLink {
    async fn cluster(&self) -> Result<ClusterView, CallError> {
        Ok(cluster_view(self.admin.describe_cluster().await?))
    }

    async fn moving(&self) -> Result<usize, CallError> {
        Ok(self.admin.list_reassignments(&[]).await?.len())
    }

    async fn largest_factor(&self) -> Result<i32, CallError> {
        let topics = self.admin.list_all_topics().await?;
        Ok(topics.iter().map(|topic| topic.replication_factor).max().unwrap_or(0))
    }

    async fn drain(&self, broker: i32, cancel: bool) -> Result<u32, CallError> {
        Ok(self.admin.drain_broker(broker, cancel).await?)
    }

    async fn unregister(&self, broker: i32) -> Result<(), CallError> {
        unless(self.admin.unregister_broker(broker).await, ErrorCode::UnknownBroker)
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicView>, CallError> {
        match self.admin.describe_topics(&[name.to_owned()]).await {
            Ok(found) => Ok(found.first().map(topic_view)),
            Err(error) if error.code() == Some(ErrorCode::UnknownTopic) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn create_topic(&self, topic: NewTopic) -> Result<(), CallError> {
        Ok(self.admin.create_topic(topic).await.map(drop)?)
    }

    async fn grow_topic(&self, name: &str, total: i32) -> Result<(), CallError> {
        Ok(self.admin.create_partitions(name, total).await.map(drop)?)
    }

    async fn configure_topic(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<(), CallError> {
        Ok(self.admin.alter_configs(name, set, unset).await.map(drop)?)
    }

    async fn delete_topic(&self, name: &str) -> Result<(), CallError> {
        unless(self.admin.delete_topic(name).await, ErrorCode::UnknownTopic)
    }
}

fn unless(outcome: Result<(), ClientError>, gone: ErrorCode) -> Result<(), CallError> {
    match outcome {
        Err(error) if error.code() == Some(gone) => Ok(()),
        outcome => Ok(outcome?),
    }
}

fn cluster_view(found: proto::DescribeClusterResponse) -> ClusterView {
    let broker = |broker: proto::Broker| BrokerView {
        id: broker.id,
        fenced: broker.fenced,
        draining: broker.draining,
        replicas: broker.replica_count,
        stuck: broker.drain_nowhere_to_go.saturating_add(broker.drain_offline),
    };
    ClusterView {
        id: found.cluster_id,
        brokers: found.brokers.into_iter().map(broker).collect(),
        controller_leader: found.controller_leader_id,
        under_replicated: found.under_replicated_partitions,
        offline: found.offline_partitions,
    }
}

fn topic_view(topic: &proto::Topic) -> TopicView {
    let factor = topic.partitions.first().map_or(topic.replication_factor, |first| {
        count(first.replicas.len().saturating_sub(first.adding_replicas.len()))
    });
    TopicView {
        id: topic.topic_id.clone(),
        partitions: count(topic.partitions.len()),
        replication_factor: factor,
        configs: topic.configs.clone().into_iter().collect(),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reassignment_adds_is_not_the_factor() {
        let partition = |replicas: &[i32], adding: &[i32]| proto::Partition {
            replicas: replicas.to_vec(),
            adding_replicas: adding.to_vec(),
            ..Default::default()
        };
        let topic = proto::Topic {
            partitions: vec![partition(&[4, 2, 3, 1], &[4]), partition(&[1, 2, 3], &[])],
            replication_factor: 4,
            ..Default::default()
        };
        let view = topic_view(&topic);
        assert_eq!((view.partitions, view.replication_factor), (2, 3));
    }
}
