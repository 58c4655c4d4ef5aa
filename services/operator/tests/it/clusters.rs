//! Brokers come and go: step by step, refused, interrupted.

use crate::bench::{Bench, NAMESPACE, claim_path, cluster_path, condition, pod_path, said, set_path};
use crate::fake_thalweg::{FakeThalweg, fake_thalweg_state};
use serde_json::{Value, json};
use thalweg_core::ErrorCode;

async fn bench(brokers: i32) -> Bench {
    let bench = Bench::start(FakeThalweg::with_brokers(brokers, 9)).await;
    bench.put_set(brokers);
    bench
}

fn status(bench: &Bench) -> Value {
    bench.api.get(&cluster_path("demo")).unwrap()["status"].clone()
}

fn replicas(bench: &Bench) -> i64 {
    bench.api.get(&set_path()).unwrap()["spec"]["replicas"].as_i64().unwrap()
}

const STATUS: &str = "PATCH clusters/demo/status";
const SCALE: &str = "PATCH statefulsets/demo-broker/scale";

#[tokio::test]
async fn more_brokers_come_and_get_their_share() {
    let bench = bench(3).await;
    bench.put_cluster("demo", 3, &json!({}));
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("True", "AsWanted"));
    let now = status(&bench);
    assert_eq!(
        json!([
            now["brokers"],
            now["readyBrokers"],
            now["selector"],
            now["controllerLeader"],
            now["clusterId"]
        ]),
        json!([3, 3, "app=broker", 2, "cluster-1"])
    );
    assert_eq!(bench.lines(), [STATUS]);
    bench.cluster("demo").await.unwrap();
    assert_eq!(bench.lines(), Vec::<String>::new(), "nothing new is not written");

    bench.put_cluster("demo", 5, &json!({}));
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "ScalingOut"));
    let writes = bench.api.take_writes();
    let [told, scaled] = writes.as_slice() else { panic!("{writes:#?}") };
    assert!(told.path.ends_with("clusters/demo/status"), "told before it is done: {}", told.path);
    let path = format!("apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/demo-broker/scale");
    assert_eq!(scaled.line(), format!("PATCH {path}"));
    assert_eq!(scaled.body["spec"], json!({"replicas": 5}));
    assert!(scaled.body["metadata"]["resourceVersion"].is_string(), "{}", scaled.body);

    bench.play_set();
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "WaitingForBrokers"));
    bench.thalweg.join(4, 0);
    bench.thalweg.join(5, 0);
    bench.thalweg.lock().moving = 7;
    let ready = bench.cluster("demo").await.unwrap();
    assert_eq!(said(&ready), ("False", "Balancing"), "{ready}");
    assert_eq!(status(&bench)["movingPartitions"], 7);
    let object = bench.api.get(&cluster_path("demo")).unwrap();
    assert_eq!(said(&condition(&object, "Progressing")), ("True", "Balancing"));
    assert_eq!(said(&condition(&object, "Available")), ("True", "AllLed"));
    bench.thalweg.lock().moving = 0;
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("True", "AsWanted"));
    assert_eq!(status(&bench)["readyBrokers"], 5);
    assert_eq!(bench.thalweg.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn fewer_brokers_are_drained_stopped_and_forgotten_one_by_one() {
    let bench = bench(5).await;
    bench.put_cluster("demo", 3, &json!({"volumes": "Delete"}));
    for (id, ordinal) in [(5, 5), (4, 4)] {
        assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "Draining"));
        assert_eq!(bench.lines(), [STATUS], "noted first, and no pod goes");
        assert_eq!(bench.thalweg.take_calls(), [format!("drain {id}")]);
        bench.thalweg.broker(id, |broker| broker.replicas = 4);
        bench.cluster("demo").await.unwrap();
        assert_eq!(
            json!([status(&bench)["drainingBroker"], status(&bench)["drainingReplicasLeft"]]),
            json!([id, 4])
        );
        assert_eq!(replicas(&bench), i64::from(id));
        bench.lines();

        bench.thalweg.broker(id, |broker| broker.replicas = 0);
        assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "RemovingBroker"));
        assert_eq!(bench.lines(), [STATUS, SCALE]);
        assert_eq!(bench.thalweg.take_calls(), [format!("drain {id}")], "asked once more right before");
        assert_eq!(replicas(&bench), i64::from(id) - 1);

        // The pod takes its time.
        assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "StoppingBroker"));
        bench.cluster("demo").await.unwrap();
        assert_eq!(bench.thalweg.take_calls(), Vec::<String>::new());
        assert!(bench.api.get(&claim_path(ordinal)).is_some(), "a volume that is mounted is left alone");
        bench.play_set();
        bench.lines();
        // Gone, but the cluster has not noticed: it refuses, and is asked again.
        bench.thalweg.take_calls();
        assert!(bench.cluster("demo").await.is_err());
        bench.thalweg.broker(id, |broker| broker.fenced = true);
        bench.cluster("demo").await.unwrap();
        assert_eq!(bench.thalweg.take_calls(), [format!("unregister {id}"), format!("unregister {id}")]);
        let delete = format!("DELETE api/v1/persistentvolumeclaims/data-0-demo-broker-{ordinal}");
        assert_eq!(bench.lines(), [STATUS, &delete, STATUS]);
        assert!(bench.api.get(&claim_path(ordinal)).is_none());
        assert!(status(&bench)["drainingBroker"].is_null());
    }
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("True", "AsWanted"));
    assert_eq!((replicas(&bench), bench.thalweg.lock().view.brokers.len()), (3, 3));
    assert!(bench.api.get(&claim_path(3)).is_some());
}

#[tokio::test]
async fn volumes_are_kept_unless_it_is_said_and_while_anybody_mounts_them() {
    for (policy, kept) in [("Retain", true), ("Delete", false)] {
        let bench = bench(4).await;
        bench.put_cluster("demo", 3, &json!({"volumes": policy}));
        bench.thalweg.broker(4, |broker| broker.replicas = 0);
        bench.cluster("demo").await.unwrap();
        bench.cluster("demo").await.unwrap();
        bench.play_set();
        bench.thalweg.broker(4, |broker| broker.fenced = true);
        // Somebody looks into the volume.
        let path = format!("api/v1/namespaces/{NAMESPACE}/pods/looking");
        let volume = json!({"name": "d", "persistentVolumeClaim": {"claimName": "data-0-demo-broker-4"}});
        bench.api.put(
            &path,
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [], "volumes": [volume]}}),
        );
        bench.cluster("demo").await.unwrap();
        assert!(bench.api.get(&claim_path(4)).is_some());
        assert_eq!(status(&bench)["drainingBroker"].is_null(), kept, "the claim is still to go");
        bench.api.delete(&path);
        bench.cluster("demo").await.unwrap();
        assert_eq!(bench.api.get(&claim_path(4)).is_some(), kept, "{policy}");
        assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("True", "AsWanted"));
    }
}

#[tokio::test]
async fn fewer_brokers_than_a_topic_has_replicas_are_refused() {
    let bench = bench(4).await;
    bench.put_cluster("demo", 2, &json!({}));
    let ready = bench.cluster("demo").await.unwrap();
    assert_eq!(said(&ready), ("False", "ScaleInRefused"));
    assert!(ready["message"].as_str().unwrap().contains("at least 3"), "{ready}");
    assert_eq!((bench.lines(), bench.thalweg.take_calls()), (vec![STATUS.to_owned()], vec![]));
    assert_eq!(replicas(&bench), 4);
}

#[tokio::test]
async fn a_broker_that_still_holds_data_stays_whatever_was_described() {
    let bench = bench(4).await;
    bench.put_cluster("demo", 3, &json!({}));
    bench.cluster("demo").await.unwrap();
    // An old description says that it is empty; the controllers know better.
    bench.thalweg.broker(4, |broker| broker.replicas = 0);
    bench.thalweg.lock().left_after_drain = Some(2);
    bench.lines();
    bench.cluster("demo").await.unwrap();
    assert_eq!((bench.lines(), replicas(&bench)), (vec![STATUS.to_owned()], 4));
    // It cannot leave: said, and waited for.
    bench.thalweg.lock().left_after_drain = None;
    bench.thalweg.broker(4, |broker| (broker.replicas, broker.stuck) = (2, 2));
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "DrainStuck"));
    assert_eq!(replicas(&bench), 4);
}

#[tokio::test]
async fn a_drain_is_taken_back_when_the_broker_shall_stay() {
    let bench = bench(4).await;
    bench.put_cluster("demo", 3, &json!({}));
    bench.cluster("demo").await.unwrap();
    bench.put_cluster("demo", 4, &json!({}));
    // The first try fails: what is to be taken back is not forgotten.
    bench.thalweg.lock().refuse = Some(ErrorCode::ControllerNotAvailable);
    assert!(bench.cluster("demo").await.is_err());
    assert_eq!(status(&bench)["drainingBroker"], 4);
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "DrainCancelled"));
    assert_eq!(bench.thalweg.take_calls(), ["drain 4", "undrain 4", "undrain 4"]);
    bench.cluster("demo").await.unwrap();
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("True", "AsWanted"));
    assert!(status(&bench)["drainingBroker"].is_null());
    assert_eq!(replicas(&bench), 4);
}

#[tokio::test]
async fn an_operator_that_is_killed_between_any_two_steps_goes_on() {
    // Each write in turn is lost, as if the operator had died there; the next look goes on.
    for lost in 0..8 {
        let bench = bench(4).await;
        bench.put_cluster("demo", 3, &json!({"volumes": "Delete"}));
        let (mut writes, mut refused) = (0, false);
        for _ in 0..40 {
            if !refused && writes >= lost {
                refused = true;
                bench.api.refuse_next("", 500);
            }
            // It dies, or has nothing to write.
            drop(bench.cluster("demo").await);
            writes += bench.lines().len();
            // The world goes on by itself.
            bench
                .thalweg
                .broker_if(4, |broker| broker.replicas = if broker.draining { 0 } else { broker.replicas });
            bench.play_set();
            if bench.api.get(&pod_path(4)).is_none() {
                bench.thalweg.broker_if(4, |broker| broker.fenced = true);
            }
        }
        assert_eq!(
            said(&bench.cluster("demo").await.unwrap()),
            ("True", "AsWanted"),
            "write {lost} was lost"
        );
        assert_eq!(bench.thalweg.lock().view.brokers.len(), 3, "write {lost} was lost");
        assert!(bench.api.get(&claim_path(4)).is_none(), "write {lost} was lost");
        assert!(bench.api.get(&claim_path(3)).is_some());
        assert_eq!(replicas(&bench), 3);
    }
}

#[tokio::test]
async fn a_change_of_the_statefulset_meanwhile_stops_the_step() {
    let bench = bench(3).await;
    bench.put_cluster("demo", 4, &json!({}));
    bench.api.refuse_next("demo-broker/scale", 409);
    assert!(bench.cluster("demo").await.unwrap_err().is_conflict());
    assert_eq!(replicas(&bench), 3);
    bench.cluster("demo").await.unwrap();
    assert_eq!(replicas(&bench), 4);
}

#[tokio::test]
async fn what_is_not_there_and_what_another_has_is_refused() {
    let bench = Bench::start(FakeThalweg::with_brokers(3, 9)).await;
    bench.put_cluster("demo", 3, &json!({}));
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "StatefulSetNotFound"));
    bench.put_set(3);
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("True", "AsWanted"));
    bench.put_cluster("again", 7, &json!({}));
    bench.api.change(&cluster_path("again"), |cluster| {
        cluster["metadata"]["creationTimestamp"] = json!("2026-05-01T00:00:00Z");
    });
    assert_eq!(said(&bench.cluster("again").await.unwrap()), ("False", "StatefulSetTaken"));
    assert_eq!(replicas(&bench), 3);
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_loses_nothing_and_may_grow() {
    let bench = bench(4).await;
    bench.put_cluster("demo", 3, &json!({}));
    bench.thalweg.lock().down = true;
    assert!(bench.cluster("demo").await.is_err());
    let object = bench.api.get(&cluster_path("demo")).unwrap();
    assert_eq!(said(&condition(&object, "Ready")), ("Unknown", "ClusterUnreachable"));
    assert_eq!(said(&condition(&object, "Available")), ("Unknown", "ClusterUnreachable"));
    assert_eq!(replicas(&bench), 4);
    // A write would be a change, and a change the occasion to try again at once.
    bench.lines();
    assert!(bench.cluster("demo").await.is_err());
    assert_eq!(bench.lines(), Vec::<String>::new(), "the same failure is not told again");
    bench.put_cluster("demo", 5, &json!({}));
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "ScalingOut"));
    assert_eq!(replicas(&bench), 5);
}

#[tokio::test]
async fn another_cluster_behind_the_reference_decides_nothing() {
    let bench = bench(4).await;
    bench.put_cluster("demo", 4, &json!({"volumes": "Delete"}));
    bench.cluster("demo").await.unwrap();
    // It has fewer brokers, which hold nothing.
    *bench.thalweg.lock() = fake_thalweg_state("cluster-2", 3);
    bench.put_cluster("demo", 3, &json!({"volumes": "Delete"}));
    assert_eq!(said(&bench.cluster("demo").await.unwrap()), ("False", "OtherCluster"));
    bench.cluster("demo").await.unwrap();
    assert_eq!((replicas(&bench), bench.thalweg.take_calls()), (4, vec![]));
    assert_eq!(status(&bench)["clusterId"], "cluster-1");
    assert!(bench.api.get(&claim_path(4)).is_some());
}

#[tokio::test]
async fn a_broker_that_only_the_controllers_know_is_not_stopped() {
    let bench = bench(4).await;
    bench.put_cluster("demo", 3, &json!({}));
    // Who described the cluster has not heard of broker 4; the controllers have, and that it holds something.
    let known = bench.thalweg.lock().view.brokers.pop();
    bench.thalweg.lock().unheard = known;
    bench.cluster("demo").await.unwrap();
    assert_eq!((replicas(&bench), bench.thalweg.take_calls()), (4, vec!["drain 4".to_owned()]));
    // Nor do they: it never became one.
    bench.thalweg.lock().unheard = None;
    bench.cluster("demo").await.unwrap();
    assert_eq!(replicas(&bench), 3);
}

#[tokio::test]
async fn a_deleted_resource_leaves_everything_as_it_is() {
    let bench = bench(4).await;
    bench.put_cluster("demo", 3, &json!({}));
    bench.api.change(&cluster_path("demo"), |cluster| {
        cluster["metadata"]["finalizers"] = json!(["somebody.else/s"]);
    });
    bench.api.delete(&cluster_path("demo"));
    bench.cluster("demo").await.unwrap();
    assert_eq!((bench.lines(), bench.thalweg.take_calls(), replicas(&bench)), (vec![], vec![], 4));
}
