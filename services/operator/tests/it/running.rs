//! The whole operator: it watches, and acts on what it hears.

use crate::bench::{
    NAMESPACE, claim_path, client, cluster_path, condition, play_set, put_set, quick, said, topic_path,
};
use crate::fake_api::FakeApi;
use crate::fake_thalweg::FakeThalweg;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use thalweg_operator::{Kubernetes, LeaseConfig, Operator, OperatorConfig, Scope};
use thalweg_runtime::Shutdown;
use thalweg_runtime::observe::{Registry, Value as Sample};

const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn reason(api: &FakeApi, path: &str) -> String {
    let ready = api.get(path).map(|object| condition(&object, "Ready")).unwrap_or_default();
    said(&ready).1.to_owned()
}

fn topics_counted(registry: &Registry) -> f64 {
    let gathered = registry.gather();
    let points = gathered["thalweg_operator_resources"].1.iter();
    let topics = points.filter(|point| point.labels.contains(&("kind", "Topic".to_owned())));
    let numbers = topics.map(|point| match point.value {
        Sample::Number(number) => number,
        Sample::Histogram(_) => 0.0,
    });
    numbers.sum()
}

fn topic(spec: Value) -> Value {
    json!({"apiVersion": "thalweg.io/v1alpha1", "kind": "Topic", "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_hears_of_changes_and_acts() {
    let api = FakeApi::start().await;
    let thalweg = FakeThalweg::with_brokers(3, 6);
    let shutdown = Shutdown::new();
    let config = OperatorConfig {
        identity: "operator-1".to_owned(),
        scope: Scope::Namespace(NAMESPACE.to_owned()),
        pace: quick(),
        lease: Some(LeaseConfig::new(NAMESPACE, "thalweg-operator", "operator-1")),
    };
    let operator = Operator::with(config, Kubernetes::through(client(&api)), thalweg.clone());
    let registry = Registry::new();
    operator.observe(&registry);
    let running = tokio::spawn(operator.run(shutdown.clone()));

    put_set(&api, 3);
    let spec = |brokers: i32| json!({"brokers": brokers, "statefulSet": {"name": "demo-broker"}, "bootstrap": ["b:1"]});
    let cluster =
        |brokers: i32| json!({"apiVersion": "thalweg.io/v1alpha1", "kind": "Cluster", "spec": spec(brokers)});
    api.put(&cluster_path("demo"), cluster(3));
    api.put(&topic_path("events"), topic(json!({"clusterRef": {"name": "demo"}, "partitions": 3})));
    until("the topic is made", || thalweg.topic_now("events").is_some()).await;
    until("and told", || reason(&api, &topic_path("events")) == "InSync").await;
    until("all is as wanted", || reason(&api, &cluster_path("demo")) == "AsWanted").await;

    // Seen without being told: drift.
    thalweg.lock().topics.clear();
    until("the topic is made again", || thalweg.topic_now("events").is_some()).await;
    api.put(&topic_path("events"), topic(json!({"clusterRef": {"name": "demo"}, "partitions": 2})));
    until("what cannot be is refused", || reason(&api, &topic_path("events")) == "PartitionsShrink").await;

    api.put(&cluster_path("demo"), cluster(4));
    until("a pod more", || {
        play_set(&api);
        api.get(&claim_path(4)).is_some()
    })
    .await;
    thalweg.join(4, 3);
    until("all is as wanted again", || reason(&api, &cluster_path("demo")) == "AsWanted").await;

    api.put(&cluster_path("demo"), cluster(3));
    until("the broker is drained", || thalweg.lock().view.broker(4).is_some_and(|broker| broker.draining))
        .await;
    thalweg.broker(4, |broker| broker.replicas = 0);
    until("its pod goes, and it is forgotten", || {
        play_set(&api);
        let stopped = api.get(&crate::bench::pod_path(4)).is_none();
        thalweg.broker_if(4, |broker| broker.fenced = stopped);
        thalweg.lock().view.broker(4).is_none()
    })
    .await;
    until("as wanted once more", || reason(&api, &cluster_path("demo")) == "AsWanted").await;
    assert!(api.get(&claim_path(4)).is_some(), "its volume stays");

    // What is deleted is counted no more, though it was let go without a look.
    assert!(topics_counted(&registry) > 0.0);
    api.delete(&topic_path("events"));
    until("the topic's resource is forgotten", || topics_counted(&registry) == 0.0).await;

    shutdown.trigger();
    running.await.unwrap().unwrap();
    let path = format!("apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/thalweg-operator");
    assert_eq!(api.get(&path).unwrap()["spec"]["holderIdentity"], "");
}
