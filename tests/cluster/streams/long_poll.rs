//! Fetch waits for data as long as it is told, and not longer than it must.

use crate::harness::{Api, Dev, fetch_request, within};
use std::time::{Duration, Instant};
use thalweg_proto::v1;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_fetch_answers_when_data_comes() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 2, &[]).await;
    let request =
        v1::FetchRequest { min_bytes: Some(1), max_wait_ms: Some(300_000), ..fetch_request("t", 0, 0) };
    let waiting = Api::connect(&dev).await;
    let mut fetch = tokio::spawn(async move { waiting.consumer.clone().fetch(request).await });
    // It waits: another partition's records are not what it waits for.
    api.produce_values("t", 1, &["elsewhere"]).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(500), &mut fetch).await.is_err(),
        "there is nothing to answer"
    );
    api.produce_values("t", 0, &["here"]).await.unwrap();
    let answer = within("an answer, long before five minutes", fetch).await.unwrap().unwrap().into_inner();
    let Some(v1::partition_data::Data::Records(set)) = &answer.partitions[0].data else {
        panic!("{answer:?}")
    };
    assert_eq!(set.records[0].value.as_deref(), Some(&b"here"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_fetch_waits_for_min_bytes_and_ends_at_max_wait() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    let wait = Duration::from_millis(600);
    let request = |min_bytes| v1::FetchRequest {
        min_bytes: Some(min_bytes),
        max_wait_ms: Some(wait.as_millis() as u32),
        ..fetch_request("t", 0, 0)
    };
    let begin = Instant::now();
    let answer = within("Fetch", api.consumer.clone().fetch(request(1))).await.unwrap().into_inner();
    assert!(begin.elapsed() >= wait, "it came back after {:?}", begin.elapsed());
    assert!(answer.partitions.iter().all(|data| data.data.is_none() && data.error.is_none()), "{answer:?}");

    api.produce_values("t", 0, &["little"]).await.unwrap();
    let begin = Instant::now();
    let answer = within("Fetch", api.consumer.clone().fetch(request(1 << 20))).await.unwrap().into_inner();
    assert!(begin.elapsed() >= wait, "too little to answer with before {wait:?}");
    assert!(answer.partitions[0].data.is_some(), "what there is comes at the end: {answer:?}");

    let mut at_once = request(1 << 20);
    at_once.min_bytes = Some(0);
    at_once.max_wait_ms = Some(300_000);
    within("an answer at once", api.consumer.clone().fetch(at_once)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn max_bytes_bounds_an_answer_but_never_to_nothing() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    for _ in 0..20 {
        api.produce_values("t", 0, &[&"x".repeat(10_000)]).await.unwrap();
    }
    let fetched = async |max_bytes| {
        let request = v1::FetchRequest { max_bytes: Some(max_bytes), ..fetch_request("t", 0, 0) };
        let answer = within("Fetch", api.consumer.clone().fetch(request)).await.unwrap().into_inner();
        match &answer.partitions[0].data {
            Some(v1::partition_data::Data::Records(set)) => set.records.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fetched(1).await, 1, "the first batch always comes whole");
    let some = fetched(55_000).await;
    assert!((1..=6).contains(&some), "{some} records of 10 kB in 55 kB");
    assert_eq!(fetched(10 << 20).await, 20);
}
