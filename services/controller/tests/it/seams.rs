//! Controllers on one thread, with their logs in memory: as a simulation runs them.

use crate::group::{PATIENCE, until};
use std::collections::BTreeMap;
use std::time::Duration;
use thalweg_controller::{Controller, ControllerConfig, ControllerSeams, ControllerStore, MemDisk, Voter};
use thalweg_core::NodeId;
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_runtime::{Shutdown, blocking};
use tokio::net::TcpListener;

const ALL: [u64; 3] = [1, 2, 3];

#[tokio::test]
async fn a_group_in_memory_on_one_thread_comes_back_from_its_disks() {
    blocking::run_inline_on_this_thread();
    let disks: BTreeMap<u64, MemDisk> = ALL.map(|id| (id, MemDisk::new())).into();
    let mut clusters = Vec::new();
    for _ in 0..2 {
        let mut listeners = Vec::new();
        for id in ALL {
            listeners.push((id, TcpListener::bind("127.0.0.1:0").await.unwrap()));
        }
        // The addresses are new each time; the lists tell where the others are now.
        let voters: Vec<Voter> = listeners
            .iter()
            .map(|(id, listener)| format!("{id}@{}", listener.local_addr().unwrap()).parse().unwrap())
            .collect();
        let mut controllers = Vec::new();
        for (id, listener) in listeners {
            let mut config = ControllerConfig::new(NodeId(id), voters.clone(), "/no/such/folder".into());
            config.raft_tick = Duration::from_millis(50);
            let mut seams = ControllerSeams::listening(listener).unwrap();
            seams.store = ControllerStore::Memory(disks[&id].clone());
            let shutdown = Shutdown::new();
            let controller = Controller::start_with(config, seams, shutdown.clone()).await.unwrap();
            controllers.push((controller, shutdown));
        }
        for (controller, _) in &controllers {
            let endpoint = format!("http://{}", controller.listen_addr());
            let mut client = ControllerServiceClient::connect(endpoint).await.unwrap();
            let cluster = until("the cluster's id", || {
                let mut client = client.clone();
                async move {
                    let request = wire::RegisterBrokerRequest {
                        broker_id: 0,
                        incarnation_id: vec![1; 16].into(),
                        endpoint: "b:1".into(),
                        internal_endpoint: "b:2".into(),
                        log_directory_ids: vec!["dir".into()],
                        feature_levels: Some(wire::FeatureLevels::OURS),
                        ..Default::default()
                    };
                    client.register_broker(request).await.ok().map(|answer| answer.into_inner().cluster_id)
                }
            })
            .await;
            clusters.push(cluster);
            client.describe_quorum(wire::DescribeQuorumRequest::default()).await.unwrap();
        }
        controllers.iter().for_each(|(_, shutdown)| shutdown.trigger());
        for (controller, _) in controllers {
            tokio::time::timeout(PATIENCE, controller.join()).await.unwrap().unwrap();
        }
    }
    clusters.dedup();
    assert_eq!(clusters.len(), 1, "{clusters:?}");
}
