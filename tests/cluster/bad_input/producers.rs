//! Idempotent producers that skip, repeat or are out of date.

use crate::harness::{Api, Dev, batch_of, refused, stamped};
use thalweg_core::batch::ProducerStamp;
use thalweg_core::compression::Compression;
use thalweg_core::{ErrorCode, ProducerEpoch, ProducerId, Sequence};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sequence_gap_and_a_stale_epoch_are_refused() {
    let mut dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    let (id, epoch) = api.init_producer(None).await;
    assert_eq!(epoch, 0);
    let failed = Code::FailedPrecondition;

    let unknown = api.produce_batch("t", 0, stamped(id, 0, 7, &[b"x"])).await;
    let error = refused(unknown, failed, ErrorCode::UnknownProducerId);
    assert!(error.message.contains(&id.to_string()), "{error}");
    api.produce_batch("t", 0, stamped(id, 0, 0, &[b"0", b"1", b"2"])).await.unwrap();
    for gap in [4, 5, 1000, i32::MAX] {
        let error = api.produce_batch("t", 0, stamped(id, 0, gap, &[b"x"])).await;
        refused(error, failed, ErrorCode::OutOfOrderSequence);
    }
    api.produce_batch("t", 0, stamped(id, 0, 3, &[b"3"])).await.unwrap();

    let (same, next) = api.init_producer(Some((id, epoch))).await;
    assert_eq!((same, next), (id, 1), "the id is kept, the epoch rises");
    refused(
        api.produce_batch("t", 0, stamped(id, 1, 4, &[b"x"])).await,
        failed,
        ErrorCode::OutOfOrderSequence,
    );
    api.produce_batch("t", 0, stamped(id, 1, 0, &[b"new epoch"])).await.unwrap();
    let stale = || stamped(id, 0, 4, &[b"from the old one"]);
    refused(api.produce_batch("t", 0, stale()).await, failed, ErrorCode::InvalidProducerEpoch);

    // All of that is remembered over a clean stop and over a kill.
    let expected = [&b"0"[..], b"1", b"2", b"3", b"new epoch"];
    for clean in [true, false] {
        if clean {
            dev.stop();
        } else {
            dev.kill();
        }
        dev.restart();
        let api = Api::connect(&dev).await;
        refused(api.produce_batch("t", 0, stale()).await, failed, ErrorCode::InvalidProducerEpoch);
        let gap = api.produce_batch("t", 0, stamped(id, 1, 5, &[b"x"])).await;
        refused(gap, failed, ErrorCode::OutOfOrderSequence);
        assert_eq!(api.values("t", 0).await, expected);
        let (other, epoch) = api.init_producer(None).await;
        assert!(other != id && epoch == 0, "an id is given once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_batch_that_is_too_old_to_be_remembered_is_a_duplicate_without_an_offset() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    let (id, _) = api.init_producer(None).await;
    for sequence in 0..8 {
        api.produce_batch("t", 0, stamped(id, 0, sequence, &[b"x"])).await.unwrap();
    }
    // The last five batches are remembered.
    for sequence in 3..8 {
        let result = api.produce_batch("t", 0, stamped(id, 0, sequence, &[b"x"])).await.unwrap();
        assert_eq!((result.base_offset, result.duplicate), (i64::from(sequence), true));
    }
    for sequence in 0..3 {
        let result = api.produce_batch("t", 0, stamped(id, 0, sequence, &[b"x"])).await;
        refused(result, Code::FailedPrecondition, ErrorCode::DuplicateSequence);
    }
    assert_eq!(api.end_offset("t", 0).await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_epoch_that_was_never_given_is_no_way_in() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let request = thalweg_proto::v1::InitProducerRequest { producer_id: Some(-7), producer_epoch: Some(0) };
    let status = api.producer.clone().init_producer(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    api.create_topic("t", 1, &[]).await;
    let stamp = ProducerStamp {
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(-1),
        base_sequence: Sequence(0),
        transactional: false,
    };
    let result = api.produce_batch("t", 0, batch_of(Compression::None, stamp, &[b"x"])).await;
    refused(result, Code::InvalidArgument, ErrorCode::CorruptBatch);
}
