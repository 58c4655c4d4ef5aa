//! The handle that everything else is made from.

use crate::consumer::{Consumer, ConsumerConfig};
use crate::metadata::{Leader, MetadataCache, TopicMetadata};
use crate::net::{Channels, Connector, TcpConnector};
use crate::producer::{Producer, ProducerConfig};
use crate::proto::cluster_service_client::ClusterServiceClient;
use crate::reader::{PartitionReader, ReaderConfig};
use crate::trace::Tracing;
use crate::{Admin, ClientConfig, ClientError, ConfigError, proto};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thalweg_core::{ErrorCode, PartitionId};
use thalweg_proto::ApiError;

/// The largest answer to a control call, in bytes.
pub(crate) const MAX_CONTROL_MESSAGE: usize = 64 << 20;

/// A cluster. Cheap to clone; clones share connections and metadata.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    bootstrap: Vec<Arc<str>>,
    channels: Channels,
    metadata: MetadataCache,
    /// The broker that control calls begin with, as a place in the list. By chance at first, so that many clients do not
    /// all ask the same one; then it stays, because that broker knows what this client has changed.
    turn: AtomicUsize,
    tracing: Tracing,
}

impl Client {
    /// Connects over TCP. Fails when no broker has answered within `connect_timeout`.
    pub async fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        Client::connect_with(config, TcpConnector).await
    }

    /// The same over another network.
    pub async fn connect_with(
        config: ClientConfig,
        connector: impl Connector,
    ) -> Result<Client, ClientError> {
        let channels = Channels::new(config.clone(), Arc::new(connector));
        Client::open(config, channels).await
    }

    /// A client of the same cluster with connections of its own.
    pub async fn fresh(&self) -> Result<Client, ClientError> {
        Client::open(self.inner.config.clone(), self.inner.channels.fresh()).await
    }

    async fn open(config: ClientConfig, channels: Channels) -> Result<Client, ClientError> {
        if config.bootstrap.is_empty() {
            return Err(
                ConfigError::new("bootstrap", "no broker is named; give at least one host:port").into()
            );
        }
        let bootstrap = config.bootstrap.iter().map(|endpoint| Arc::from(endpoint.as_str())).collect();
        let limit = config.connect_timeout;
        let metadata = MetadataCache::default();
        let turn = AtomicUsize::new(rand::random_range(0..1 << 16));
        let tracing = Tracing::of_process(env!("CARGO_PKG_NAME"));
        let client =
            Client { inner: Arc::new(Inner { config, bootstrap, channels, metadata, turn, tracing }) };
        let cluster = client
            .call_within(limit, |channel| async move {
                let mut service =
                    ClusterServiceClient::new(channel).max_decoding_message_size(MAX_CONTROL_MESSAGE);
                service.describe_cluster(proto::DescribeClusterRequest {}).await
            })
            .await?;
        client.inner.metadata.set_brokers(&cluster.brokers);
        Ok(client)
    }

    /// The calls that create, describe and change topics.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// A producer. With idempotence on (the default) this fetches a producer id.
    pub async fn producer(&self, config: ProducerConfig) -> Result<Producer, ClientError> {
        Producer::start(self.clone(), config).await
    }

    /// A reader without partitions.
    pub async fn reader(&self, config: ReaderConfig) -> Result<PartitionReader, ClientError> {
        PartitionReader::new(self.clone(), config)
    }

    /// A member of a consumer group, which has not joined yet: it does when it subscribes.
    pub fn consumer(&self, config: ConsumerConfig) -> Result<Consumer, ClientError> {
        Consumer::new(self.clone(), config)
    }

    /// A topic, from the cache if what is there is younger than `metadata_max_age`.
    pub async fn metadata(&self, topic: &str) -> Result<Arc<TopicMetadata>, ClientError> {
        match self.inner.metadata.topic(topic, self.inner.config.metadata_max_age) {
            Some(known) => Ok(known),
            None => self.refresh(topic).await,
        }
    }

    /// Fetches one topic's metadata.
    pub(crate) async fn refresh(&self, topic: &str) -> Result<Arc<TopicMetadata>, ClientError> {
        let request = proto::MetadataRequest { topics: vec![topic.to_owned()] };
        let answer = self
            .call_quick(|channel| {
                let request = request.clone();
                async move {
                    let service = ClusterServiceClient::new(channel);
                    service.max_decoding_message_size(MAX_CONTROL_MESSAGE).metadata(request).await
                }
            })
            .await?;
        if !answer.brokers.is_empty() {
            self.inner.metadata.set_brokers(&answer.brokers);
        }
        let result = answer.topics.into_iter().find(|found| found.name == topic);
        let result = result.ok_or(ClientError::Protocol("the topic that was asked for is missing"))?;
        match (result.topic, result.error) {
            (_, Some(error)) => {
                let error = ApiError::from_proto(&error);
                if error.code == ErrorCode::UnknownTopic {
                    self.inner.metadata.forget_topic(topic);
                }
                Err(error.into())
            }
            (Some(found), None) => {
                let found = TopicMetadata::from_proto(&found).map_err(ClientError::Protocol)?;
                if found.name.as_str() != topic {
                    return Err(ClientError::Protocol("the topic has another name than was asked for"));
                }
                Ok(self.inner.metadata.set_topic(found))
            }
            (None, None) => Err(ClientError::Protocol("a topic has neither metadata nor an error")),
        }
    }

    /// The leader of a partition, from fresh metadata if it is not known.
    pub(crate) async fn leader(&self, topic: &str, partition: PartitionId) -> Result<Leader, ClientError> {
        let known = self.metadata(topic).await?;
        if let Some(leader) = self.cache().leader(topic, partition) {
            return Ok(leader);
        }
        let known = if known.partition(partition).is_none() { self.refresh(topic).await? } else { known };
        if known.partition(partition).is_none() {
            return Err(unknown_partition(&known, partition).into());
        }
        self.refresh(topic).await?;
        self.cache().leader(topic, partition).ok_or_else(|| {
            ApiError::new(
                ErrorCode::LeaderNotAvailable,
                format!("{topic}-{partition} has no leader at the moment"),
            )
            .into()
        })
    }

    /// The client's settings.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    /// The tracer that the process had when this client was made.
    pub(crate) fn tracing(&self) -> &Tracing {
        &self.inner.tracing
    }

    pub(crate) fn channels(&self) -> &Channels {
        &self.inner.channels
    }

    pub(crate) fn cache(&self) -> &MetadataCache {
        &self.inner.metadata
    }

    /// Where to make a control call, in the order in which to try: known brokers, then those of the configuration.
    pub(crate) fn endpoints(&self) -> Vec<Arc<str>> {
        let mut endpoints = self.inner.metadata.endpoints();
        for endpoint in &self.inner.bootstrap {
            if !endpoints.contains(endpoint) {
                endpoints.push(Arc::clone(endpoint));
            }
        }
        if !endpoints.is_empty() {
            let first = self.inner.turn.load(Ordering::Relaxed) % endpoints.len();
            endpoints.rotate_left(first);
        }
        endpoints
    }

    /// The broker that control calls begin with does not answer: the next one's turn.
    pub(crate) fn next_turn(&self) {
        self.inner.turn.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is said of a partition that a topic does not have.
pub(crate) fn unknown_partition(topic: &TopicMetadata, partition: PartitionId) -> ApiError {
    let message =
        format!("topic {} has no partition {partition}; it has {}", topic.name, topic.partitions.len());
    ApiError::new(ErrorCode::UnknownPartition, message).with_field("partition")
}
