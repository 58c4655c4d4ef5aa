//! What a call to any broker promises.

use super::cluster::Cluster;
use super::wire::silent;
use futures_util::future::join_all;
use std::time::Duration;
use thalweg_client::{Client, ClientConfig, ClientError};

#[tokio::test]
async fn brokers_that_take_a_connection_and_never_answer_do_not_hide_one_that_does() {
    let cluster = Cluster::start(1).await;
    let answers = cluster.lock().endpoints[0].clone();
    let ((first, _one), (second, _two)) = (silent().await, silent().await);
    let mut config = ClientConfig::new([&first, &answers, &second]);
    config.connect_timeout = Duration::from_secs(8);
    // Each begins with an endpoint by chance: of so many, some begin with one that is silent.
    let clients = (0..16).map(|_| Client::connect(config.clone()));
    for client in join_all(clients).await {
        client.unwrap();
    }
}

#[tokio::test]
async fn every_broker_that_was_tried_is_named() {
    let ((first, _one), (second, _two)) = (silent().await, silent().await);
    let mut config = ClientConfig::new([&first, &second]);
    config.connect_timeout = Duration::from_millis(2_500);
    let error = Client::connect(config).await.err().expect("nobody answers");
    let ClientError::Unreachable { tried, .. } = &error else { panic!("{error}") };
    assert!(tried.contains(&first) && tried.contains(&second), "{error}");
}
