//! Plain records, one a call, from many callers; beside it the rate of an empty call in the same run.

use super::args::UnaryBench;
use super::report::{CpuMeter, Report, Samples};
use super::{BenchTopic, Until};
use crate::args::Global;
use crate::error::CliError;
use std::time::{Duration, Instant};
use thalweg_client::Client;
use thalweg_client::proto::{self, producer_service_client::ProducerServiceClient};
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

/// The call that does nothing.
const EMPTY_CALL: &str = "/grpc.health.v1.Health/Check";

/// Runs the case.
pub async fn run(global: &Global, client: &Client, args: &UnaryBench) -> Result<Report, CliError> {
    if args.callers == 0 || args.callers > 4096 {
        return Err(CliError::usage("--callers must be between 1 and 4096"));
    }
    let topic = BenchTopic::open(client, &args.common).await?;
    let report = measure(global, client, args, &topic.name).await;
    topic.close().await?;
    report
}

/// Runs the case on a topic.
pub async fn measure(
    global: &Global,
    client: &Client,
    args: &UnaryBench,
    topic: &str,
) -> Result<Report, CliError> {
    let value = bytes::Bytes::from(args.common.value()?);
    let endpoint = global.bootstrap.first().ok_or_else(|| CliError::usage("--bootstrap is empty"))?;
    let channel = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|error| CliError::usage(format_args!("--bootstrap {endpoint}: {error}")))?
        .tcp_nodelay(true)
        .timeout(Duration::from_secs(30))
        .connect()
        .await
        .map_err(CliError::failed)?;
    let until = args.common.until()?;
    let half = match until {
        Until::Elapsed(time) => time / 2,
        Until::Records(_) => Duration::from_secs(5),
    };
    let empty = || EmptyCall(tonic::client::Grpc::new(channel.clone()));
    let (empty, _) = call_all(args.callers, Until::Elapsed(half), empty).await?;
    let empty_rate = empty as f64 / half.as_secs_f64();

    let admin = client.admin();
    let meter = CpuMeter::start(&admin).await?;
    let acks = match args.acks {
        thalweg_client::Acks::None => proto::Acks::None,
        thalweg_client::Acks::Leader => proto::Acks::Leader,
        thalweg_client::Acks::All => proto::Acks::All,
    };
    let request = proto::ProduceRequest {
        topic: topic.to_owned(),
        payload: Some(proto::produce_request::Payload::Records(proto::RecordSet {
            records: vec![proto::Record { value: Some(value.clone()), ..Default::default() }],
        })),
        acks: acks as i32,
        ..Default::default()
    };
    let produce =
        || ProduceCall { producer: ProducerServiceClient::new(channel.clone()), request: request.clone() };
    let (records, samples) = call_all(args.callers, until, produce).await?;
    let usage = meter.stop().await?;
    let rate = records as f64 / usage.seconds;
    Ok(Report {
        case: "unary",
        records,
        bytes: records * value.len() as u64,
        usage,
        latency: samples.percentiles(),
        end_to_end: None,
        more: vec![("empty_calls_per_second", empty_rate), ("ratio_to_empty_calls", rate / empty_rate)],
    })
}

/// Lets `callers` tasks call again and again; counts the calls and times each.
pub async fn call_all<C: Call>(
    callers: usize,
    until: Until,
    make: impl Fn() -> C,
) -> Result<(u64, Samples), CliError> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers as u64)
        .map(|caller| {
            let mut call = make();
            tokio::spawn(async move {
                let (mut calls, mut samples) = (0u64, Samples::default());
                loop {
                    let done = match until {
                        Until::Records(records) => calls * callers as u64 + caller >= records,
                        Until::Elapsed(time) => start.elapsed() >= time,
                    };
                    if done {
                        return Ok((calls, samples));
                    }
                    let begun = Instant::now();
                    call.call().await?;
                    samples.add(begun.elapsed());
                    calls += 1;
                }
            })
        })
        .collect();
    let (mut calls, mut samples) = (0, Samples::default());
    for task in tasks {
        let result = task.await.map_err(|error| CliError::failed(format_args!("a caller died: {error}")))?;
        let (n, s) = result.map_err(|status: Status| CliError::failed(status.message()))?;
        calls += n;
        samples.merge(s);
    }
    Ok((calls, samples))
}

/// One caller's call.
pub trait Call: Send + 'static {
    /// Calls once.
    fn call(&mut self) -> impl Future<Output = Result<(), Status>> + Send;
}

/// The standard health check with an empty request: all that a call costs without a broker's work.
struct EmptyCall(tonic::client::Grpc<Channel>);

impl Call for EmptyCall {
    async fn call(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        self.0.unary(tonic::Request::new(()), PathAndQuery::from_static(EMPTY_CALL), codec).await.map(drop)
    }
}

struct ProduceCall {
    producer: ProducerServiceClient<Channel>,
    request: proto::ProduceRequest,
}

impl Call for ProduceCall {
    async fn call(&mut self) -> Result<(), Status> {
        self.producer.produce(self.request.clone()).await.map(drop)
    }
}
