//! Topics that do not exist, that exist already, and that may not be.

use super::canary::Canary;
use crate::harness::{Api, Dev, batch, refused, within};
use thalweg_core::ErrorCode;
use thalweg_proto::v1;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unknown_topics_and_partitions_are_not_found() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    api.create_topic("t", 2, &[]).await;
    let cases = [
        ("none", 0, ErrorCode::UnknownTopic),
        ("t", 2, ErrorCode::UnknownPartition),
        ("t", -1, ErrorCode::UnknownPartition),
    ];
    for (topic, partition, reason) in cases {
        let not_found = Code::NotFound;
        let error = refused(api.produce_values(topic, partition, &["x"]).await, not_found, reason);
        assert!(error.message.contains(topic), "{error}");
        refused(api.produce_batch(topic, partition, batch(&[b"x"])).await, not_found, reason);
        refused(api.fetch(topic, partition, 0).await, not_found, reason);
        let tail = v1::TailRequest { topic: topic.into(), partitions: vec![partition], ..Default::default() };
        refused(within("Tail", api.consumer.clone().tail(tail)).await, not_found, reason);
        let spec = v1::OffsetSpec::Earliest.into();
        let asked = v1::ListOffsetsPartition {
            topic: topic.into(),
            partition,
            spec,
            timestamp_ms: 0,
            min_leader_epoch: None,
        };
        let request = v1::ListOffsetsRequest { partitions: vec![asked.clone()], ..Default::default() };
        refused(within("ListOffsets", api.consumer.clone().list_offsets(request)).await, not_found, reason);
        let cut = v1::DeleteRecordsPartition { topic: topic.into(), partition, before_offset: 0 };
        let request = v1::DeleteRecordsRequest { partitions: vec![cut], ..Default::default() };
        refused(within("DeleteRecords", api.admin.clone().delete_records(request)).await, not_found, reason);

        // Beside one that exists, each has its own answer.
        let there = v1::ListOffsetsPartition { topic: "t".into(), partition: 0, ..asked.clone() };
        let request = v1::ListOffsetsRequest { partitions: vec![asked, there], ..Default::default() };
        let answer =
            within("ListOffsets", api.consumer.clone().list_offsets(request)).await.unwrap().into_inner();
        assert_eq!(answer.results[0].error.as_ref().map(|error| error.code), Some(reason as i32));
        assert_eq!((&answer.results[1].error, answer.results[1].offset), (&None, 0));
    }

    let reason = ErrorCode::UnknownTopic;
    let delete = v1::DeleteTopicsRequest { names: vec!["none".into()], validate_only: false };
    refused(within("DeleteTopics", api.admin.clone().delete_topics(delete)).await, Code::NotFound, reason);
    let describe = v1::DescribeTopicsRequest { names: vec!["none".into()] };
    refused(
        within("DescribeTopics", api.admin.clone().describe_topics(describe)).await,
        Code::NotFound,
        reason,
    );
    let grow =
        v1::CreatePartitionsRequest { topic: "none".into(), total_partitions: 3, ..Default::default() };
    refused(
        within("CreatePartitions", api.admin.clone().create_partitions(grow)).await,
        Code::NotFound,
        reason,
    );
    let configs = v1::DescribeConfigsRequest { topic: "none".into() };
    refused(
        within("DescribeConfigs", api.admin.clone().describe_configs(configs)).await,
        Code::NotFound,
        reason,
    );
    let alter = v1::AlterConfigsRequest { topic: "none".into(), ..Default::default() };
    refused(within("AlterConfigs", api.admin.clone().alter_configs(alter)).await, Code::NotFound, reason);
    canary.sings(&api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_topic_may_not_be_is_invalid_and_the_field_is_named() {
    let mut dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;

    let long = "x".repeat(250);
    for name in ["", ".", "..", "a/b", "a b", "grün", "a\0b", "../../etc", long.as_str()] {
        let topic = v1::NewTopic { name: name.into(), ..Default::default() };
        let error = refused(api.create(topic).await, Code::InvalidArgument, ErrorCode::InvalidTopicName);
        assert!(error.field.as_deref().is_some_and(|field| field.contains("name")), "{name:?}: {error:?}");
    }
    for partitions in [0, -1, i32::MIN, 10_001, i32::MAX] {
        let topic = v1::NewTopic { name: "n".into(), partitions: Some(partitions), ..Default::default() };
        let error = refused(api.create(topic).await, Code::InvalidArgument, ErrorCode::InvalidPartitions);
        assert!(
            error.field.as_deref().is_some_and(|field| field.contains("partitions")),
            "{partitions}: {error:?}"
        );
    }
    for factor in [0, -1, 2, i32::MAX] {
        let topic = v1::NewTopic { name: "n".into(), replication_factor: Some(factor), ..Default::default() };
        let error =
            refused(api.create(topic).await, Code::InvalidArgument, ErrorCode::InvalidReplicationFactor);
        assert!(
            error.field.as_deref().is_some_and(|field| field.contains("replication_factor")),
            "{error:?}"
        );
    }
    let configs = [
        ("no.such.key", "1"),
        ("", "1"),
        ("retention.ms", "soon"),
        ("retention.ms", "-2"),
        ("retention.ms", "99999999999999999999"),
        ("segment.bytes", "100"),
        ("max.message.bytes", "-1"),
        ("compression.type", "brotli"),
        ("cleanup.policy", "forget"),
        ("write.caching", "maybe"),
    ];
    for (key, value) in configs {
        let configs = [(key.to_owned(), value.to_owned())].into();
        let topic = v1::NewTopic { name: "n".into(), configs, ..Default::default() };
        let error = refused(api.create(topic).await, Code::InvalidArgument, ErrorCode::InvalidConfig);
        let field = error.field.as_deref().unwrap_or_default();
        assert!(field.contains("configs") && field.contains(key), "{key}={value}: {error:?}");
        assert!(error.message.contains(key), "{error}");
    }
    let none = v1::CreateTopicsRequest { topics: Vec::new(), validate_only: false };
    let answer = within("CreateTopics", api.admin.clone().create_topics(none)).await;
    refused(answer, Code::InvalidArgument, ErrorCode::InvalidRequest);

    let mut admin = api.admin.clone();
    let listed = within("ListTopics", admin.list_topics(v1::ListTopicsRequest::default()))
        .await
        .unwrap()
        .into_inner()
        .topics;
    assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["canary"]);
    canary.sings_after_a_kill(&mut dev).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_name_is_taken_once() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    api.create_topic("t", 2, &[]).await;
    api.produce_values("t", 0, &["kept"]).await.unwrap();
    for partitions in [1, 2, 3] {
        let topic = v1::NewTopic { name: "t".into(), partitions: Some(partitions), ..Default::default() };
        let error = refused(api.create(topic).await, Code::AlreadyExists, ErrorCode::TopicAlreadyExists);
        assert!(error.message.contains('t'), "{error}");
    }
    assert_eq!(api.values("t", 0).await, [b"kept"]);

    // In one call the good one is made and the bad ones have their reasons.
    let named = |name: &str| v1::NewTopic { name: name.into(), ..Default::default() };
    let topics = vec![named("t"), named("fresh"), named("a/b")];
    let request = v1::CreateTopicsRequest { topics, validate_only: false };
    let answer = within("CreateTopics", api.admin.clone().create_topics(request)).await.unwrap().into_inner();
    let codes: Vec<i32> =
        answer.results.iter().map(|result| result.error.as_ref().map_or(0, |error| error.code)).collect();
    assert_eq!(codes, [ErrorCode::TopicAlreadyExists as i32, 0, ErrorCode::InvalidTopicName as i32]);
    api.produce_values("fresh", 0, &["x"]).await.unwrap();

    let request = v1::CreateTopicsRequest { topics: vec![named("dry")], validate_only: true };
    within("CreateTopics", api.admin.clone().create_topics(request)).await.unwrap();
    let error = api.produce_values("dry", 0, &["x"]).await;
    refused(error, Code::NotFound, ErrorCode::UnknownTopic);
    canary.sings(&api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn partitions_do_not_shrink() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 3, &[]).await;
    api.produce_values("t", 2, &["in the last"]).await.unwrap();
    for total in [2, 1, 0, -1, i32::MIN, 10_001, i32::MAX] {
        let grow =
            v1::CreatePartitionsRequest { topic: "t".into(), total_partitions: total, ..Default::default() };
        let answer = within("CreatePartitions", api.admin.clone().create_partitions(grow)).await;
        let error = refused(answer, Code::InvalidArgument, ErrorCode::InvalidPartitions);
        assert!(
            error.field.as_deref().is_some_and(|field| field.contains("total_partitions")),
            "{total}: {error:?}"
        );
    }
    assert_eq!(api.values("t", 2).await, [b"in the last"]);
    let grow = v1::CreatePartitionsRequest { topic: "t".into(), total_partitions: 5, ..Default::default() };
    within("CreatePartitions", api.admin.clone().create_partitions(grow)).await.unwrap();
    api.produce_values("t", 4, &["in a new one"]).await.unwrap();
    assert_eq!(api.values("t", 4).await, [b"in a new one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bad_configs_change_nothing() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[("retention.ms", "1000000")]).await;
    let bad: [&[(&str, &str)]; 4] = [
        &[("no.such.key", "1")],
        &[("retention.ms", "2000000"), ("segment.bytes", "none")],
        &[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")],
        &[("min.insync.replicas", "0")],
    ];
    for pairs in bad {
        let set = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let alter = v1::AlterConfigsRequest { topic: "t".into(), set, ..Default::default() };
        let answer = within("AlterConfigs", api.admin.clone().alter_configs(alter)).await;
        let error = refused(answer, Code::InvalidArgument, ErrorCode::InvalidConfig);
        assert!(error.field.is_some(), "{pairs:?}: {error:?}");
    }
    let unset = v1::AlterConfigsRequest {
        topic: "t".into(),
        unset: vec!["no.such.key".into()],
        ..Default::default()
    };
    let answer = within("AlterConfigs", api.admin.clone().alter_configs(unset)).await;
    refused(answer, Code::InvalidArgument, ErrorCode::InvalidConfig);

    let (mut admin, request) = (api.admin.clone(), v1::DescribeConfigsRequest { topic: "t".into() });
    let configs =
        within("DescribeConfigs", admin.describe_configs(request)).await.unwrap().into_inner().configs;
    let set: Vec<_> =
        configs.iter().filter(|key| key.is_overridden).map(|key| (&*key.name, &*key.value)).collect();
    assert_eq!(set, [("retention.ms", "1000000")]);
    assert!(configs.iter().all(|key| !key.documentation.is_empty()), "every key says what it does");
}
