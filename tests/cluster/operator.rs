//! The operator, as a process, between an API server in memory and a real cluster: the test plays the StatefulSet's controller.

#[path = "../../services/operator/tests/it/fake_api.rs"]
#[allow(dead_code, reason = "the operator's own tests use more of it")]
mod fake_api;

use crate::harness::{Cluster, Pace, Server, Setup, Steady, eventually};
use fake_api::FakeApi;
use serde_json::{Value, json};
use std::path::Path;
use tokio::runtime::Runtime;

const TOPIC: &str = "events";
const PARTITIONS: u32 = 12;
const NAMESPACE: &str = "messages";

fn resource(plural: &str, name: &str) -> String {
    format!("apis/thalweg.io/v1alpha1/namespaces/{NAMESPACE}/{plural}/{name}")
}

fn set_path() -> String {
    format!("apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/demo-broker")
}

fn pod_path(ordinal: i32) -> String {
    format!("api/v1/namespaces/{NAMESPACE}/pods/demo-broker-{ordinal}")
}

fn claim_path(ordinal: i32) -> String {
    format!("api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/data-0-demo-broker-{ordinal}")
}

/// Kubernetes, as far as it is played.
struct Kubernetes {
    api: FakeApi,
    _runtime: Runtime,
}

impl Kubernetes {
    fn start() -> Kubernetes {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let api = runtime.block_on(FakeApi::start());
        Kubernetes { api, _runtime: runtime }
    }

    fn put_set(&self, replicas: i32) {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "spec": {
                "replicas": replicas, "ordinals": {"start": 1}, "serviceName": "demo-broker",
                "selector": {"matchLabels": {"app": "broker"}}, "template": {},
                "volumeClaimTemplates": [{"metadata": {"name": "data-0"}, "spec": {}}],
            },
        });
        self.api.put(&set_path(), set);
        (1..=replicas).for_each(|ordinal| self.put_pod(ordinal));
    }

    fn put_pod(&self, ordinal: i32) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"app": "broker"}}, "spec": {"containers": []}});
        self.api.put(&pod_path(ordinal), pod);
        self.api.put(
            &claim_path(ordinal),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {}}),
        );
    }

    fn replicas(&self) -> i64 {
        self.api.get(&set_path()).unwrap()["spec"]["replicas"].as_i64().unwrap()
    }

    fn put_cluster(&self, cluster: &Cluster, brokers: i32) {
        let bootstrap: Vec<String> = (1..=3).map(|id| cluster.endpoint(id).to_owned()).collect();
        let spec =
            json!({"brokers": brokers, "statefulSet": {"name": "demo-broker"}, "bootstrap": bootstrap});
        let object = json!({"apiVersion": "thalweg.io/v1alpha1", "kind": "Cluster", "spec": spec});
        self.api.put(&resource("clusters", "demo"), object);
    }

    fn put_topic(&self, name: &str, mut spec: Value) {
        spec["clusterRef"] = json!({"name": "demo"});
        let path = resource("topics", name);
        // What the operator holds it by stays, as it would with `kubectl apply`.
        let held = self.api.get(&path).map(|object| object["metadata"]["finalizers"].clone());
        let metadata =
            held.filter(|held| !held.is_null()).map_or(json!({}), |held| json!({"finalizers": held}));
        self.api.put(
            &path,
            json!({"apiVersion": "thalweg.io/v1alpha1", "kind": "Topic", "metadata": metadata, "spec": spec}),
        );
    }

    /// Waits until a resource's Ready condition has this reason, of its present generation.
    #[track_caller]
    fn await_reason(&self, path: &str, reason: &str) -> Value {
        eventually(&format!("{path} is {reason}"), || {
            let object = self.api.get(path)?;
            let told = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            let conditions = object["status"]["conditions"].as_array()?;
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
            (told && ready["reason"] == reason).then(|| ready.clone())
        })
    }

    /// An operator that has not been started.
    fn operator(&self, folder: &Path) -> Server {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.api.url()}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        });
        let file = folder.join("kubeconfig");
        std::fs::write(&file, config.to_string()).unwrap();
        let args =
            ["operator", "--identity", "operator-1", "--resync", "1s", "--step", "200ms", "--quiet", "3s"];
        let mut args: Vec<String> = args.map(str::to_owned).to_vec();
        args.extend(["--kubeconfig".to_owned(), file.to_str().unwrap().to_owned()]);
        Server::new("operator", None, args, folder.join("operator.log"))
    }
}

fn replicas_of(cluster: &Cluster, id: i64) -> Option<u64> {
    let described = cluster.describe_cluster();
    let brokers = described["brokers"].as_array().unwrap();
    brokers.iter().find(|broker| broker["id"] == id)?["replicas"].as_u64()
}

#[test]
fn topics_and_brokers_follow_their_resources() {
    let kubernetes = Kubernetes::start();
    let mut cluster = Cluster::start_with(Setup { controllers: 1, ..Setup::default() });
    let folder = tempfile::tempdir().unwrap();
    let mut operator = kubernetes.operator(folder.path());
    kubernetes.put_set(3);
    kubernetes.put_cluster(&cluster, 3);
    assert_eq!(operator.start(), "operator-1");
    let (demo, events) = (resource("clusters", "demo"), resource("topics", TOPIC));

    // A topic: created, grown and configured, refused.
    let spec = |partitions: u32, config: Value| json!({"partitions": partitions, "replicationFactor": 3, "config": config});
    kubernetes.put_topic(TOPIC, spec(6, json!({"min.insync.replicas": 2, "retention.ms": 3_600_000})));
    kubernetes.await_reason(&events, "InSync");
    assert_eq!(cluster.describe(TOPIC).len(), 6);
    kubernetes.put_topic(TOPIC, spec(PARTITIONS, json!({"min.insync.replicas": 2})));
    eventually("the topic has grown", || {
        (cluster.describe(TOPIC).len() == PARTITIONS as usize).then_some(())
    });
    kubernetes.await_reason(&events, "InSync");
    let described = cluster.cli(&["topic", "describe", TOPIC]).run().ok().text();
    assert!(described.contains("min.insync.replicas") && !described.contains("retention.ms"), "{described}");
    for (config, partitions, reason) in [
        (json!({"retention.msec": 1}), PARTITIONS, "InvalidConfig"),
        (json!({"min.insync.replicas": 2}), 1, "PartitionsShrink"),
    ] {
        kubernetes.put_topic(TOPIC, spec(partitions, config));
        let ready = kubernetes.await_reason(&events, reason);
        assert_eq!(ready["status"], "False", "{ready}");
    }
    kubernetes.put_topic(TOPIC, spec(PARTITIONS, json!({"min.insync.replicas": 2})));
    kubernetes.await_reason(&events, "InSync");
    kubernetes.put_topic("wide", json!({"replicationFactor": 5}));
    kubernetes.await_reason(&resource("topics", "wide"), "FactorAboveBrokers");

    // A broker more: it joins, and gets its share.
    cluster.await_in_sync(TOPIC);
    let mut producer = Steady::start(&cluster.bootstrap(), None, TOPIC, PARTITIONS, "steady", Pace::EVEN);
    producer.await_acks(200);
    kubernetes.await_reason(&demo, "AsWanted");
    kubernetes.put_cluster(&cluster, 4);
    eventually("a fourth pod is asked for", || (kubernetes.replicas() == 4).then_some(()));
    kubernetes.await_reason(&demo, "WaitingForBrokers");
    kubernetes.put_pod(4);
    cluster.join_broker(4, &[]);
    kubernetes.await_reason(&demo, "AsWanted");
    // 36 replicas over 4 brokers are 9 each; near enough is a share too.
    assert!(replicas_of(&cluster, 4).unwrap() >= 7, "{}", cluster.describe_cluster());

    // A broker fewer: it is drained, whoever drains it dies, and its pod goes when it holds nothing more.
    kubernetes.put_cluster(&cluster, 3);
    eventually("the fourth broker is drained", || {
        (kubernetes.api.get(&demo)?["status"]["drainingBroker"] == 4).then_some(())
    });
    operator.kill();
    assert_eq!(kubernetes.replicas(), 4);
    producer.next_acks(&producer.partitions());
    operator.start();
    eventually("its pod may go", || (kubernetes.replicas() == 3).then_some(()));
    assert_eq!(replicas_of(&cluster, 4), Some(0), "{}", cluster.describe_cluster());
    kubernetes.await_reason(&demo, "StoppingBroker");
    cluster.broker(4).stop();
    kubernetes.api.delete(&pod_path(4));
    eventually("it is forgotten", || replicas_of(&cluster, 4).is_none().then_some(()));
    kubernetes.await_reason(&demo, "AsWanted");
    assert!(kubernetes.api.get(&claim_path(4)).is_some(), "its volume stays");
    producer.next_acks(&producer.partitions());
    let sent = producer.finish(false);

    // Fewer than a topic has replicas: refused.
    kubernetes.put_cluster(&cluster, 2);
    kubernetes.await_reason(&demo, "ScaleInRefused");
    assert_eq!(kubernetes.replicas(), 3);
    assert!(cluster.describe(TOPIC).iter().all(|partition| partition.replicas.len() == 3));

    // Gone with its resource, or not.
    kubernetes.put_topic("brief", json!({"deletionPolicy": "Delete"}));
    kubernetes.await_reason(&resource("topics", "brief"), "InSync");
    kubernetes.api.delete(&resource("topics", "brief"));
    eventually("the resource goes", || {
        kubernetes.api.get(&resource("topics", "brief")).is_none().then_some(())
    });
    kubernetes.api.delete(&events);
    let listed = cluster.cli(&["topic", "list"]).run().ok().text();
    assert!(listed.contains(TOPIC) && !listed.contains("brief"), "{listed}");
    operator.stop();
    let lease = format!("apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/thalweg-operator");
    assert_eq!(kubernetes.api.get(&lease).unwrap()["spec"]["holderIdentity"], "", "given back");

    // And not a record is lost by all that.
    cluster.check_stored(TOPIC, &sent, &[1, 2, 3]);
}
