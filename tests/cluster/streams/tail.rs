//! Tail: a topic's plain records from a point on.

use crate::harness::{Api, Dev, within};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thalweg_proto::v1::{self, TailStart};
use tonic::Streaming;

async fn open(api: &Api, request: v1::TailRequest) -> Streaming<v1::TailResponse> {
    within("Tail", api.consumer.clone().tail(request)).await.unwrap().into_inner()
}

fn request(start: TailStart) -> v1::TailRequest {
    v1::TailRequest { topic: "t".into(), start: start.into(), ..Default::default() }
}

/// Reads to the end: the values of each partition.
async fn to_end(mut stream: Streaming<v1::TailResponse>) -> BTreeMap<i32, Vec<String>> {
    let mut values: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    while let Some(message) = within("a message or the end", stream.message()).await.unwrap() {
        assert!(!message.records.is_empty(), "never none");
        let of_partition = values.entry(message.partition).or_default();
        for record in message.records {
            of_partition.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

fn expected(of: &[(i32, &[&str])]) -> BTreeMap<i32, Vec<String>> {
    of.iter()
        .map(|(partition, values)| (*partition, values.iter().map(|v| (*v).to_owned()).collect()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_topic_is_read_from_where_it_is_told() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 3, &[]).await;
    api.produce_values("t", 0, &["a", "b", "c"]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    tokio::time::sleep(Duration::from_millis(20)).await;
    api.produce_values("t", 2, &["x", "y"]).await.unwrap();

    let whole = v1::TailRequest { until_end: true, ..request(TailStart::Earliest) };
    let all = expected(&[(0, &["a", "b", "c"]), (2, &["x", "y"])]);
    assert_eq!(to_end(open(&api, whole.clone()).await).await, all);
    let one = v1::TailRequest { partitions: vec![2], ..whole.clone() };
    assert_eq!(to_end(open(&api, one).await).await, expected(&[(2, &["x", "y"])]));
    let offset =
        v1::TailRequest { partitions: vec![0], offset: 1, until_end: true, ..request(TailStart::Offset) };
    assert_eq!(to_end(open(&api, offset).await).await, expected(&[(0, &["b", "c"])]));
    let time = v1::TailRequest { timestamp_ms: between, until_end: true, ..request(TailStart::Timestamp) };
    assert_eq!(to_end(open(&api, time).await).await, expected(&[(2, &["x", "y"])]));
    let limited = v1::TailRequest { max_records: 4, ..request(TailStart::Earliest) };
    let limited = to_end(open(&api, limited).await).await;
    assert_eq!(limited.values().map(Vec::len).sum::<usize>(), 4);
    let at_end = v1::TailRequest { until_end: true, ..request(TailStart::Latest) };
    assert_eq!(to_end(open(&api, at_end).await).await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tail_goes_on_as_records_come() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 2, &[]).await;
    api.produce_values("t", 0, &["old"]).await.unwrap();
    let mut from_start = open(&api, request(TailStart::Earliest)).await;
    let mut next = async || {
        let message = within("a record", from_start.message()).await.unwrap().expect("it does not end");
        (
            message.partition,
            message.records.into_iter().map(|r| r.value.unwrap().to_vec()).collect::<Vec<_>>(),
        )
    };
    assert_eq!(next().await, (0, vec![b"old".to_vec()]));
    for n in 0..20 {
        let value = n.to_string();
        api.produce_values("t", n % 2, &[&value]).await.unwrap();
        assert_eq!(next().await, (n % 2, vec![value.into_bytes()]));
    }
}
