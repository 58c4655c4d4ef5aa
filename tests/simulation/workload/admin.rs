//! Creates what a run needs.

use super::connect;
use crate::board::{Board, TOPICS};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use thalweg_client::{Client, NewTopic};
use thalweg_core::ErrorCode;
use tokio::time::sleep;

/// Creates the topics, with as many replicas as there are brokers (three at most). Tries until all are there.
pub async fn create_topics(board: &Rc<Board>, bootstrap: &[String], brokers: usize) {
    let client = connect(bootstrap).await;
    let replicas = brokers.min(3) as i32;
    for topic in TOPICS {
        while !create(&client, topic.name, topic.partitions, topic.min_insync.min(replicas as u32), replicas)
            .await
        {
            sleep(Duration::from_millis(500)).await;
        }
    }
    tracing::info!(target: "thalweg_simulation", now = ?board.now(), "topics created");
}

async fn create(client: &Client, name: &str, partitions: u32, min_insync: u32, replicas: i32) -> bool {
    let configs = BTreeMap::from([
        ("min.insync.replicas".to_owned(), min_insync.to_string()),
        // Segments of a short life, so that rolls and their syncs happen.
        ("segment.ms".to_owned(), "20000".to_owned()),
    ]);
    let topic = NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions as i32),
        replication_factor: Some(replicas),
        configs,
    };
    match client.admin().create_topic(topic).await {
        Ok(_) => true,
        Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => true,
        Err(error) => {
            tracing::info!(target: "thalweg_simulation", name, %error, "topic not created yet");
            false
        }
    }
}
