//! Several brokers in one process, over loopback, with fake controllers.

use crate::controller::FakeController;
use crate::gate::GatedStorage;
use crate::harness::{LONG, api_error, config, run};
use std::collections::BTreeMap;
use thalweg_broker::{BrokerConfig, BrokerError, BrokerHandle};
use thalweg_core::BrokerId;
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_proto::v1::cluster_service_client::ClusterServiceClient;
use thalweg_proto::v1::consumer_service_client::ConsumerServiceClient;
use thalweg_proto::v1::producer_service_client::ProducerServiceClient;
use thalweg_proto::{ApiError, v1};
use thalweg_runtime::Shutdown;
use tonic::transport::{Channel, Endpoint};

pub struct Brokers {
    pub controller: FakeController,
    pub controllers: Vec<String>,
    pub members: BTreeMap<i32, Member>,
    controller_shutdown: Shutdown,
}

pub struct Member {
    pub storage: GatedStorage,
    pub handle: Option<BrokerHandle>,
    pub shutdown: Shutdown,
    pub channel: Channel,
}

impl Brokers {
    /// Brokers 0, 1, .. under one controller.
    pub async fn start(count: i32) -> Brokers {
        let controller = FakeController::new("the-cluster");
        let controller_shutdown = Shutdown::new();
        let controllers = vec![controller.listen(controller_shutdown.clone()).await];
        let mut brokers = Brokers { controller, controllers, members: BTreeMap::new(), controller_shutdown };
        for id in 0..count {
            brokers.add(id, GatedStorage::new()).await;
        }
        brokers
    }

    pub fn config(&self, id: i32) -> BrokerConfig {
        let mut config = config(&self.controllers);
        config.node_id = BrokerId(id);
        config
    }

    /// Starts a broker on that disk.
    pub async fn add(&mut self, id: i32, storage: GatedStorage) {
        let shutdown = Shutdown::new();
        let handle = run(self.config(id), &storage, &shutdown).await.unwrap();
        let channel = connect(&handle.listen_addr().to_string()).await;
        self.members.insert(id, Member { storage, handle: Some(handle), shutdown, channel });
    }

    pub async fn stop(&mut self, id: i32) -> Result<(), BrokerError> {
        let member = self.members.get_mut(&id).unwrap();
        member.shutdown.trigger();
        tokio::time::timeout(LONG, member.handle.take().unwrap().join()).await.unwrap()
    }

    pub fn handle(&self, id: i32) -> &BrokerHandle {
        self.members[&id].handle.as_ref().unwrap()
    }

    pub fn producer(&self, id: i32) -> ProducerServiceClient<Channel> {
        ProducerServiceClient::new(self.members[&id].channel.clone())
    }

    pub fn consumer(&self, id: i32) -> ConsumerServiceClient<Channel> {
        ConsumerServiceClient::new(self.members[&id].channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn admin(&self, id: i32) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.members[&id].channel.clone())
    }

    pub fn cluster(&self, id: i32) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.members[&id].channel.clone())
    }

    /// A topic whose partitions have these replicas, the leader first; every broker knows it then.
    pub async fn topic(&self, name: &str, replicas: &[&[i32]]) {
        let assignments =
            replicas.iter().map(|ids| v1::ReplicaAssignment { broker_ids: ids.to_vec() }).collect();
        let topic = v1::NewTopic { name: name.into(), assignments, ..Default::default() };
        let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
        let answer = self.admin(0).create_topics(request).await.unwrap().into_inner();
        assert_eq!(answer.results[0].error, None);
        self.settled(answer.metadata_version).await;
    }

    /// Waits until every broker's partitions stand for that version.
    pub async fn settled(&self, version: u64) {
        for member in self.members.values() {
            let Some(handle) = &member.handle else { continue };
            let mut applied = handle.replicas().watch();
            let reached = applied.wait_for(|applied| applied.get() >= version);
            tokio::time::timeout(LONG, reached).await.unwrap().unwrap();
        }
    }

    pub async fn produce(
        &self,
        via: i32,
        request: v1::ProduceRequest,
    ) -> Result<v1::ProduceResponse, ApiError> {
        let answer = tokio::time::timeout(LONG, self.producer(via).produce(request)).await.unwrap();
        answer.map(tonic::Response::into_inner).map_err(|status| api_error(&status))
    }

    /// Every value of some partitions, by Tail at `via`: partition, offset and value, sorted.
    pub async fn values(&self, via: i32, topic: &str, partitions: &[i32]) -> Vec<(i32, i64, String)> {
        let request = v1::TailRequest {
            topic: topic.into(),
            partitions: partitions.to_vec(),
            start: v1::TailStart::Earliest as i32,
            until_end: true,
            ..Default::default()
        };
        let mut stream = self.consumer(via).tail(request).await.unwrap().into_inner();
        let mut values = Vec::new();
        while let Some(message) = tokio::time::timeout(LONG, stream.message()).await.unwrap().unwrap() {
            values.extend(message.records.iter().map(|r| (message.partition, r.offset, value(r))));
        }
        values.sort();
        values
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        for member in self.members.values() {
            member.storage.open_gate();
            member.shutdown.trigger();
        }
        self.controller_shutdown.trigger();
    }
}

pub async fn connect(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

pub fn value(record: &v1::Record) -> String {
    String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).unwrap()
}
