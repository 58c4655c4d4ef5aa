//! The cost of a batch: building, checking and walking it, for small and middling records and every codec.
//!
//! `cargo bench -p thalweg-core --bench batch -- --quick`; throughput is in records.
#![allow(missing_docs, reason = "criterion's macros make public functions without docs")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use thalweg_core::Timestamp;
use thalweg_core::batch::{
    BatchBuilder, BatchHeader, BatchIter, HEADER_LEN, Limits, ProducerStamp, ValidBatch,
};
use thalweg_core::compression::Compression;

/// Uncompressed bytes of a batch: what a busy producer fills.
const BATCH_BYTES: usize = 64 * 1024;
const RECORD_SIZES: [usize; 2] = [100, 1024];
const START: Timestamp = Timestamp(1_700_000_000_000);

/// Text with the redundancy of a service's log: words from a small vocabulary, and numbers.
fn value(size: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["GET", "POST", "/api/v1/orders", "status=200", "latency_ms=", "user", "trace", "INFO"];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    while text.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(WORDS[(state % 8) as usize]);
        text.push_str(&format!("{} ", (state >> 32) % 10_000));
    }
    text.truncate(size);
    text.into_bytes()
}

fn values(size: usize) -> Vec<Vec<u8>> {
    (0..(BATCH_BYTES / size) as u64).map(|seed| value(size, seed)).collect()
}

fn fill(builder: &mut BatchBuilder, values: &[Vec<u8>]) {
    for (i, value) in values.iter().enumerate() {
        builder.append(START.saturating_add_millis(i as i64 / 100), None, Some(value), &[]);
    }
}

fn batch(codec: Compression, values: &[Vec<u8>]) -> Bytes {
    let mut builder = BatchBuilder::new(codec, BATCH_BYTES);
    fill(&mut builder, values);
    builder.finish(ProducerStamp::NONE)
}

/// Building, with the machine's own limit beside it: the same bytes copied into one buffer and checksummed.
fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    for (size, codec) in cases() {
        let values = values(size);
        group.throughput(Throughput::Elements(values.len() as u64));
        group.bench_function(BenchmarkId::new(codec.to_string(), size), |b| {
            b.iter(|| batch(codec, black_box(&values)));
        });
    }
    for size in RECORD_SIZES {
        let values = values(size);
        group.throughput(Throughput::Elements(values.len() as u64));
        group.bench_function(BenchmarkId::new("memcpy_and_crc", size), |b| {
            b.iter(|| {
                let mut out = Vec::with_capacity(BATCH_BYTES);
                black_box(&values).iter().for_each(|value| out.extend_from_slice(value));
                (thalweg_core::batch::crc_of(&[0; HEADER_LEN], &out), out)
            });
        });
    }
    group.finish();
}

fn check(c: &mut Criterion) {
    let mut group = c.benchmark_group("check");
    for (size, codec) in cases() {
        let values = values(size);
        let bytes = batch(codec, &values);
        group.throughput(Throughput::Elements(values.len() as u64));
        group.bench_function(BenchmarkId::new(codec.to_string(), size), |b| {
            b.iter(|| ValidBatch::check(black_box(&bytes).clone(), &Limits::default()).expect("it is valid"));
        });
    }
    // What of the check is the checksum.
    for size in RECORD_SIZES {
        let values = values(size);
        let bytes = batch(Compression::None, &values);
        group.throughput(Throughput::Elements(values.len() as u64));
        group.bench_function(BenchmarkId::new("crc_alone", size), |b| {
            b.iter(|| thalweg_core::batch::check_crc(black_box(&bytes)).expect("it is valid"));
        });
    }
    group.finish();
}

fn iterate(c: &mut Criterion) {
    let mut group = c.benchmark_group("iterate");
    for (size, codec) in cases() {
        let values = values(size);
        let bytes = batch(codec, &values);
        group.throughput(Throughput::Elements(values.len() as u64));
        let mut scratch = Vec::new();
        group.bench_function(BenchmarkId::new(codec.to_string(), size), |b| {
            b.iter(|| {
                let mut total = 0;
                for batch in BatchIter::new(black_box(&bytes)) {
                    let batch = batch.expect("it is whole");
                    for record in batch.records(&mut scratch, 64 << 20).expect("it inflates") {
                        total += record.expect("it is valid").value.map_or(0, <[u8]>::len);
                    }
                }
                total
            });
        });
    }
    group.finish();
}

/// What a leader does to a header on the way to the log.
fn header(c: &mut Criterion) {
    let bytes = batch(Compression::None, &values(100));
    c.bench_function("header/parse_patch_encode", |b| {
        b.iter(|| {
            let mut header = BatchHeader::parse(black_box(&bytes)).expect("it is valid");
            header.base_offset = thalweg_core::Offset(black_box(77));
            header.leader_epoch = thalweg_core::LeaderEpoch(3);
            header.encode()
        });
    });
}

fn cases() -> impl Iterator<Item = (usize, Compression)> {
    RECORD_SIZES.into_iter().flat_map(|size| Compression::ALL.into_iter().map(move |codec| (size, codec)))
}

criterion_group!(benches, build, check, iterate, header);
criterion_main!(benches);
