//! Topics, configuration and the cluster's description.

use crate::harness::*;
use std::collections::BTreeMap;
use thalweg_core::ErrorCode;
use thalweg_proto::v1;

#[tokio::test]
async fn a_created_topic_is_served_at_once_described_grown_and_deleted() {
    let cluster = Cluster::start().await;
    let topic = v1::NewTopic { name: "t".into(), partitions: Some(2), ..Default::default() };
    let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false };
    let created = cluster.admin().create_topics(request).await.unwrap().into_inner();
    let topic = created.results[0].topic.clone().unwrap();
    assert_eq!(
        (topic.partitions.len(), topic.partitions[1].leader_id, &topic.partitions[1].isr),
        (2, 0, &vec![0])
    );
    cluster.produce(produce_batch("t", 1, batch(&["a"]), v1::Acks::All)).await.unwrap();

    let request =
        v1::CreatePartitionsRequest { topic: "t".into(), total_partitions: 3, ..Default::default() };
    let grown = cluster.admin().create_partitions(request).await.unwrap().into_inner();
    assert_eq!(grown.topic.unwrap().partitions.len(), 3);
    cluster.produce(produce_batch("t", 2, batch(&["b"]), v1::Acks::All)).await.unwrap();

    let describe = v1::DescribeTopicsRequest { names: vec!["t".into()] };
    let described = cluster.admin().describe_topics(describe.clone()).await.unwrap().into_inner();
    assert_eq!(described.results[0].topic.as_ref().unwrap().topic_id, topic.topic_id);

    let names = vec!["t".to_owned()];
    cluster.admin().delete_topics(v1::DeleteTopicsRequest { names, validate_only: false }).await.unwrap();
    let gone = cluster.admin().describe_topics(describe).await.unwrap_err();
    assert_eq!(api_error(&gone).code, ErrorCode::UnknownTopic);
    let late = cluster.produce(produce_batch("t", 1, batch(&["c"]), v1::Acks::All)).await;
    assert_eq!(code(late), ErrorCode::UnknownTopic);
    // A topic of the same name is another one, and empty.
    cluster.topic("t", 2, &[]).await;
    assert_eq!(cluster.end_offset("t", 1).await, 0);
}

#[tokio::test]
async fn pages_of_topics_follow_each_other() {
    let cluster = Cluster::start().await;
    for name in ["b", "a", "c"] {
        cluster.topic(name, 1, &[]).await;
    }
    let mut request = v1::ListTopicsRequest { page_size: 2, ..Default::default() };
    let first = cluster.admin().list_topics(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token.clone();
    let second = cluster.admin().list_topics(request.clone()).await.unwrap().into_inner();
    let names: Vec<_> = first.topics.iter().chain(&second.topics).map(|topic| topic.name.as_str()).collect();
    assert_eq!((names, second.next_page_token.as_str()), (vec!["a", "b", "c"], ""));
    request.page_token = "/".into();
    let bad = api_error(&cluster.admin().list_topics(request).await.unwrap_err());
    assert_eq!((bad.code, bad.field.as_deref()), (ErrorCode::InvalidRequest, Some("page_token")));
}

#[tokio::test]
async fn a_configuration_takes_effect_and_shows() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let large = || produce_batch("t", 0, batch(&[&"x".repeat(2000)]), v1::Acks::All);
    cluster.produce(large()).await.unwrap();
    let set = BTreeMap::from([("max.message.bytes".to_owned(), "1000".to_owned())]);
    let request = v1::AlterConfigsRequest { topic: "t".into(), set, ..Default::default() };
    cluster.admin().alter_configs(request).await.unwrap();
    assert_eq!(code(cluster.produce(large()).await), ErrorCode::MessageTooLarge);
    let request = v1::DescribeConfigsRequest { topic: "t".into() };
    let configs = cluster.admin().describe_configs(request).await.unwrap().into_inner().configs;
    let entry = configs.iter().find(|entry| entry.name == "max.message.bytes").unwrap();
    assert_eq!(
        (entry.value.as_str(), entry.default_value.as_str(), entry.is_overridden),
        ("1000", "1048588", true)
    );
    assert!(configs.iter().all(|entry| !entry.documentation.is_empty()));
    let bad = BTreeMap::from([("no.such.key".to_owned(), "1".to_owned())]);
    let request = v1::AlterConfigsRequest { topic: "t".into(), set: bad, ..Default::default() };
    let refused = api_error(&cluster.admin().alter_configs(request).await.unwrap_err());
    assert_eq!(refused.code, ErrorCode::InvalidConfig);
}

#[tokio::test]
async fn the_cluster_and_the_broker_describe_themselves() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 3, &[]).await;
    let found = cluster.cluster().describe_cluster(v1::DescribeClusterRequest {}).await.unwrap().into_inner();
    assert_eq!((found.cluster_id.as_str(), found.topic_count, found.partition_count), ("the-cluster", 1, 3));
    assert_eq!((found.controller_leader_id, found.controller_term, found.controllers.len()), (1, 3, 1));
    let endpoint = cluster.broker.as_ref().unwrap().listen_addr().to_string();
    assert_eq!((found.brokers[0].endpoint.as_str(), found.brokers[0].fenced), (endpoint.as_str(), false));
    let broker = cluster.cluster().describe_broker(v1::DescribeBrokerRequest {}).await.unwrap().into_inner();
    assert_eq!((broker.id, broker.partition_count, broker.log_directories.len()), (0, 3, 1));
    assert!(broker.cpu_seconds > 0.0);
}

#[tokio::test]
async fn watched_metadata_comes_again_after_a_change_that_matters() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let request = v1::WatchMetadataRequest { topics: vec!["t".into()] };
    let mut stream = cluster.cluster().watch_metadata(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().metadata.unwrap();
    assert_eq!(first.topics[0].topic.as_ref().unwrap().partitions.len(), 1);
    // Another topic is not what was asked for.
    cluster.topic("other", 1, &[]).await;
    let request =
        v1::CreatePartitionsRequest { topic: "t".into(), total_partitions: 2, ..Default::default() };
    cluster.admin().create_partitions(request).await.unwrap();
    let second = stream.message().await.unwrap().unwrap().metadata.unwrap();
    assert_eq!(second.topics[0].topic.as_ref().unwrap().partitions.len(), 2);
    assert!(second.version > first.version);
}
