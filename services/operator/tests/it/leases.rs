//! Of several operators one acts.

use crate::bench::{NAMESPACE, client};
use crate::fake_api::FakeApi;
use serde_json::json;
use std::time::Duration;
use thalweg_operator::LeaseConfig;
use thalweg_operator::lease::Election;
use thalweg_runtime::Shutdown;

fn config(identity: &str) -> LeaseConfig {
    LeaseConfig {
        duration: Duration::from_millis(600),
        renew_deadline: Duration::from_millis(400),
        retry: Duration::from_millis(50),
        ..LeaseConfig::new(NAMESPACE, "thalweg-operator", identity)
    }
}

fn path() -> String {
    format!("apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/thalweg-operator")
}

fn holder(api: &FakeApi) -> String {
    api.get(&path()).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_has_the_lease_and_another_gets_it_when_it_is_given_back() {
    let api = FakeApi::start().await;
    let (stop_a, stop_b) = (Shutdown::new(), Shutdown::new());
    let mut a = Election::new(client(&api), config("a"));
    assert!(a.acquire(&stop_a).await);
    assert_eq!(holder(&api), "a");
    let waiting = tokio::spawn({
        let (api, stop) = (api.clone(), stop_b.clone());
        async move {
            let mut b = Election::new(client(&api), config("b"));
            b.acquire(&stop).await.then_some(b)
        }
    });
    let keeping = tokio::spawn({
        let stop = stop_a.clone();
        async move { a.keep(&stop).await }
    });
    // Far longer than the lease lasts, but it is renewed.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!((holder(&api).as_str(), waiting.is_finished()), ("a", false));
    stop_a.trigger();
    assert!(keeping.await.unwrap());
    assert!(waiting.await.unwrap().is_some());
    assert_eq!(holder(&api), "b");
    assert_eq!(api.get(&path()).unwrap()["spec"]["leaseTransitions"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_silent_is_replaced_and_one_that_was_replaced_knows() {
    let api = FakeApi::start().await;
    let stop = Shutdown::new();
    let mut dead = Election::new(client(&api), config("dead"));
    assert!(dead.acquire(&stop).await);
    // Its clock is a year ahead: that is not believed.
    api.change(&path(), |lease| lease["spec"]["renewTime"] = json!("2027-11-21T00:00:00.000000Z"));
    let mut heir = Election::new(client(&api), config("heir"));
    assert!(heir.acquire(&stop).await);
    assert_eq!(holder(&api), "heir");
    assert!(!dead.keep(&stop).await, "what was lost is not kept");
    // Who cannot reach the API server for too long stops acting, too.
    for _ in 0..200 {
        api.refuse_next("leases/thalweg-operator", 500);
    }
    assert!(!heir.keep(&stop).await);
}
