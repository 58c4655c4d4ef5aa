//! Writes as fast as it goes.

use super::args::ProduceBench;
use super::report::{CpuMeter, Report, Samples};
use super::{BenchTopic, Until};
use crate::error::CliError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use thalweg_client::{Acks, Client, Producer, ProducerConfig, ProducerRecord, SendError};

/// One record in so many is timed.
const SAMPLE_EVERY: u64 = 64;
/// Records between two looks at the clock.
const CLOCK_EVERY: u64 = 256;

/// Runs the case on a topic of its own, or on the one that is named.
pub async fn run(client: &Client, args: &ProduceBench) -> Result<Report, CliError> {
    let topic = BenchTopic::open(client, &args.common).await?;
    let report = measure(client, args, &topic.name).await;
    topic.close().await?;
    report
}

/// Runs the case on a topic.
pub async fn measure(client: &Client, args: &ProduceBench, topic: &str) -> Result<Report, CliError> {
    let until = args.common.until()?;
    let value = args.common.value()?;
    let config = ProducerConfig {
        acks: args.acks,
        compression: args.compression,
        linger: Duration::from_millis(args.linger_ms),
        batch_size: args.batch_size,
        buffer_memory: args.buffer_memory,
        max_in_flight: args.in_flight,
        // More in flight than a broker remembers cannot be told from a duplicate.
        enable_idempotence: args.in_flight <= 5 && args.acks == Acks::All,
        max_request_size: args.common.record_size.max(args.batch_size) + 1024,
        ..ProducerConfig::default()
    };
    let mut producers = Vec::new();
    for _ in 0..args.producers {
        let client = client.fresh().await.map_err(CliError::failed)?;
        producers.push(client.producer(config.clone()).await.map_err(CliError::failed)?);
    }
    let share = |records: u64| records.div_ceil(u64::from(args.producers));
    let until = match until {
        Until::Records(records) => Until::Records(share(records)),
        elapsed => elapsed,
    };
    let rate = args.rate.map(|rate| rate / f64::from(args.producers));
    let samples = Arc::new(Mutex::new(Samples::default()));
    let admin = client.admin();
    let meter = CpuMeter::start(&admin).await?;
    let mut tasks = Vec::new();
    for producer in producers {
        let (topic, value, samples) = (topic.to_owned(), value.clone(), Arc::clone(&samples));
        tasks.push(tokio::spawn(async move {
            let sent = send_all(&producer, &topic, &value, until, rate, &samples).await?;
            producer.flush().await.map_err(CliError::failed)?;
            Ok::<(u64, Producer), CliError>((sent, producer))
        }));
    }
    let mut records = 0;
    let mut open = Vec::new();
    for task in tasks {
        let (sent, producer) =
            task.await.map_err(|error| CliError::failed(format_args!("a producer died: {error}")))??;
        records += sent;
        open.push(producer);
    }
    let usage = meter.stop().await?;
    for producer in open {
        if producer.failed_records() > 0 {
            let (failed, first) = (producer.failed_records(), producer.first_failure());
            let why = first.map_or_else(String::new, |failure| failure.to_string());
            return Err(CliError::failed(format_args!(
                "{failed} of {records} records were not written: {why}"
            )));
        }
        producer.close().await.map_err(CliError::failed)?;
    }
    let samples = std::mem::take(&mut *samples.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Report {
        case: "produce",
        records,
        bytes: records * value.len() as u64,
        usage,
        latency: samples.percentiles(),
        end_to_end: None,
        more: Vec::new(),
    })
}

async fn send_all(
    producer: &Producer,
    topic: &str,
    value: &[u8],
    until: Until,
    rate: Option<f64>,
    samples: &Arc<Mutex<Samples>>,
) -> Result<u64, CliError> {
    let start = Instant::now();
    let record = ProducerRecord {
        topic,
        partition: None,
        key: None,
        value: Some(value),
        headers: &[],
        timestamp: None,
    };
    let mut sent = 0u64;
    loop {
        let done = match until {
            Until::Records(records) => sent >= records,
            Until::Elapsed(time) => {
                (rate.is_some() || sent.is_multiple_of(CLOCK_EVERY)) && start.elapsed() >= time
            }
        };
        if done {
            return Ok(sent);
        }
        if let Some(rate) = rate {
            let due = start + Duration::from_secs_f64(sent as f64 / rate);
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
        }
        if rate.is_some() || sent.is_multiple_of(SAMPLE_EVERY) {
            let (begun, samples) = (Instant::now(), Arc::clone(samples));
            let timed = move |outcome: Result<_, _>| {
                if outcome.is_ok() {
                    samples.lock().unwrap_or_else(PoisonError::into_inner).add(begun.elapsed());
                }
            };
            producer.send_with(record, timed).await.map_err(CliError::failed)?;
        } else {
            // The delivery is dropped: the producer counts what failed.
            match producer.try_send(record) {
                Ok(_) => {}
                Err(SendError::BufferFull { .. } | SendError::MetadataNotReady { .. }) => {
                    drop(producer.send(record).await.map_err(CliError::failed)?);
                }
                Err(error) => return Err(CliError::failed(error)),
            }
        }
        sent += 1;
    }
}
