//! Reads as fast as it goes.

use super::args::{Common, FetchBench, ProduceBench};
use super::report::{CpuMeter, Report, Samples};
use super::{BenchTopic, Until, produce};
use crate::error::CliError;
use std::time::{Duration, Instant};
use thalweg_client::{Acks, Client, PartitionReader, ReaderConfig, Start};
use thalweg_core::PartitionId;
use thalweg_core::batch::BatchIter;
use thalweg_core::compression::Compression;

/// Records that fill an empty topic, if no other number is given: about 2 GB of 1 KiB records.
const FILL_BYTES: u64 = 2 << 30;
/// How long a reader may wait for data that must be there.
const STALL: Duration = Duration::from_secs(30);

/// Runs the case on a topic of its own, or on the one that is named.
pub async fn run(client: &Client, args: &FetchBench) -> Result<Report, CliError> {
    let topic = BenchTopic::open(client, &args.common).await?;
    let report = measure(client, args, &topic).await;
    topic.close().await?;
    report
}

/// Runs the case on a topic, which is filled first if it is empty.
pub async fn measure(client: &Client, args: &FetchBench, topic: &BenchTopic) -> Result<Report, CliError> {
    let mut available = records_in(client, topic).await?;
    if available == 0 {
        fill(client, args, topic).await?;
        available = records_in(client, topic).await?;
    }
    let until = args.common.until()?;
    let config = ReaderConfig { check_crcs: !args.skip_crc, ..ReaderConfig::default() };
    let mut reader = client.reader(config).await.map_err(CliError::failed)?;
    let admin = client.admin();
    let meter = CpuMeter::start(&admin).await?;
    let start = Instant::now();
    let (mut records, mut bytes, mut round) = (0u64, 0u64, 0u64);
    let (mut scratch, mut samples) = (Vec::new(), Samples::default());
    rewind(&mut reader, topic).await?;
    loop {
        let finished = match until {
            Until::Records(wanted) => records >= wanted,
            Until::Elapsed(time) => start.elapsed() >= time,
        };
        if finished {
            break;
        }
        if round >= available {
            // All of it was read: again from the start.
            round = 0;
            rewind(&mut reader, topic).await?;
        }
        if let Some(rate) = args.rate {
            let due = start + Duration::from_secs_f64(records as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
        }
        let asked = Instant::now();
        let chunk = tokio::time::timeout(STALL, reader.next())
            .await
            .map_err(|_| CliError::failed(format_args!("no data for {} s", STALL.as_secs())))?
            .map_err(CliError::failed)?;
        samples.add(asked.elapsed());
        let mut count = 0u64;
        if args.decode {
            let mut walk = chunk.records(&mut scratch);
            while let Some(record) = walk.next_record() {
                let record = record.map_err(CliError::failed)?;
                bytes += (record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)) as u64;
                count += 1;
            }
        } else {
            for batch in BatchIter::new(&chunk.data) {
                let batch = batch.map_err(CliError::failed)?;
                count += u64::from(batch.header.record_count.unsigned_abs());
                bytes += batch.bytes.len() as u64;
            }
        }
        records += count;
        round += count;
    }
    let usage = meter.stop().await?;
    Ok(Report {
        case: "fetch",
        records,
        bytes,
        usage,
        latency: samples.percentiles(),
        end_to_end: None,
        more: Vec::new(),
    })
}

async fn rewind(reader: &mut PartitionReader, topic: &BenchTopic) -> Result<(), CliError> {
    for partition in 0..topic.partitions {
        let partition = PartitionId(partition as i32);
        reader.assign(&topic.name, partition, Start::Earliest).await.map_err(CliError::failed)?;
    }
    Ok(())
}

async fn records_in(client: &Client, topic: &BenchTopic) -> Result<u64, CliError> {
    let admin = client.admin();
    let mut records = 0;
    for partition in 0..topic.partitions {
        let partition = PartitionId(partition as i32);
        let first =
            admin.offset_of(&topic.name, partition, Start::Earliest).await.map_err(CliError::failed)?;
        let last = admin.offset_of(&topic.name, partition, Start::Latest).await.map_err(CliError::failed)?;
        records += (last.get() - first.get()).max(0) as u64;
    }
    Ok(records)
}

/// How many records a topic holds, after it was filled if it was empty.
pub async fn filled(client: &Client, common: &Common, topic: &BenchTopic) -> Result<u64, CliError> {
    let available = records_in(client, topic).await?;
    if available > 0 {
        return Ok(available);
    }
    let args = FetchBench {
        common: common.clone(),
        acks: Acks::Leader,
        rate: None,
        compression: Compression::None,
        decode: false,
        skip_crc: false,
    };
    fill(client, &args, topic).await?;
    records_in(client, topic).await
}

async fn fill(client: &Client, args: &FetchBench, topic: &BenchTopic) -> Result<(), CliError> {
    let mut common = args.common.clone();
    common.seconds = None;
    common.records = Some(args.common.records.unwrap_or(FILL_BYTES / common.record_size.max(1) as u64));
    let fill = ProduceBench {
        common,
        acks: args.acks,
        compression: args.compression,
        rate: None,
        batch_size: 262_144,
        linger_ms: 5,
        in_flight: 5,
        buffer_memory: 32 << 20,
        producers: 1,
    };
    produce::measure(client, &fill, &topic.name).await.map(drop)
}
