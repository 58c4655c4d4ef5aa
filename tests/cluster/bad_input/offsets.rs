//! Offsets that are not there: the answer says which are.

use crate::harness::{Api, Dev, refused, within};
use thalweg_core::{ErrorCode, Offset};
use thalweg_proto::{Detail, v1};
use tokio_stream::StreamExt;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_offset_out_of_range_comes_with_the_range() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    api.produce_values("t", 0, &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]).await.unwrap();
    let cut = v1::DeleteRecordsPartition { topic: "t".into(), partition: 0, before_offset: 4 };
    let request = v1::DeleteRecordsRequest { partitions: vec![cut], ..Default::default() };
    let answer =
        within("DeleteRecords", api.admin.clone().delete_records(request)).await.unwrap().into_inner();
    assert_eq!(answer.results[0].log_start_offset, 4);

    for requested in [3, 0, 11, i64::MAX] {
        let range = Detail::OffsetRange {
            requested: Offset(requested),
            log_start: Offset(4),
            high_watermark: Offset(10),
        };
        let error =
            refused(api.fetch("t", 0, requested).await, Code::OutOfRange, ErrorCode::OffsetOutOfRange);
        assert_eq!(error.detail, Some(range.clone()), "{error}");
        assert!(error.message.contains('4') && error.message.contains("10"), "{error}");

        let tail = v1::TailRequest {
            topic: "t".into(),
            partitions: vec![0],
            start: v1::TailStart::Offset.into(),
            offset: requested,
            ..Default::default()
        };
        let refusal = match within("Tail", api.consumer.clone().tail(tail)).await {
            Err(status) => Err(status),
            Ok(answer) => {
                within("the first message", answer.into_inner().next()).await.expect("not a clean end")
            }
        };
        let error = refused(refusal, Code::OutOfRange, ErrorCode::OffsetOutOfRange);
        assert_eq!(error.detail, Some(range), "{error}");
    }
    for negative in [-1, i64::MIN] {
        let error =
            refused(api.fetch("t", 0, negative).await, Code::InvalidArgument, ErrorCode::InvalidRequest);
        assert!(error.field.as_deref().is_some_and(|field| field.contains("offset")), "{error:?}");
    }
    for valid in [4, 9, 10] {
        let data = api.fetch("t", 0, valid).await.unwrap();
        assert!(data.error.is_none(), "{valid}: {data:?}");
    }
    let cut = v1::DeleteRecordsPartition { topic: "t".into(), partition: 0, before_offset: 11 };
    let request = v1::DeleteRecordsRequest { partitions: vec![cut], ..Default::default() };
    let answer = within("DeleteRecords", api.admin.clone().delete_records(request)).await;
    refused(answer, Code::OutOfRange, ErrorCode::OffsetOutOfRange);
    assert_eq!(api.fetch("t", 0, 4).await.unwrap().log_start_offset, 4);
}
