//! Small batches that inflate to a gigabyte are refused within bounded memory, for each codec.

use super::canary::Canary;
use crate::harness::{Api, Dev, batch, refused, reseal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::batch::HEADER_LEN;
use thalweg_core::compression::Compression;
use tonic::Code;

const GIB: usize = 1 << 30;
/// Bombs that are thrown at once.
const AT_ONCE: u64 = 4;
/// What the server may grow by: for each bomb the 64 MiB that a batch may inflate to and as much for the buffers that this
/// one grew out of, until the allocator gives them back. The bombs would be 4 GiB.
const MAX_GROWTH: u64 = AT_ONCE * 2 * (64 << 20);

/// Zeros that inflate to `size` bytes, without ever holding them.
fn zeros(codec: Compression, size: usize) -> Vec<u8> {
    let packed = |len: usize| {
        let mut out = Vec::new();
        codec.compress(&vec![0; len], &mut out).unwrap();
        out
    };
    match codec {
        Compression::None => unreachable!("no codec inflates nothing"),
        // Members join.
        Compression::Gzip => packed(1 << 20).repeat(size >> 20),
        // Blocks of 64 KiB between a header of 7 bytes and an end mark of 4.
        Compression::Lz4 => {
            let one = packed(64 << 10);
            let (header, block) = (&one[..7], &one[7..one.len() - 4]);
            [header, &block.repeat(size >> 16), &[0; 4]].concat()
        }
        // Xerial's header of 16 bytes, then blocks of 32 KiB.
        Compression::Snappy => {
            let one = packed(32 << 10);
            [&one[..16], &one[16..].repeat(size >> 15)].concat()
        }
        // RFC 8878: magic, a frame header without content size and with a window of 8 MiB, blocks that say "0, 128 KiB times".
        Compression::Zstd => {
            let block = |last: u32| {
                let header = last | 1 << 1 | (128 << 10) << 3;
                [&header.to_le_bytes()[..3], &[0]].concat()
            };
            let blocks = size >> 17;
            [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3][..], &block(0).repeat(blocks - 1), &block(1)].concat()
        }
    }
}

/// A batch with these packed records under a right checksum.
fn bomb(codec: Compression, packed: &[u8]) -> bytes::Bytes {
    let mut bytes = batch(&[b"x"])[..HEADER_LEN].to_vec();
    bytes[22] = codec.bits() as u8;
    bytes.extend_from_slice(packed);
    reseal(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_are_refused_within_bounded_memory() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    api.create_topic("t", 1, &[("max.message.bytes", "8388608")]).await;
    let before = api.broker().await.resident_bytes;
    let watch = Watch::start(&api);

    for codec in Compression::ALL.into_iter().filter(|codec| *codec != Compression::None) {
        // Snappy packs 21 to 1: what fits into the largest request inflates to 160 MiB, still far over the limit.
        let size = if codec == Compression::Snappy { 160 << 20 } else { GIB };
        let bytes = bomb(codec, &zeros(codec, size));
        println!("{codec}: {} bytes that inflate to {} MiB", bytes.len(), size >> 20);
        // Several at once, as from several attackers.
        let calls: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (api, bytes) = (api.clone(), bytes.clone());
                tokio::spawn(async move { api.produce_batch("t", 0, bytes).await })
            })
            .collect();
        for call in calls {
            let result = call.await.unwrap();
            refused(result, Code::InvalidArgument, ErrorCode::MessageTooLarge);
        }
    }

    // Raw snappy says in front how much it will be; that must not be believed.
    for claim in [&[0x80, 0x80, 0x80, 0x80, 0x04][..], &[0xff, 0xff, 0xff, 0xff, 0x0f]] {
        let packed = [claim, &[0x00, b'x']].concat();
        let status = api.produce_batch("t", 0, bomb(Compression::Snappy, &packed)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    // A zstd frame that wants a window of 2 GiB, and one that says it holds 2^62 bytes.
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3][..], &[0x0b, 0, 0, 0]].concat();
    let content =
        [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 62).to_le_bytes(), &[0x0b, 0, 0, 0]].concat();
    for packed in [window, content] {
        let status = api.produce_batch("t", 0, bomb(Compression::Zstd, &packed)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }

    let peak = watch.stop().await;
    println!("resident: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
    assert!(peak < before + MAX_GROWTH, "{before} bytes before, {peak} at most");
    assert_eq!(api.end_offset("t", 0).await, 0, "nothing is stored");
    canary.sings(&api).await;
}

/// Threads of the server, and bombs that are thrown at once, when it has many.
const THREADS: usize = 16;
/// What the server may grow by however many threads inflate: 2 large batches at once, each with 64 MiB and as much for the
/// buffers that this one grew out of, and the same once more for what the allocator has not given back yet; and for each thread
/// what every batch may take, 8 MiB with the buffers, and the codec's window of 8 MiB. All threads at once would take 2 GiB.
const MAX_GROWTH_IN_TURNS: u64 = (2 * 2 * 2 * 64 + THREADS as u64 * (8 + 8)) << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_threads_inflate_in_turns() {
    let dev = Dev::start_with_threads(THREADS);
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    api.create_topic("t", 1, &[("max.message.bytes", "8388608")]).await;
    let before = api.broker().await.resident_bytes;
    let watch = Watch::start(&Api::connect(&dev).await);
    // The smallest bombs, so that what is measured is what they inflate to and not they themselves.
    let bytes = bomb(Compression::Zstd, &zeros(Compression::Zstd, GIB));
    let mut calls = Vec::new();
    for _ in 0..2 * THREADS {
        // A connection each: calls on one connection may share a thread.
        let (api, bytes) = (Api::connect(&dev).await, bytes.clone());
        calls.push(tokio::spawn(async move { api.produce_batch("t", 0, bytes).await }));
    }
    for call in calls {
        refused(call.await.unwrap(), Code::InvalidArgument, ErrorCode::MessageTooLarge);
    }
    let peak = watch.stop().await;
    println!("resident: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
    assert!(peak < before + MAX_GROWTH_IN_TURNS, "{before} bytes before, {peak} at most");
    canary.sings(&api).await;
}

/// Asks the server for its memory all the while.
struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn start(api: &Api) -> Watch {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest, api) = (Arc::clone(&stop), Arc::clone(&peak), api.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                highest.fetch_max(api.broker().await.resident_bytes, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Watch { stop, peak, task }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.peak.load(Ordering::Relaxed)
    }
}
