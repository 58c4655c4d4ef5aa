//! One reconciler's surroundings, driven step by step.

use crate::fake_api::FakeApi;
use crate::fake_thalweg::FakeThalweg;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use thalweg_operator::crd::{Cluster, Topic};
use thalweg_operator::metrics::Metrics;
use thalweg_operator::{Context, Pace, ReconcileError, cluster, topic};

pub const NAMESPACE: &str = "messages";

pub struct Bench {
    pub api: FakeApi,
    pub thalweg: FakeThalweg,
    context: Arc<Context<FakeThalweg>>,
}

pub fn topic_path(name: &str) -> String {
    format!("apis/thalweg.io/v1alpha1/namespaces/{NAMESPACE}/topics/{name}")
}

pub fn cluster_path(name: &str) -> String {
    format!("apis/thalweg.io/v1alpha1/namespaces/{NAMESPACE}/clusters/{name}")
}

pub fn set_path() -> String {
    format!("apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/demo-broker")
}

pub fn pod_path(ordinal: i32) -> String {
    format!("api/v1/namespaces/{NAMESPACE}/pods/demo-broker-{ordinal}")
}

pub fn claim_path(ordinal: i32) -> String {
    format!("api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/data-0-demo-broker-{ordinal}")
}

/// A client of the server.
pub fn client(api: &FakeApi) -> kube::Client {
    let mut config = kube::Config::new(api.url().parse().unwrap());
    config.default_namespace = NAMESPACE.to_owned();
    kube::Client::try_from(config).unwrap()
}

/// Everything is looked at often, and quiet is short.
pub fn quick() -> Pace {
    let pause = Duration::from_millis(20);
    Pace { resync: pause, step: pause, quiet: Duration::ZERO }
}

fn all<K: serde::de::DeserializeOwned>(api: &FakeApi, paths: Vec<String>) -> Vec<Arc<K>> {
    let found = paths.iter().filter_map(|path| api.get(path));
    found.map(|object| Arc::new(serde_json::from_value(object).unwrap())).collect()
}

impl Bench {
    pub async fn start(thalweg: FakeThalweg) -> Bench {
        let api = FakeApi::start().await;
        let (of_topics, of_clusters) = (api.clone(), api.clone());
        let context = Context::new(
            client(&api),
            thalweg.clone(),
            quick(),
            // The names that these tests use.
            Arc::new(move || all::<Topic>(&of_topics, ["events", "other"].map(topic_path).to_vec())),
            Arc::new(move || all::<Cluster>(&of_clusters, ["demo", "again"].map(cluster_path).to_vec())),
            Arc::new(Metrics::default()),
        );
        Bench { api, thalweg, context: Arc::new(context) }
    }

    /// Reconciles a topic once and gives its Ready condition.
    pub async fn topic(&self, name: &str) -> Result<Option<Value>, ReconcileError> {
        let object = self.api.get(&topic_path(name)).unwrap();
        let object: Topic = serde_json::from_value(object).unwrap();
        topic::reconcile(Arc::new(object), Arc::clone(&self.context)).await?;
        Ok(self.api.get(&topic_path(name)).map(|object| condition(&object, "Ready")))
    }

    /// Reconciles a cluster once and gives its Ready condition.
    pub async fn cluster(&self, name: &str) -> Result<Value, ReconcileError> {
        let object = self.api.get(&cluster_path(name)).unwrap();
        let object: Cluster = serde_json::from_value(object).unwrap();
        cluster::reconcile(Arc::new(object), Arc::clone(&self.context)).await?;
        Ok(condition(&self.api.get(&cluster_path(name)).unwrap(), "Ready"))
    }

    /// The writes since the last call, a line each.
    pub fn lines(&self) -> Vec<String> {
        let short = |line: String| line.replace(&format!("namespaces/{NAMESPACE}/"), "");
        let short =
            |line: String| short(line).replace("apis/thalweg.io/v1alpha1/", "").replace("apis/apps/v1/", "");
        self.api.take_writes().iter().map(|write| short(write.line())).collect()
    }

    /// A Topic with this spec, in the cluster `demo`.
    pub fn put_topic(&self, name: &str, mut spec: Value) {
        if spec["clusterRef"].is_null() && spec["bootstrap"].is_null() {
            spec["clusterRef"] = json!({"name": "demo"});
        }
        self.api.put(&topic_path(name), json!({"apiVersion": "thalweg.io/v1alpha1", "kind": "Topic", "spec": spec, "metadata": self.kept(&topic_path(name))}));
    }

    /// A Cluster of so many brokers.
    pub fn put_cluster(&self, name: &str, brokers: i32, more: &Value) {
        let mut spec = json!({
            "brokers": brokers, "statefulSet": {"name": "demo-broker"}, "bootstrap": ["demo:9292"],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        self.api.put(&cluster_path(name), json!({"apiVersion": "thalweg.io/v1alpha1", "kind": "Cluster", "spec": spec, "metadata": self.kept(&cluster_path(name))}));
    }

    fn kept(&self, path: &str) -> Value {
        let finalizers = self.api.get(path).map(|object| object["metadata"]["finalizers"].clone());
        finalizers.filter(|list| !list.is_null()).map_or(json!({}), |list| json!({"finalizers": list}))
    }

    /// The chart's StatefulSet, with its pods and claims.
    pub fn put_set(&self, replicas: i32) {
        put_set(&self.api, replicas);
    }

    /// What the StatefulSet's own controller does: pods from the first number on, and no others.
    pub fn play_set(&self) {
        play_set(&self.api);
    }
}

pub fn put_set(api: &FakeApi, replicas: i32) {
    api.put(
        &set_path(),
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "spec": {
                "replicas": replicas, "ordinals": {"start": 1}, "serviceName": "demo-broker",
                "selector": {"matchLabels": {"app": "broker"}}, "template": {},
                "volumeClaimTemplates": [{"metadata": {"name": "data-0"}, "spec": {}}],
            },
        }),
    );
    play_set(api);
}

pub fn play_set(api: &FakeApi) {
    let replicas =
        i32::try_from(api.get(&set_path()).unwrap()["spec"]["replicas"].as_i64().unwrap()).unwrap();
    for ordinal in 1..=10 {
        let there = api.get(&pod_path(ordinal)).is_some();
        if ordinal <= replicas && !there {
            let volume = json!({"name": "data-0", "persistentVolumeClaim": {"claimName": format!("data-0-demo-broker-{ordinal}")}});
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"app": "broker"}},
                "spec": {"containers": [], "volumes": [volume]},
            });
            api.put(&pod_path(ordinal), pod);
            if api.get(&claim_path(ordinal)).is_none() {
                api.put(
                    &claim_path(ordinal),
                    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {}}),
                );
            }
        } else if ordinal > replicas && there {
            api.delete(&pod_path(ordinal));
        }
    }
    api.change(&set_path(), |set| set["status"] = json!({"replicas": replicas}));
}

pub fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["type"] == kind).unwrap_or_default()
}

/// Status and reason of a condition.
pub fn said(condition: &Value) -> (&str, &str) {
    (condition["status"].as_str().unwrap_or_default(), condition["reason"].as_str().unwrap_or_default())
}
