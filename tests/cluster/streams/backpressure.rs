//! Readers that do not read cost the server bounded memory, and hold up nobody.

use super::fetch_stream::Stream;
use crate::harness::{Api, Dev, batch, within};
use std::time::Duration;
use thalweg_proto::v1;

/// Streams and tails that nobody reads, of each kind.
const READERS: usize = 10;
/// Bytes of one batch.
const BATCH: usize = 1_000_000;
/// Batches that are stored: far more than what may wait for the readers.
const BATCHES: usize = 60;
/// What the server may hold for all of them.
const MAX_GROWTH: u64 = 200 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn readers_that_do_not_read_are_not_buffered_for() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    // The batches' time is long ago: a slow machine would see them expire.
    api.create_topic("t", 1, &[("write.caching", "true"), ("retention.ms", "-1")]).await;
    let stored = batch(&[&[b'x'; BATCH]]);
    for _ in 0..BATCHES {
        api.produce_batch("t", 0, stored.clone()).await.unwrap();
    }
    let before = dev.resident_bytes();

    let mut streams = Vec::new();
    let mut tails = Vec::new();
    for _ in 0..READERS {
        // A connection each, so that no window is shared.
        let reader = Api::connect(&dev).await;
        let stream = Stream::open(&reader, v1::RecordFormat::Batches).await;
        stream.credit(u64::MAX / 2, None).await;
        stream.assign("t", 0, 0, 1).await;
        streams.push(stream);
        let start = v1::TailStart::Earliest.into();
        let request = v1::TailRequest { topic: "t".into(), start, ..Default::default() };
        tails.push(within("Tail", reader.consumer.clone().tail(request)).await.unwrap().into_inner());
    }
    let mut most = 0;
    for n in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(dev.resident_bytes());
        let result = api.produce_batch("t", 0, batch(&[b"meanwhile"])).await.unwrap();
        assert_eq!(result.base_offset, (BATCHES + n) as i64, "others are served");
    }
    println!("resident: {} MiB before, {} MiB at most", before >> 20, most >> 20);
    assert!(most < before + MAX_GROWTH, "{before} bytes before, {most} at most");

    // Whoever reads after all gets everything.
    let mut next = 0;
    while next < BATCHES as i64 {
        let data = streams[0].next().await;
        assert!(data.next_offset > next && data.error.is_none(), "{:?}", data.error);
        next = data.next_offset;
    }
    let mut records = 0;
    while records < BATCHES {
        records += within("a message", tails[0].message()).await.unwrap().expect("it goes on").records.len();
    }
}
