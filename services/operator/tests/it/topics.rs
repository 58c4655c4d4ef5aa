//! Topics: created, grown, configured, refused, taken over, deleted.

use crate::bench::{Bench, NAMESPACE, condition, said, topic_path};
use crate::fake_thalweg::FakeThalweg;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use thalweg_core::ErrorCode;
use thalweg_operator::thalweg::TopicView;

async fn bench() -> Bench {
    let bench = Bench::start(FakeThalweg::with_brokers(3, 0)).await;
    bench.put_cluster("demo", 3, &json!({}));
    bench
}

fn status(bench: &Bench, name: &str) -> Value {
    bench.api.get(&topic_path(name)).unwrap()["status"].clone()
}

#[tokio::test]
async fn a_topic_is_created_grown_and_configured() {
    let bench = bench().await;
    let spec = |partitions: i32, config: Value| json!({"partitions": partitions, "replicationFactor": 3, "config": config});
    bench.put_topic("events", spec(3, json!({"retention.ms": 3_600_000, "cleanup.policy": "delete"})));
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("True", "InSync"));
    assert_eq!(bench.thalweg.take_calls(), ["create events"]);
    let writes = bench.api.take_writes();
    let [write] = writes.as_slice() else { panic!("{writes:#?}") };
    assert_eq!(
        write.line(),
        format!("PATCH apis/thalweg.io/v1alpha1/namespaces/{NAMESPACE}/topics/events/status")
    );
    let told = &write.body["status"];
    assert_eq!(
        json!([
            told["topicId"],
            told["clusterId"],
            told["partitions"],
            told["replicationFactor"],
            told["observedGeneration"]
        ]),
        json!(["topic-1", "cluster-1", 3, 3, 1])
    );
    let made = bench.thalweg.topic_now("events").unwrap();
    assert_eq!(made.configs["retention.ms"], "3600000");

    // Nothing to do: nothing is written, not even a status.
    bench.topic("events").await.unwrap();
    assert_eq!((bench.lines(), bench.thalweg.take_calls()), (vec![], vec![]));

    bench.put_topic("events", spec(6, json!({"cleanup.policy": "delete", "write.caching": "true"})));
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("True", "InSync"));
    let calls =
        ["configure events: set {\"write.caching\": \"true\"}, unset [\"retention.ms\"]", "grow events to 6"];
    assert_eq!(bench.thalweg.take_calls(), calls);
    assert_eq!(status(&bench, "events")["partitions"], 6);
    assert_eq!(status(&bench, "events")["observedGeneration"], 2);

    // Drift: somebody else sets a key, or deletes the topic.
    bench.thalweg.lock().topics.get_mut("events").unwrap().configs.insert("x".to_owned(), "1".to_owned());
    bench.topic("events").await.unwrap();
    assert_eq!(bench.thalweg.take_calls(), ["configure events: set {}, unset [\"x\"]"]);
    bench.thalweg.lock().topics.clear();
    bench.topic("events").await.unwrap();
    assert_eq!(bench.thalweg.take_calls(), ["create events"]);
    assert_eq!(status(&bench, "events")["topicId"], "topic-2");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_a_condition_that_says_why() {
    let bench = bench().await;
    let there = TopicView {
        id: "topic-9".to_owned(),
        partitions: 6,
        replication_factor: 2,
        configs: BTreeMap::new(),
    };
    for (spec, reason, words) in [
        (json!({"topicName": "__mine"}), "InvalidTopicName", "system's own"),
        (json!({"topicName": "a b"}), "InvalidTopicName", "characters"),
        (json!({"partitions": 3}), "PartitionsShrink", "at least 6"),
        (json!({"replicationFactor": 3}), "ReplicationFactorChanged", "reassign"),
        (json!({"config": {"retention.ms": "1"}}), "TopicExists", "spec.config"),
        (json!({"clusterRef": {"name": "nowhere"}}), "ClusterNotFound", "nowhere"),
        (json!({"topicName": "new", "replicationFactor": 4}), "FactorAboveBrokers", "3 brokers are alive"),
    ] {
        bench.thalweg.lock().topics.insert("events".to_owned(), there.clone());
        bench.put_topic("events", spec);
        let ready = bench.topic("events").await.unwrap().unwrap();
        assert_eq!(said(&ready), ("False", reason), "{ready}");
        assert!(ready["message"].as_str().unwrap().contains(words), "{ready}");
        assert_eq!(bench.thalweg.take_calls(), Vec::<String>::new(), "{reason}");
        // Said once, and not again with each look.
        assert_eq!(bench.lines(), ["PATCH topics/events/status"], "{reason}");
        bench.topic("events").await.unwrap();
        assert_eq!(bench.lines(), Vec::<String>::new(), "{reason}");
    }
    // What stands in the way of a wish is told whole.
    bench.put_topic("events", json!({"partitions": 3, "config": {"retention.ms": "1"}}));
    bench.topic("events").await.unwrap();
    let pending = ["partitions: 6 -> 3", "config retention.ms: default -> 1"];
    assert_eq!(status(&bench, "events")["pendingChanges"], json!(pending));
}

#[tokio::test]
async fn what_the_cluster_refuses_is_said_with_its_own_word() {
    let bench = bench().await;
    bench.put_topic("events", json!({"config": {"retention.msec": "1"}}));
    bench.thalweg.lock().refuse = Some(ErrorCode::InvalidConfig);
    let ready = bench.topic("events").await.unwrap().unwrap();
    assert_eq!(said(&ready), ("False", "InvalidConfig"), "{ready}");
    // No crash and no loop: it is asked again with the next look, and by then it may do.
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("True", "InSync"));
}

#[tokio::test]
async fn of_two_resources_for_one_topic_the_younger_is_refused() {
    let bench = bench().await;
    bench.put_topic("events", json!({"partitions": 3}));
    bench.topic("events").await.unwrap();
    bench.put_topic("other", json!({"topicName": "events", "partitions": 9}));
    bench.api.change(&topic_path("other"), |topic| {
        topic["metadata"]["creationTimestamp"] = json!("2026-03-01T00:00:00Z");
    });
    let ready = bench.topic("other").await.unwrap().unwrap();
    assert_eq!(said(&ready), ("False", "NameTaken"), "{ready}");
    assert!(ready["message"].as_str().unwrap().contains("messages/events"), "{ready}");
    assert_eq!(bench.thalweg.topic_now("events").unwrap().partitions, 3);
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("True", "InSync"));
}

#[tokio::test]
async fn a_topic_that_is_there_is_taken_over_as_it_is() {
    let bench = bench().await;
    let configs = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
    let there = TopicView { id: "topic-9".to_owned(), partitions: 2, replication_factor: 3, configs };
    bench.thalweg.lock().topics.insert("events".to_owned(), there);
    bench.put_topic("events", json!({"partitions": 4, "config": {"retention.ms": 5}}));
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("True", "InSync"));
    assert_eq!(bench.thalweg.take_calls(), ["grow events to 4"]);
    assert_eq!(status(&bench, "events")["topicId"], "topic-9");
    // From now on it is this resource's: what is removed from it is returned to its default.
    bench.put_topic("events", json!({"partitions": 4}));
    bench.topic("events").await.unwrap();
    assert_eq!(bench.thalweg.take_calls(), ["configure events: set {}, unset [\"retention.ms\"]"]);
}

#[tokio::test]
async fn a_dry_run_only_tells() {
    let bench = bench().await;
    bench.put_topic("events", json!({"partitions": 3, "config": {"retention.ms": 5}, "dryRun": true}));
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("False", "DryRun"));
    let pending = ["create: partitions 3, replicationFactor default", "config retention.ms: default -> 5"];
    assert_eq!(status(&bench, "events")["pendingChanges"], json!(pending));
    assert_eq!(bench.thalweg.take_calls(), Vec::<String>::new());
    bench.put_topic("events", json!({"partitions": 3, "config": {"retention.ms": 5}}));
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("True", "InSync"));
    assert!(status(&bench, "events")["pendingChanges"].is_null());
}

#[tokio::test]
async fn with_retain_the_resource_goes_and_the_topic_stays() {
    let bench = bench().await;
    bench.put_topic("events", json!({"partitions": 3}));
    bench.topic("events").await.unwrap();
    assert!(bench.api.get(&topic_path("events")).unwrap()["metadata"]["finalizers"].is_null());
    bench.api.delete(&topic_path("events"));
    assert!(bench.api.get(&topic_path("events")).is_none());
    assert!(bench.thalweg.topic_now("events").is_some());
}

#[tokio::test]
async fn with_delete_the_topic_goes_before_its_resource() {
    let bench = bench().await;
    bench.put_topic("events", json!({"partitions": 3, "deletionPolicy": "Delete"}));
    bench.topic("events").await.unwrap();
    // Held before the topic is there.
    assert_eq!(bench.lines(), ["PATCH topics/events", "PATCH topics/events/status"]);
    assert_eq!(bench.thalweg.take_calls(), ["create events"]);
    bench.api.delete(&topic_path("events"));

    // While the cluster is away the resource stays and says why.
    bench.thalweg.lock().down = true;
    assert!(bench.topic("events").await.is_err());
    let object = bench.api.get(&topic_path("events")).unwrap();
    assert_eq!(said(&condition(&object, "Ready")), ("False", "DeletionBlocked"));
    bench.thalweg.lock().down = false;
    assert_eq!(bench.topic("events").await.unwrap(), None);
    assert_eq!(bench.thalweg.take_calls(), ["delete events"]);
    assert!(bench.api.get(&topic_path("events")).is_none());
}

#[tokio::test]
async fn a_topic_that_is_not_the_resources_own_is_never_deleted() {
    let bench = bench().await;
    bench.put_topic("events", json!({"partitions": 3, "deletionPolicy": "Delete"}));
    bench.topic("events").await.unwrap();
    // Somebody deleted it and made another one of that name.
    bench.thalweg.lock().topics.get_mut("events").unwrap().id = "topic-77".to_owned();
    bench.thalweg.take_calls();
    bench.api.delete(&topic_path("events"));
    bench.topic("events").await.unwrap();
    assert_eq!(bench.thalweg.take_calls(), Vec::<String>::new());
    assert!(bench.thalweg.topic_now("events").is_some());
    // A change of mind lets go of the resource without asking the cluster at all.
    bench.put_topic("other", json!({"deletionPolicy": "Delete"}));
    bench.topic("other").await.unwrap();
    bench.api.delete(&topic_path("other"));
    bench.thalweg.lock().down = true;
    bench.put_topic("other", json!({"deletionPolicy": "Retain"}));
    assert_eq!(bench.topic("other").await.unwrap(), None);
    assert!(bench.thalweg.topic_now("other").is_some());
}

#[tokio::test]
async fn a_topic_that_another_resource_has_too_is_not_deleted() {
    let bench = bench().await;
    bench.put_topic("events", json!({"partitions": 3}));
    bench.topic("events").await.unwrap();
    // Both came to it before either knew of the other.
    bench.put_topic("other", json!({"topicName": "events", "deletionPolicy": "Delete"}));
    let id = status(&bench, "events")["topicId"].clone();
    bench.api.change(&topic_path("other"), |other| {
        other["metadata"]["finalizers"] = json!(["thalweg.io/topic"]);
        other["status"] = json!({"topicId": id, "conditions": []});
    });
    bench.thalweg.take_calls();
    bench.api.delete(&topic_path("other"));
    assert_eq!(bench.topic("other").await.unwrap(), None);
    assert!(bench.api.get(&topic_path("other")).is_none());
    assert_eq!(bench.thalweg.take_calls(), Vec::<String>::new());
    assert!(bench.thalweg.topic_now("events").is_some());
}

#[tokio::test]
async fn a_policy_that_changes_takes_the_finalizer_with_it() {
    let bench = bench().await;
    let finalizers =
        |bench: &Bench| bench.api.get(&topic_path("events")).unwrap()["metadata"]["finalizers"].clone();
    bench.put_topic("events", json!({"deletionPolicy": "Delete"}));
    bench.topic("events").await.unwrap();
    assert_eq!(finalizers(&bench), json!(["thalweg.io/topic"]));
    bench.put_topic("events", json!({"deletionPolicy": "Retain"}));
    bench.topic("events").await.unwrap();
    assert_eq!(finalizers(&bench), json!([]));
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_told_and_tried_again() {
    let bench = bench().await;
    bench.put_topic("events", json!({"partitions": 3}));
    bench.thalweg.lock().down = true;
    let error = bench.topic("events").await.unwrap_err();
    assert!(!error.is_conflict(), "{error}");
    let object = bench.api.get(&topic_path("events")).unwrap();
    assert_eq!(said(&condition(&object, "Ready")), ("Unknown", "ClusterUnreachable"));
    // A write would be a change, and a change the occasion to try again at once.
    bench.lines();
    assert!(bench.topic("events").await.is_err());
    assert_eq!(bench.lines(), Vec::<String>::new(), "the same failure is not told again");
    bench.thalweg.lock().down = false;
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("True", "InSync"));
}

#[tokio::test]
async fn a_change_by_somebody_else_meanwhile_is_a_conflict_and_no_more() {
    let bench = bench().await;
    bench.put_topic("events", json!({"deletionPolicy": "Delete"}));
    bench.api.refuse_next("topics/events", 409);
    let error = bench.topic("events").await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert_eq!(
        bench.thalweg.take_calls(),
        Vec::<String>::new(),
        "nothing is created before the resource is held"
    );
    assert_eq!(said(&bench.topic("events").await.unwrap().unwrap()), ("True", "InSync"));
    // A status that could not be written is written with the next look; the topic is not made twice.
    bench.put_topic("other", json!({}));
    bench.api.refuse_next("topics/other/status", 500);
    assert!(bench.topic("other").await.is_err());
    assert_eq!(said(&bench.topic("other").await.unwrap().unwrap()), ("True", "InSync"));
    assert_eq!(bench.thalweg.take_calls(), ["create events", "create other"]);
}
