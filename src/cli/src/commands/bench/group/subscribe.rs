//! One member on a Subscribe stream, with plain records.

use super::super::args::SubscribeBench;
use super::super::fetch;
use super::super::report::{CpuMeter, Report};
use super::super::{BenchTopic, Until};
use super::{forget, stubs, unique};
use crate::args::Global;
use crate::error::CliError;
use std::time::{Duration, Instant};
use thalweg_client::proto::partition_data::Data;
use thalweg_client::proto::subscribe_request::Command;
use thalweg_client::proto::subscribe_response::Event;
use thalweg_client::{Client, proto};
use tokio::sync::mpsc;

/// How long nothing may come while there must be something.
const STALL: Duration = Duration::from_secs(30);
/// Messages to the server that wait to be sent.
const QUEUE: usize = 64;

/// Runs the case.
pub async fn run(global: &Global, client: &Client, args: &SubscribeBench) -> Result<Report, CliError> {
    let topic = BenchTopic::open(client, &args.common).await?;
    let report = measure(global, client, args, &topic).await;
    topic.close().await?;
    report
}

async fn measure(
    global: &Global,
    client: &Client,
    args: &SubscribeBench,
    topic: &BenchTopic,
) -> Result<Report, CliError> {
    let available = fetch::filled(client, &args.common, topic).await?;
    let until = match args.common.records {
        // So many were written: they are read once.
        Some(records) => Until::Records(records.min(available)),
        None => args.common.until()?,
    };
    let group = unique("subscribe");
    let mut stub = stubs(global, 1).await?.remove(0);
    let (commands, mut queue) = mpsc::channel(QUEUE);
    let say = async |command: Command| {
        let request = proto::SubscribeRequest { command: Some(command), ..Default::default() };
        commands.send(request).await.map_err(|_| CliError::failed("the stream has ended"))
    };
    let options = proto::MemberOptions {
        group_id: group.clone(),
        subscription: Some(proto::GroupSubscription {
            topics: vec![topic.name.clone()],
            ..Default::default()
        }),
        client_id: "thalweg-bench".to_owned(),
        offset_reset: proto::OffsetReset::Earliest.into(),
        auto_commit_interval_ms: Some(5_000),
        ..Default::default()
    };
    say(Command::Start(proto::SubscribeStart { options: Some(options), ..Default::default() })).await?;
    // Records are what the member counts exactly: they bound what is on its way.
    let credit = |bytes, records| Command::Credit(proto::FetchStreamCredit { bytes, records: Some(records) });
    say(credit(u64::MAX / 4, args.credit_records)).await?;
    let opened = Instant::now();
    let queue = futures_util::stream::poll_fn(move |cx| queue.poll_recv(cx));
    let mut stream = stub.subscribe(queue).await.map_err(told)?.into_inner();

    let admin = client.admin();
    let mut measured: Option<(CpuMeter<'_>, Instant, Duration)> = None;
    let (mut records, mut bytes, mut round, mut owed) = (0u64, 0u64, 0u64, 0u64);
    loop {
        let message = tokio::time::timeout(STALL, stream.message()).await;
        let message = message.map_err(|_| CliError::failed("nothing came for 30 s"))?.map_err(told)?;
        let event = message.and_then(|message| message.event);
        let Some(event) = event else { return Err(CliError::failed("the server ended the stream")) };
        let data = match event {
            Event::Records(data) => data,
            Event::Lost(lost) => {
                let why = lost.error.map_or_else(String::new, |error| error.message);
                return Err(CliError::failed(format_args!("the member lost its partitions: {why}")));
            }
            _ => continue,
        };
        if let Some(error) = data.error {
            return Err(CliError::failed(format_args!(
                "{}-{}: {}",
                data.topic, data.partition, error.message
            )));
        }
        let Some(Data::Records(set)) = data.data else { continue };
        if measured.is_none() {
            measured = Some((CpuMeter::start(&admin).await?, Instant::now(), opened.elapsed()));
        }
        let count = set.records.len() as u64;
        bytes += set
            .records
            .iter()
            .map(|record| record.value.as_ref().map_or(0, |value| value.len()))
            .sum::<usize>() as u64;
        (records, round, owed) = (records + count, round + count, owed + count);
        let finished = match until {
            Until::Records(wanted) => records >= wanted,
            Until::Elapsed(time) => measured.as_ref().is_some_and(|(_, begun, _)| begun.elapsed() >= time),
        };
        if finished {
            break;
        }
        if round >= available {
            // All of it was read: again from the start.
            round = 0;
            let position =
                |partition| proto::PartitionPosition { topic: topic.name.clone(), partition, offset: 0 };
            let positions = (0..topic.partitions.cast_signed()).map(position).collect();
            say(Command::Seek(proto::SubscribeSeek { positions })).await?;
        }
        if owed >= args.credit_records / 4 {
            say(credit(0, std::mem::take(&mut owed))).await?;
        }
    }
    let (meter, _, first) = measured.ok_or_else(|| CliError::failed("nothing was read"))?;
    let usage = meter.stop().await?;
    drop(commands);
    // The half-closed stream is the member's goodbye; what is on its way still comes.
    while let Ok(Ok(Some(_))) = tokio::time::timeout(STALL, stream.message()).await {}
    forget(&admin, &[group]).await?;
    Ok(Report {
        case: "subscribe",
        records,
        bytes,
        usage,
        latency: None,
        end_to_end: None,
        more: vec![
            ("first_record_after_seconds", first.as_secs_f64()),
            ("credit_records", args.credit_records as f64),
            ("server_resident_mb", usage.server_resident_bytes as f64 / 1e6),
        ],
    })
}

fn told(status: tonic::Status) -> CliError {
    CliError::failed(status.message())
}
