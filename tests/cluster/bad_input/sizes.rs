//! Records and batches over the limit.

use super::canary::Canary;
use crate::harness::{Api, Dev, batch, refused};
use thalweg_core::ErrorCode;
use thalweg_proto::v1::{self, produce_request::Payload};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_over_max_message_bytes_is_refused() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    let large = batch(&[&[b'x'; 2000]]);
    let limit = large.len() - 1;
    api.create_topic("t", 1, &[("max.message.bytes", &limit.to_string())]).await;

    let too_large = ErrorCode::MessageTooLarge;
    let error = refused(api.produce_batch("t", 0, large.clone()).await, Code::InvalidArgument, too_large);
    assert!(
        error.message.contains("max.message.bytes") && error.message.contains(&limit.to_string()),
        "{error}"
    );
    let many = batch(&vec![&[b'x'; 100][..]; 30]);
    refused(api.produce_batch("t", 0, many).await, Code::InvalidArgument, too_large);
    let text = "x".repeat(3000);
    refused(api.produce_values("t", 0, &[&text]).await, Code::InvalidArgument, too_large);
    assert_eq!(api.end_offset("t", 0).await, 0, "nothing is stored");

    // One byte less is allowed, and so is the large one once the topic allows it.
    let result = api.produce_batch("t", 0, batch(&[&[b'x'; 1999]])).await.unwrap();
    assert_eq!(result.base_offset, 0);
    let set = [("max.message.bytes".to_owned(), large.len().to_string())].into();
    let alter = v1::AlterConfigsRequest { topic: "t".into(), set, ..Default::default() };
    api.admin.clone().alter_configs(alter).await.unwrap();
    api.produce_batch("t", 0, large).await.unwrap();
    assert_eq!(api.end_offset("t", 0).await, 2);
    canary.sings(&api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_over_the_servers_own_limit_is_refused() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    api.create_topic("t", 1, &[]).await;
    let before = api.broker().await.resident_bytes;
    for mib in [2, 9, 32] {
        let request = v1::ProduceRequest {
            topic: "t".into(),
            partition: Some(0),
            payload: Some(Payload::RecordBatch(vec![0; mib << 20].into())),
            ..Default::default()
        };
        let status = api.produce(request).await.unwrap_err();
        println!("{mib} MiB: {status:?}");
        let expected = [Code::InvalidArgument, Code::OutOfRange, Code::ResourceExhausted];
        assert!(expected.contains(&status.code()), "{mib} MiB: {status:?}");
    }
    let record = |n: usize| v1::Record { value: Some(n.to_string().into()), ..Default::default() };
    let request = v1::ProduceRequest {
        topic: "t".into(),
        partition: Some(0),
        payload: Some(Payload::Records(v1::RecordSet { records: (0..100_001).map(record).collect() })),
        ..Default::default()
    };
    let status = api.produce(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "more than 100,000 records: {status:?}");
    assert_eq!(api.end_offset("t", 0).await, 0);
    let grown = api.broker().await.resident_bytes.saturating_sub(before);
    assert!(grown < 128 << 20, "{grown} bytes more than before");
    canary.sings(&api).await;
}
