//! One member of the SDK, with encoded batches; beside it the bare reader in the same run.

use super::super::args::{ConsumerBench, FetchBench};
use super::super::report::{CpuMeter, Report, Samples};
use super::super::{BenchTopic, Until, fetch};
use super::{forget, unique};
use crate::error::CliError;
use std::time::{Duration, Instant};
use thalweg_client::{Acks, Client, Consumer, ConsumerConfig, OffsetReset, Start};
use thalweg_core::batch::BatchIter;
use thalweg_core::compression::Compression;

/// How long a member may wait for data that must be there.
const STALL: Duration = Duration::from_secs(30);

/// Runs the case on a topic of its own, or on the one that is named.
pub async fn run(client: &Client, args: &ConsumerBench) -> Result<Report, CliError> {
    let topic = BenchTopic::open(client, &args.common).await?;
    let report = measure(client, args, &topic).await;
    topic.close().await?;
    report
}

async fn measure(client: &Client, args: &ConsumerBench, topic: &BenchTopic) -> Result<Report, CliError> {
    let available = fetch::filled(client, &args.common, topic).await?;
    let bare = FetchBench {
        common: args.common.clone(),
        acks: Acks::Leader,
        rate: None,
        compression: Compression::None,
        decode: false,
        skip_crc: false,
    };
    // Twice: the first brings the pages in.
    fetch::measure(client, &bare, topic).await?;
    let bare = fetch::measure(client, &bare, topic).await?;

    let group = unique("consumer");
    let mut config = ConsumerConfig::new(&group);
    config.offset_reset = OffsetReset::Earliest;
    let fresh = client.fresh().await.map_err(CliError::failed)?;
    let mut consumer = fresh.consumer(config).map_err(CliError::failed)?;
    consumer.subscribe([&topic.name]).map_err(CliError::failed)?;
    let opened = Instant::now();
    // The first chunk comes when the member has joined and read where it begins.
    let first = next(&mut consumer).await?;
    let joined = opened.elapsed();
    let until = args.common.until()?;
    let admin = client.admin();
    let meter = CpuMeter::start(&admin).await?;
    let (begun, mut samples) = (Instant::now(), Samples::default());
    let (mut records, mut bytes, mut round) = (0u64, 0u64, first.0);
    loop {
        let finished = match until {
            Until::Records(wanted) => records >= wanted,
            Until::Elapsed(time) => begun.elapsed() >= time,
        };
        if finished {
            break;
        }
        if round >= available {
            // All of it was read: again from the start.
            round = 0;
            for at in consumer.assignment() {
                consumer.seek(&at, Start::Earliest).await.map_err(CliError::failed)?;
            }
        }
        let asked = Instant::now();
        let (count, size) = next(&mut consumer).await?;
        samples.add(asked.elapsed());
        (records, bytes, round) = (records + count, bytes + size, round + count);
    }
    let usage = meter.stop().await?;
    consumer.close().await.map_err(CliError::failed)?;
    forget(&admin, &[group]).await?;
    let mut report = Report {
        case: "fetch",
        records,
        bytes,
        usage,
        latency: samples.percentiles(),
        end_to_end: None,
        more: Vec::new(),
    };
    report.more = vec![
        ("first_chunk_after_seconds", joined.as_secs_f64()),
        ("bare_fetch_mb_per_second", bare.mb_per_second()),
        ("ratio_to_fetch", report.mb_per_second() / bare.mb_per_second()),
    ];
    report.case = "consumer";
    Ok(report)
}

/// The next chunk's records and bytes.
async fn next(consumer: &mut Consumer) -> Result<(u64, u64), CliError> {
    let chunk = tokio::time::timeout(STALL, consumer.next_chunk()).await;
    let chunk = chunk.map_err(|_| CliError::failed(format_args!("no data for {} s", STALL.as_secs())))?;
    let chunk = chunk.map_err(CliError::failed)?;
    let (mut records, mut bytes) = (0, 0);
    for batch in BatchIter::new(&chunk.data) {
        let batch = batch.map_err(CliError::failed)?;
        records += u64::from(batch.header.record_count.unsigned_abs());
        bytes += batch.bytes.len() as u64;
    }
    Ok((records, bytes))
}
