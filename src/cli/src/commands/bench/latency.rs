//! Requests on one stream: the time to the acknowledgement, and to a reader that waits.

use super::args::LatencyBench;
use super::report::{CpuMeter, Report, Samples};
use super::{BenchTopic, Until};
use crate::error::CliError;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use thalweg_client::{Acks, Client, RawProduceStream, ReaderConfig, Start};
use thalweg_core::batch::{BatchBuilder, ProducerStamp};
use thalweg_core::{Offset, PartitionId};
use tokio::sync::mpsc;

/// Requests a second with one in flight, if nothing else is said.
const DEFAULT_RATE: f64 = 1000.0;
/// Requests in flight at most.
const MAX_IN_FLIGHT: usize = 4096;
/// How long a topic may take to be served.
const OPENS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at that.
const OPEN_AGAIN: Duration = Duration::from_millis(50);
/// How long the reader may lag behind the last acknowledgement.
const READER_GRACE: Duration = Duration::from_secs(5);

/// Runs the case on a topic of its own, or on the one that is named.
pub async fn run(client: &Client, args: &LatencyBench) -> Result<Report, CliError> {
    if args.acks == Acks::None {
        return Err(CliError::usage("--acks 0 has no acknowledgement to wait for: give 1 or all"));
    }
    if args.in_flight == 0 || args.in_flight > MAX_IN_FLIGHT {
        return Err(CliError::usage(format_args!("--in-flight must be between 1 and {MAX_IN_FLIGHT}")));
    }
    let topic = BenchTopic::open(client, &args.common).await?;
    let report = measure(client, args, &topic.name).await;
    topic.close().await?;
    report
}

/// Runs the case on a topic: partition 0, one record a batch.
pub async fn measure(client: &Client, args: &LatencyBench, topic: &str) -> Result<Report, CliError> {
    let until = args.common.until()?;
    let value = args.common.value()?;
    let rate = args.rate.or((args.in_flight == 1).then_some(DEFAULT_RATE));
    let batch = {
        let mut builder = BatchBuilder::new(args.compression, value.len() + 1024);
        builder.append(crate::time::now(), None, Some(&value), &[]);
        builder.finish(ProducerStamp::NONE)
    };
    let partition = PartitionId(0);
    let fresh = client.fresh().await.map_err(CliError::failed)?;
    let stream = open(&fresh, topic, partition, args.acks, &batch).await?;
    let mut load = Load { stream, batch, until, rate, in_flight: args.in_flight };
    let admin = client.admin();
    let meter = CpuMeter::start(&admin).await?;
    let run = load.run().await?;
    let usage = meter.stop().await?;
    // A second run, because a reader that is woken for each record costs the first one time of its own.
    let end_to_end = if args.in_flight == 1 {
        let reader = Reader::start(client, topic, partition).await?;
        let run = load.run().await?;
        reader.finish(&run.sent_at).await?.percentiles()
    } else {
        None
    };
    Ok(Report {
        case: "latency",
        records: run.acknowledged,
        bytes: run.acknowledged * value.len() as u64,
        usage,
        latency: run.samples.percentiles(),
        end_to_end,
        more: Vec::new(),
    })
}

/// A stream that took a batch. A topic that was just made may still be opened on its leader.
async fn open(
    client: &Client,
    topic: &str,
    partition: PartitionId,
    acks: Acks,
    batch: &bytes::Bytes,
) -> Result<RawProduceStream, CliError> {
    let begun = Instant::now();
    loop {
        let tried = async {
            let mut stream = client.produce_stream(topic, partition, acks).await?;
            stream.send(batch.clone()).await?;
            stream.next_ack().await.map(|_| stream)
        };
        match tried.await {
            Err(error) if error.retriable() && begun.elapsed() < OPENS_WITHIN => {
                tokio::time::sleep(OPEN_AGAIN).await;
            }
            tried => return tried.map_err(CliError::failed),
        }
    }
}

/// Requests on one stream, so many in flight, at a rate.
struct Load {
    stream: RawProduceStream,
    batch: bytes::Bytes,
    until: Until,
    rate: Option<f64>,
    in_flight: usize,
}

/// What one run of a load gave.
#[derive(Default)]
struct Run {
    acknowledged: u64,
    samples: Samples,
    /// When the record of each offset was sent; kept with one in flight.
    sent_at: Vec<(Offset, Instant)>,
}

impl Load {
    async fn run(&mut self) -> Result<Run, CliError> {
        let start = Instant::now();
        let mut pending: VecDeque<Instant> = VecDeque::with_capacity(self.in_flight);
        let (mut run, mut sent) = (Run::default(), 0u64);
        loop {
            let more = match self.until {
                Until::Records(records) => sent < records,
                Until::Elapsed(time) => start.elapsed() < time,
            };
            if more && pending.len() < self.in_flight {
                if let Some(rate) = self.rate {
                    let due = start + Duration::from_secs_f64(sent as f64 / rate);
                    if pending.is_empty() && due > Instant::now() {
                        tokio::time::sleep_until(due.into()).await;
                    }
                }
                pending.push_back(Instant::now());
                self.stream.send(self.batch.clone()).await.map_err(CliError::failed)?;
                sent += 1;
                continue;
            }
            let Some(begun) = pending.pop_front() else { return Ok(run) };
            let ack = self.stream.next_ack().await.map_err(CliError::failed)?;
            run.samples.add(begun.elapsed());
            if self.in_flight == 1 {
                run.sent_at.push((ack.base_offset, begun));
            }
            run.acknowledged += 1;
        }
    }
}

/// A reader that waits at the end of the partition and notes when each record came.
struct Reader {
    arrivals: mpsc::UnboundedReceiver<(Offset, Instant)>,
    task: tokio::task::JoinHandle<Result<(), CliError>>,
}

impl Reader {
    async fn start(client: &Client, topic: &str, partition: PartitionId) -> Result<Reader, CliError> {
        let fresh = client.fresh().await.map_err(CliError::failed)?;
        let mut reader = fresh.reader(ReaderConfig::default()).await.map_err(CliError::failed)?;
        reader.assign(topic, partition, Start::Latest).await.map_err(CliError::failed)?;
        // As long as the run: one small entry a record.
        let (sender, arrivals) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let chunk = reader.next().await.map_err(CliError::failed)?;
                let now = Instant::now();
                let mut offset = chunk.first_wanted;
                while offset < chunk.next_offset {
                    if sender.send((offset, now)).is_err() {
                        return Ok(());
                    }
                    offset = offset.advance(1);
                }
            }
        });
        Ok(Reader { arrivals, task })
    }

    /// The times from sending to arrival.
    async fn finish(mut self, sent_at: &[(Offset, Instant)]) -> Result<Samples, CliError> {
        let mut samples = Samples::default();
        let mut sent = sent_at.iter().peekable();
        while sent.peek().is_some() {
            let arrival = tokio::time::timeout(READER_GRACE, self.arrivals.recv()).await;
            let Ok(Some((offset, at))) = arrival else {
                self.task.abort();
                return Err(CliError::failed("the reader did not get all that was acknowledged"));
            };
            if let Some((_, begun)) = sent.next_if(|(sent, _)| *sent == offset) {
                samples.add(at.saturating_duration_since(*begun));
            }
        }
        self.task.abort();
        Ok(samples)
    }
}
