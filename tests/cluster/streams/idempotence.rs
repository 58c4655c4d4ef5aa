//! A batch that is sent again is written once and answered with its first offset.

use super::produce_stream::Stream;
use crate::harness::{Api, Dev, stamped};
use thalweg_proto::v1::{self, produce_request::Payload, produce_stream_ack::Outcome};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_duplicate_is_answered_with_the_first_offset() {
    let mut dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[]).await;
    api.produce_values("t", 0, &["somebody else's"]).await.unwrap();
    let (id, epoch) = api.init_producer(None).await;
    let first = || stamped(id, epoch, 0, &[b"a", b"b"]);
    let second = || stamped(id, epoch, 2, &[b"c"]);
    let result = api.produce_batch("t", 0, first()).await.unwrap();
    assert_eq!((result.base_offset, result.last_offset, result.duplicate), (1, 2, false));
    api.produce_batch("t", 0, second()).await.unwrap();
    let expected = [&b"somebody else's"[..], b"a", b"b", b"c"];

    for ending in ["none", "clean", "kill", "kill"] {
        match ending {
            "clean" => dev.stop(),
            "kill" => dev.kill(),
            _ => {}
        }
        if ending != "none" {
            dev.restart();
        }
        let api = Api::connect(&dev).await;
        for (batch, offsets) in [(first(), (1, 2)), (second(), (3, 3))] {
            let result = api.produce_batch("t", 0, batch.clone()).await.unwrap();
            assert_eq!((result.base_offset, result.last_offset), offsets, "after {ending}");
            assert!(result.duplicate, "after {ending}");

            let mut stream = Stream::open(&api).await;
            let request = v1::ProduceRequest {
                topic: "t".into(),
                partition: Some(0),
                payload: Some(Payload::RecordBatch(batch)),
                acks: v1::Acks::All.into(),
                ..Default::default()
            };
            stream.send(7, request).await;
            let (7, Outcome::Response(response)) = stream.ack().await else { panic!("a response to 7") };
            assert_eq!((response.results[0].base_offset, response.results[0].duplicate), (offsets.0, true));
        }
        assert_eq!(api.values("t", 0).await, expected, "after {ending}");
    }
    let api = Api::connect(&dev).await;
    let result = api.produce_batch("t", 0, stamped(id, epoch, 3, &[b"d"])).await.unwrap();
    assert_eq!((result.base_offset, result.duplicate), (4, false), "the producer goes on where it was");
}
